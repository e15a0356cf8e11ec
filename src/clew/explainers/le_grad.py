"""LeGrad: how sensitive what the head makes of each block's tokens is to that block's attention."""

from __future__ import annotations

from collections.abc import Iterable

import torch.nn.functional as F
from torch import Tensor

from ..errors import OptionError
from ..shapes import Attn, Hidden, Scores
from ..subject import Result, Subject, Trace
from ..validation import validate_float
from . import is_released, method


@method(paper="Bousselham et al. 2025", summary="LeGrad: positive gradients of attention, of a score for each block")
def le_grad(
    subject: Subject, *, start_layer: int | None = None, correction: float | None = None, variant: str = "paper"
) -> Result:
    """`mean_l mean_{h,i} max(∂s_l/∂A_l[h,i,t], 0)` over blocks from `start_layer` (default: the last two, as released).

    `s_l` is the score that the model's own head gives where the mean of all tokens that leave block l is in place of
    each of them; where each token says something of its own (the next word, a tag) or the head reads the last alone,
    of the tokens themselves: a mean would ask what most words are followed by. Attention that a mask holds at zero
    counts as 0. Of an attention pool: `s_l` with the pool on what leaves block l, by the pool's attention, of the
    queries that are read.

    `correction`, where each input has several targets: what the last of them finds, a text that says nothing ("a photo
    of a"), is taken out of the maps of the others, which are 0 where its map, stretched from 0 to 1 over patches, is
    higher than this; released for attention pools, with 0.8.

    `variant="le_grad"` gives what the released code computes: the sum over blocks, and attention pools get what leaves
    a block without the norm that the model has before them.
    """
    released = is_released(variant, "le_grad")
    layers = range(subject.layers_from(start_layer, subject.depth - 2)[0], subject.depth)
    found = list(_of_pool(subject, layers, released) if subject.bound.pooled else _of_blocks(subject, layers))
    total = sum(found[1:], found[0])
    total = total if released else total / len(layers)
    total = total if correction is None else _corrected(subject, total, correction)
    return Result(total, options={"start_layer": layers[0]})


def _corrected(subject: Subject, scores: Scores, threshold: float) -> Scores:
    """Maps without what the map of each input's last target holds, which stays as it is."""
    threshold = validate_float("correction", threshold, 0)
    if subject.each == 1:
        expected = 'target=Each(…) or Similarity([…, "a photo of a"]), the last of which says nothing'
        raise OptionError("correction compares targets of one input", expected=expected, got="one target")
    maps = scores.unflatten(0, (-1, subject.each)).clone()
    last = maps[:, -1, subject.bound.prefix :]
    high, low = last.amax(-1, keepdim=True), last.amin(-1, keepdim=True)
    taken = F.pad(last > low + threshold * (high - low), (subject.bound.prefix, 0))
    maps[:, :-1].masked_fill_(taken[:, None], 0.0)
    return maps.flatten(0, 1)


def _positive(A: Attn, G: Attn) -> Tensor:
    return (G.clamp(min=0) * (A > 0)).mean(1)


def _of_blocks(subject: Subject, layers: range) -> Iterable[Scores]:
    trace = subject.run(layers, outputs=layers, leaf=(layers[0], "o"))
    for layer in layers:
        left = _left(trace, layer)
        head = subject.head(left if subject.bound.readout.one_of_many else trace.mean_token(left), trace)
        yield trace.received(layer, _positive, gradient=trace.gradients([(layer, "o")], of=head.score)[layer, "o"])


def _of_pool(subject: Subject, layers: range, released: bool) -> Iterable[Scores]:
    trace = subject.run(layers, outputs=layers)
    for layer in layers:
        head = subject.head(_left(trace, layer), trace, at_pool=released)
        g = head.gradients([(subject.last, "o")])[subject.last, "o"]
        yield head.received(subject.last, _positive, gradient=g)


def _left(trace: Trace, layer: int) -> Hidden:
    """What leaves a block, once for each input."""
    output = trace.layers[layer].output
    assert output is not None
    return output

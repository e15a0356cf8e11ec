"""LibraGrad: methods of gradients whose backward pass follows rules under which operations conserve relevance.

Letters: `x_l` what enters block l (0 to L-1), `g_l` its gradient under the rules, `A_l` attention probabilities of
block l, `IxG_l = Σ_c (x_l ⊙ g_l)`, `B_b` what a bias b got, `Σ_c b ⊙ g` at each token.

`rules`: "libra" holds attention, deviations of norms and gates fixed and halves gated products; "gradient" is the
model's own gradient, and so the method without Libra; any other set will do. In the paper the score is the probability.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ..errors import OptionError
from ..lrp import Relevance, propagate
from ..shapes import Scores, at_least_float32
from ..subject import Result, StreamSubject, Subject, mean_heads
from . import method
from .lrp import lrp

Rules = str | Mapping[str, Any]


@method(paper="Srinivas & Fleuret 2019; Mehri et al. 2025", summary="FullGrad: tokens and biases times their gradients")
def libra_full_grad(subject: Subject, *, rules: Rules = "libra", start_layer: int | None = None) -> Result:
    """`IxG_l + Σ_b B_b`, with l = `start_layer` (default 0) and all biases from that block on.

    Biases behind the pooling of tokens count at the rows that the head reads. `checks`: `completeness_gap`, the sum
    over tokens minus the score, which is 0 under "libra" where the score is a logit.
    """
    start, found = _found(subject, rules, start_layer)
    scores = _times_gradient(found, start) + _biases(subject, found, start)
    gap = scores.sum(1) - found.total.to(scores)
    return Result(scores, options=_options(found, start), checks={**_told(found), "completeness_gap": gap})


@method(paper="Mehri et al. 2025", summary="FullGrad+: tokens of all blocks, and biases, times their Libra gradients")
def libra_full_grad_plus(
    subject: Subject, *, rules: Rules = "libra", start_layer: int | None = None, biases: bool = True
) -> Result:
    """`Σ_l IxG_l + Σ_b B_b` over blocks l from `start_layer` (default 0), each bias of these blocks and behind once.

    `start_layer=depth // 2` is SkipPLUS; with `biases=False` and the last block alone it is HiResCAM.
    """
    start, found = _found(subject, rules, start_layer)
    parts = [_times_gradient(found, layer) for layer in range(start, subject.depth)]
    scores = sum(parts[1:], parts[0])
    return Result(
        scores + _biases(subject, found, start) if biases else scores,
        options=_options(found, start),
        checks=_told(found),
    )


@method(paper="Mehri et al. 2025", summary="XGradCAM+: tokens of all blocks by weights of features")
def libra_x_grad_cam_plus(
    subject: Subject, *, rules: Rules = "libra", start_layer: int | None = None, weighted: bool = True
) -> Result:
    """`Σ_l Σ_c x_l w_l`, `w_lc = Σ_t g_ltc |x_ltc| / (Σ_t |x_ltc| + 1e-7)`, over blocks from `start_layer` (default 0).

    `weighted=False`: `w_lc = mean_t g_ltc`, which is GradCAM+. Tokens t are all that are no padding.
    """
    start, found = _found(subject, rules, start_layer)
    parts = list[Tensor]()
    for layer in range(start, subject.depth):
        x, g = _state(found, layer)
        real = x.new_ones(1, x.shape[1], 1) if subject.mask is None else subject.mask.to(x)[..., None]
        size = x.abs() * real if weighted else real
        w = (g * size).sum(1, keepdim=True) / (size.sum(1, keepdim=True) + (1e-7 if weighted else 0))
        parts.append((x * w * real).sum(-1))
    return Result(sum(parts[1:], parts[0]), options=_options(found, start), checks=_told(found))


@method(paper="Qiang et al. 2022; Mehri et al. 2025", summary="AttCAT with Libra gradients")
def libra_att_cat(subject: Subject, *, rules: Rules = "libra", start_layer: int | None = None) -> Result:
    """`Σ_l mean_{h,i} A_l[h,i,t] · IxG_{l+1}` over blocks l = start to L-2, as released with LibraGrad.

    The last block is left out: of a head that reads CLS its output matters for CLS alone.
    """
    start = subject.layers_from(start_layer, 0)[0]
    layers = range(start, subject.depth - 1)
    if not layers:
        raise OptionError(
            "libra_att_cat needs two blocks", expected=f"start_layer below {subject.depth - 1}", got=start
        )
    found = propagate(subject, rules, by_token=True, attention=layers)
    trace = found.trace
    assert trace is not None
    parts = [trace.received(layer, mean_heads) * _times_gradient(found, layer + 1) for layer in layers]
    return Result(sum(parts[1:], parts[0]), options=_options(found, start), checks=_told(found))


@method(
    paper="Mehri et al. 2025", summary="input times Libra gradient, at the tokens that enter the first block",
    any_model=True,
)  # fmt: skip
def libra_input_x_gradient(subject: Subject | StreamSubject, *, rules: Rules = "libra") -> Result:
    """`IxG_0`: but for gated products the same as `cp_lrp` with `part="all"`, and as DecompX without biases.

    Models that are not declared: at the words, patches or entries of every input, as `lrp`.
    """
    if isinstance(subject, StreamSubject):
        return lrp(subject, rules=rules)
    _, found = _found(subject, rules, None)
    return Result(_times_gradient(found, 0), options={"rules": found.rules}, checks=found.checks("all"))


@method(
    paper="Modarressi et al. 2023", summary="DecompX without biases: another name of libra_input_x_gradient",
    any_model=True,
)  # fmt: skip
def decompx(subject: Subject | StreamSubject) -> Result:
    """Vectors of each token carried through attention, deviations and gates that are constants: for one score this is
    input times Libra gradient, to the last digit. What biases got is `checks["leak_bias"]`."""
    return libra_input_x_gradient(subject)


def _found(subject: Subject, rules: Rules, start_layer: int | None) -> tuple[int, Relevance]:
    """The first block, and a pass under the rules with what it leaves token by token."""
    start = subject.layers_from(start_layer, 0)[0]
    return start, propagate(subject, rules, by_token=True)


def _options(found: Relevance, start: int) -> dict[str, Any]:
    return {"rules": found.rules, "start_layer": start}


def _told(found: Relevance) -> dict[str, Any]:
    """How far the numbers are to be trusted."""
    return {name: value for name, value in found.checks("all").items() if name in ("conditioning", "advice")}


def _state(found: Relevance, layer: int) -> tuple[Tensor, Tensor]:
    """What enters a block, and its gradient."""
    assert found.by_token is not None
    x, g = found.by_token.states[f"block {layer}"]
    return at_least_float32(x), at_least_float32(g)


def _times_gradient(found: Relevance, layer: int) -> Scores:
    x, g = _state(found, layer)
    return (x * g).sum(-1)


def _biases(subject: Subject, found: Relevance, start: int) -> Scores:
    """What biases of blocks from `start` on and behind them got, (batch, token)."""
    assert found.by_token is not None
    scores = _times_gradient(found, start) * 0
    for block, values in found.by_token.biases:
        if 0 <= block < start:
            continue
        if values.ndim == 1:
            scores = scores + values[:, None].to(scores) * _readout(subject, scores)
        else:
            scores[:, -values.shape[1] :] += values.to(scores)
    return scores


def _readout(subject: Subject, like: Tensor) -> Tensor:
    """The weights of the rows that the head reads, (batch, token), with sum 1."""
    layer = subject.depth - 1
    read = subject.read(layer, like[:, None, :, None])
    r = read.start(like.shape[1]).squeeze(1).to(like)
    return r / r.sum(1, keepdim=True)

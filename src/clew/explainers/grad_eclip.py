"""Grad-ECLIP: values of the last attention, weighted by gradient and by how alike key and query are.

Letters: `q, k, v` of an attention with its heads side by side, `o` what it gives, `r` rows that the head reads.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import OptionError
from ..shapes import Queries, Scores, at_least_float32
from ..subject import Result, Subject, Trace
from . import is_released, method


@method(paper="Zhao et al. 2024", summary="Grad-ECLIP: values of the last attention, by gradient and cosine")
def grad_eclip(
    subject: Subject, *, start_layer: int | None = None, cosines: bool = True, variant: str = "paper"
) -> Result:
    """`Σ_l max(Σ_r λ_ri Σ_c ∂s/∂o_rc v_ic, 0)` over layers from `start_layer` (default: the last attention alone).

    `λ_ri = cos(q_r, k_i)`, stretched to 0 to 1 over patches, of texts over the tokens that row r sees; `cosines=False`
    leaves it out. Tokens that are no patches of an image get 0. The paper has one row, CLS or the end of a text.

    `variant="grad_eclip"` gives what the released notebook computes of images: these layers are computed anew with one
    head of full width, so that another model is explained. `variant="grad_eclip_script"`, what the released script
    does: queries and keys go through the output projection, with its bias, before their cosine; of texts `λ` goes over
    all tokens, padding too, and layers are added before what is negative is cut.
    """
    released = is_released(variant, "grad_eclip", "grad_eclip_script")
    if released and subject.bound.is_text and variant == "grad_eclip":
        raise OptionError("the notebook has no texts", expected="variant='grad_eclip_script'", got=variant)
    layers = [subject.last] if start_layer is None else list(subject.layers_from(start_layer, 0))
    if released:
        subject.clean_scores()  # the target is that of the model as it is
    trace = subject.run(layers, leaf=(layers[0], "o"), one_head=layers if released else ())
    g = trace.gradients((layer, "o") for layer in layers)
    cut_last = released and subject.bound.is_text
    found = list[Tensor]()
    for layer in layers:
        attention = trace[layer]
        if attention.q is None or attention.k is None:
            raise OptionError("grad_eclip needs queries and keys", expected="attention that is a softmax of a product")
        q, k = trace.read(layer).of(attention.q), attention.k
        if variant == "grad_eclip_script":
            q, k = (subject.project(layer, x, bias=True)[:, None] for x in (q, k))
        near = F.normalize(_joint(q), dim=-1) @ F.normalize(_joint(k), dim=-1).mT if cosines else None
        one = _of_layer(trace, layer, g[layer, "o"], near, everywhere=released)
        found.append(one if cut_last else one.clamp(min=0))
    total = sum(found[1:], found[0])
    return Result(total.clamp(min=0), options={} if layers == [subject.depth] else {"start_layer": layers[0]})


def _of_layer(trace: Trace, layer: int, g_o: Tensor, cosines: Tensor | None, *, everywhere: bool) -> Scores:
    """The sum over rows, not yet cut at zero; `cosines` are (batch, row, key)."""
    attention, read = trace[layer], trace.read(layer)
    counted = read.weights.ne(0)[..., None]
    S = (_joint(read.of(g_o)) * counted) @ _joint(attention.v).mT  # (batch, row, key)
    keys = torch.ones(S.shape, dtype=torch.bool, device=S.device)
    if trace.bound.is_text and not everywhere:
        keys = (attention.probabilities(read.rows) > 0).any(1)
    elif (real := trace.real_keys(layer)) is not None:
        keys = keys & real[:, None]
    elif not trace.bound.is_text:
        keys[..., : max(0, trace.bound.prefix - (trace.tokens - S.shape[-1]))] = False
    weights = keys if cosines is None else keys * _stretched(cosines, keys)
    return trace.over_tokens((S * weights.to(S)).sum(1), layer)


def _joint(x: Queries) -> Tensor:
    """Heads side by side, (batch, token, width)."""
    return at_least_float32(x.detach()).transpose(1, 2).flatten(2)


def _stretched(values: Tensor, among: Tensor) -> Tensor:
    """Each row from 0 to 1 over some of its entries; 1 where these are all the same."""
    low = values.masked_fill(~among, torch.inf).amin(-1, keepdim=True)
    high = values.masked_fill(~among, -torch.inf).amax(-1, keepdim=True)
    return torch.where(high > low, (values - low) / (high - low), 1.0)

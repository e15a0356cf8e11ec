"""TokenTM: attention and its gradient through the blocks, with how much each layer changes a token.

Letters: `x_l` what enters block l, `m_l` what is between its attention and its MLP, `L(e)` the length of a vector.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..shapes import Attn, Hidden, Scores
from ..subject import Result, Subject, Trace
from . import method
from .attention_gradients import Rules, named_rules, with_gradients
from .stream_states import stream_states


@method(paper="Wu et al. 2024", summary="TokenTM: attention times gradient, with how layers transform tokens")
def token_tm(subject: Subject, *, start_layer: int | None = None, rules: Rules | None = None) -> Result:
    """`C ← (I + W(m_l → x_{l+1})) (I + (mean_h A_l W(x_l → m_l)) ⊙ mean_h max(G_l, 0)) C` from `C = diag L(x_start)`;
    `scores = readout · C`.

    `W(e → e')` is diagonal: `L(e') / (L(e) + 1e-8)` times the softmax over tokens of `cos(e, e')`; `G = ∂s/∂A`. `m_l`
    is the block's input plus what its attention adds. An attention pool changes no token: there `mean_h A ⊙ mean_h
    max(G, 0)` is all, with no identity.

    `rules`: `G` under rules instead of the model's own, "libra" for LibraGrad's.
    """
    layers = subject.layers_from(start_layer, 0)
    blocks = range(layers[0], subject.depth)
    trace, g = with_gradients(subject, layers, rules, states=blocks)
    r = trace.start()
    for layer in reversed(layers):
        keys: Tensor | None = None
        if layer in blocks:
            x, mid, left = stream_states(subject, trace, layer)
            r = r * (1 + _changed(trace, mid, left))[:, None].to(r)
            keys = _changed(trace, x, mid)[:, None]

        def mix(A: Attn, G: Attn, keys: Tensor | None = keys) -> Tensor:
            found = A.mean(1) * G.clamp(min=0).mean(1)
            return found if keys is None else found * keys.to(found)

        r = trace.chain(r, layer, mix, gradient=g[layer])
    lengths = stream_states(subject, trace, layers[0])[0].norm(dim=-1)
    return Result(r[:, 0] * lengths.to(r), options={"start_layer": layers[0], **named_rules(rules)})


def _changed(trace: Trace, before: Hidden, after: Hidden) -> Scores:
    """The diagonal of `W(before → after)`, (batch, token)."""
    near = F.cosine_similarity(before, after, dim=-1)
    if trace.mask is not None:
        near = near.masked_fill(~trace.mask.to(near.device).bool(), -torch.inf)
    return after.norm(dim=-1) / (before.norm(dim=-1) + 1e-8) * near.softmax(-1)

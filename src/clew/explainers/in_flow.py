"""InFlow: attention through the blocks, by how much each part of a block adds to a token.

Letters: `x_l` what enters block l, `u_l` what its attention adds, `m_l = x_l + u_l`, `f_l = x_{l+1} - m_l` what the
rest of the block adds (its MLP); `G_l` the gradient of a block's own score by its attention.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..shapes import Attn, Hidden, Scores
from ..subject import Result, Subject, Trace
from . import method
from .beyond_intuition import head_importance
from .stream_states import stream_states


@method(paper="Walker et al. 2025", summary="InFlow: attention through the blocks, by what each part adds to a token")
def in_flow(subject: Subject, *, start_layer: int | None = None, gradient: bool = True, mlp: bool = True) -> Result:
    """`scores = readout · R_{L-1} ⋯ R_start`, with `R_l = (M diag(‖u‖) + diag(‖x‖)) diag(q ‖f‖ + ‖m‖)`, of which each
    row is divided by its sum; `‖x‖, ‖u‖` are shares of their sum at each token, and so are `‖m‖, ‖f‖`; `q = ‖f‖ / ‖m‖`,
    divided by its sum over tokens.

    `M = max(mean_h G_l ⊙ max_h I_h A_h, 0)`: `I_h ∝ mean |A_hᵀ ∂s/∂A_h|`, and `G_l = ∂s_l/∂A_l`, of the score that the
    model's own head gives where the mean over tokens takes their place behind the norm of what leaves block l (not
    where each token says something of its own, see `le_grad`).
    `gradient=False` leaves out `G`, `mlp=False` the last factor of `R_l` (released as `ablate`). An attention pool
    changes no token: there `M` is all, with the gradient of the score itself.
    """
    layers = subject.layers_from(start_layer, 0)
    blocks = range(layers[0], subject.depth)
    trace = subject.run(layers, hidden=blocks, outputs=blocks, leaf=(layers[0], "v"))
    own = _own_gradients(subject, trace, layers) if gradient else {}
    g_v = trace.gradients((layer, "v") for layer in layers)
    r = trace.start()
    for layer in reversed(layers):
        I = head_importance(g_v[layer, "v"], trace[layer].v.detach(), trace.real_keys(layer))
        keys = kept = None
        if layer in blocks:
            keys, kept = _shares(trace, *stream_states(subject, trace, layer), mlp=mlp)

        def mix(A: Attn, *G: Attn, I: Tensor = I, keys: Scores | None = keys) -> Tensor:
            largest = (I[..., None, None].to(A) * A).amax(1)
            M = (G[0].mean(1) * largest).clamp(min=0) if G else largest
            return M if keys is None else M * keys[:, None].to(M)

        G = [own[layer]] if gradient else []
        r = trace.chain(r, layer, mix, gradient=G, normalize=True, kept=kept)
    return Result(r[:, 0], options={"start_layer": layers[0]})


def _own_gradients(subject: Subject, trace: Trace, layers: range) -> dict[int, Tensor]:
    """`∂s_l/∂o_l` of each block's own score, of an attention pool that of the score."""
    found: dict[int, Tensor] = {}
    for layer in layers:
        output, score = trace.layers[layer].output, trace.score
        if output is not None:
            score = subject.head(output, trace, mean=not subject.bound.readout.one_of_many).score
        found[layer] = trace.gradients([(layer, "o")], of=score)[layer, "o"]
    return found


def _shares(trace: Trace, x: Hidden, mid: Hidden, left: Hidden, *, mlp: bool) -> tuple[Scores, Scores]:
    """What each token's column of `M`, and of the diagonal beside it, is multiplied by."""
    kept, added = _parts(x, mid - x)
    if not mlp:
        return added, kept
    through, changed = _parts(mid, left - mid)
    q = changed / through
    if trace.mask is not None:
        q = q * trace.mask.to(q)
    total = q / q.sum(1, keepdim=True) * changed + through
    return added * total, kept * total


def _parts(one: Hidden, other: Hidden) -> tuple[Scores, Scores]:
    """The lengths of two vectors at each token, as shares of both."""
    lengths = torch.stack([one.norm(dim=-1), other.norm(dim=-1)])
    first, second = lengths / lengths.sum(0)
    return first, second

"""Methods made of the tokens between blocks, times their gradients.

Letters: `x_l` what enters block l (0 to L-1), `x_L` what leaves the last, `g_l = ∂score/∂x_l`, `A_l` attention
probabilities of block l.
"""

from __future__ import annotations

from torch import Tensor

from ..shapes import Scores, at_least_float32
from ..subject import Result, Subject, mean_heads
from . import is_released, method


@method(paper="Qiang et al. 2022", summary="AttCAT: tokens times their gradients, weighted by the attention they get")
def att_cat(subject: Subject, *, start_layer: int | None = None, variant: str = "paper") -> Result:
    """`Σ_l mean_{h,i} A_l[h,i,t] · Σ_c (x_{l+1} ⊙ g_{l+1})_t` over the blocks l from `start_layer` (default 0), signed.

    `A_l` is paired with the block's output; its queries `i` are all tokens. `variant="att_cat"` gives what the released
    code computes: `A_l` with the block's input, `x_l`.
    """
    name = "hidden" if is_released(variant, "att_cat") else "output"
    layers = range(subject.layers_from(start_layer, 0)[0], subject.depth)
    trace = subject.run(layers, hidden=layers, outputs=layers, leaf=(layers[0], "hidden"))
    gradients = trace.gradients((layer, name) for layer in layers)
    parts = [
        trace.received(layer, mean_heads) * times_gradient(getattr(trace[layer], name), gradients[layer, name])
        for layer in layers
    ]
    return Result(sum(parts[1:], parts[0]), options={"start_layer": layers[0]})


def times_gradient(tokens: Tensor, gradient: Tensor) -> Scores:
    """`Σ_c (x ⊙ g)`, one number per token."""
    return (at_least_float32(tokens.detach()) * at_least_float32(gradient)).sum(-1)

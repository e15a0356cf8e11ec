"""Beyond Intuition (Chen et al., TMLR 2023): attention perception times reasoning feedback.

*Perception* `P = ∏ (I + Ā_l)` says how tokens are mixed through the blocks: heads weighted by importance, or tokens by
how much their value changes the stream. *Feedback* `W` is the gradient of the last attention, integrated along the
path from a baseline to the input. The scores are the readout of `W ⊙ P`.

Both are computed in forms that keep no n × n map: `Aᵀ ∂s/∂A = g_V Vᵀ`, `∂s/∂A = g_O Vᵀ`, and only rows that the head
reads are ever formed. Blocks before the last run without a graph along the path.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..quadrature import Quadrature, quadrature_rule
from ..shapes import Attn, Rows, Scores
from ..trace import Result, Subject, Trace, mean_heads
from . import method

Baselines = float | Tensor


@method(paper="Chen et al., TMLR 2023", summary="heads weighted by importance, times integrated gradients")
def beyond_intuition_head(
    subject: Subject,
    *,
    start_layer: int | None = None,
    n_steps: int = 8,
    quadrature: str = "gauss_legendre",
    feedback: bool = True,
    baselines: Baselines = 0.0,
    internal_batch_size: int | None = None,
) -> Result:
    """`Ā_l = Σ_h I_h A_l[h]` with `I_h ∝ mean_ij |(A_hᵀ ∂s/∂A_h)_ij| = mean_ij |g_V[i] · V[j]|`, summing to 1.

    `start_layer` defaults to a quarter of the depth. `feedback=False` leaves out `W` (the released `ssl` flag).
    `quadrature="uniform", n_steps=20` is the papers' setting. `details`: `head_importance` (batch, layer, head),
    `feedback` (batch, token) at the readout. `checks`: `integration_error`, an estimate relative to the largest score.
    """
    layers = subject.layers_from(start_layer, subject.depth // 4)
    rule = quadrature_rule(quadrature, n_steps)
    trace = subject.run(layers, leaf=(layers[0], "v"))
    clean = feedback and rule.ends_at_one
    wanted = [(layer, "v") for layer in layers] + ([(subject.last, "o")] if clean else [])
    gradients = trace.gradients(wanted)

    r = trace.start(separate=feedback)
    importances: list[Tensor] = []
    for layer in reversed(layers):
        importance = _head_importance(gradients[layer, "v"], trace[layer].v.detach())
        r = trace.chain(r, layer, lambda A, w=importance: torch.einsum("bh,bhqk->bqk", w.to(A.dtype), A))
        importances.insert(0, importance)
    details = {"head_importance": torch.stack(importances, 1)} if _same_heads(importances) else {}
    last_gradient = gradients.get((subject.last, "o"))
    result = _times_feedback(subject, trace, r, rule, baselines, internal_batch_size, last_gradient, feedback)
    return Result(result.scores, None, {"start_layer": layers[0]}, result.checks, details | result.details)


@method(paper="Chen et al., TMLR 2023", summary="tokens weighted by their change, times integrated gradients")
def beyond_intuition_token(
    subject: Subject,
    *,
    start_layer: int | None = None,
    n_steps: int = 8,
    quadrature: str = "gauss_legendre",
    feedback: bool = True,
    baselines: Baselines = 0.0,
    internal_batch_size: int | None = None,
) -> Result:
    """`Ā_l = (mean_h A_l) diag(ρ_l)` with `ρ_l[j] = ‖γ ⊙ (V_l W_O)_j‖ / ‖x_l[j]‖`.

    `x_l` is the block's input, `W_O` the output projection without its bias, `γ` LayerScale where the model has it.
    `start_layer` defaults to half the depth. `feedback=False` leaves out `W`, and with it the class. Other options as
    in `beyond_intuition_head`. `details`: `token_ratio` (batch, layer, token), `feedback` (batch, token).
    """
    layers = subject.layers_from(start_layer, subject.depth // 2)
    rule = quadrature_rule(quadrature, n_steps)
    clean = feedback and rule.ends_at_one
    trace = subject.run(layers, hidden=layers, leaf=(subject.last, "o") if clean else None)
    last_gradient = trace.gradients([(subject.last, "o")])[subject.last, "o"] if clean else None

    r = trace.start(separate=feedback)
    ratios: list[Tensor] = []
    for layer in reversed(layers):
        ratio = _token_ratio(trace, layer)
        r = trace.chain(r, layer, lambda A, rho=ratio: mean_heads(A) * rho[:, None].to(A.dtype))
        ratios.insert(0, trace.over_tokens(ratio, layer))
    details = {"token_ratio": torch.stack(ratios, 1)}
    result = _times_feedback(subject, trace, r, rule, baselines, internal_batch_size, last_gradient, feedback)
    return Result(result.scores, None, {"start_layer": layers[0]}, result.checks, details | result.details)


def _head_importance(g_v: Tensor, v: Tensor) -> Tensor:
    """`I_h ∝ Σ_ij |g_V[i] · V[j]|`, per example, normalised over heads: (batch, head). Uniform where all are zero."""
    size = max(1, 2**23 // (v.shape[0] * v.shape[1] * v.shape[2]))
    total = torch.stack([(part @ v.mT).abs().sum((-2, -1)) for part in g_v.split(size, dim=2)]).sum(0)
    everything = total.sum(-1, keepdim=True)
    return torch.where(everything > 0, total / everything, 1 / total.shape[-1])


def _token_ratio(trace: Trace, layer: int) -> Tensor:
    """`‖γ ⊙ (V W_O)_j‖ / ‖x_j‖`: (batch, token)."""
    attention, bound = trace[layer], trace.bound
    merged = attention.v.detach().transpose(1, 2).flatten(2)
    projected = torch.nn.functional.linear(merged, bound.projections[layer].weight.detach())
    scale = bound.scales[layer]
    if scale is not None:
        projected = projected * scale.detach()
    assert attention.hidden is not None
    hidden = attention.hidden[:, -merged.shape[1] :]  # a pool may leave prefix tokens out
    at_least_float32 = torch.promote_types(projected.dtype, torch.float32)
    return projected.to(at_least_float32).norm(dim=-1) / hidden.to(at_least_float32).norm(dim=-1)


def _times_feedback(
    subject: Subject,
    trace: Trace,
    P: Rows,
    rule: Quadrature,
    baselines: Baselines,
    internal_batch_size: int | None,
    clean_gradient: Tensor | None,
    feedback: bool,
) -> Result:
    """The readout of `W ⊙ P`, or of `P` alone; `clean_gradient` is `∂s/∂o` of the last block at the input itself."""
    if not feedback:
        return Result(P.squeeze(1))
    _, weights = trace.readout()
    W, coarse = _integrated_gradient(subject, trace, rule, baselines, internal_batch_size, clean_gradient)
    scores, other = (torch.einsum("r,brk,brk->bk", weights, w, P) for w in (W, coarse))
    return Result(
        scores,
        checks={"integration_error": _relative(scores - other, scores)},
        details={"feedback": torch.einsum("r,brk->bk", weights, W)},
    )


def _integrated_gradient(
    subject: Subject,
    clean: Trace,
    rule: Quadrature,
    baselines: Baselines,
    internal_batch_size: int | None,
    clean_gradient: Tensor | None,
) -> tuple[Rows, Rows]:
    """`W = mean_h max(∫ ∂s/∂A_last dα, 0)` at the readout rows, by the rule and by the coarser one it embeds."""
    last, start = subject.last, subject.baseline(baselines)
    rows, _ = clean.readout()
    points = len(rule.points) - (clean_gradient is not None)
    alphas, weights, coarse = (t.to(subject.x.device) for t in (rule.points, rule.weights, rule.coarse))

    at_least_float32 = torch.promote_types(subject.x.dtype, torch.float32)
    v = clean[last].v
    totals = [v.new_zeros(*v.shape[:2], len(rows), v.shape[2], dtype=at_least_float32) for _ in range(2)]

    def add(G: Attn, point: Tensor, example: Tensor) -> None:
        for total, w in zip(totals, (weights, coarse), strict=True):
            total.index_add_(0, example, G.to(total.dtype) * w[point].to(total.dtype)[:, None, None, None])

    everyone = torch.arange(subject.batch, device=subject.x.device)
    if clean_gradient is not None:
        add(clean[last].attention_gradient(clean_gradient, rows), everyone * 0 + points, everyone)
    for point, example in subject.chunks(points, internal_batch_size):
        alpha = alphas[point].to(subject.x.dtype).view(-1, *[1] * (subject.x.ndim - 1))
        x = start[example] + alpha * (subject.x - start)[example]
        trace = subject.run([last], leaf=(last, "o"), x=x, rows=example)
        g_o = trace.gradients([(last, "o")])[last, "o"]
        add(trace[last].attention_gradient(g_o, rows), point, example)
    W, other = (clean.over_tokens(total.clamp(min=0).mean(1), last) for total in totals)
    return W, other


def _relative(difference: Scores, scores: Scores) -> Tensor:
    largest = scores.abs().amax(-1)
    return torch.where(largest > 0, difference.abs().amax(-1) / largest, 0.0)


def _same_heads(importances: list[Tensor]) -> bool:
    return len({i.shape for i in importances}) == 1

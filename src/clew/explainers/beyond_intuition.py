"""Beyond Intuition (Chen et al., TMLR 2023): attention perception times reasoning feedback.

*Perception* `P = ∏ (I + Ā_l)` says how tokens are mixed through the blocks: heads weighted by importance, or tokens by
how much their value changes the stream. *Feedback* `W` is the gradient of the last attention, integrated along the
path from a baseline to the input. The scores are the readout of `W ⊙ P`.

Both are computed in forms that keep no n × n map: `Aᵀ ∂s/∂A = g_V Vᵀ`, `∂s/∂A = g_O Vᵀ`, and only rows that the head
reads are ever formed. Blocks before the last run without a graph along the path.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import OptionError
from ..shapes import Attn, Rows, Scores, at_least_float32
from ..subject import (
    PathRecord,
    Quadrature,
    Result,
    StreamSubject,
    Subject,
    Trace,
    mean_heads,
    quadrature_rule,
    scaled_along,
)
from . import is_released, method
from .beyond_intuition_mass import COARSE, FeedbackPath, head_by_mass, token_by_mass
from .mass import refuse_variant

Baselines = float | Tensor


@method(
    paper="Chen et al., TMLR 2023", summary="heads weighted by importance, times integrated gradients", by_mass=True
)  # fmt: skip
def beyond_intuition_head(
    subject: Subject | StreamSubject,
    *,
    start_layer: int | None = None,
    n_steps: int = 8,
    quadrature: str = "gauss_legendre",
    feedback: bool = True,
    baselines: Baselines = 0.0,
    internal_batch_size: int | None = None,
) -> Result:
    """`Ā_l = Σ_h I_h A_l[h]` with `I_h ∝ mean_ij |(A_hᵀ ∂s/∂A_h)_ij| = mean_ij |g_V[i] · V[j]|`, summing to 1.

    `start_layer` defaults to a quarter of the depth, for texts and pairs to the last block. `feedback=False` leaves out
    `W` (the released `ssl` flag). `quadrature="uniform", n_steps=20` is the papers' setting. Images are scaled
    themselves, texts at the sequence that enters the first block. `details`: `head_importance` (batch, layer, head),
    `feedback` (batch, token) at the readout, `attention_gradient` (batch, head, row, token), `path_scores` (batch,
    point), the score along the path, `layer_maps` (batch, layer, token), the map that starting at each layer would
    give. `checks`:
    `integration_error`, an estimate relative to the largest score, and `advice` where it is above 0.1.

    Models of which nothing is declared: by token mass, of all attentions by default; `start_layer` is the number of
    one. Streams that the keys of the last attention are made of have feedback, see `checks["feedback"]`; words are
    scaled where they are looked up.
    """
    if isinstance(subject, StreamSubject):
        feedback_path = FeedbackPath(n_steps, quadrature, baselines) if feedback else None
        return head_by_mass(subject, start_layer, feedback_path)
    layers = subject.layers_from(start_layer, subject.depth // 4, text=subject.depth - 1, pair=subject.depth - 1)
    rule = quadrature_rule(quadrature, n_steps)
    trace = subject.run(layers, leaf=(layers[0], "v"))
    clean = feedback and rule.ends_at_one
    wanted = [(layer, "v") for layer in layers] + ([(subject.last, "o")] if clean else [])
    gradients = trace.gradients(wanted)

    r, rows, importances = trace.start(separate=feedback), list[Tensor](), list[Tensor]()
    for layer in reversed(layers):
        importance = head_importance(gradients[layer, "v"], trace[layer].v.detach(), trace.real_keys(layer))
        r = trace.chain(r, layer, lambda A, w=importance: torch.einsum("bh,bhqk->bqk", w.to(A.dtype), A))
        rows = [r, *rows] if subject.details else [r]
        importances.insert(0, importance)
    details = {"head_importance": torch.stack(importances, 1)} if len({i.shape for i in importances}) == 1 else {}
    path = _Path(quadrature, rule, baselines, internal_batch_size, gradients.get((subject.last, "o")))
    return _with_feedback(subject, trace, rows, layers[0], path if feedback else None, details)


@method(
    paper="Chen et al., TMLR 2023", summary="tokens weighted by their change, times integrated gradients", by_mass=True
)  # fmt: skip
def beyond_intuition_token(
    subject: Subject | StreamSubject,
    *,
    start_layer: int | None = None,
    n_steps: int = 8,
    quadrature: str = "gauss_legendre",
    feedback: bool = True,
    baselines: Baselines = 0.0,
    internal_batch_size: int | None = None,
    variant: str = "paper",
) -> Result:
    """`Ā_l = (mean_h A_l) diag(ρ_l)` with `ρ_l[j] = ‖γ ⊙ (V_l W_O)_j‖ / ‖x_l[j]‖`.

    `x_l` is the block's input, `W_O` the output projection without its bias, `γ` LayerScale where the model has it.
    `start_layer` defaults to half the depth, for texts to the last four blocks, for pairs to the last block.
    `feedback=False` leaves out `W`, and with it the class. Other options as in `beyond_intuition_head`.
    `variant="beyond_intuition"`, towers of image–text models: as released, `V_l` is made of the stream behind the
    attention instead of the block's input. `details`: `token_ratio` (batch, layer, token), `feedback`,
    `attention_gradient`, `path_scores`, `layer_maps`. Models of which nothing is declared: as `beyond_intuition_head`;
    where keys are of another stream, `x_l` is what their values are read from.
    """
    if isinstance(subject, StreamSubject):
        refuse_variant(variant)
        feedback_path = FeedbackPath(n_steps, quadrature, baselines) if feedback else None
        return token_by_mass(subject, start_layer, feedback_path)
    late = is_released(variant) and subject.bound.architecture.pair
    layers = subject.layers_from(start_layer, subject.depth // 2, text=subject.depth - 4, pair=subject.depth - 1)
    rule = quadrature_rule(quadrature, n_steps)
    clean = feedback and rule.ends_at_one
    trace = subject.run(layers, hidden=layers, leaf=(subject.last, "o") if clean else None)
    last_gradient = trace.gradients([(subject.last, "o")])[subject.last, "o"] if clean else None

    r, rows, ratios = trace.start(separate=feedback), list[Tensor](), list[Tensor]()
    for layer in reversed(layers):
        ratio = _token_ratio(subject, trace, layer, late=late)
        r = trace.chain(r, layer, lambda A, rho=ratio: mean_heads(A) * rho[:, None].to(A.dtype))
        rows = [r, *rows] if subject.details else [r]
        ratios.insert(0, trace.over_tokens(ratio, layer))
    details = {"token_ratio": torch.stack(ratios, 1)}
    path = _Path(quadrature, rule, baselines, internal_batch_size, last_gradient)
    return _with_feedback(subject, trace, rows, layers[0], path if feedback else None, details)


def head_importance(g_v: Tensor, v: Tensor, real: Tensor | None) -> Tensor:
    """`I_h ∝ Σ_ij |g_V[i] · V[j]|`, per example, normalised over heads: (batch, head). Uniform where all are zero.

    `j` runs over `real` tokens only: `∂s/∂A` is not zero at padding, where `A` is.
    """
    g_v, v = at_least_float32(g_v), at_least_float32(v)
    if real is not None:
        v = v * real[:, None, :, None]
    size = max(1, 2**23 // (v.shape[0] * v.shape[1] * v.shape[2]))
    total = torch.stack([(part @ v.mT).abs().sum((-2, -1)) for part in g_v.split(size, dim=2)]).sum(0)
    everything = total.sum(-1, keepdim=True)
    return torch.where(everything > 0, total / everything, 1 / total.shape[-1])


def _token_ratio(subject: Subject, trace: Trace, layer: int, *, late: bool = False) -> Tensor:
    """`‖γ ⊙ (V W_O)_j‖ / ‖x_j‖`: (batch, token)."""
    attention = trace[layer]
    values = _late_values(subject, trace, layer) if late else attention.v
    projected = subject.project(layer, values)
    assert attention.hidden is not None
    hidden = attention.hidden[:, -projected.shape[1] :]  # a pool may leave prefix tokens out
    return at_least_float32(projected).norm(dim=-1) / at_least_float32(hidden).norm(dim=-1)


def _late_values(subject: Subject, trace: Trace, layer: int) -> Tensor:
    """Released quirk: values of the stream behind the block's attention, `x + O W_O`, as the attention makes them."""
    bound, attention = trace.bound, trace[layer]
    if bound.norms[layer] is None:
        raise OptionError(
            "the released ratio is not defined for these blocks",
            expected="blocks with a norm before attention",
            got=f"{type(bound.blocks[layer]).__name__} with {type(bound.attentions[layer]).__name__}",
            todo='use variant="paper"',
        )
    assert attention.hidden is not None
    behind = attention.hidden + subject.project(layer, attention.o, bias=True)
    return subject.attend(layer, behind).v


@dataclass(frozen=True)
class _Path:
    """How the feedback is integrated; `clean_gradient` is `∂s/∂o` of the last block at the input, if it is a point."""

    name: str
    rule: Quadrature
    baselines: Baselines
    internal_batch_size: int | None
    clean_gradient: Tensor | None


def _with_feedback(
    subject: Subject, trace: Trace, rows: list[Rows], start: int, path: _Path | None, details: dict[str, Tensor]
) -> Result:
    """The readout of `W ⊙ P`, or of `P` alone without a path; `rows[i]` are the rows of `P` from layer `start + i`."""
    read = trace.read()
    if path is None:
        maps = [P.squeeze(1) for P in rows]
        checks: dict[str, Any] = {}
    else:
        totals, path_scores = _integrated_gradient(subject, trace, path)
        # Clamped after the mean over the path, before the mean over heads.
        W, coarse = (trace.over_tokens(total.clamp(min=0).mean(1), subject.last) for total in totals)
        maps = [read.mean(W * P) for P in rows]
        error = _relative(maps[0] - read.mean(coarse * rows[0]), maps[0])
        checks = {"integration_error": error}
        if bool((error > COARSE).any()):
            checks["advice"] = (
                f"the score bends sharply along the path, more than {len(path.rule.points)} points can follow: explain "
                f"again with n_steps={4 * len(path.rule.points)}"
            )
        details = {**details, "feedback": read.mean(W), "attention_gradient": totals[0]}
        details["path_scores"] = path_scores
    if subject.details:
        details = {**details, "layer_maps": torch.stack(maps, 1)}
    return Result(maps[0], options={"start_layer": start}, checks=checks, details=details)


def _integrated_gradient(subject: Subject, clean: Trace, path: _Path) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """`∫ ∂s/∂A_last dα` at the readout rows, (batch, head, row, key), by the rule and by the coarser one it embeds;
    and the score at each point of the path, (batch, point)."""
    last, x, rule = subject.last, subject.path_input, path.rule
    start, read, v = subject.baseline(path.baselines, x), clean.read(), clean[last].v
    taken = PathRecord(start, x)
    dtype = read.weights.dtype
    count = read.weights.shape[1]
    totals = tuple(v.new_zeros(*v.shape[:2], count, v.shape[2], dtype=dtype) for _ in range(2))
    weights = [w.to(dtype).to(v.device) for w in (rule.weights, rule.coarse)]
    path_scores = clean.score.detach()[:, None].repeat(1, len(rule.points))

    def add(G: Attn, scaled: Tensor, point: Tensor, example: Tensor) -> None:
        taken.add(scaled, weights[0][point.to(v.device)], example)
        for total, w in zip(totals, weights, strict=True):
            total.index_add_(0, example.to(v.device), G * w[point.to(v.device)][:, None, None, None])

    points, everyone = len(rule.points), torch.arange(subject.batch, device=x.device)
    if path.clean_gradient is not None:  # the clean pass is the last point
        points -= 1
        G = clean[last].attention_gradient(path.clean_gradient, read.rows)
        add(G, x, torch.full_like(everyone, points), everyone)
    for point, example in subject.chunks(points, path.internal_batch_size):
        scaled = scaled_along(start, x, rule, point, example)
        trace = subject.run([last], leaf=(last, "o"), x=scaled, rows=example, readout_only=True)
        g_o = trace.gradients([(last, "o")])[last, "o"]
        add(trace[last].attention_gradient(g_o, trace.read().rows), scaled, point, example)
        path_scores[example, point] = trace.score.detach()
    subject.measure_path(path.name, taken, len(rule.points))
    return (totals[0], totals[1]), path_scores


def _relative(difference: Scores, scores: Scores) -> Tensor:
    largest = scores.abs().amax(-1)
    return torch.where(largest > 0, difference.abs().amax(-1) / largest, 0.0)

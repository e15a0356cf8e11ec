"""Information flow routes (Ferrando & Voita 2024) and FlashTrace (Pan et al. 2026): what states are near to.

Letters: `x_l` what enters block l, `m_l` what is between its attention and its MLP, `f_hj` what head h brings there
from token j. Several states count as one: their weighted sum, a *span*. No gradient is needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..errors import OptionError, short_repr
from ..subject import Result, Subject, mean_heads
from ..targets import Span
from ..validation import validate_float, validate_integer
from . import is_released, method

Spans = Float[Tensor, "input span token"]

_MOST = 2**23  # elements of what one head brings to some spans


@method(paper="Ferrando & Voita 2024", summary="information flow routes: how near states are to what attention brings")
def ifr(subject: Subject, *, start_layer: int | None = None, threshold: float = 0.0) -> Result:
    """`Σ_l Σ_h prox(f_hj, m) / (Σ_hj prox(f_hj, m) + prox(x, m))` with `prox(z, m) = max(0, ‖m‖₁ − ‖m − z‖₁)`.

    `m` and `x` are sums of `m_l` and `x_l` over the rows i that the head reads (of a next token: the token before it),
    `f_hj = Σ_i A_l[h, i, j] W_O^h v_j^h`, where biases of values and projection are left out. Layers are added, from
    `start_layer` (default 0). A `prox` below `threshold` counts as 0. Of an attention pool the rows are those that its
    heads attend to.
    """
    routes = _Routes(subject, start_layer, threshold)
    return Result(routes.of(routes.rows).flatten(0, 1), options={"start_layer": routes.layers[0]})


@method(paper="Pan et al., ICML 2026", summary="FlashTrace: information flow routes, on through a reasoning")
def flash_trace(
    subject: Subject,
    *,
    reasoning: Span | Sequence[int] | None = None,
    hops: int = 1,
    start_layer: int | None = None,
    threshold: float = 0.0,
    variant: str = "paper",
) -> Result:
    """`ifr`, where what tokens of the `reasoning` get is handed on, `hops` times, to what these tokens read themselves.

    `Σ_k ρ_k e_k` with `e_0 = ifr`, and `e_k` that of the tokens of the reasoning as one span, weighted by what they got
    of `e_{k-1}`; `ρ_0 = 1`, and `ρ_k / ρ_{k-1}` is the share of `e_{k-1}` that they got. They themselves get 0.
    `reasoning`: `Span("words")`, or positions `(start, stop)`; of `explain_generation` all that was written, by
    default. `details`: `hops` (batch, hop, token), the `e_k`, and `shares` (batch, hop), `ρ_1` and so on. `checks`:
    `reasoning_share`, the first of these.

    `variant="flash_trace"` gives what the released code computes: the states of the explained tokens themselves, in
    place of those that they are predicted from, and 0 for all that is not before the reasoning.
    """
    released = is_released(variant, "flash_trace")
    routes = _Routes(subject, start_layer, threshold)
    rows = _of_the_next(routes.rows, subject) if released else routes.rows
    thought = _thought(subject, reasoning).to(rows)
    found, share = routes.of(rows), rows.new_ones(*rows.shape[:2], 1)
    total, passes, shares = found, [found], list[Tensor]()
    for hop in range(validate_integer("hops", hops, 0) + 1):
        share = share * _share(found * thought, found).sum(-1, keepdim=True)
        shares.append(share)
        if hop < hops:
            found = routes.of(_share(found * thought, found * thought))
            total = total + share * found
            passes.append(found)
    kept = (thought.cumsum(-1) == 0) & (rows == 0) if released else thought == 0
    details = {"hops": torch.stack(passes, 2).flatten(0, 1), "shares": torch.cat(shares, 2).flatten(0, 1)}
    checks = {"reasoning_share": details["shares"][:, 0]}
    return Result(
        (total * kept).flatten(0, 1), options={"start_layer": routes.layers[0]}, checks=checks, details=details
    )


class _Routes:
    """The routes of one pass, one hop at a time: from spans of tokens to the tokens that they read."""

    def __init__(self, subject: Subject, start_layer: int | None, threshold: float) -> None:
        first = subject.layers_from(start_layer, 0)[0]
        self.layers = range(first, subject.depth)
        self.threshold = validate_float("threshold", threshold, 0)
        pool = subject.bound.pooled
        self.trace = subject.run([*self.layers, subject.last] if pool else self.layers, hidden=self.layers)
        self.parts = [subject.parts(self.trace, layer) for layer in self.layers]
        rows = self.trace.start()
        if pool:
            rows = self.trace.chain(rows, subject.last, mean_heads)
        rows = rows / rows.amax(-1, keepdim=True)  # of several rows the sum, not the mean
        self.rows: Spans = rows.unflatten(0, (-1, subject.each)).squeeze(2)

    def of(self, spans: Spans) -> Spans:
        """What the tokens get of each span, over all layers."""
        found = torch.zeros_like(spans)
        for layer, parts in zip(self.layers, self.parts, strict=True):
            mid, before = (spans.to(states) @ states for states in (parts.mid, parts.before))
            A = self.trace.attended(layer, spans if parts.rows is None else spans * parts.rows[:, None].to(spans))
            near = torch.stack([self._near(parts.of_head(h), A[:, h], mid) for h in range(A.shape[1])]).sum(0)
            kept = _prox(before, mid)
            found = found + (near / (near.sum(-1, keepdim=True) + kept[..., None] + 1e-12)).to(spans)
        return found

    def _near(self, brought: Tensor, A: Spans, mid: Tensor) -> Spans:
        """`prox(A_j f_j, m)` of one head, some spans at a time: (input, span, token)."""
        some = max(1, _MOST // brought.numel())
        found: list[Tensor] = []
        for a, m in zip(A.to(brought).split(some, 1), mid.split(some, 1), strict=True):
            found.append(_prox(a[..., None] * brought[:, None], m[:, :, None]))
        near = torch.cat(found, 1)
        return torch.where(near < self.threshold, 0.0, near)


def _prox(z: Tensor, m: Tensor) -> Tensor:
    """`max(0, ‖m‖₁ − ‖m − z‖₁)`, the difference entry by entry, so that a small `z` is not lost."""
    z, size = torch.where(m < 0, -z, z), m.abs()
    return torch.minimum(z, 2 * size - z).sum(-1).clamp(min=0)


def _thought(subject: Subject, reasoning: Span | Sequence[int] | None) -> Tensor:
    """Which tokens are the reasoning, (input, span, token)."""
    if reasoning is None:
        return torch.zeros(len(subject.given), subject.each, subject.length)
    if subject.covered is None:
        raise OptionError(
            "this model reads no text", expected="reasoning of a language model", got=short_repr(reasoning)
        )
    return subject.covered(reasoning).unflatten(0, (-1, subject.each))


def _of_the_next(rows: Spans, subject: Subject) -> Spans:
    """The states of the tokens that are predicted from some rows. Raises `OptionError` where these are not there."""
    found = F.pad(rows, (1, -1))
    if subject.mask is not None:
        found = found * subject.mask.unflatten(0, (-1, subject.each)).to(found)
    if bool((found.sum(-1) < rows.sum(-1)).any()):
        raise OptionError(
            "the released code explains tokens that are there",
            expected="target=Span(…)",
            got="a token that comes next",
            todo='take a Span of the text, or variant="paper"',
        )
    return found


def _share(part: Spans, whole: Spans) -> Spans:
    """How much of a whole a part is, 0 of nothing."""
    return part / (whole.sum(-1, keepdim=True) + 1e-12)

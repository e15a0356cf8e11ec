"""Scores of sources from what an answer's log odds are without some of them: what knows no model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..errors import optional_import
from ..validation import validate_float, validate_integer, validate_seed

Masks = Bool[Tensor, "ablation source"]
Ablated = Callable[[Tensor], Tensor]
"""The answer's log odds (ablation,) where sources stay as masks (ablation, source) say."""
Found = tuple[Tensor, dict[str, Any], dict[str, Tensor]]
"""Scores (source,), checks and details."""


def random_masks(sources: int, num_ablations: int, ablation_keep_prob: float, seed: int) -> Masks:
    """Which sources stay in each ablation, each with a probability. Raises `OptionError` for options out of range.

    Mask `k` is drawn by a generator of its own; of seed 0 they are those of the released code.
    """
    count, seed = validate_integer("num_ablations", num_ablations, 1), validate_seed("seed", seed)
    keep = validate_float("ablation_keep_prob", ablation_keep_prob, 0, 1)
    drawn = [
        np.random.RandomState([seed, k] if seed else k).choice([False, True], sources, p=[1 - keep, keep])
        for k in range(count)
    ]
    return torch.from_numpy(np.stack(drawn))


def log_odds_of(logits: Float[Tensor, "token word"], ids: Tensor) -> Float[Tensor, " token"]:
    """`log p/(1−p)` of a token `ids` at each place, from logits: also where `p` is 1 to the last bit."""
    logits = logits.double()
    own = logits.gather(1, ids[:, None])
    return own[:, 0] - logits.scatter(1, ids[:, None], -torch.inf).logsumexp(1)


def log_prob_together(log_odds: Float[Tensor, "ablation token"]) -> Float[Tensor, " ablation"]:
    """`ℓ = Σ_t log p_t` from the log odds of each token."""
    return torch.nn.functional.logsigmoid(log_odds).sum(1)


def log_odds_together(log_odds: Float[Tensor, "ablation token"]) -> Float[Tensor, " ablation"]:
    """`ℓ − log(1 − e^ℓ)`: the log odds of all tokens as one event."""
    total = log_prob_together(log_odds)
    return total - torch.where(total > -0.7, (-total.expm1()).log(), (-total.exp()).log1p())  # each exact on its side


def context_cite(
    ablated: Ablated,
    sources: int,
    tokens: int,
    *,
    num_ablations: int = 64,
    ablation_keep_prob: float = 0.5,
    lasso_alpha: float = 0.01,
    seed: int = 0,
) -> Found:
    """Weights `w` of `y ≈ m · w + b` over random masks `m`, `y` the log odds of an answer of so many `tokens`: by a
    Lasso of `y` for each token on masks of mean 0 and deviation 1 (Cohen-Wang et al. 2024, sec. 3).

    Raises `OptionError` for options out of range, `MissingDependency` without scikit-learn.
    """
    validate_integer("num_ablations", num_ablations, 2)
    alpha = validate_float("lasso_alpha", lasso_alpha, 0, above=True)
    masks = random_masks(sources, num_ablations, ablation_keep_prob, seed)
    linear: Any = optional_import("sklearn.linear_model", extra="bench", purpose="fit context_cite")
    y, m = ablated(masks), masks.double()
    mean, deviation = m.mean(0), m.std(0, correction=0)
    deviation[deviation == 0] = 1.0  # never or always there
    lasso = linear.Lasso(alpha=alpha, max_iter=100_000)  # of more sources than ablations 1,000 may not be enough
    fitted = lasso.fit(((m - mean) / deviation).numpy(), (y / tokens).numpy())
    w = torch.from_numpy(fitted.coef_ + 0.0) * tokens / deviation  # no -0.0
    b = float(fitted.intercept_) * tokens - mean @ w
    spread = (y - y.mean()).square().sum()
    r2 = 1 - (y - m @ w - b).square().sum() / spread if spread > 0 else torch.zeros_like(spread)
    return w, {"intercept": b[None], "r2": r2[None]}, {"masks": masks[None], "log_odds": y[None]}


def leave_one_out(ablated: Ablated, sources: int, tokens: int) -> Found:
    """The answer's log odds minus those without a source."""
    y = ablated(torch.cat([torch.ones(1, sources, dtype=torch.bool), ~torch.eye(sources, dtype=torch.bool)]))
    return y[0] - y[1:], {}, {}


BY_ABLATION: dict[str, Callable[..., Found]] = {one.__name__: one for one in (context_cite, leave_one_out)}

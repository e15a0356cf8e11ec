"""How good scores of sources are: the answer without the best ones, and a linear model of it on new ablations."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, optional_import
from ..explaining import Sources
from ..inputs import refuse_unreadable
from ..validation import validate_call, validate_integer


@validate_call
def top_k_drop(sources: Sources, scores: Any, *, k: int = 1, part: Any = None) -> float:
    """`log p(R|C) − log p(R|C without its k best sources)`, in nats: how much less likely the answer `R` is without the
    `k` sources of the context `C` that have the highest scores (Cohen-Wang et al., NeurIPS 2024, sec. 2). Higher is
    better.

    Args:
        sources: a prompt and its answer.
        scores: a number for each source, (source,). Of equal ones the first counts as the higher.
        k: how many are left out, from 1 to all.
        part: tokens of the answer, as in `Sources.explain`.

    Raises:
        InputError: scores of other sources, a part that the answer does not have.
        OptionError: `k` out of range.
    """
    values = _scores(sources, scores)
    best = values.sort(descending=True, stable=True).indices[: validate_integer("k", k, 1, len(sources))]
    masks = torch.ones(2, len(sources), dtype=torch.bool)
    masks[1, best] = False
    whole, without = sources.log_probs(masks, part).tolist()
    return whole - without


@validate_call
def linear_datamodeling_score(
    sources: Sources,
    scores: Any,
    *,
    num_ablations: int = 64,
    ablation_keep_prob: float = 0.5,
    seed: int = 1,
    part: Any = None,
) -> float:
    """LDS: Spearman's rank correlation, from −1 to 1, of the answer's log odds over random ablations with the sum of
    the scores of the sources that stay (Cohen-Wang et al., NeurIPS 2024, sec. 2; Park et al., ICML 2023). Higher is
    better; 0 where either is the same for all ablations.

    Args:
        sources: a prompt and its answer.
        scores: a number for each source, (source,).
        num_ablations: 2 or more.
        ablation_keep_prob: how likely each source stays, 0 to 1.
        seed: the ablations. They should be others than those that scores were made of, which `context_cite` draws by
            its own `seed`, 0 by default.
        part: tokens of the answer, as in `Sources.explain`.

    Raises:
        InputError: scores of other sources, a part that the answer does not have.
        OptionError: options out of range.
        MissingDependency: without scipy.
    """
    values = _scores(sources, scores)
    stats = optional_import("scipy.stats", extra="bench", purpose="correlate ranks")
    masks = sources.random_masks(validate_integer("num_ablations", num_ablations, 2), ablation_keep_prob, seed)
    predicted, y = masks.double() @ values, sources.log_odds(masks, part)
    if predicted.min() == predicted.max() or y.min() == y.max():
        return 0.0
    return float(stats.spearmanr(predicted.numpy(), y.numpy()).statistic)


def _scores(sources: Sources, scores: Any) -> Tensor:
    refuse_unreadable(scores, "the scores")
    try:
        values = torch.as_tensor(scores).detach().cpu().double()
    except (TypeError, ValueError, RuntimeError, OverflowError):
        values = torch.empty(0)
    if values.shape != (len(sources),) or not bool(values.isfinite().all()):
        got = f"{tuple(values.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        todo = "of one result: a.scores[0]"
        raise InputError(
            "these are no scores of the sources", expected=f"({len(sources)},), finite", got=got, todo=todo
        )
    return values

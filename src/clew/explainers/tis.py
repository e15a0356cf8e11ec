"""TIS: which patches raise the score of a model that gets some of them alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import OptionError, optional_import
from ..shapes import at_least_float32
from ..subject import Result, Subject, keep_tokens
from ..validation import validate_float, validate_integer, validate_seed
from . import method


@method(
    paper="Englebert et al. 2023", summary="TIS: scores of samples of the patches, others left out", images=True,
    only_named=True,
)  # fmt: skip
def tis(
    subject: Subject,
    *,
    n_masks: int = 1024,
    tokens_ratio: float | Sequence[float] = 0.5,
    masks: Tensor | None = None,
    seed: int = 0,
    internal_batch_size: int | None = None,
) -> Result:
    """`Σ_m s_m m / Σ_m m` over masks `m` of patches, `s_m` the score where only patches in `m` enter the first block,
    with their positions. The paper takes `score="probability"` and stretches the map (`normalize="minmax"`).

    A mask is the share `tokens_ratio` of patches that a centroid has the largest numbers for; several shares make
    several masks of each. Centroids, at most `n_masks`, are those of k-means (scikit-learn, drawn by `seed`) over all
    features of all blocks, each a map of what it is at every patch; or `masks` (mask, patch), or (batch, mask, patch),
    take their place. CLS and registers always stay. Patches that are in no mask get 0; `checks`: `never_kept` counts
    them. Models that tell their blocks where each token is (rotary, relative positions) are refused.
    """
    ratios = tokens_ratio if isinstance(tokens_ratio, Sequence) else [tokens_ratio]
    ratios = [validate_float("tokens_ratio", one, 0, 1, above=True) for one in ratios]
    n_masks, seed = validate_integer("n_masks", n_masks, 1), validate_seed("seed", seed)
    rows, columns = subject.grid()
    maps = _given(subject, masks, rows * columns) if masks is not None else _centroids(subject, n_masks, seed)
    prefix, each = subject.bound.prefix, subject.each
    total, kept = (torch.zeros(subject.batch, rows * columns, dtype=torch.float64) for _ in range(2))
    for count in (max(1, int(ratio * rows * columns)) for ratio in ratios):
        chosen = maps.topk(count, dim=-1).indices.sort(-1).values  # (input, mask, patch)
        always = torch.arange(prefix).expand(*chosen.shape[:2], prefix)
        tokens = torch.cat([always, chosen + prefix], -1)
        for mask, example in subject.chunks(maps.shape[1], internal_batch_size):
            one, of = mask.cpu(), example.cpu()
            places = tokens[of // each, one][::each]
            scores = subject.scores_where({0: keep_tokens(places)}, rows=example)
            inside = torch.zeros(len(of), rows * columns, dtype=torch.float64)
            inside.scatter_(1, chosen[of // each, one], 1.0)
            kept.index_add_(0, of, inside)
            total.index_add_(0, of, inside * scores.double().cpu()[:, None])
    found = torch.where(kept > 0, total / kept.clamp(min=1), 0.0)
    like = at_least_float32(subject.x)
    return Result(torch.nn.functional.pad(found, (prefix, 0)).to(like), checks={"never_kept": (kept == 0).sum(1)})


def _given(subject: Subject, masks: Tensor, patches: int) -> Tensor:
    """Maps that are given, for each input. Raises `OptionError` where they do not fit."""
    maps, inputs = torch.as_tensor(masks).double().cpu(), len(subject.given)
    maps = maps.expand(inputs, -1, -1) if maps.ndim == 2 else maps
    if maps.ndim != 3 or maps.shape[::2] != (inputs, patches) or not maps.shape[1] or not bool(maps.isfinite().all()):
        expected = f"finite numbers (mask, {patches}), or ({inputs}, mask, {patches}) with a set for each image"
        raise OptionError("masks do not fit the patches", expected=expected, got=tuple(torch.as_tensor(masks).shape))
    return maps


def _centroids(subject: Subject, n_masks: int, seed: int) -> Tensor:
    """Centroids (input, mask, patch) of the features of all blocks."""
    cluster: Any = optional_import("sklearn.cluster", extra="bench", purpose="find the masks of tis")
    blocks = range(subject.depth)
    trace = subject.run(blocks, outputs=blocks)
    outputs = [trace.layers[layer].output for layer in blocks]
    features = torch.cat([o.detach().double().cpu().mT for o in outputs if o is not None], 1)
    found = list[Tensor]()
    for each in features[..., subject.bound.prefix :]:
        distinct = len(torch.unique(each, dim=0))
        made = cluster.KMeans(min(n_masks, distinct), n_init=1, random_state=seed).fit(each.numpy())
        found.append(torch.from_numpy(made.cluster_centers_))
    fewest = min(map(len, found))
    return torch.stack([one[:fewest] for one in found])

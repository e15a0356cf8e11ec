"""Sanity: does a map change when the model forgets what it learned, and does it find evidence that was put there?"""

from __future__ import annotations

import copy
import math
import zlib
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from ...attributions import Attribution, TextAttribution
from ...datasets import Dataset, Example
from ...errors import OptionError, optional_import
from ...metrics import soft_scores
from ...metrics.eraser import mask_of
from ...models import LoadedModel, block_and_head_names, find_architecture
from ...targets import head_of
from . import Again, Batch, Benchmark, Curve, Metric, Results, Values, benchmark, label_of, mean_of_column, one_of
from .segmentation import image_of, mask_in_frame, preprocess_of
from .texts import shortened, text_of, words_of

_RANKED = "average precision: how well scores rank the evidence above the rest"


@benchmark(
    name="sanity",
    version=1,
    modality="",
    paper="Adebayo et al. 2018 (cascading randomisation); Zhang et al. 2018 (pointing game)",
    summary="does the map change when the model's weights are drawn anew, and does it point at planted evidence?",
)
@dataclass(frozen=True)
class Sanity(Benchmark):
    """Cascading randomisation, and evidence that is known: masks of pictures, rationales of texts.

    Weights are drawn anew (Gaussian, with each tensor's own mean and deviation), from the head down, over `stages`:
    fractions of the blocks, 0 is the head alone. The rank correlation of each map with that of the intact model should
    fall. Where examples have masks or rationales: is the maximum on them, and how well do scores rank them.
    `explain`: the "predicted" class of the intact model, or the "given" one; the same class is explained throughout.
    `draw`: the seed of the new weights.
    """

    stages: tuple[float, ...] = (0.0, 0.25, 0.5, 0.75, 1.0)
    explain: str = "predicted"
    draw: int = 0
    max_length: int | None = None

    @property
    def metrics(self) -> Sequence[Metric]:
        found = [
            Metric("pointing_game", ("pointing",), mean_of_column, True, True, "is the maximum on the evidence"),
            Metric("average_precision", ("average_precision",), mean_of_column, True, False, _RANKED),
        ]
        if self.stages:
            what = "rank correlation with the map of the intact model, all weights drawn anew"
            found.append(Metric("similarity when redrawn", ("similarity",), _last, False, True, what))
        return found

    @property
    def curves(self) -> Sequence[Curve]:
        x = tuple(float(s) for s in self.stages)
        label = "rank correlation with the intact model's map"
        return (
            [Curve("cascading randomisation", ("similarity",), np.asarray, x, "blocks drawn anew", label)] if x else []
        )

    def fitted(self, loaded: LoadedModel, dataset: Dataset) -> Benchmark:
        one_of("class to explain", self.explain, ("predicted", "given"))
        if list(self.stages) != sorted(set(self.stages)) or not all(0 <= s <= 1 for s in self.stages):
            raise OptionError("stages of randomisation", expected="rising fractions from 0 to 1", got=self.stages)
        if not _is_text(loaded):
            preprocess_of(loaded)
        return self

    def batch(self, loaded: LoadedModel, examples: Sequence[Example]) -> Batch:
        targets = [label_of(e) for e in examples] if self.explain == "given" else None
        if _is_text(loaded):
            texts = [shortened(loaded, text_of(e), self.max_length) for e in examples]
            return Batch(examples, texts, {"": targets}, more={"truncate": True})
        preprocess = preprocess_of(loaded)
        device = next(loaded.model.parameters()).device
        return Batch(examples, torch.stack([preprocess(image_of(e))[0] for e in examples]).to(device), {"": targets})

    def measure(self, loaded: LoadedModel, batch: Batch, results: Results, again: Again) -> dict[str, list[Values]]:
        found: dict[str, list[Values]] = {}
        for method, result in results.items():
            found[method] = [_evidence(loaded, result[""], i, e) for i, e in enumerate(batch.examples)]
        if self.stages:
            some = next(iter(results.values()))[""]
            same = batch
            classes = head_of(loaded.model).kind != "embedding"  # of which the norm is explained
            if self.explain == "predicted" and classes and some.logits is not None and some.logits.ndim == 2:
                same = replace(batch, targets={"": some.logits.argmax(-1).tolist()})
            similarity: dict[str, list[list[float]]] = {m: [[] for _ in batch.examples] for m in results}
            for drawn in cascade(loaded, self.stages, self.draw):
                for method, result in results.items():
                    other = again(drawn, same, method)[""]
                    for i in range(len(batch.examples)):
                        similarity[method][i].append(_correlation(result[""], other, i))
            for method, rows in found.items():
                for row, values in zip(rows, similarity[method], strict=True):
                    row["similarity"] = [float(v) for v in values]
        return found


def cascade(loaded: LoadedModel, stages: Sequence[float], seed: int) -> Generator[LoadedModel]:
    """The model with more and more of its weights drawn anew, from the head down; the model itself stays as it is."""
    bound = find_architecture(loaded.model).bind(loaded.model)
    blocks, above = block_and_head_names(loaded.model)
    other = copy.deepcopy(loaded.model)
    # A head that shares its weights with the embeddings is drawn with them, last.
    shared = {id(p) for m in (bound.patches, *bound.blocks) for p in m.parameters()}
    every = loaded.model.named_parameters(remove_duplicate=False)
    done = {name for name, p in every if id(p) in shared and name.rpartition(".")[0] in above}
    for stage in stages:
        count = math.ceil(stage * len(blocks) - 1e-9)
        wanted = above + blocks[len(blocks) - count :]
        if stage == 1:
            wanted = [""]
        for name in wanted:
            _draw(other.get_submodule(name), f"{name}.", seed, done)
        yield replace(loaded, model=other)


def redrawn(loaded: LoadedModel, seed: int) -> LoadedModel:
    """The model with all of its weights drawn anew, Gaussian, with each tensor's own mean and deviation."""
    drawn = copy.deepcopy(loaded.model)
    _draw(drawn, "", seed, set())
    return replace(loaded, model=drawn)


def _draw(module: nn.Module, prefix: str, seed: int, done: set[str]) -> None:
    for name, parameter in module.named_parameters():
        full = (prefix + name).lstrip(".")
        if full in done or not parameter.is_floating_point():
            continue
        done.add(full)
        generator = torch.Generator("cpu").manual_seed(zlib.crc32(full.encode()) + seed)
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32, device="cpu")
        values = parameter.detach().float()
        spread = values.std() if values.numel() > 1 else values.abs().mean()
        parameter.data.copy_(values.mean() + spread * noise.to(values.device))


def _correlation(a: Attribution, b: Attribution, i: int) -> float:
    stats = optional_import("scipy.stats", extra="bench", purpose="compare maps")
    x, y = _scores(a, i), _scores(b, i)
    if len(x) < 2 or float(x.std()) == 0 or float(y.std()) == 0:
        return 0.0  # a constant map ranks nothing
    return float(stats.spearmanr(x.numpy(), y.numpy()).statistic)


def _scores(result: Attribution, i: int) -> Tensor:
    scores = result.scores[i].detach().double().cpu()
    return scores[result.mask[i].cpu() & ~result.special[i].cpu()] if isinstance(result, TextAttribution) else scores


def _evidence(loaded: LoadedModel, result: Attribution, i: int, example: Example) -> Values:
    """Whether the maximum is on what is known to decide, and the average precision of the scores against it."""
    true, values = np.zeros(0, dtype=bool), np.zeros(0)
    if example.mask is not None and example.image is not None:
        mask = mask_in_frame(preprocess_of(loaded), example)
        true = mask[mask >= 0] == 1
        values = result.heatmap()[i].detach().cpu().double().numpy()[mask >= 0]
    elif example.rationale and example.words is not None:
        words = words_of(result, i, example, "max")
        true = mask_of(example.rationale, len(example.words))[: len(words)]
        values = np.array([word.score for word in words])
    if not true.any() or true.all():
        return {"pointing": None, "average_precision": None}
    best = bool(true[int(values.argmax())]) and float(np.ptp(values)) > 0  # a constant map points nowhere
    return {"pointing": float(best), "average_precision": soft_scores(true, values).average_precision}


def _is_text(loaded: LoadedModel) -> bool:
    return find_architecture(loaded.model).modality == "text"


def _last(values: np.ndarray) -> np.ndarray:
    return np.asarray(values)[..., -1]

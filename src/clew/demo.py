"""The demo: bundled models on scenes whose evidence is known, as one page and as numbers."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
from rich.table import Table

from .attributions import Attribution, ImageAttribution
from .draw import Cell
from .draw.page import page
from .explainers import parse_method
from .explaining import explain_in_batches
from .files import write
from .loading.load import load
from .minis import captioned_scenes, scenes
from .targets import Similarity

METHODS = [
    "random",
    "raw_attention",
    "attention_rollout",
    "integrated_gradients(n_steps=16)",
    "beyond_intuition_head",
    "beyond_intuition_token",
]


def run_demo(out: Path, limit: int) -> tuple[list[Table], Path]:
    """Explain the scenes of both models, write a page with `limit` scenes of each, and measure on all of them."""
    first, digits = _digits(limit)
    second, pairs = _pairs(limit)
    return [first, second], write(out, {".html": lambda: page("clew: what did these models look at?", pairs + digits)})


def _digits(limit: int) -> tuple[Table, list[list[Cell]]]:
    loaded, data = load("mini:digits"), scenes("digits")
    results = explain_in_batches(loaded, data.images, [parse_method(text) for text in METHODS], data.labels.tolist())
    table = Table(
        "method",
        "maximum on the digit",
        "positive score on the digit",
        title=f"mini:digits, {len(data.images)} scenes with masks",
        caption=f"the digit covers {data.masks.mean():.0%} of a scene; "
        f"the model reads {_accuracy(results[0], data.labels):.0%} of them",
    )
    for result in results:
        heat = result.heatmap().numpy()
        table.add_row(result.method, f"{_pointing(heat, data.masks):.0%}", f"{_mass(heat, data.masks):.0%}")
    return table, _rows(results, limit)


def _pairs(limit: int) -> tuple[Table, list[list[Cell]]]:
    loaded, data = load("mini:digits-clip"), captioned_scenes()
    targets = [Similarity(list(captions)) for captions in data.captions]
    chosen = [parse_method(text) for text in METHODS if not text.startswith("integrated")]
    results = explain_in_batches(loaded, data.images, chosen, targets)
    named = data.masks.reshape(-1, *data.masks.shape[2:])
    other = data.masks[:, ::-1].reshape(named.shape)
    table = Table(
        "method",
        "highest patch on the digit named",
        "on the other digit",
        title=f"mini:digits-clip, {len(data.images)} scenes, explained for the caption of each of two digits",
    )
    for result in results:
        table.add_row(result.method, f"{_patches(result, named):.0%}", f"{_patches(result, other):.0%}")
    default = explain_in_batches(
        loaded, data.images[:limit], [parse_method(METHODS[-1])], targets[:limit], more={"side": "both"}
    )
    return table, _rows(default, limit)


def _rows(results: list[Attribution], limit: int) -> list[list[Cell]]:
    """One row for each image: a cell for each method and target."""
    images = [cast(ImageAttribution, result) for result in results]
    cells = [image.by_image([[cell] for cell in image.cells()])[:limit] for image in images]
    return [[cell for row in rows for cell in row] for rows in zip(*cells, strict=True)]


def _patches(result: Attribution, masks: np.ndarray) -> float:
    """Share of results whose highest patch holds some of its mask."""
    image = cast(ImageAttribution, result)
    (rows, columns), (down, across) = image.patch_grid, image.patch_size
    held = masks.reshape(-1, rows, down, columns, across).any((2, 4)).reshape(len(masks), -1)
    return float(held[np.arange(len(masks)), image.scores.argmax(1).numpy()].mean())


def _pointing(heat: np.ndarray, masks: np.ndarray) -> float:
    return float(np.mean([mask.flat[h.argmax()] for h, mask in zip(heat, masks, strict=True)]))


def _mass(heat: np.ndarray, masks: np.ndarray) -> float:
    positive = heat.clip(min=0)
    return float(np.mean((positive * masks).sum((1, 2)) / positive.sum((1, 2)).clip(min=1e-12)))


def _accuracy(result: Attribution, labels: np.ndarray) -> float:
    assert result.logits is not None
    return float((result.logits.argmax(-1).numpy() == labels).mean())

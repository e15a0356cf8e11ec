"""Localisation on real photographs with object masks: the pointing game and average precision, and a contact sheet.

    python measurements/davis.py MODEL_FOLDER DAVIS_FOLDER

DAVIS_FOLDER holds `images/`, `masks/` and `davis_crops.tsv` (frame, crop, box, class). Writes docs/davis.md and
docs/davis.jpg.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from report import ROOT, interval, write_page
from scipy.ndimage import distance_transform_edt
from sklearn.metrics import average_precision_score

import clew
from clew.draw.plots import Picture, colour, in_frame
from clew.explainers import parse_method

METHODS = [
    "random", "attention_rollout", "attention_gradcam", "saliency", "input_x_gradient", "generic_attribution",
    "gradient_attention_rollout", "raw_attention", "beyond_intuition_head", "beyond_intuition_token",
    "attn_lrp", "cp_lrp", "pa_lrp", "pa_lrp(part='position')", "lrp(rules='gamma')", "lrp(rules='z_plus')",
    "partial_lrp", "transformer_attribution",
    "attn_lrp(level='pixel')", "pa_lrp(level='pixel')", "lrp(rules='gamma', level='pixel')",
    "pa_lrp(rules='gamma', level='pixel')", "lrp(rules='z_plus', level='pixel')", "lrp(rules='chefer', level='pixel')",
    "lrp(rules='pa_lrp_gamma')", "pa_lrp(variant='pa_lrp')",
]  # fmt: skip
SHOWN = ["raw_attention", "beyond_intuition_head", "beyond_intuition_token"]


def read(folder: Path, size: tuple[int, int]) -> tuple[list[str], list[Image.Image], np.ndarray, list[int]]:
    names, images, masks, classes = [], [], [], []
    with (folder / "davis_crops.tsv").open() as file:
        for row in csv.DictReader(file, delimiter="\t"):
            box = tuple(int(row[k]) for k in ("x0", "y0", "x1", "y1"))
            mask = Image.open(folder / "masks" / f"{row['frame']}.png").convert("L").crop(box)
            names.append(f"{row['frame']} crop {row['crop']} ({row['class_name']})")
            images.append(clew.open_image(folder / "images" / f"{row['frame']}.jpg").crop(box))
            masks.append(np.asarray(mask.resize(size[::-1], Image.Resampling.NEAREST)) > 127)
            classes.append(int(row["class_index"]))
    return names, images, np.stack(masks), classes


def heatmaps(model: clew.LoadedModel, images: list[Image.Image], classes: list[int], method: str) -> np.ndarray:
    name, options = parse_method(method)
    parts = [
        clew.explain(model, images[i : i + 16], method=name, target=classes[i : i + 16], **options).heatmap()
        for i in range(0, len(images), 16)
    ]
    return torch.cat(parts).numpy()


def gaussian(height: int, width: int, count: int) -> np.ndarray:
    """The control that never looks at the model: a Gaussian in the centre, a quarter of the side wide."""
    row, column = np.mgrid[:height, :width]
    y, x = (row - (height - 1) / 2) / (height / 4), (column - (width - 1) / 2) / (width / 4)
    return np.repeat(np.exp(-(x**2 + y**2) / 2)[None], count, axis=0)


def score(heats: np.ndarray, masks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Per crop: is the maximum on the mask; average precision of the pixels."""
    hits = np.array([mask.flat[heat.argmax()] for heat, mask in zip(heats, masks, strict=True)], dtype=float)
    precision = [average_precision_score(m.ravel(), h.ravel()) for h, m in zip(heats, masks, strict=True)]
    return hits, np.array(precision)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("davis", type=Path)
    args = parser.parse_args()
    model = clew.load(args.model)
    assert model.preprocess is not None
    names, images, masks, classes = read(args.davis, model.preprocess.size)
    heats = {"centred Gaussian (no model)": gaussian(*masks.shape[1:], len(masks))}
    heats |= {method: heatmaps(model, images, classes, method) for method in METHODS}
    scores = {method: score(heat, masks) for method, heat in heats.items()}
    control = scores["centred Gaussian (no model)"][1]

    lines = [
        "# Which method finds the object?",
        "",
        f"{len(names)} square crops of photographs from DAVIS 2016 (Perazzi et al.) with object masks, each about",
        "four times as large as its object, with the object anywhere in it. The model, a ViT-S/14 with LayerScale",
        "fine-tuned on the ten CIFAR-10 classes (112 × 112 pixels, 8 × 8 patches), classifies all of them",
        "correctly. The true class is explained; heatmaps are bilinear. *Pointing game*: is the maximum on the",
        "object. *Average precision*: of the pixels against the mask. The last column is the mean difference in",
        "average precision to a Gaussian in the centre that never looks at the model, with its paired bootstrap",
        "interval (95 %, 9,999 resamples). Made by `measurements/davis.py`.",
        "",
        "| method | pointing game | average precision | against the Gaussian |",
        "|---|---|---|---|",
    ]
    for method, (hits, precision) in scores.items():
        difference = "–"
        if not method.startswith("centred"):
            low, high = interval(precision - control)
            difference = f"{(precision - control).mean():+.2f} [{low:+.2f}, {high:+.2f}]"
        lines.append(f"| {method} | {hits.mean():.3f} | {precision.mean():.3f} | {difference} |")

    lines += ["", "## Where the maximum is off the object", "", "Distance to the object, of 112 px:", ""]
    for i, name in enumerate(names):
        away = distance_transform_edt(~masks[i])
        missed = [f"{m} by {away.flat[heats[m][i].argmax()]:.0f} px" for m in SHOWN if not scores[m][0][i]]
        if missed:
            found = ", ".join(f"{m} {scores[m][1][i]:.2f}" for m in SHOWN)
            lines.append(f"- {name}: {', '.join(missed)} (average precision: {found})")
    lines += [
        "",
        f"Columns below: crop with the mask's outline, then {', '.join(SHOWN)}.",
        "",
        "![contact sheet](davis.jpg)",
    ]
    write_page("davis.md", lines)
    sheet(names, images, masks, heats, scores).save(ROOT / "docs" / "davis.jpg", quality=82)
    print("\n".join(lines[:30]))


def sheet(names, images, masks, heats, scores, *, tile: int = 88, across: int = 4) -> Image.Image:
    """All crops: picture with mask outline, then the overlays; a red frame where the maximum is off the mask."""
    columns = 1 + len(SHOWN)
    rows = -(-len(names) // across)
    page = Image.new("RGB", (across * (columns * tile + 10), rows * (tile + 4)), "white")
    for i, image in enumerate(images):
        pixels = np.asarray(image.resize((tile, tile)))
        outline = Image.fromarray(masks[i]).resize((tile, tile))
        edge = np.asarray(outline) & ~_eroded(np.asarray(outline))
        first = pixels.copy()
        first[edge] = (0, 255, 0)
        picture = Picture(pixels, (0.0, 0.0, float(tile), float(tile)))
        tiles = [Image.fromarray(first)]
        for method in SHOWN:
            heat = colour(in_frame(picture, heats[method][i]))
            drawn = Image.alpha_composite(Image.fromarray(pixels).convert("RGBA"), Image.fromarray(heat)).convert("RGB")
            if not scores[method][0][i]:
                ImageDraw.Draw(drawn).rectangle([0, 0, tile - 1, tile - 1], outline="red", width=3)
            tiles.append(drawn)
        x, y = (i % across) * (columns * tile + 10), (i // across) * (tile + 4)
        for k, one in enumerate(tiles):
            page.paste(one, (x + k * tile, y))
    return page


def _eroded(mask: np.ndarray) -> np.ndarray:
    padded = np.pad(mask, 1)
    return padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]


if __name__ == "__main__":
    main()

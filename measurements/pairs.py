"""Planted evidence: does the map for "a seven" lie on the seven? On the bundled image–text model of digit scenes.

    python measurements/pairs.py [--scenes 400]

Writes docs/digits-clip.md.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from report import interval, write_page
from tqdm import tqdm

import clew
from clew.explainers import parse_method
from clew.minis.captioned import CaptionedScene, compose_captioned
from clew.minis.captions import WORDS, with_article
from clew.minis.train_pairs import SHIPPED_SCENES, TEST_SCENES

METHODS = [
    "random", "raw_attention", "attention_rollout", "attention_gradcam", "generic_attribution",
    "gradient_attention_rollout", "beyond_intuition_head", "beyond_intuition_token", "saliency", "smoothgrad",
    "input_x_gradient", "integrated_gradients(n_steps=16)", "attn_lrp", "cp_lrp", "pa_lrp", "lrp(rules='gamma')",
    "partial_lrp", "transformer_attribution",
]  # fmt: skip
FIRST = TEST_SCENES + SHIPPED_SCENES  # of the test scenes: behind those that measured accuracy, and those that ship


def places(model: clew.LoadedModel, scenes: list[CaptionedScene], method: str) -> np.ndarray:
    """For each scene and each of its digits, of the caption "a photo of a seven": whether the highest score lies on
    that digit, whether on the other, whether the heatmap's highest pixel is one of the digit's strokes, and whether
    the digit's is the highest of the caption's words. (scene, digit, 4)."""
    name, options = parse_method(method)
    found = []
    for start in range(0, len(scenes), 25):
        part = scenes[start : start + 25]
        words = [[WORDS[label] for label in scene.labels] for scene in part]
        texts = [clew.Similarity([f"a photo of {with_article(word)}" for word in pair]) for pair in words]
        images = [Image.fromarray(scene.image) for scene in part]
        a = clew.explain(model, images, method=name, target=texts, side="both", checks="off", **options)
        assert isinstance(a, clew.PairAttribution)
        (rows, columns), (down, across) = a.patch_grid, a.patch_size
        best, pixel = a.scores.argmax(1).numpy(), a.heatmap().flatten(1).argmax(1).numpy()
        first = [ranked[0].token for ranked in a.text.top(1)]
        for i, masks in enumerate(scene.masks for scene in part):
            held = masks.reshape(2, rows, down, columns, across).any((2, 4)).reshape(2, -1)
            for j in range(2):
                k = 2 * i + j
                on = held[j, best[k]], held[1 - j, best[k]], masks[j].flat[pixel[k]], first[k] == words[i][j]
                found.append(on)
    return np.array(found, dtype=float).reshape(len(scenes), 2, 4)


def redrawn(model: clew.LoadedModel) -> clew.LoadedModel:
    """The same architecture with random weights."""
    torch.manual_seed(1)
    return replace(model, model=type(model.model)(model.model.config).eval())


def cell(values: np.ndarray) -> str:
    low, high = interval(values)
    return f"{values.mean():.1%} [{low:.1%}, {high:.1%}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=400)
    args = parser.parse_args()
    model = clew.load("mini:digits-clip")
    scenes = [compose_captioned("test", FIRST + i) for i in range(args.scenes)]
    untrained, rows = redrawn(model), {}
    for method in tqdm(METHODS):
        trained = places(model, scenes, method).mean(1)  # of a scene's two maps, which are not independent
        control = places(untrained, scenes, method).mean(1)
        rows[method] = [cell(trained[:, k]) for k in range(4)] + [cell(control[:, 0]), cell(control[:, 3])]
        print(method, *rows[method])
    covered = np.mean([mask.reshape(10, 8, 10, 8).any((1, 3)).mean() for s in scenes for mask in s.masks])
    told = [
        f"{len(scenes)} scenes with two different digits that no training scene contains, explained for the captions",
        '"a photo of a seven" of both by `mini:digits-clip`. The model finds both digits in',
        f"{model.facts['test_accuracy']:.1%} of the test scenes, and was trained to know which patches hold which",
        "digit. *Right*: the patch with the highest score holds strokes of the digit that the caption names; *other*:",
        "of the other digit; *stroke*: the highest pixel of the heatmap is a stroke of the right digit. A digit",
        f"touches {covered:.0%} of the patches. *Word*: of the five words of the caption the digit's has the highest",
        "score, with the text explained. *Re-drawn*: right, and word, with random weights. Means over scenes with",
        "95 % bootstrap intervals.",
    ]
    head = [
        "| method | right | other | stroke | word | re-drawn: right | re-drawn: word |",
        "|---|---|---|---|---|---|---|",
    ]
    lines = [f"| {method} | {' | '.join(cells)} |" for method, cells in rows.items()]
    write_page("digits-clip.md", ["# Does the map for a caption lie on what it names?", "", *told, "", *head, *lines])


if __name__ == "__main__":
    main()

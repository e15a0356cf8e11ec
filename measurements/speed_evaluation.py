"""Speed of evaluation: how much of a perturbation run is inside the model, and what segmentation metrics cost.

    python measurements/speed_evaluation.py

Writes the table into docs/benchmarks.md. ViT-B/16 has random weights; pictures are noise.
"""

from __future__ import annotations

import time

import numpy as np
import torch
from PIL import Image
from report import when_and_where, write_table

import clew

PICTURES = 4276  # as many as ImageNet-Segmentation has


class Noise(clew.Dataset):
    """Pictures of noise in colours of their own, with a square as mask."""

    name, classes = "noise", None

    def __init__(self, count: int) -> None:
        self.ids = [str(i) for i in range(count)]

    def read(self, index: int) -> clew.Example:
        drawn = np.random.default_rng(index).integers(0, 255, (256, 256, 3), dtype=np.uint8)
        return clew.Example(id=self.ids[index], image=Image.fromarray(drawn), label=index % 10)


def inside(methods: list[str], count: int, **options: object) -> tuple[float, float]:
    """Seconds of a run, and the share of them that the model's forward and backward passes take."""
    import timm

    torch.manual_seed(0)
    model = timm.create_model("vit_base_patch16_224", pretrained=False).eval()
    size = (224, 224)
    loaded = clew.LoadedModel(model, clew.Preprocess(size, size, "squash"), name="ViT-B/16")
    spent, depth = [0.0], [0.0]

    def before(*_: object) -> None:
        depth[0] = time.perf_counter()

    def after(*_: object) -> None:
        spent[0] += time.perf_counter() - depth[0]

    handles = [model.register_forward_pre_hook(before), model.register_forward_hook(after)]
    began = time.perf_counter()
    clew.evaluate("perturbation", loaded, Noise(count), methods=methods, show_progress=False, **options)
    whole = time.perf_counter() - began
    for handle in handles:
        handle.remove()
    return whole, spent[0] / whole


def metrics(count: int = PICTURES) -> float:
    """Seconds for the metrics of so many heatmaps of 224 × 224."""
    rng = np.random.default_rng(0)
    coarse = torch.from_numpy(rng.random((count, 1, 14, 14), dtype=np.float32))
    heat = torch.nn.functional.interpolate(coarse, size=(224, 224), mode="bilinear")[:, 0]
    masks = np.zeros((count, 224, 224), np.int8)
    masks[:, 60:160, 50:150] = 1
    began = time.perf_counter()
    for start in range(0, count, 64):
        clew.metrics.segmentation(heat[start : start + 64], masks[start : start + 64])
    return time.perf_counter() - began


def main() -> None:
    seconds = metrics()
    print(f"metrics of {PICTURES} pictures: {seconds:.1f} s")
    rows = []
    for methods, count in ((["raw_attention"], 4), (["raw_attention", "beyond_intuition_token", "attn_lrp"], 4)):
        whole, share = inside(methods, count)
        print(methods, whole, share)
        rows.append(f"| {', '.join(methods)} | {count} | {whole:.0f} s | {share:.1%} |")
    lines = [
        f"A perturbation run with ViT-B/16, both directions, eleven steps ({when_and_where()}):",
        "",
        "| methods | pictures | all of it, with hashes, files and backward passes | in forward passes of the model |",
        "|---|---|---|---|",
        *rows,
        "",
        f"Segmentation metrics of {PICTURES:,} pictures at 224 × 224: {seconds:.0f} s.",
    ]
    write_table("benchmark-evaluation", "\n".join(lines))


if __name__ == "__main__":
    main()

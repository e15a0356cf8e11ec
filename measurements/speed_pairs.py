"""Speed on image–text models: what ten texts for an image cost beside one. Ratios, measured in one process.

    python measurements/speed_pairs.py

Writes the table into docs/benchmarks.md. The models have the sizes of CLIP's, and random weights.
"""

from __future__ import annotations

import statistics
import time

import torch
from report import when_and_where, write_table
from speed import seconds
from transformers import CLIPConfig, CLIPModel

import clew

SIZES = {"ViT-B/32": (768, 12, 32), "ViT-B/16": (768, 12, 16)}
METHODS = ["raw_attention", "generic_attribution", "beyond_intuition_token", "beyond_intuition_head", "attn_lrp"]
TEXTS = 10


def build(width: int, heads: int, patch: int) -> CLIPModel:
    vision = {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": heads, "patch_size": patch}
    return CLIPModel(CLIPConfig(vision_config=vision)).eval()


def measure(name: str, rounds: int = 3) -> dict[str, tuple[float, float]]:
    """Of each method: cost for one text in plain passes of the image tower, and ten texts over one."""
    torch.manual_seed(0)
    model, image = build(*SIZES[name]), torch.randn(1, 3, 224, 224)
    ids = torch.randint(5, 49_000, (TEXTS, 12))
    ids[:, -1] = 49_407
    one, all_of_them = clew.Similarity([ids[0]]), clew.Similarity(list(ids))

    def plain() -> None:
        with torch.no_grad():
            model.vision_model(image)

    found = {}
    for method in METHODS:
        clew.explain(model, image, target=one, method=method)  # warm, and the once-only check is made
        costs: list[float] = []
        ratios: list[float] = []
        began = time.perf_counter()
        while len(costs) < rounds or time.perf_counter() - began < 15:
            unit = seconds(plain)
            single = seconds(lambda method=method: clew.explain(model, image, target=one, method=method))
            several = seconds(lambda method=method: clew.explain(model, image, target=all_of_them, method=method))
            costs.append(single / ((unit + seconds(plain)) / 2))
            ratios.append(several / single)
        found[method] = statistics.median(costs), statistics.median(ratios)
        print(name, method, found[method])
    return found


def cells(found: tuple[float, float]) -> str:
    return f"{found[0]:.2f} | × {found[1]:.2f}"


def main() -> None:
    columns = {name: measure(name) for name in SIZES}
    lines = [
        f"Explaining one image for one text, in plain passes of the image tower, and {TEXTS} texts beside one, default",
        f"checks on, the texts encoded in each call ({when_and_where()}):",
        "",
        "| | " + " | ".join(f"{name}, 1 text | {TEXTS} texts / 1" for name in SIZES) + " |",
        "|---|" + "---|---|" * len(SIZES),
        *(
            f"| {method} | " + " | ".join(cells(found[method]) for found in columns.values()) + " |"
            for method in METHODS
        ),
    ]
    write_table("benchmark-pairs-speed", "\n".join(lines))


if __name__ == "__main__":
    main()

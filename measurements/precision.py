"""Do half-precision models rank tokens as the float32 model does? Rank correlations on real models.

    python measurements/precision.py MINILM_FOLDER SST2_TSV LLAMA_FOLDER

SST2_TSV has a sentence and a label per line, with a tab between. Writes docs/precision.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from report import write_page
from scipy.stats import spearmanr
from tqdm import tqdm

import clew

METHODS = [
    "raw_attention", "attention_rollout", "generic_attribution", "beyond_intuition_head", "beyond_intuition_token",
    "saliency", "input_x_gradient", "attn_lrp", "cp_lrp", "pa_lrp", "transformer_attribution",
]  # fmt: skip
# How a model is held, and what it is explained in.
WAYS = ((torch.bfloat16, None), (torch.bfloat16, torch.float32), (torch.float16, None))
OPENINGS = [
    "Once upon a time there was a little girl named Lily. She loved to play in the",
    "Tom had a red ball. One day he went to the park with his mom and saw a big dog",
    "The cat was sad because it was raining. A kind boy gave the cat some milk and",
    "Sara and Ben wanted to make a cake. They put the flour in a bowl, but then the",
    "There was a tall tree in the garden. A small bird lived in the tree and sang",
    "One night the moon was very bright. Max could not sleep, so he looked out of",
]


def agreement(name: Path, texts: list[str]) -> dict[str, list[str]]:
    """For each method and way the mean rank correlation over texts, and the least."""
    reference, *models = [clew.load(name, dtype=dtype) for dtype in (torch.float32, *(held for held, _ in WAYS))]
    found: dict[str, list[str]] = {}
    for method in tqdm(METHODS, desc=name.name):
        values: list[list[float]] = [[] for _ in WAYS]
        for text in texts:
            full = clew.explain(reference, text, method=method, checks="off")
            real = full.mask[0] & ~full.special[0]
            target = int(full.logits[0].argmax())
            for kept, model, (_, dtype) in zip(values, models, WAYS, strict=True):
                half = clew.explain(model, text, method=method, target=target, checks="off", compute_dtype=dtype)
                kept.append(float(spearmanr(full.scores[0][real], half.scores[0][real]).statistic))
        found[method] = [f"{np.mean(v):.4f} ({np.min(v):.3f})" for v in values]
        print(method, found[method])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("minilm", type=Path)
    parser.add_argument("sst2", type=Path)
    parser.add_argument("llama", type=Path)
    args = parser.parse_args()
    sentences = [line.split("\t")[0] for line in args.sst2.read_text().splitlines()[:60]]
    columns = [agreement(args.minilm, sentences), agreement(args.llama, OPENINGS)]
    lines = [
        "# Half precision",
        "",
        "Spearman's rank correlation of token scores with those of the float32 model: the mean over texts, and in",
        "brackets the least of a single text. MiniLM-L6 fine-tuned for sentiment on the first 60 sentences of SST-2's",
        "development set (the class that the float32 model predicts is explained), and stories260K, a small Llama, on",
        "six openings (its next token). Made by `measurements/precision.py`.",
        "",
        "*In float32*: the bfloat16 model explained with `compute_dtype=torch.float32`, a copy with the same weights.",
        "",
        "| method |"
        + "".join(f" {m}, {w} |" for m in ("MiniLM", "Llama") for w in ("bf16", "bf16 in float32", "fp16")),
        "|---|" + "---|" * 6,
    ]
    for method in METHODS:
        lines.append(f"| {method} | {' | '.join(cell for column in columns for cell in column[method])} |")
    write_page("precision.md", lines)


if __name__ == "__main__":
    main()

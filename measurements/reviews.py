"""Planted evidence: which methods find the words that decided? On the bundled models of film reviews.

    python measurements/reviews.py [--reviews 200]

Writes docs/reviews.md.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
import torch
from report import interval, write_page
from tqdm import tqdm

import clew
from clew.explainers import parse_method

METHODS = [
    "random", "raw_attention", "attention_rollout", "attention_gradcam", "generic_attribution",
    "gradient_attention_rollout", "beyond_intuition_head", "beyond_intuition_token", "saliency", "smoothgrad",
    "input_x_gradient", "integrated_gradients", "attn_lrp", "cp_lrp", "pa_lrp", "pa_lrp(part='position')",
    "lrp(rules='epsilon')", "partial_lrp", "transformer_attribution",
]  # fmt: skip
REDRAWS, OF_REDRAWN = 20, 50  # how often weights are drawn anew, and how many reviews each draw reads


def rates(model: clew.LoadedModel, reviews: list, method: str, seed: int = 0) -> np.ndarray:
    """For each review the share of its k decisive words among the k words that the method ranks first."""
    name, options = parse_method(method)
    options |= {"seed": seed} if name == "random" else {}
    found = []
    for i in range(0, len(reviews), 50):
        part = reviews[i : i + 50]
        a = clew.explain(
            model, [r.text for r in part], method=name, target=[r.label for r in part], checks="off", **options
        )
        for review, words in zip(part, a.words("max"), strict=True):
            top = sorted(words, key=lambda word: -word.score)[: len(review.decisive)]
            found.append(np.mean([(w.start, w.stop) in review.decisive for w in top]))
    return np.array(found)


def read_right(model: clew.LoadedModel, reviews: list) -> int:
    """How many reviews the model labels correctly."""
    logits = clew.explain(model, [r.text for r in reviews], method="raw_attention", checks="off").logits
    assert logits is not None
    return int((logits.argmax(1) == torch.tensor([r.label for r in reviews])).sum())


def redrawn(model: clew.LoadedModel, seed: int) -> clew.LoadedModel:
    """The same architecture with the weights it had before training, of another seed."""
    torch.manual_seed(seed)
    return replace(model, model=type(model.model)(model.model.config).eval())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reviews", type=int, default=200)
    args = parser.parse_args()
    reviews = clew.reviews(args.reviews)
    others = clew.reviews(args.reviews + REDRAWS * OF_REDRAWN)[args.reviews :]
    unseen = [others[i * OF_REDRAWN : (i + 1) * OF_REDRAWN] for i in range(REDRAWS)]
    models = {name: clew.load(f"mini:reviews-{name}") for name in ("bert", "llama")}
    table: dict[str, list[str]] = {method: [] for method in METHODS}
    for name, model in models.items():
        chance: tuple[float, float] | None = None
        drawn = [redrawn(model, seed) for seed in range(REDRAWS)]
        for method in tqdm(METHODS, desc=name):
            trained = rates(model, reviews, method)
            # One value per draw, of reviews of its own: what one model says of several is not independent.
            untrained = np.array([rates(one, unseen[i], method, i).mean() for i, one in enumerate(drawn)])
            low, high = interval(trained)
            a, b = interval(untrained)
            chance = chance or (a, b)
            overlaps = a <= chance[1] and b >= chance[0]
            table[method] += [
                f"{trained.mean():.3f} [{low:.3f}, {high:.3f}]",
                f"{untrained.mean():.3f} [{a:.3f}, {b:.3f}]" + ("" if overlaps else " *"),
            ]
            print(name, method, *table[method][-2:], f"sd {untrained.std():.3f}")
    right = [str(read_right(model, reviews)) for model in models.values()]
    lines = [
        "# Which method finds the words that decided?",
        "",
        f"{len(reviews)} generated film reviews that no training saw, read by `mini:reviews-bert` and",
        f"`mini:reviews-llama`, which label {' and '.join(right)} of them",
        "correctly. Each review has one to four decisive words among",
        "about 35 neutral ones; some hold a word of the other polarity too. The true label is explained; the score of",
        "a word is the largest of its tokens. *Rate*: the share of the k decisive words among the k ranked first,",
        "with its bootstrap interval over reviews (95 %). *Re-drawn*: the same architecture with random weights,",
        f"the mean over {REDRAWS} draws that read {OF_REDRAWN} reviews of their own each, and its interval over draws;",
        "a star marks one that does not overlap that of `random`. Made by `measurements/reviews.py`.",
        "",
        "| method | BERT | BERT, re-drawn | Llama | Llama, re-drawn |",
        "|---|---|---|---|---|",
        *(f"| {method} | {' | '.join(cells)} |" for method, cells in table.items()),
    ]
    write_page("reviews.md", lines)


if __name__ == "__main__":
    main()

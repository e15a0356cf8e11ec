"""Do methods point at what decides? On `mini:reverse` the letter of the source, on `mini:digits-chat` the quarter of
the picture and the words of the question, as trained and with re-drawn weights.

    python measurements/planted.py [--strings 20] [--pictures 100]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from report import when_and_where
from scipy.stats import binomtest
from torch import Tensor

import clew
from clew.minis.asked_digits import SIZE, AskedDigits, compose_asked, quarter_mask
from clew.minis.reversal import LENGTH, Reversal

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "attn_lrp": ("attn_lrp", {}),
    "cp_lrp": ("cp_lrp", {}),
    "generic_attribution": ("generic_attribution", {}),
    "gradient_attention_rollout": ("gradient_attention_rollout", {}),
    "attention_rollout": ("attention_rollout", {}),
    "raw_attention": ("raw_attention", {}),
    "beyond_intuition_head": ("beyond_intuition_head", {}),
    "beyond_intuition_head, perception": ("beyond_intuition_head", {"feedback": False}),
    "transformer_attribution": ("transformer_attribution", {}),
    "partial_lrp": ("partial_lrp", {}),
    "attention_gradcam": ("attention_gradcam", {}),
    "beyond_intuition_token": ("beyond_intuition_token", {}),
    "integrated_gradients": ("integrated_gradients", {"n_steps": 16}),
    "input_x_gradient": ("input_x_gradient", {}),
    "saliency": ("saliency", {}),
    "random": ("", {}),
}
Hits = dict[str, list[bool]]


def scores(model: Any, inputs: Any, target: Any, name: str) -> Any:
    """What a method gives, or random numbers in the same shapes."""
    method, options = METHODS[name]
    found = clew.explain(model, inputs, method=method or "saliency", target=target, checks="off", **options)
    if method:
        return {stream: part.all_scores for stream, part in found.streams.items()}
    return {stream: torch.rand_like(part.all_scores) for stream, part in found.streams.items()}


def of_reversals(model: Any, name: str, strings: list[Reversal]) -> Iterator[tuple[str, bool]]:
    """For each letter of each answer, whether the highest score of the source is at the letter that decides it."""
    for place in range(LENGTH):
        answers = [" ".join(one.answer.split()[:place]) for one in strings]
        inputs = {"source": [one.source for one in strings]} | ({"answer": answers} if place else {})
        target = [one.answer.split()[place] for one in strings]
        best = scores(model, inputs, target, name)["input_ids"][:, :LENGTH].argmax(-1)
        yield from (("letter", bool(i == Reversal.decides(place))) for i in best)


def of_pictures(model: Any, name: str, asked: list[AskedDigits]) -> Iterator[tuple[str, bool]]:
    """Whether the highest patch is in the quarter that is asked for, and the highest word of the question one of the
    two that say which."""
    for one in asked:
        inputs = {"images": [one.image], "text": one.question}
        found = scores(model, inputs, one.answer, name)
        yield "quarter", quarter_of(found["pixel_values"][0]) == one.quarter
        words = found["input_ids"][0, -6:-1]  # which upper left digit ?
        yield "word", int(words.argmax()) in (1, 2)


def quarter_of(patches: Tensor) -> int:
    """The quarter of the highest of square patches."""
    side = round(len(patches) ** 0.5)
    row, column = divmod(int(patches.argmax()), side)
    middle = SIZE * row // side, SIZE * column // side
    return next(i for i in range(4) if quarter_mask(i)[middle])


def measured(name: str, seed: int | None, measure: Callable[[Any, str], Iterator[tuple[str, bool]]]) -> dict[str, Hits]:
    """Hits of each method, by what was to be hit; `seed` re-draws the weights."""
    model = clew.load(f"mini:{name}")
    if seed is not None:
        torch.manual_seed(seed)
        model.model = type(model.model)(model.model.config).eval()
    found: dict[str, Hits] = {}
    for method in METHODS:
        torch.manual_seed(0)
        for what, hit in measure(model, method):
            found.setdefault(method, {}).setdefault(what, []).append(hit)
        print(name, seed, method, {k: sum(v) / len(v) for k, v in found[method].items()}, flush=True)
    return found


def cell(hits: list[bool]) -> str:
    """The share of hits with its 95 % interval (Wilson)."""
    low, high = binomtest(sum(hits), len(hits)).proportion_ci(method="wilson")
    return f"{sum(hits) / len(hits):.2f} [{low:.2f}, {high:.2f}]"


def page(strings: list[Reversal], asked: list[AskedDigits]) -> str:
    """The table with what it means."""
    letters = [measured("reverse", seed, lambda m, n: of_reversals(m, n, strings)) for seed in (None, 1)]
    pictures = [measured("digits-chat", seed, lambda m, n: of_pictures(m, n, asked)) for seed in (None, 1)]
    rows = [
        f"| {method} | "
        + " | ".join(cell(found[method]["letter"]) for found in letters)
        + " | "
        + " | ".join(cell(found[method][what]) for what in ("quarter", "word") for found in pictures)
        + " |"
        for method in METHODS
    ]
    return (
        HEAD.format(letters=LENGTH * len(strings), pictures=len(asked), when=when_and_where()) + "\n".join(rows) + "\n"
    )


HEAD = """# What decides is known: does a method point at it?

`mini:reverse` writes ten letters backwards, each three letters on in the alphabet: one letter of the source decides
each letter of the answer. `mini:digits-chat` is asked which digit is in one quarter of a picture: that quarter decides,
and the two words of the question that say which. *Letter*: the highest score of the source is at the letter that
decides, of {letters} letters (chance 0.10). *Quarter*: the highest patch is in the asked quarter, of {pictures}
pictures (chance 0.25). *Word*: the highest word of the question is one of the two (chance 0.40). *Re-drawn*: with
random weights, where nothing decides. With 95 % intervals (Wilson). No string and no digit was seen in training.

Made by `python measurements/planted.py` ({when}).

| method | letter | re-drawn | quarter | re-drawn | word | re-drawn |
|---|---|---|---|---|---|---|
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strings", type=int, default=20)
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path("docs/planted-evidence.md"))
    given = parser.parse_args()
    asked = [compose_asked("test", 2_000 + i) for i in range(given.pictures)]
    given.out.write_text(page(clew.reversals(given.strings), asked), encoding="utf-8")


if __name__ == "__main__":
    main()

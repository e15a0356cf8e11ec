"""Do methods point at what decides? On `mini:reverse` the letter of the source, on `mini:digits-chat` the quarter of
the picture and the words of the question, as trained and with re-drawn weights.

    python measurements/planted.py [--strings 20] [--pictures 100]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
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


def table(load: Callable[[], Any], measure: Callable[[Any, str], Iterator[tuple[str, bool]]], seed: int | None) -> None:
    """A row for each method: hits of all, with a 95 % interval (Wilson)."""
    model = load()
    if seed is not None:
        torch.manual_seed(seed)
        model.model = type(model.model)(model.model.config).eval()
    for name in METHODS:
        torch.manual_seed(0)
        hits: Hits = {}
        for what, hit in measure(model, name):
            hits.setdefault(what, []).append(hit)
        cells: list[str] = []
        for several in hits.values():
            low, high = binomtest(sum(several), len(several)).proportion_ci(method="wilson")
            cells.append(f"{sum(several) / len(several):.2f} ({low:.2f}–{high:.2f})")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strings", type=int, default=20)
    parser.add_argument("--pictures", type=int, default=100)
    given = parser.parse_args()
    strings = clew.reversals(given.strings)
    asked = [compose_asked("test", 2_000 + i) for i in range(given.pictures)]
    print(f"({when_and_where()})")
    for seed, words in ((None, "as trained"), (1, "with re-drawn weights")):
        print(f"mini:reverse {words}, {LENGTH * given.strings} letters")
        table(lambda: clew.load("mini:reverse"), lambda m, n: of_reversals(m, n, strings), seed)
        print(f"mini:digits-chat {words}, {given.pictures} pictures")
        table(lambda: clew.load("mini:digits-chat"), lambda m, n: of_pictures(m, n, asked), seed)


if __name__ == "__main__":
    main()

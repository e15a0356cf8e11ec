"""Do methods point at what decides? `clew bench planted` on `mini:reverse` and `mini:digits-chat`, as a table.

python measurements/planted.py [--strings 20] [--pictures 100] [--networks 60] [--runs FOLDER]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from report import when_and_where
from scipy.stats import binomtest

import clew
from clew.datasets import Dataset
from clew.datasets.bundled import letters, questions
from clew.minis.asked_digits import compose_asked

METHODS = (
    "attn_lrp", "cp_lrp", "res_lrp", "libra_input_x_gradient", "generic_attribution", "gradient_attention_rollout",
    "attention_rollout", "raw_attention", "beyond_intuition_head", "beyond_intuition_head(feedback=False)",
    "transformer_attribution", "partial_lrp", "attention_gradcam", "beyond_intuition_token",
    "integrated_gradients(n_steps=16)", "input_x_gradient", "saliency", "random",
)  # fmt: skip


def measured(name: str, data: Dataset, batch_size: int, networks: int, runs: Path | None) -> dict[str, dict[str, Any]]:
    """Hits of each method, by what was to be hit: on all data, and on some of it with networks drawn anew."""
    some = data.subset(range(0, len(data), max(1, len(data) // networks))[:networks])
    found: dict[str, dict[str, Any]] = {method: {} for method in METHODS}
    for what, examples, redraws in (("trained", data, 0), ("redrawn", some, 1)):
        run = clew.evaluate(
            "planted", clew.load(f"mini:{name}"), examples, methods=METHODS, batch_size=batch_size, redraws=redraws,
            out=None if runs is None else runs / f"{name}-{what}",
        )  # fmt: skip
        if run.failed:
            raise SystemExit(f"{run.failed} rows of {name} have no numbers; the first: {run.errors[0]}")
        for row in run.table.to_pylist():
            for column in run.benchmark.columns:
                if column.endswith("(re-drawn)") == bool(redraws):
                    found[row["method"]].setdefault(column, []).append(row[column])
    return found


def cell(hits: list[float]) -> str:
    """The share of hits with its 95 % interval (Wilson)."""
    low, high = binomtest(int(sum(hits)), len(hits)).proportion_ci(method="wilson")
    return f"{sum(hits) / len(hits):.2f} [{low:.2f}, {high:.2f}]"


def page(strings: int, pictures: int, networks: int, runs: Path | None) -> str:
    """The table with what it means."""
    asked = [compose_asked("test", 2_000 + i) for i in range(pictures)]
    found = [
        (measured("reverse", letters(clew.reversals(strings)), strings, networks, runs), ("letter",)),
        (measured("digits-chat", questions(asked), 8, networks, runs), ("quarter", "word")),
    ]
    columns = [(hits, f"{name}{of}") for hits, names in found for name in names for of in ("", " (re-drawn)")]
    rows = ["| " + " | ".join([m, *(cell(hits[m][column]) for hits, column in columns)]) + " |" for m in METHODS]
    counts = {"letters": len(found[0][0]["random"]["letter"]), "pictures": pictures, "networks": networks}
    return HEAD.format(**counts, when=when_and_where()) + "\n".join(rows) + "\n"


HEAD = """# What decides is known: does a method point at it?

`mini:reverse` writes ten letters backwards, each three letters on in the alphabet: one letter of the source decides
each letter of the answer. `mini:digits-chat` is asked which digit is in one quarter of a picture: that quarter decides,
and the two words of the question that say which. *Letter*: the highest score of the source is at the letter that
decides, of {letters} letters (chance 0.10). *Quarter*: the highest patch is in the asked quarter, of {pictures}
pictures (chance 0.25). *Word*: the highest word of the question is one of the two (chance 0.40). *Re-drawn*: with
random weights, where nothing decides: {networks} letters and {networks} pictures, each with a network of its own,
because one such network has an arbitrary favourite place. With 95 % intervals (Wilson). No string and no digit was seen
in training.

Made by `python measurements/planted.py` ({when}).

`clew bench planted --model mini:reverse --redraws 1` computes it for
any method.

| method | letter | re-drawn | quarter | re-drawn | word | re-drawn |
|---|---|---|---|---|---|---|
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strings", type=int, default=20)
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--networks", type=int, default=60, help="with re-drawn weights, one for a letter or picture")
    parser.add_argument("--runs", type=Path, help="folder in which the runs stay, so that they can be gone on with")
    parser.add_argument("--out", type=Path, default=Path("docs/planted-evidence.md"))
    given = parser.parse_args()
    given.out.write_text(page(given.strings, given.pictures, given.networks, given.runs), encoding="utf-8")


if __name__ == "__main__":
    main()

"""The golden scores of the ERASER benchmark: which call of the public API gives each of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from parity import Case, Outcome

import clew

# The released code counts characters, because it reads a document as one string; its repair counts tokens.
VARIANTS = {"fixed_loader": "paper", "as_is": "beyond_intuition"}


class Family:
    """Scores the predictions files of one folder; a case is PREDICTIONS/LOADER/OPTIONS."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.scores = json.loads((folder / "expected.json").read_text())

    def expected(self, case: Case) -> np.ndarray:
        scores = self.scores[case.name]
        return np.array([1.0] if "error" in scores else _numbers(scores))

    def tolerance(self, case: Case) -> float:
        return 1e-9

    def run(self, case: Case) -> Outcome:
        name, loader, options = case.name.split("/")
        given: dict[str, Any] = {"variant": VARIANTS[loader]}
        if options != "default":
            parts = dict(part.split("_", 1) for part in options.split("__"))
            given |= {f"{k}_thresholds": tuple(map(float, v.split("_"))) for k, v in parts.items()}
        file = self.folder / f"predictions_{name}.jsonl"
        call = ", ".join([f"eraser_scores({file.name}, test.jsonl, data", *(f"{k}={v!r}" for k, v in given.items())])
        annotations, documents = self.folder / "data" / "test.jsonl", self.folder / "data"
        refuses = "error" in self.scores[case.name]
        try:
            found = clew.metrics.eraser_scores(file, annotations, documents, **given)
        except clew.ClewError as error:
            if not refuses or not isinstance(error, ValueError):  # a package that is missing refuses nothing
                raise
            return Outcome(np.array([1.0]), f"{call}) is refused")
        return Outcome(np.array([0.0] if refuses else _numbers(found)), f"{call})")


def _numbers(scores: Any) -> list[float]:
    """The numbers of nested scores, in the order of their names."""
    if isinstance(scores, dict):
        return [number for name in sorted(scores) for number in _numbers(scores[name])]
    if isinstance(scores, list):
        return [number for one in scores for number in _numbers(one)]
    return [float(scores)]

"""The golden arrays of token flipping: which call of the public API gives each of them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from parity import Case, Outcome, arrays_in
from support.parity_text import read_model

import clew

LETTERS = (36, 42, 35, 43)  # the golden's tokens of the four answers
PREFIX, SUFFIX = 11, 19  # tokens of the prompt that the released code keeps
WORDS = {"generate": "generate", "pruning": "prune"}
AREAS = {"AU_MSE": "mse", "AU_AC": "evidence", "MERF": "logit", "LERF": "lerf_logit"}


class Family:
    """Flips the tokens of each stored text in the order of its stored scores, at each step."""

    def __init__(self, folder: Path) -> None:
        self.arrays = arrays_in(folder / "expected.npz")
        self.manifest = json.loads((folder / "manifest.json").read_text())
        self.models = {
            name: read_model(folder.parent / "llama" / name, attn_implementation="eager")
            for name in ("seqcls", "causal")
        }
        self.curves = cache(self._curves)

    def expected(self, case: Case) -> np.ndarray:
        return self.arrays[case.name]

    def tolerance(self, case: Case) -> float:
        return 2e-4

    def run(self, case: Case) -> Outcome:
        setting, *rest = case.name.split("/")
        if len(rest) == 2:
            mode, area = rest
            texts = range(case.entry["n_samples"])
            found = [self._read(setting, f"seq{i}", mode, AREAS[area]) for i in texts]
            mean = np.mean([values for values, _ in found], 0)
            return Outcome(clew.metrics.auc(mean, self.manifest["fracs"]), f"metrics.auc(mean of {found[0][1]})")
        return Outcome(*self._read(setting, *rest))

    def _read(self, setting: str, text: str, mode: str, what: str) -> tuple[np.ndarray, str]:
        first = "least" if mode == "pruning" or what.startswith("lerf") else "most"
        curves, call = self.curves(setting, text, mode, first)
        label, letters = self._label(setting, text)
        one = not setting.startswith("imdb") and letters is None
        values = {
            "mse": lambda: curves.squared_error(all_classes=not one),
            "evidence": lambda: curves.probability(label, among=letters),
            "logit": lambda: curves.logit(label),
        }[what.removeprefix("lerf_")]()
        return values[:, 0].numpy(), f"{call}: {what}"

    def _label(self, setting: str, text: str) -> tuple[torch.Tensor | None, tuple[int, ...] | None]:
        """The class watched; None is that predicted for the whole text."""
        if setting.startswith("imdb"):
            own = "imdb_padded" if setting == "imdb_padded" else "seqcls"
            return torch.from_numpy(self.arrays[f"{own}/{text}/y_true"]), None
        if setting == "arc_correct_subset":
            # The arrays do not name the answer: it is the letter whose logit is stored for the intact text.
            stored = float(self.arrays[f"{setting}/{text}/pruning/logit"][0])
            clean = self.curves(setting, text, "pruning", "least")[0].clean[0, list(LETTERS)]
            return torch.tensor([LETTERS[int((clean - stored).abs().argmin())]]), LETTERS
        return None, None

    def _curves(self, setting: str, text: str, mode: str, first: str) -> tuple[clew.metrics.Curves, str]:
        own = {"imdb_padded": "imdb_padded", "arc_partial_should_keep": "arc_partial"}.get(setting)
        classifier = setting.startswith("imdb")
        own = own or ("seqcls" if classifier else "causal")
        ids, scores = (torch.from_numpy(self.arrays[f"{own}/{text}/{k}"]) for k in ("input_ids", "x"))
        given: dict[str, Any] = {"keep": torch.zeros(len(ids), dtype=torch.bool)}
        if own == "imdb_padded":
            given["attention_mask"] = torch.from_numpy(self.arrays[f"{own}/{text}/attention_mask"])
        if own == "arc_partial":
            place = torch.arange(len(ids))
            given["keep"] = (place < PREFIX) | (place > len(ids) - SUFFIX)
        # The released default compares magnitudes where classifiers flip the least relevant, else values.
        magnitude = first == "least" and classifier != setting.endswith("reverse_default_abs")
        options = {"mode": WORDS[mode], "first": first, "ranking": "magnitude" if magnitude else "value"}
        model = self.models["seqcls" if classifier else "causal"]
        if own == "imdb_padded" and first == ("least" if mode == "pruning" else "most"):
            # Padding ties at 0: the stored sets are flipped.
            stored = torch.from_numpy(self.arrays[f"{setting}/{text}/{mode}/flipped_sets"])
            given["erased"] = (stored if mode == "pruning" else ~stored)[None]
        eraser = self.manifest["unk_token_id"]
        found = clew.metrics.flipping(
            model, ids, scores[None], eraser=eraser, fractions=self.manifest["fracs"], **options, **given
        )
        words = ", ".join(f"{k}={v!r}" for k, v in options.items())
        return found, f"metrics.flipping(model, ids, scores, eraser={eraser}, {words})"

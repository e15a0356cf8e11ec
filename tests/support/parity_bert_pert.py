"""The golden arrays of token removal from BERT: which call of the public API gives each of them."""

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

BI = {"variant": "beyond_intuition", "zero_cls": True, "compute_dtype": torch.float64}
PATH = {"n_steps": 20, "quadrature": "uniform"}
METHODS: dict[str, dict[str, Any]] = {
    "ours": {"method": "beyond_intuition_head", **PATH},
    "ours_c": {"method": "beyond_intuition_token", **PATH},
    "transformer_attribution": {"method": "transformer_attribution"},
    "attn_gradcam": {"method": "attention_gradcam"},
}


class Family:
    """Removes tokens by the stored ranking at each step; the ranking itself is that of `explain`."""

    def __init__(self, folder: Path) -> None:
        self.arrays = arrays_in(folder / "expected.npz")
        self.manifest = json.loads((folder / "manifest.json").read_text())
        self.entries = {e["name"]: e for e in self.manifest["cases"]}
        self.model = read_model(folder.parent / "bert", attn_implementation="eager")
        inputs = arrays_in(folder.parent / "bert" / "inputs.npz")
        self.texts = {k.split("_")[0]: torch.from_numpy(inputs[k]) for k in inputs if k.endswith("input_ids")}
        self.hits = cache(self._hits)

    def expected(self, case: Case) -> np.ndarray:
        return self.arrays[case.name]

    def tolerance(self, case: Case) -> float:
        return 1e-6

    def run(self, case: Case) -> Outcome:
        head = case.name.rpartition("/")[0]
        if case.name.endswith("accuracy"):
            texts = sorted(n for n in self.entries if n.startswith(f"{head}/seq") and n.endswith("correct"))
            found = [self.hits(name) for name in texts]
            return Outcome(np.mean([hits for hits, _ in found], 0), f"mean of {found[0][1]}")
        return Outcome(*self.hits(case.name))

    def _hits(self, name: str) -> tuple[np.ndarray, str]:
        entry, head = self.entries[name], name.rpartition("/")[0]
        ids, masks = (torch.from_numpy(self.arrays[f"{head}/{k}"]) for k in ("input_ids", "attention_mask"))
        steps = self.manifest["steps"][entry["protocol"]]
        text = self.texts[f"seq{entry['seq']}"]
        whole = torch.zeros(masks.shape[1], dtype=torch.long)
        whole[: len(text)] = text
        attention = (torch.arange(len(whole)) < len(text)).long()
        cam = torch.from_numpy(self.arrays[f"{head}/cam"])
        first = "least" if entry["neg"] else "most"
        scores = -cam if entry["neg"] else cam
        options = {"first": first, "rounding": "floor", "keep": torch.zeros(len(whole), dtype=torch.bool)}
        # Ties are left open: our ranking must agree wherever the stored one is clear, the stored sets are then flipped.
        ours = clew.metrics.flipped_tokens(scores[None], fractions=steps, **options)[0]
        stored = (masks == 0) & (ids == 0) & (whole != 0)
        for step in entry["tie_free_steps"]:
            if not torch.equal(ours[step] & (whole != 0), stored[step]):
                raise AssertionError(f"other tokens are flipped at step {step}")
        removed = stored | (attention == 0)
        found = clew.metrics.flipping(
            self.model, whole, scores[None], erased=removed[None], fractions=steps, eraser="mask", mask_id=0,
            attention_mask=attention,
        )  # fmt: skip
        return found.hits(torch.tensor([entry["target"]]))[:, 0].numpy(), (
            f"metrics.flipping(model, ids, scores, first={first!r}, eraser='mask', rounding='floor').hits(target)"
        )

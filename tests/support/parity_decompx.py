"""The golden arrays of DecompX on images: which call of the public API gives each of them."""

from __future__ import annotations

import torch
from parity import Case, Outcome
from support import parity_newer
from support.parity_newer import named

import clew

RULES = {
    "gelu_zo": "libra",
    "gelu_taylor": {**clew.RULE_SETS["libra"], "activation": clew.RULE_SETS["gradient"]["activation"]},
}


class Family(parity_newer.Family):
    """All classes at once; behind the tokens a row of what biases got, and of what activations kept."""

    targets = tuple(range(7))

    def run(self, case: Case) -> Outcome:
        mode = case.name.split("|")[1]
        found = self.of_classifier("libra_input_x_gradient", rules=RULES[mode])
        kept = sum(values for name, values in found.checks.items() if name.startswith("leak_"))
        rows = torch.cat([found.all_scores, kept[:, None]], 1)  # (image · class, source)
        shown = rows.unflatten(0, (-1, len(self.targets))).mT
        words = f"{named('libra_input_x_gradient', {'rules': mode}, 'all_scores')}, checks['leak_…']"
        return self.outcome(case, shown, words)

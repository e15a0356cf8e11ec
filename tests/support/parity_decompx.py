"""The golden arrays of DecompX on images: which call of the public API gives each of them."""

from __future__ import annotations

import torch
from parity import Case, Outcome
from support import parity_newer
from support.parity_newer import named

import clew

PLAIN = clew.RULE_SETS["gradient"]["activation"]
CALLS = {
    "gelu_zo": ("decompx", {}),
    "gelu_taylor": ("libra_input_x_gradient", {"rules": {**clew.RULE_SETS["libra"], "activation": PLAIN}}),
}


class Family(parity_newer.Family):
    """All classes at once; behind the tokens a row of what biases got, and of what activations kept."""

    targets = tuple(range(7))

    def run(self, case: Case) -> Outcome:
        method, options = CALLS[case.name.split("|")[1]]
        found = self.of_classifier(method, **options)
        kept = sum(values for name, values in found.checks.items() if name.startswith("leak_"))
        rows = torch.cat([found.all_scores, kept[:, None]], 1)  # (image · class, source)
        shown = rows.unflatten(0, (-1, len(self.targets))).mT
        return self.outcome(case, shown, named(method, dict.fromkeys(options, "plain activation"), "all_scores"))

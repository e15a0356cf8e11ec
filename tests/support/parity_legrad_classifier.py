"""The golden arrays of LeGrad on a classifier: which call of the public API gives each of them."""

from __future__ import annotations

from parity import Case, Outcome
from support import parity_newer
from support.parity_newer import named

SKIPPED = {"*|norm_then_mean|*": "not built: no released code has this order; LeGrad's for CLIP takes the mean first"}


class Family(parity_newer.Family):
    """The norm after the mean, as the released code for CLIP has it."""

    def run(self, case: Case) -> Outcome:
        options = {"start_layer": case.entry["options"]["first layer"]}
        found = self.of_classifier("le_grad", **options)
        scores = self.for_target(found.all_scores, case.entry["target"])
        return self.outcome(case, scores, named("le_grad", options, "all_scores"))

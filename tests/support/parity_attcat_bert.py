"""The golden arrays of AttCAT on texts: which call of the public API gives each of them."""

from __future__ import annotations

from parity import Case, Outcome
from support import parity_newer
from support.parity_newer import bert, named


class Family(parity_newer.Family):
    """One text after another, as the released code takes them."""

    def run(self, case: Case) -> Outcome:
        model, texts = bert(self.models / "bert")
        head, text, _ = case.name.split("|")
        options = {"variant": {"attcat": "att_cat", "attcat_outputs": "paper"}[head]}
        found = self.explain(model, texts[text], case.entry["target"], "att_cat", **options)
        return self.outcome(case, found.all_scores, named("att_cat", options, "all_scores"))

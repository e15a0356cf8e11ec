"""The golden arrays of InFlow: which call of the public API gives each of them."""

from __future__ import annotations

from typing import Any

from parity import Case, Outcome
from support import parity_newer
from support.parity_newer import named, vit


class Family(parity_newer.Family):
    """Maps of patches, with and without the gradient of each block's score, and what MLPs add."""

    def run(self, case: Case) -> Outcome:
        asked = case.entry["options"]
        options: dict[str, Any] = {"gradient": asked["withgrad"], "mlp": not asked["ablate"]}
        found = self.explain(*vit(self.models / "vit"), case.entry["target"], "in_flow", **options)
        rows, columns = found.patch_grid
        return Outcome(found.scores.view(-1, rows, columns).numpy(), named("in_flow", options, "scores"))

"""The golden arrays of TIS with given masks: which call of the public API gives each of them."""

from __future__ import annotations

from typing import Any

import torch
from parity import Case, Outcome
from support import parity_newer
from support.parity_newer import named

import clew

SKIPPED = {"raw_masks": "an input of the other cases: what their masks are made of"}


class Family(parity_newer.Family):
    """Maps of patches, of one share of tokens or of two."""

    def run(self, case: Case) -> Outcome:
        ratio = case.entry["options"]["tokens_ratio"]
        options: dict[str, Any] = {"tokens_ratio": tuple(ratio) if isinstance(ratio, list) else ratio}
        options |= {"score": case.entry["score"].removeprefix("softmax "), "normalize": "minmax"}
        found = self.explain(case.entry["target"], "tis", tuple(options.items()))
        rows, columns = found.patch_grid
        return Outcome(found.scores.view(-1, rows, columns).numpy(), named("tis", options, "scores"))

    def _explain(self, target: int, method: str, options: tuple[tuple[str, Any], ...]) -> clew.Attribution:
        masks = ("masks", torch.from_numpy(self.arrays["raw_masks"]))
        return super()._explain(target, method, (*options, masks))

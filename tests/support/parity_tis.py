"""The golden arrays of TIS with given masks: which call of the public API gives each of them."""

from __future__ import annotations

from typing import Any

import torch
from parity import Case, Outcome
from support import parity_newer
from support.parity_newer import named, vit

import clew

SKIPPED = {"raw_masks": "an input of the other cases: what their masks are made of"}


class Family(parity_newer.Family):
    """Maps of patches, of one share of tokens or of two."""

    def run(self, case: Case) -> Outcome:
        ratio = case.entry["options"]["tokens_ratio"]
        options: dict[str, Any] = {"tokens_ratio": tuple(ratio) if isinstance(ratio, list) else ratio}
        options |= {"score": case.entry["score"].removeprefix("softmax "), "normalize": "minmax"}
        model, images = vit(self.models / "vit")
        masks = torch.from_numpy(self.arrays["raw_masks"])
        found = clew.explain(model, images, method="tis", target=case.entry["target"], masks=masks, **options)
        rows, columns = found.patch_grid
        return Outcome(found.scores.view(-1, rows, columns).numpy(), named("tis", options, "scores"))

"""The golden arrays of DAVE: which call of the public API gives each of them."""

from __future__ import annotations

from typing import Any

import torch
from parity import Case, Outcome
from support import parity_newer
from support.parity_newer import named, vit

import clew

SKIPPED = {
    "theta": "an input of the other cases: matrices of their copies",
    "noise": "an input of the other cases: the noise of their copies",
}


class Family(parity_newer.Family):
    """The effective transform times the pixels, its mean over copies before filters, and the map."""

    def run(self, case: Case) -> Outcome:
        target = case.entry["target"]
        if case.name.startswith("libra_ixg_pixel"):
            options: dict[str, Any] = {"n_samples": 1, "alpha": 0.0}
        else:
            asked = case.entry["options"]
            options = {"n_samples": asked["num_steps"], "alpha": float(asked["noise_alpha"])}
        if case.name.startswith("dave|"):
            options["normalize"] = "max"
        theta, noise = (torch.from_numpy(self.arrays[name][: options["n_samples"]]) for name in ("theta", "noise"))
        model, images = vit(self.models / "vit")
        copies = {"matrices": theta, "noise": noise.squeeze(1)}
        found = clew.explain(model, images, method="dave", target=target, details=True, **options, **copies)
        if "normalize" in options:
            assert found.pixels is not None
            return Outcome(found.pixels[:, None].numpy(), named("dave", options, "pixels"))
        return Outcome(found.details["relevance"].numpy(), named("dave", options, "details['relevance']"))

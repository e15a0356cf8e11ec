"""The golden arrays of LeGrad on image–text models: which call of the public API gives each of them."""

from __future__ import annotations

from parity import Case, Outcome
from support import parity_newer
from support.parity_newer import clip, named, siglip

import clew

SKIPPED = {"text_embedding": "an input of the maps"}


class Family(parity_newer.Family):
    """Every image for every text."""

    def run(self, case: Case) -> Outcome:
        head, *_, kind = case.name.split("|")
        asked = case.entry["options"]
        options = {"start_layer": asked["layer_index"] % 4, "variant": "le_grad"}
        if head == "legrad_siglip":
            return self._of_pool(case, options)
        model, images, texts = clip(self.models / "clip")
        found = self.explain(model, images, clew.Similarity(list(texts)), "le_grad", **options)
        if kind == "map":
            return self.outcome(case, found.heatmap(normalize="minmax"), named("le_grad", options, "heatmap('minmax')"))
        return self.outcome(case, found.scores, named("le_grad", options, "scores"))

    def _of_pool(self, case: Case, options: parity_newer.Options) -> Outcome:
        """The last target is the empty text."""
        model, images, texts = siglip(self.models / "siglip")
        asked = case.entry["options"]
        if asked["apply_correction"]:
            options |= {"correction": asked["correction_threshold"]}
        target = [clew.Each(*range(texts + 1))] * len(images)
        scores = self.explain(model, images, target, "le_grad", **options).scores
        return self.outcome(case, scores.unflatten(0, (-1, texts + 1))[:, :-1], named("le_grad", options, "scores"))

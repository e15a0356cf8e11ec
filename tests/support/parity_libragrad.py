"""The golden arrays of LibraGrad: which call of the public API gives each of them."""

from __future__ import annotations

from typing import Any

from parity import Case, Outcome
from support import parity_newer
from support.parity_newer import Options, named

import clew

PLAIN, LIBRA = clew.RULE_SETS["gradient"], clew.RULE_SETS["libra"]
PRESETS: dict[str, Any] = {
    "NG": "gradient",
    "Libra": "libra",
    "AttnLRP": "attn_lrp",
    "AliLRP": {**LIBRA, "activation": PLAIN["activation"]},
    "WO-Att": {**LIBRA, "softmax": PLAIN["softmax"], "matmul": PLAIN["matmul"]},
    "WO-LN": {**LIBRA, "norm": PLAIN["norm"]},
}
LAST = {"start_layer": 3}
METHODS: dict[str, tuple[str, Options]] = {
    "ixg": ("libra_input_x_gradient", {}),
    "fullgrad": ("libra_full_grad", {}),
    **{f"fullgrad_block{block}": ("libra_full_grad", {"start_layer": block}) for block in range(4)},
    "fullgrad_plus": ("libra_full_grad_plus", {}),
    "fullgrad_plus_nobias": ("libra_full_grad_plus", {"biases": False}),
    "fullgrad_plus_half": ("libra_full_grad_plus", {"start_layer": 2}),
    "hirescam": ("libra_full_grad_plus", {"biases": False, **LAST}),
    "gradcam": ("libra_x_grad_cam_plus", {"weighted": False, **LAST}),
    "gradcam_plus": ("libra_x_grad_cam_plus", {"weighted": False}),
    "xgradcam": ("libra_x_grad_cam_plus", LAST),
    "xgradcam_plus": ("libra_x_grad_cam_plus", {}),
    "attcat": ("libra_att_cat", {}),
    "tokentm": ("token_tm", {}),
    "genatt": ("generic_attribution", {}),
    "rollout": ("attention_rollout", {}),
}
# Of `(I + C) / 2` they multiply, for each block, where the paper of the method has `I + C`.
HALVES = {"genatt": 0.5**4}


class Family(parity_newer.Family):
    """Three targets, by logit and probability, under all presets."""

    def run(self, case: Case) -> Outcome:
        head, preset, score, _ = case.name.split("|")
        method, options = METHODS[head]
        asked = {} if head == "rollout" else {"rules": PRESETS[preset]}
        found = self.of_classifier(method, score=score, **options, **asked)
        scores = self.for_target(found.all_scores, case.entry["target"]) * HALVES.get(head, 1.0)
        rules = {} if head == "rollout" else {"rules": preset}
        return self.outcome(case, scores, named(method, {"score": score, **options, **rules}, "all_scores"))

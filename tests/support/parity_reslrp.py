"""The golden arrays of ResLRP: which call of the public API gives each of them."""

from __future__ import annotations

from parity import Case, Outcome
from support import parity_newer
from support.parity_newer import Options, named

import clew
from clew import rules

RESIDUAL = {"add:residual": rules.ResidualGamma()}
RULES = {
    "no_attention_rule": {**clew.RULE_SETS["attn_lrp"], **RESIDUAL, "matmul": rules.WholeToEach()},
    "no_norm_rule": {**clew.RULE_SETS["attn_lrp"], **RESIDUAL, "norm": rules.PlainGradient()},
}
# Of a file that is not the authors' release: its sums are stabilised once more where relevance becomes a gradient.
SKIPPED = {"reslrp_group|*": "not the authors' code: residual sums stabilised by 1e-8, twice; 1e-6 from the paper"}


class Family(parity_newer.Family):
    """Relevance of tokens, with what their positions got, or of pixels."""

    def tolerance(self, case: Case) -> float:
        """LXT divides by `x + 1e-10` in activations: the manifest says how much that is."""
        released = case.name.partition("|")[0]
        return super().tolerance(case) + self.manifest["lxt_check"].get(released, 0.0)

    def run(self, case: Case) -> Outcome:
        head, *rest = case.name.split("|")
        level = "pixel" if "pixel" in rest else "token"
        method, options = self._asked(head, rest)
        options |= {"level": level, "part": "all" if level == "token" else "semantic"}
        asked = {name: RULES.get(value, value) if name == "rules" else value for name, value in options.items()}
        found = self.of_classifier(method, **asked)
        attribute = "pixels" if level == "pixel" else "all_scores"
        values = self.for_target(getattr(found, attribute), case.entry["target"])
        return self.outcome(case, values, named(method, options, attribute))

    def _asked(self, head: str, rest: list[str]) -> tuple[str, Options]:
        if head == "lxt_cp":
            return "cp_lrp", {}
        if head == "lxt_cp_residual_gamma1":
            return "res_lrp", {"base": "cp_lrp"}
        base, gamma = rest[0], float(rest[1].removeprefix("gamma"))
        if base in RULES:
            return "lrp", {"rules": base}
        return "res_lrp", {"base": base, "gamma": gamma}

"""The golden arrays of IFR and FlashTrace: which call of the public API gives each of them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from parity import Case, Outcome, arrays_in
from support import parity_newer
from support.parity_newer import named
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import clew

# The norms of transformers are in single precision, and the released code makes values by a norm of its own, in the
# precision of the case: so a model in double precision has two norms there. By the twin, with both, it is 1e-9.
_OF_TWO_NORMS = "values of a norm in double precision, all else by transformers' in single: no model is so; 1.1e-7 off"
SKIPPED = {f"*|{case}": _OF_TWO_NORMS for case in ("threshold0.0", "threshold2.0", "hops1", "hops2", "hops3")}


class Family(parity_newer.Family):
    """Of all texts in one batch."""

    def tolerance(self, case: Case) -> float:
        """The code in single precision as far as the manifest says that its literal is from it."""
        return self.manifest["literal"]["worst_relative_difference"]

    def run(self, case: Case) -> Outcome:
        head, option = case.name.removesuffix("|float32").split("|")
        entry = self.manifest["cases"][case.name]
        if head.startswith("flashtrace"):
            entry = self.manifest["cases"][f"flashtrace|{option}"]
            (first, last), (start, stop) = entry["span"], entry["thinking"]
            options = {"reasoning": (start, stop + 1), "hops": entry["options"]["hops"], "variant": "flash_trace"}
            found = self._of_texts(clew.Span(first, last + 1), "flash_trace", options)
            shares = found.details["shares"] if head == "flashtrace_ratios" else found.scores
            attribute = "details['shares']" if head == "flashtrace_ratios" else "scores"
            return Outcome(shares.numpy(), named("flash_trace", options, attribute))
        options = {"threshold": entry["options"]["renorm_threshold"]}
        count = entry["shape"][-1]
        # Token(i): of what comes after token i; a token behind the text so that Span has those after all of the span.
        every = clew.Each(*(clew.Token(i) for i in range(count)))
        target = every if head == "ifr_all" else clew.Span(entry["span"][0] + 1, entry["span"][1] + 2)
        found = self._of_texts(target, "ifr", options)
        scores = found.scores[:, :count].reshape(entry["shape"])
        return Outcome(scores.numpy(), named("ifr", options, "scores"))

    def _of_texts(self, target: Any, method: str, options: dict[str, Any]) -> clew.Attribution:
        model, ids = llama(self.models / "llama")
        ids = torch.cat([ids, ids[:, :1]], 1) if isinstance(target, clew.Span) and method == "ifr" else ids
        several = [target] * len(ids) if isinstance(target, clew.Each) else target
        return self.explain(model, ids, several, method, **options)


@cache
def llama(folder: Path) -> tuple[LlamaForCausalLM, Tensor]:
    """The language model, and texts."""
    config = json.loads((folder / "config.json").read_text())
    sizes = {name: value for name, value in config.items() if name not in ("model", "dtype")}
    model = LlamaForCausalLM(LlamaConfig(**sizes, attn_implementation="eager")).double().eval()
    model.load_state_dict(parity_newer.weights(folder))
    return model, torch.from_numpy(arrays_in(folder / "inputs.npz")["input_ids"])

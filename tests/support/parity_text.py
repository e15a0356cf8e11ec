"""The golden arrays of BERT, Llama, Qwen2 and GPT-2: which call of the public API gives each of them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from parity import Case, Outcome, arrays_in
from safetensors.torch import load_file
from torch import nn

import clew

CLASSES = {"Qwen2": "Qwen2ForCausalLM", "GPT2": "GPT2LMHeadModel"}
RULES = {"orig": "chefer_original", "ours": "chefer"}
PA_LRP = {"method": "pa_lrp", "variant": "pa_lrp"}


class Family:
    """Runs the cases of one folder, each text alone and all of them padded together, each distinct call once."""

    def __init__(self, folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        self.kind = config["model_type"]
        self.model = read_model(folder)
        inputs = arrays_in(folder / "inputs.npz")
        names = sorted({name.split("_")[0] for name in inputs})
        self.texts = {name: torch.from_numpy(inputs[f"{name}_input_ids"]) for name in names}
        self.arrays = {
            file.stem.removeprefix("expected").removeprefix("_"): arrays_in(file) for file in _expected(folder)
        }
        self.explain = cache(self._explain)

    def expected(self, case: Case) -> np.ndarray:
        return self.arrays[self._source(case)][_plain(case.name)]

    def _source(self, case: Case) -> str:
        if case.name.startswith("eps0/"):
            return "eps0"
        return next((name for name in self.arrays if name.startswith("lxt") and name in case.name), "")

    def tolerance(self, case: Case) -> float:
        lxt = "lxt_" in case.name
        if self.kind == "bert":
            return 1e-6
        return 3e-4 if lxt else 1e-5 if case.name.startswith("eps0/") else 2e-3

    def run(self, case: Case) -> Outcome:
        text, head, *rest = _plain(case.name).split("/")
        attribute = rest[-1] if rest and rest[-1] in DETAILS else ""
        if case.entry.get("method", "").startswith("logits at"):
            return self._along_the_path(text, case)
        options = self._bert(head, case.entry) if self.kind == "bert" else self._decoder(head, case.entry)
        target = case.entry.get("target")
        if "target" not in case.entry and attribute:
            target = self._target_of(case)
        found, call = self._both(
            text, target, options, DETAILS.get(attribute) or ("logits" if head == "logits" else "scores")
        )
        return Outcome(found.reshape(self.expected(case).shape), call)

    def _target_of(self, case: Case) -> int:
        """The class of a part of another case: its logits say which one that is."""
        text, _, which, *_ = case.name.split("/")
        best = int(self.arrays[""][f"{text}/logits"].argmax())
        return best if which == "argmax" else (best + 1) % len(self.arrays[""][f"{text}/logits"])

    def _both(self, text: str, target: int | None, options: dict[str, Any], attribute: str) -> tuple[np.ndarray, str]:
        """What a call gives for a text alone and among others, whichever is further from the other's mean... alone;
        the two must agree to 1e-9."""
        frozen = tuple(sorted(options.items()))
        alone = _read(self.explain(text, target, frozen, False), attribute, len(self.texts[text]))
        padded = _read(self.explain(text, target, frozen, True), attribute, len(self.texts[text]))
        size = float(np.abs(alone).max())
        difference = float(np.abs(alone - padded).max())
        if not difference <= 1e-9 * size:
            raise AssertionError(f"alone and padded differ by {difference / size:.1e} of the largest")
        named = ", ".join(f"{k}={v!r}" for k, v in options.items())
        return alone, f"explain({named}).{attribute}, alone and padded"

    def _explain(self, text: str, target: int | None, options: tuple[Any, ...], padded: bool) -> clew.Attribution:
        ids = self.texts[text]
        inputs: Any = ids[None]
        if padded:
            inputs = _padded([ids, *(other for name, other in self.texts.items() if name != text)])
        return clew.explain(
            self.model, inputs, target=target, details=True, compute_dtype=torch.float64, **dict(options)
        )[0]

    def _bert(self, head: str, entry: dict[str, Any]) -> dict[str, Any]:
        params = entry.get("params") or {}
        steps = {"quadrature": "uniform", "n_steps": params.get("steps", 20), "zero_cls": True}
        layer = {"start_layer": params.get("start_layer", 0)}
        rules = {"rules": RULES[params["rules"]]} if "rules" in params else {}
        released = {"variant": "beyond_intuition"}
        if head.startswith("lxt"):
            return {"method": "attn_lrp"}
        if "_sl" in head and "lrp" in head:
            zero = {"zero_cls": "min"} if head.startswith("chefer") else {"zero_cls": True}
            return {"method": "transformer_attribution", "variant": "chefer", **rules, **layer, **zero}
        mapping: dict[str, dict[str, Any]] = {
            "logits": {"method": "raw_attention"},
            "last_attn": {"method": "raw_attention", "zero_cls": True},
            "ours": {"method": "beyond_intuition_head", **steps},
            "ours_c": {"method": "beyond_intuition_token", **steps},
            "genattr": {"method": "generic_attribution", "zero_cls": True},
            "attn_gradcam": {"method": "attention_gradcam", "zero_cls": True, **released},
            "rollout": {"method": "attention_rollout", "zero_cls": True, **layer},
            "partial_lrp": {"method": "partial_lrp", "zero_cls": True, **rules},
            "chefer_full_lrp": {"method": "lrp", "level": "sequence", "zero_cls": True, **rules},
        }
        known = next(key for key in sorted(mapping, key=len, reverse=True) if head.startswith(key))
        return mapping[known]

    def _decoder(self, head: str, entry: dict[str, Any]) -> dict[str, Any]:
        if head == "logits":
            return {"method": "raw_attention"}
        if head.startswith("lxt"):
            return {"method": "cp_lrp" if "cp_lrp" in head else "attn_lrp"}
        flags = entry["flags"]
        name = entry.get("composite", "attnlrp").replace("attnlrp", "attn_lrp")
        norms = {} if flags.get("single_norm") else {"per_part_norm": True, "per_table_norm": True}
        if not flags.get("withPE"):
            return {"method": name, **({} if flags.get("single_norm") else {"normalize": "max"})}
        options: dict[str, Any] = {**PA_LRP, "normalize": "max", **norms}
        if name != "attn_lrp":
            options["rules"] = name
        if flags.get("reform"):
            options |= {"aggregate": "outer", "abs": True}
        if flags.get("withoutABS"):
            options |= {"aggregate": options.get("aggregate", "sum"), "abs": False}
        if flags.get("experimental"):
            options["per_table_norm"] = True
        options |= {"clamp": True} if flags.get("clamp") else {}
        options |= {"part": "position"} if flags.get("pe_only") else {}
        options |= {"per_head": True} if flags.get("sep_heads") else {}
        return options

    def _along_the_path(self, text: str, case: Case) -> Outcome:
        """Logits of the scaled sequence: the score of each class along the path."""
        points, classes = self.expected(case).shape
        options = {"method": "beyond_intuition_head", "quadrature": "uniform", "n_steps": points}
        calls = [self._both(text, c, options, "details['path_scores']") for c in range(classes)]
        return Outcome(np.stack([found[0] for found, _ in calls], 1), calls[0][1] + ", for each class")


DETAILS = {
    "Ih": "details['head_importance']",
    "W_state": "details['feedback']",
    "order": "details['token_ratio']",
    "mean_grad": "details['attention_gradient']",
}


def _plain(name: str) -> str:
    return name.removeprefix("eps0/")


def _expected(folder: Path) -> list[Path]:
    return [file for file in sorted(folder.glob("expected*.npz")) if "quirk" not in file.name]


def read_model(folder: Path, **settings_of_model: Any) -> nn.Module:
    """The model of a folder, its stored weights in double precision."""
    config = json.loads((folder / "config.json").read_text())
    kind = config["model_type"]
    settings = transformers.AutoConfig.for_model(**{**config, **settings_of_model})
    name = (config.get("architectures") or [{"qwen2": "Qwen2ForCausalLM", "gpt2": "GPT2LMHeadModel"}.get(kind)])[0]
    model = getattr(transformers, name)(settings)
    weights = {k: v.double() for k, v in load_file(folder / "weights.safetensors").items()}
    tied = {k for k in model.state_dict() if k not in weights and k.startswith("lm_head")}
    missing = model.double().load_state_dict(weights, strict=not tied)
    assert not tied or set(missing.missing_keys) <= tied
    model.tie_weights()
    return model.eval()


def _padded(texts: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """Texts in one batch: padding on the right, on the left, on both sides, in turn."""
    longest = max(map(len, texts)) + 3
    ids = torch.zeros(len(texts), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, text in enumerate(texts):
        first = (0, longest - len(text), (longest - len(text)) // 2)[i % 3]
        ids[i, first : first + len(text)] = text
        mask[i, first : first + len(text)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def _read(result: clew.Attribution, attribute: str, tokens: int) -> np.ndarray:
    value: Any = (
        result.details[attribute.split("'")[1]] if attribute.startswith("details") else getattr(result, attribute)
    )
    if attribute != "logits" and "head_importance" not in attribute and "path" not in attribute:
        value = value[..., :tokens]
    return value.numpy()

"""The golden arrays of ViT: which call of the public API gives each of them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from parity import Case, Outcome
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import clew

LOOSER = ("r1__transformer_attribution", "r1__partial_lrp", "r1__lrp_")


class Family:
    """Runs the cases of one folder, all images in one batch, each distinct call once."""

    def __init__(self, folder: Path) -> None:
        self.config = json.loads((folder / "config.json").read_text())
        self.weights = {k: v.double() for k, v in load_file(folder / "weights.safetensors").items()}
        self.dino_head = load_file(folder / "weights_dino_head.safetensors")
        self.arrays = np.load(folder / "expected.npz")
        self.images = torch.from_numpy(np.load(folder / "inputs.npz")["images"]).double()
        self.explain = cache(self._explain)
        self.model = cache(self._model)

    def expected(self, case: Case) -> np.ndarray:
        return self.arrays[case.entry.get("identical_to", case.name)]

    def tolerance(self, case: Case) -> float:
        if case.entry["dtype"] == "float32":
            return 1e-6
        is_map = not any(word in case.name for word in ("logits", "attn_last", "target"))
        if case.name.startswith(LOOSER) or (case.name.startswith("r2__") and is_map):
            return 1e-4
        return case.entry.get("tol", 0.0)

    def run(self, case: Case) -> Outcome:
        head, *rest = case.name.removeprefix("r1__").split("__")
        params = case.entry["params"]
        kind = next((k for k in ("mae", "dino") if params.get(k) or k in rest), "plain")
        target = case.entry["target"]
        if head.startswith("target_"):
            return self._target(head, kind)
        method, attribute, options = self._mapping(head, params, rest)
        result = self.explain(kind, target, method, tuple(sorted(options.items())))
        found = self._read(result, attribute, case)
        named = ", ".join(f"{k}={v!r}" for k, v in options.items())
        return Outcome(found, f"explain(method={method!r}{', ' if named else ''}{named}).{attribute}")

    def _mapping(self, head: str, params: dict[str, Any], rest: list[str]) -> tuple[str, str, dict[str, Any]]:
        # The released code counts these layers from 1, and takes 0 for 1.
        from_one = {"start_layer": max(params.get("start_layer", 0) - 1, 0)}
        steps = {"n_steps": params.get("steps", 20), "quadrature": "uniform"}
        released = {"variant": "beyond_intuition"}
        without = {"feedback": False} if params.get("ssl") else steps
        mappings: dict[str, tuple[str, str, dict[str, Any]]] = {
            "logits": ("raw_attention", "logits", {}),
            "raw_attention_cls_row": ("raw_attention", "scores", {}),
            "attn_last_layer": ("raw_attention", "scores", {**released, "normalize": "minmax"}),
            "rollout": ("attention_rollout", "scores", {"start_layer": params.get("start_layer", 0)}),
            "attn_gradcam": ("attention_gradcam", "scores", {**released, "normalize": "minmax"}),
            "generic_attribution": ("generic_attribution", "scores", {**from_one, **released}),
            "ours": ("beyond_intuition_head", "scores", {**from_one, **without}),
            "ours_ssl": ("beyond_intuition_head", "scores", {**from_one, **without}),
            "ours_c": ("beyond_intuition_token", "scores", {**from_one, **without}),
            "ours_c_ssl": ("beyond_intuition_token", "scores", {**from_one, **without}),
            "sub_Ih": ("beyond_intuition_head", "details['head_importance']", {"start_layer": 0, **steps}),
            "sub_order": ("beyond_intuition_token", "details['token_ratio']", {"start_layer": 0, **steps}),
            "sub_Wstate_cls_row": ("beyond_intuition_head", "details['feedback']", {"start_layer": 0, **steps}),
            "ig": ("integrated_gradients", "pixels", {**steps, **released}),
            "ig_pool16": ("integrated_gradients", "scores", {**steps, **released}),
            "ig_noalpha_pool16": ("integrated_gradients", "scores", {**steps, "multiply_by_inputs": False}),
        }
        if head.startswith("attn_last_block"):
            return "raw_attention", "details['attention']", {}
        return mappings[head]

    def _read(self, result: clew.Attribution, attribute: str, case: Case) -> np.ndarray:
        if attribute.startswith("details"):
            value = result.details[attribute.split("'")[1]]
        else:
            value = getattr(result, attribute)
        if "images" in case.entry:
            value = value[case.entry["images"]]
        return value.numpy().reshape(self.arrays[case.name].shape)

    def _target(self, head: str, kind: str) -> Outcome:
        logits = self.explain(kind, None, "raw_attention", ()).logits
        assert logits is not None
        shift = 3 if head == "target_other" else 0
        found = (logits.argmax(-1) + shift) % logits.shape[1]
        return Outcome(found.numpy(), f"(explain(…).logits.argmax(-1) + {shift}) % classes")

    def _explain(self, kind: str, target: str | None, method: str, options: tuple[Any, ...]) -> clew.Attribution:
        suffix = "" if kind == "plain" else f"__{kind}"
        classes = torch.from_numpy(self.arrays[f"r1__target_{target}{suffix}"]) if target else None
        return clew.explain(self.model(kind), self.images, method=method, target=classes, details=True, **dict(options))

    def _model(self, kind: str) -> nn.Module:
        c = self.config
        names = ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "qkv_bias")
        sizes: dict[str, Any] = {name: c[name] for name in names}
        classes = c["num_classes"]
        if kind == "dino":
            backbone = VisionTransformer(**sizes, num_classes=0)
            model: nn.Module = clew.DinoLinear(backbone, classes, interleaved=True)
            weights = {f"backbone.{k}": v for k, v in self.weights.items() if not k.startswith("head.")}
            weights["linear.weight"] = self.dino_head["head.weight"]
            weights["linear.bias"] = self.weights["head.bias"]
        elif kind == "mae":
            model = VisionTransformer(**sizes, num_classes=classes, global_pool="avg", fc_norm=True)
            weights = {f"fc_{k}" if k.startswith("norm.") else k: v for k, v in self.weights.items()}
        else:
            model = VisionTransformer(**sizes, num_classes=classes)
            weights = self.weights
        model.double().load_state_dict(weights)
        return model.eval()

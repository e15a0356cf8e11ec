"""The golden arrays of ViT: which call of the public API gives each of them."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from parity import Case, Outcome, arrays_in
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import clew

# Columns of the released sums of relevance, and the stage of ours that each is.
STAGES = {"head": "classifier", "pool": "pooled", "norm": "norm", "sem": "semantic", "pos": "position"}
MODES = {
    "semiGamma": "semi",
    "Gamma": "gamma",
    "gamma_rule_default_op": "semi",
    "gamma_rule": "gamma",
    "epsilon": "epsilon",
}

LOOSER = ("r1__transformer_attribution", "r1__partial_lrp", "r1__lrp_")


LRP = ("transformer_attribution", "partial_lrp", "lrp_", "logits_lrpmodel")
AUXILIARY = ("pool16", "aux_sums", "aux_sem_tokens", "aux_pos_tokens", "aux_sem_l2", "aux_pos_l2")


class Family:
    """Runs the cases of one folder, all images in one batch, each distinct call once."""

    def __init__(self, folder: Path) -> None:
        self.config = json.loads((folder / "config.json").read_text())
        self.weights = {k: v.double() for k, v in load_file(folder / "weights.safetensors").items()}
        self.dino_head = load_file(folder / "weights_dino_head.safetensors")
        self.arrays = arrays_in(folder / "expected.npz")
        self.images = torch.from_numpy(arrays_in(folder / "inputs.npz")["images"]).double()
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
        released, head, *rest = case.name.split("__")
        params = case.entry["params"]
        kind = next((k for k in ("mae", "dino") if params.get(k) or k in rest), "plain")
        target = case.entry["target"]
        if head.startswith("target_"):
            return self._target(head, kind, released)
        if released == "r2" or head.startswith(LRP):
            kind = f"lrp_{kind}" + ("_eps1e-6" if "finaleps1e-6" in rest else "")
            words = [w for w in rest if w in AUXILIARY]
            method, attribute, options = self._lrp(head, words[0] if words else "", params, kind)
        else:
            method, attribute, options = self._mapping(head, params, rest)
        result = self.explain(kind, target, method, tuple(sorted(options.items())))
        found = self._read(result, attribute, case)
        named = ", ".join(f"{k}={v!r}" for k, v in options.items())
        return Outcome(found, f"explain(method={method!r}{', ' if named else ''}{named}).{attribute}")

    def _lrp(self, head: str, auxiliary: str, params: dict[str, Any], kind: str) -> tuple[str, str, dict[str, Any]]:
        start = {"start_layer": params.get("start_layer", 0)}
        full = {"rules": "chefer", "level": "pixel"}
        quirk = {"variant": "chefer"} if kind in ("lrp_mae", "lrp_dino") else {}
        mappings: dict[str, tuple[str, str, dict[str, Any]]] = {
            "logits_lrpmodel": ("raw_attention", "logits", {}),
            "logits": ("raw_attention", "logits", {}),
            "transformer_attribution": ("transformer_attribution", "scores", {**start, **quirk}),
            "lrp": ("transformer_attribution", "scores", {"start_layer": 1}),
            "attribution_with_detach": ("transformer_attribution", "scores", {**start, "variant": "pa_lrp"}),
            "lrp_rollout": ("transformer_attribution", "scores", {**start, "times_gradient": False}),
            "rollout": ("transformer_attribution", "scores", {"start_layer": 1, "times_gradient": False}),
            "partial_lrp": ("partial_lrp", "scores", {}),
            "lrp_last_layer": ("partial_lrp", "scores", {}),
            "partial_lrp_ablation": ("partial_lrp", "scores", {"times_gradient": True}),
            "partial_lrp_orig": ("partial_lrp", "scores", {"variant": "chefer"}),
            "partial_lrp_ablation_orig": ("partial_lrp", "scores", {"times_gradient": True, "variant": "chefer"}),
            "lrp_last_layer_attn_orig": ("raw_attention", "scores", {}),
            "lrp_last_layer_attn": ("raw_attention", "scores", {}),
            "attn_last_layer": ("raw_attention", "scores", {}),
            "lrp_full": ("lrp", "pixels", full),
            "lrp_full_pool16": ("lrp", "scores", full),
            "lrp_sums": ("lrp", "checks['relevance_by_stage']", full),
            "lrp_sem_tokens": ("lrp", "details['semantic']", full),
            "lrp_pos_tokens": ("lrp", "details['position']", full),
        }
        if head in mappings:
            return mappings[head]
        mode = next((ours for theirs, ours in MODES.items() if theirs in head), "alpha")
        part = "position" if "PE_ONLY" in head else "all" if "POS_ENC" in head else "semantic"
        if head.startswith("custom_lrp"):
            part = part if "ONLY" in head else "all"
            options = {"rules": f"pa_lrp_{mode}", "level": "token", "reduction": "l2", "part": part}
            attribute = "scores"
        else:
            conv = "_alpha_conv" if "alphaConv" in head else ""
            options = {"rules": f"pa_lrp_{mode}{conv}", "part": part}
            attribute = "scores" if auxiliary == "pool16" else "pixels"
        words = {"sem_tokens": "semantic", "pos_tokens": "position", "sem_l2": "semantic_l2", "pos_l2": "position_l2"}
        if auxiliary == "aux_sums":
            attribute = "checks['relevance_by_stage']"
        elif auxiliary.startswith("aux_"):
            attribute = f"details['{words[auxiliary.removeprefix('aux_')]}']"
        return "lrp" if part == "semantic" else "pa_lrp", attribute, options

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
        elif attribute.startswith("checks"):
            stages = result.checks["stages"].split(", ")
            wanted = [STAGES.get(c, c).replace("block", "block ") for c in case.entry["params"]["columns"]]
            value = result.checks["relevance_by_stage"][:, [stages.index(stage) for stage in wanted]]
        else:
            value = getattr(result, attribute)
        if "images" in case.entry:
            value = value[case.entry["images"]]
        return value.numpy().reshape(self.arrays[case.name].shape)

    def _target(self, head: str, kind: str, released: str) -> Outcome:
        logits = self.explain(f"lrp_{kind}" if released == "r2" else kind, None, "raw_attention", ()).logits
        assert logits is not None
        shift = 3 if head == "target_other" else 0
        found = (logits.argmax(-1) + shift) % logits.shape[1]
        return Outcome(found.numpy(), f"(explain(…).logits.argmax(-1) + {shift}) % classes")

    def _explain(self, kind: str, target: str | None, method: str, options: tuple[Any, ...]) -> clew.Attribution:
        suffix = "" if "plain" in kind else f"__{kind}"
        # The released LRP models of MAE and DINO are other models, which may predict other classes.
        own = target is None or kind in ("lrp_mae", "lrp_dino")
        classes = None if own else torch.from_numpy(self.arrays[f"r1__target_{target}{suffix}"])
        return clew.explain(self.model(kind), self.images, method=method, target=classes, details=True, **dict(options))

    def _model(self, kind: str) -> nn.Module:
        c = self.config
        names = ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "qkv_bias")
        sizes: dict[str, Any] = {name: c[name] for name in names}
        classes = c["num_classes"]
        if kind.endswith("dino"):
            backbone = VisionTransformer(**sizes, num_classes=0)
            model: nn.Module = clew.DinoLinear(backbone, classes, interleaved=True)
            weights = {f"backbone.{k}": v for k, v in self.weights.items() if not k.startswith("head.")}
            weights["linear.weight"] = self.dino_head["head.weight"]
            weights["linear.bias"] = self.weights["head.bias"]
        elif kind == "lrp_mae":  # the norm before the mean
            model = VisionTransformer(**sizes, num_classes=classes, global_pool="avg", fc_norm=False)
            weights = self.weights
        elif kind == "mae":
            model = VisionTransformer(**sizes, num_classes=classes, global_pool="avg", fc_norm=True)
            weights = {f"fc_{k}" if k.startswith("norm.") else k: v for k, v in self.weights.items()}
        else:
            model = VisionTransformer(**sizes, num_classes=classes)
            weights = self.weights
        model.double().load_state_dict(weights)
        if kind.startswith("lrp_") and not kind.endswith("eps1e-6"):
            norm: Any = model.backbone.norm if kind == "lrp_dino" else model.norm
            norm.eps = c["final_norm_eps_of_r1_lrp_and_r2"]
        return model.eval()

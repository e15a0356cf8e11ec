"""What the mappings of the newer methods share: their models and inputs, by the folder that holds them.

A mapping is a module `parity_FOLDER.py` with a class `Family` derived from the one here, which has `run`, and where
some cases are left out, a dict `SKIPPED` of shell globs over cases and reasons.
"""

from __future__ import annotations

import json
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
from parity import Case, Outcome, arrays_in
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification

import clew

Options = dict[str, Any]


class Family:
    """Runs the cases of one folder, all inputs in one batch, each distinct call once, for all its targets."""

    targets: tuple[int, ...] = (0, 3, 6)

    def __init__(self, folder: Path) -> None:
        self.folder, self.models = folder, folder.parent
        self.manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
        self.arrays = arrays_in(folder / "expected.npz")
        self._known: dict[str, tuple[clew.Attribution, Any]] = {}

    def expected(self, case: Case) -> np.ndarray:
        return self.arrays[case.name]

    def tolerance(self, case: Case) -> float:
        """Everything is in double precision."""
        return 1e-9

    def run(self, case: Case) -> Outcome:
        raise NotImplementedError

    def explain(self, model: nn.Module, inputs: Any, target: Any, method: str, **options: Any) -> clew.Attribution:
        """`clew.explain`, once for each distinct call of the folder."""
        asked = {"method": method, "target": target, "details": True, **options}
        key = f"{id(model)} {id(inputs)} {asked}"
        if key not in self._known:
            self._known[key] = clew.explain(model, inputs, **asked), inputs  # kept alive, so that no id is used again
        return self._known[key][0]

    def of_classifier(self, method: str, **options: Any) -> clew.Attribution:
        """The images, each for every target of the folder, one after the other."""
        model, images = vit(self.models / "vit")
        return self.explain(model, images, [clew.Each(*self.targets)] * len(images), method, **options)

    def for_target(self, values: Tensor, target: int) -> Tensor:
        """What a result for every target has for one."""
        return values[self.targets.index(target) :: len(self.targets)]

    def outcome(self, case: Case, found: Tensor, call: str) -> Outcome:
        """What was found, in the axes of the golden array."""
        return Outcome(np.asarray(found.reshape(self.arrays[case.name].shape)), call)


def named(method: str, options: Options, attribute: str) -> str:
    """The call, in words."""
    words = "".join(f", {key}={value!r}" for key, value in options.items())
    return f"explain(method={method!r}{words}).{attribute}"


@cache
def vit(folder: Path) -> tuple[nn.Module, Tensor]:
    """The classifier of images, and images."""
    return classifier(folder), inputs(folder)["images"]


def classifier(folder: Path) -> VisionTransformer:
    """The classifier of images, made anew."""
    names = ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "num_classes", "qkv_bias")
    c = config(folder)
    norm = partial(nn.LayerNorm, eps=c["norm_eps"])
    model = VisionTransformer(**{name: c[name] for name in names}, norm_layer=norm)
    model.double().load_state_dict(weights(folder))
    return model.eval()


@cache
def bert(folder: Path) -> tuple[nn.Module, dict[str, Tensor]]:
    """The classifier of texts, and texts by name."""
    made = BertConfig(**{**config(folder), "model": None, "dtype": None})
    model = BertForSequenceClassification(made).double().eval()
    unknown = model.load_state_dict(weights(folder), strict=False)
    assert not unknown.unexpected_keys and all("position_ids" in key for key in unknown.missing_keys)
    return model, inputs(folder)


@cache
def clip(folder: Path) -> tuple[nn.Module, Tensor, Tensor]:
    """The two towers, images and texts; with a scale of 1 in place of the learned one, as cosines are explained."""
    c = config(folder)
    vision = {"image_size": c["img_size"], "layers": c["layers"], "width": c["width"], "head_width": c["head_width"]}
    text = {"context_length": c["ctx"], "vocab_size": c["vocab"], "width": c["text_width"], "heads": c["text_heads"]}
    model = open_clip.model.CLIP(
        c["embed_dim"],
        vision | {"patch_size": c["patch_size"], "mlp_ratio": c["mlp_ratio"]},
        text | {"layers": c["text_layers"], "mlp_ratio": c["text_mlp_ratio"]},
    )
    unknown = model.double().eval().load_state_dict(weights(folder), strict=False)
    assert not unknown.unexpected_keys and set(unknown.missing_keys) <= {"logit_scale", "attn_mask"}
    with torch.no_grad():
        model.logit_scale.zero_()
    given = inputs(folder)
    return model, given["images"], given["tokens"]


class Compared(nn.Module):
    """A trunk as a classifier whose classes are embeddings of texts."""

    def __init__(self, trunk: nn.Module, texts: Tensor) -> None:
        super().__init__()
        self.trunk, self.texts = trunk, texts
        self.architecture = clew.architectures()["timm_vit"].within("trunk")

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.normalize(self.trunk(x), dim=-1) @ self.texts.T


@cache
def siglip(folder: Path) -> tuple[nn.Module, Tensor, int]:
    """A trunk with an attention pool, compared with texts, of which the last is empty; images; number of the others."""
    names = ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "num_classes", "qkv_bias")
    c, given = config(folder), inputs(folder)
    sizes = {name: c[name] for name in names} | {"class_token": False, "global_pool": "map"}
    trunk = VisionTransformer(**sizes, norm_layer=partial(nn.LayerNorm, eps=c["norm_eps"])).double()
    trunk.load_state_dict(weights(folder))
    texts = torch.cat([given["text_embedding"], given["empty_embedding"]])
    return Compared(trunk, texts).eval(), given["images"], len(given["text_embedding"])


def config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text())


@cache
def inputs(folder: Path) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in arrays_in(folder / "inputs.npz").items()}


def weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a folder, in double precision."""
    return {name: value.double() for name, value in load_file(folder / "weights.safetensors").items()}

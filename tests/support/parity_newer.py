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
import torch
from parity import Case, Outcome, arrays_in
from safetensors.torch import load_file
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

import clew


class Family:
    """Runs the cases of one folder, all inputs in one batch, each distinct call once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
        self.arrays = arrays_in(folder / "expected.npz")
        self.explain = cache(self._explain)

    def expected(self, case: Case) -> np.ndarray:
        return self.arrays[case.name]

    def tolerance(self, case: Case) -> float:
        """Everything is in double precision."""
        return 1e-9

    def run(self, case: Case) -> Outcome:
        raise NotImplementedError

    def _explain(self, target: int, method: str, options: tuple[tuple[str, Any], ...]) -> clew.Attribution:
        model, images = vit(self.folder.parent / "vit")
        return clew.explain(model, images, method=method, target=target, details=True, **dict(options))


def named(method: str, options: dict[str, Any], attribute: str) -> str:
    """The call, in words."""
    words = "".join(f", {key}={value!r}" for key, value in options.items())
    return f"explain(method={method!r}{words}).{attribute}"


@cache
def vit(folder: Path) -> tuple[nn.Module, Tensor]:
    """The classifier of images, and images."""
    c = json.loads((folder / "config.json").read_text())
    names = ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "num_classes", "qkv_bias")
    norm = partial(nn.LayerNorm, eps=c["norm_eps"])
    model = VisionTransformer(**{name: c[name] for name in names}, norm_layer=norm)
    model.double().load_state_dict(weights(folder))
    return model.eval(), torch.from_numpy(arrays_in(folder / "inputs.npz")["images"]).double()


def weights(folder: Path) -> dict[str, Tensor]:
    """The weights of a folder, in double precision."""
    return {name: value.double() for name, value in load_file(folder / "weights.safetensors").items()}

"""`LoadedModel`: a model with preprocessing, tokenizer and labels. `DinoLinear`: a DINO backbone with its head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..inputs import Preprocess


@dataclass(repr=False)
class LoadedModel:
    """A model in evaluation mode with what belongs to it. Pass it to `explain` in place of the module.

    `preprocess` for images, `tokenizer` for texts, the `processor` of transformers for several inputs and for sound;
    `labels` name the classes.
    """

    model: nn.Module
    preprocess: Preprocess | None = None
    labels: Sequence[str] | None = None
    name: str = "model"
    facts: dict[str, Any] = field(default_factory=dict[str, Any])
    tokenizer: Any = None
    processor: Any = None

    def __repr__(self) -> str:
        """What it is in a line; all layers are in `model`."""
        labels, parts = list(self.labels or ()), [repr(self.name), type(self.model).__name__]
        if labels:
            parts.append(f"{len(labels)} classes ({', '.join(labels[:3])}{', …' if len(labels) > 3 else ''})")
        if self.preprocess is not None:
            height, width = self.preprocess.size
            parts.append(f"pictures of {height} × {width}{'' if height == width else ' (height × width)'}")
        if self.tokenizer is not None:
            parts.append("texts")
        return f"{type(self).__name__}({', '.join(parts)})"

    def to(self, device: str | torch.device) -> LoadedModel:
        """Move the model to a device."""
        self.model.to(device)
        return self


class DinoLinear(nn.Module):
    """A DINO backbone with its linear head on CLS and the mean of the patches (`n_last_blocks=1, avgpool=True`).

    `backbone` is a timm `VisionTransformer`. The official DINO head reads the two features interleaved
    (c₀, m₀, c₁, m₁, …), which is the default; `interleaved=False` concatenates them, as DINOv2's heads do.
    """

    def __init__(self, backbone: nn.Module, num_classes: int, *, interleaved: bool = True) -> None:
        super().__init__()
        self.backbone = backbone
        self.interleaved = interleaved
        width: Any = backbone.embed_dim
        self.linear = nn.Linear(2 * int(width), num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, class)."""
        backbone: Any = self.backbone
        tokens: Tensor = backbone.forward_features(x)
        parts = [tokens[:, 0], tokens[:, backbone.num_prefix_tokens :].mean(1)]
        features = torch.stack(parts, dim=-1).flatten(1) if self.interleaved else torch.cat(parts, dim=-1)
        return self.linear(features)

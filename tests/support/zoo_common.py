"""What the files of the zoo share: how a model enters it, small sizes, inputs, scores."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

BOTH = ("sdpa", "eager")
PICTURE = 60  # the token in whose place a picture's features go
Arrange = Callable[[Tensor], Tensor]
Made = tuple[nn.Module, Any, Callable[[Any], Tensor]]


class _Transformers:
    """transformers, where what an older release lacks is skipped."""

    def __getattr__(self, name: str) -> Any:
        found = getattr(transformers, name, None)
        if found is None:
            pytest.skip(f"transformers {transformers.__version__} has no {name}")
        return found


T: Any = _Transformers()
NEWER = int(transformers.__version__.split(".")[0]) >= 5


@dataclass(frozen=True)
class Species:
    """How to build one model of the zoo, and what is known of it.

    `streams` are the inputs that are explained; `kernels` the ways in which it computes attention; `alone`: its
    examples are on the first axis of every tensor. `looked_up`: of token numbers that no `nn.Embedding` gets as they
    were given, modules whose output is what was looked up, and how values (…) of it are arranged as the numbers are.
    `newer`: transformers 4 cannot run it in float64, as it masks by a number that is no float32.
    """

    make: Callable[[str], Made]
    streams: tuple[str, ...]
    kernels: tuple[str, ...] = BOTH
    alone: bool = True
    looked_up: Mapping[str, Mapping[str, Arrange]] = field(default_factory=dict[str, Mapping[str, Arrange]])
    newer: bool = False


@dataclass(frozen=True)
class Specimen:
    """A model in float64 and evaluation mode, what it is given, and a score for each of two examples."""

    model: nn.Module
    inputs: Any
    score: Callable[[Any], Tensor]
    species: Species

    def run(self) -> Any:
        """The model called as its user calls it."""
        return called(self.model, self.inputs)

    def one(self, i: int) -> Any:
        """The input of one example."""
        return part(self.inputs, i)


def called(model: nn.Module, inputs: Any) -> Any:
    """`model(**inputs)`, `model(*inputs)` or `model(inputs)`."""
    if isinstance(inputs, Mapping) and not getattr(model, "takes_mapping", False):
        return model(**inputs)
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def part(inputs: Any, i: int) -> Any:
    """One example of all tensors."""
    if isinstance(inputs, Mapping):
        return {k: part(v, i) for k, v in inputs.items()}
    return tuple(part(v, i) for v in inputs) if isinstance(inputs, tuple) else inputs[i : i + 1]


ZOO: dict[str, Species] = {}


def in_zoo(*streams: str, **known: Any) -> Callable[[Callable[[str], Made]], Callable[[str], Made]]:
    """Put what a function builds into the zoo, under its name."""

    def add(make: Callable[[str], Made]) -> Callable[[str], Made]:
        ZOO[make.__name__] = Species(make, streams, **known)
        return make

    return add


def build(name: str, kernel: str = "") -> Specimen:
    """A model of the zoo, the same each time, that computes attention in one way: by default its first."""
    species = ZOO[name]
    if species.newer and not NEWER:
        pytest.skip(f"transformers {transformers.__version__} cannot run {name} in float64")
    torch.manual_seed(1)
    model, inputs, score = species.make(kernel or species.kernels[0])
    return Specimen(model, inputs, score, species)


def loud(model: nn.Module, spread: float = 0.15) -> nn.Module:
    """The model with weights so large that attention is far from uniform, in float64 and evaluation mode."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for p in model.parameters():
            if p.is_floating_point():
                p.add_((spread if p.ndim > 1 else 0.1) * torch.randn(p.shape, generator=generator))
    return model.double().eval()


def made(model: str, config: Any, kernel: str) -> nn.Module:
    """A loud model of a class of transformers, which takes fused attention where it has it."""
    if kernel != "sdpa":
        config._attn_implementation = kernel
    return loud(getattr(T, model)(config))


# Inputs


def tokens(length: int, *, pictures: slice | None = None, seed: int = 0) -> Tensor:
    """Token numbers (2, length), none of them special; of pictures there are placeholders."""
    found = torch.randint(5, 50, (2, length), generator=torch.Generator().manual_seed(seed))
    if pictures is not None:
        found[:, pictures] = PICTURE
    return found


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Scores


def next_token(output: Any) -> Tensor:
    """The logit of the likeliest next token."""
    return output.logits[:, -1].amax(-1)


def likeliest(output: Any) -> Tensor:
    """The logit of the likeliest class."""
    return (output if isinstance(output, Tensor) else output.logits).amax(-1)


def of_query(output: Any) -> Tensor:
    """The logit of one class of one query of a detector."""
    return output.logits[:, 2, 1]


# Sizes

LLAMA: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
}
TOWER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 32,
    "patch_size": 8,
}
TEXT: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}


def rotary(**more: Any) -> dict[str, Any]:
    """The option that says how positions rotate, by its name in this release."""
    how = {"rope_type": "default", "rope_theta": 10000.0, **more}
    return {"rope_parameters": how} if NEWER else {"rope_scaling": how}

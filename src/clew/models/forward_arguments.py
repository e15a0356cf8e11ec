"""The arguments of a model's `forward`, and copies of caches that a call would extend."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

CACHES = ("past_key_values", "cache")  # what models call a cache of keys and values

# Arguments that do not change a token's logits: they add a loss, or select which logits are returned.
NON_INPUT_ARGUMENTS = (
    "labels",
    "label",
    "label_ids",
    "start_positions",
    "end_positions",
    "logits_to_keep",
    "num_logits_to_keep",
)


@dataclass(frozen=True)
class ForwardSignature:
    """What a `forward` takes: `names` in order, those that are `required`, `anything` else by `**kwargs`.

    `own` says that the function is no part of transformers, whose `**kwargs` are for switches.
    """

    names: tuple[str, ...]
    required: frozenset[str]
    anything: bool
    own: bool

    def __contains__(self, name: str) -> bool:
        return self.anything or name in self.names


def forward_signature(model: nn.Module) -> ForwardSignature:
    """What the model's `forward` takes."""
    return _takes(model.forward)


def _takes(forward: Any) -> ForwardSignature:
    found = [p for p in inspect.signature(forward).parameters.values() if p.name != "self"]
    by_name = [p for p in found if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL, p.POSITIONAL_ONLY)]
    module = str(getattr(inspect.unwrap(forward), "__module__", ""))
    return ForwardSignature(
        names=tuple(p.name for p in by_name),
        required=frozenset(p.name for p in by_name if p.default is p.empty),
        anything=any(p.kind is p.VAR_KEYWORD for p in found),
        own=module.partition(".")[0] != "transformers",
    )


def supports_logits_to_keep(model: nn.Module) -> bool:
    """Whether the model can be asked for the logits of some tokens only, `logits_to_keep`.

    A `forward(*args, **kwargs)` hands on what it gets to that of the class it extends, or leaves it out: whoever asks
    looks at how many logits came.
    """
    if "logits_to_keep" in forward_signature(model).names:
        return True
    for cls in type(model).__mro__:
        forward = vars(cls).get("forward")
        if forward is None or cls is nn.Module:
            continue
        found = _takes(forward)
        if "logits_to_keep" in found.names:
            return True
        if not found.anything:
            return False
    return False


# Caches


def is_cache(value: Any) -> bool:
    """Whether a value is a cache of keys and values that holds tokens, or can."""
    return hasattr(value, "get_seq_length") or cache_length(value) > 0


def cache_length(cache: Any) -> int:
    """How many tokens a cache of keys and values holds; 0 for none."""
    if cache is None:
        return 0
    if hasattr(cache, "get_seq_length"):
        return int(cache.get_seq_length())
    layer: Any = cache[0] if isinstance(cache, (tuple, list)) and cache else None
    first: Any = layer[0] if isinstance(layer, (tuple, list)) and layer else None
    return int(first.shape[-2]) if isinstance(first, Tensor) else 0


def for_call(value: Any, rows: Tensor | None, batch: int) -> Any:
    """An argument for one call of the model: of a tensor with an entry for each of the `batch` examples the `rows`;
    of a cache, which a call makes longer, a copy."""
    if isinstance(value, Tensor):
        follows = rows is not None and value.ndim > 0 and len(value) == batch
        return value[cast(Tensor, rows).to(value.device)] if follows else value
    return copy_cache(value, rows)


def copy_cache(value: Any, rows: Tensor | None = None, like: Tensor | None = None) -> Any:
    """A cache, or another object that holds tensors, with tensors of its own: free of any graph, of some `rows`, on the
    device and in the precision of `like`. What holds no tensor is handed on as it is."""
    found = _tensors(value, set())
    if not found:
        return value
    layers: Any = getattr(value, "layers", None) or [None]
    selects = rows is not None and all(hasattr(layer, "batch_select_indices") for layer in layers)

    def own(tensor: Tensor) -> Tensor:
        made = tensor.detach()
        if like is not None:
            made = made.to(like.device, like.dtype if made.is_floating_point() else None)
        if rows is not None and not selects and made.ndim > 2:  # keys and values, but no counters
            return made[rows.to(made.device)]
        return made.clone()

    whole: Any = copy.deepcopy(value, {id(tensor): own(tensor) for tensor in found})
    if rows is not None and selects:
        whole.batch_select_indices(rows)
    return whole


def moved(value: Any, like: Tensor | None) -> Any:
    """An input on the device of `like`, floats in its dtype (None: where and as it is), free of any graph; a cache is
    copied."""
    if not isinstance(value, Tensor):
        return copy_cache(value, like=like)
    here = value if like is None else value.to(like.device, like.dtype if value.is_floating_point() else None)
    return here.clone() if here.is_inference() else here.detach()


def _tensors(value: Any, seen: set[int]) -> list[Tensor]:
    """All tensors inside an object, however deep."""
    if isinstance(value, Tensor):
        return [value]
    if id(value) in seen or isinstance(value, (str, bytes, int, float, type, nn.Module, torch.device, torch.dtype)):
        return []
    seen.add(id(value))
    inner: list[Any] = []
    if isinstance(value, Mapping):
        inner += list(cast("Mapping[Any, Any]", value).values())
    elif isinstance(value, (list, tuple, set)):
        inner += list(cast("list[Any]", value))
    inner += list(getattr(value, "__dict__", {}).values())
    return [tensor for one in inner for tensor in _tensors(one, seen)]

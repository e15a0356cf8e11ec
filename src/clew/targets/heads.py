"""What a model's outputs are, as far as the model tells, and so what the score of one of them means."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import LoadError
from ..traversal import modules_of

Kind = Literal["classes", "labels", "values", "embedding", "tokens"]
"""Classes exclude each other, labels do not; values are of a regression; tokens are places or words."""
Scale = Literal["softmax", "sigmoid"]
"""What makes probabilities of logits."""

_HEADS = ("head", "heads", "classifier", "fc", "score", "cls_classifier", "distillation_classifier")
_CLASSES = 10**6  # more have no names
_PROBLEMS: dict[str, Kind] = {"multi_label_classification": "labels", "regression": "values"}


@dataclass(frozen=True)
class Head:
    """What the outputs of a model are. Where `width` is known, this holds for as many outputs, or several times that;
    others are classes."""

    kind: Kind = "classes"
    width: int | None = None

    def of(self, outputs: int) -> Kind:
        """What so many outputs are."""
        return self.kind if not self.width or outputs % self.width == 0 else "classes"

    def scale(self, outputs: int) -> Scale | None:
        """What makes probabilities of so many logits, "softmax" or "sigmoid"; None where they have none.

        Labels that do not exclude each other have a sigmoid each, and so has an only output, as in cross-encoders.
        """
        kind = self.of(outputs)
        if kind in ("values", "embedding"):
            return None
        return "sigmoid" if kind == "labels" or (kind == "classes" and outputs == 1) else "softmax"


def head_of(model: nn.Module, task: str = "classification") -> Head:
    """What the outputs of a model are: it says so itself (`head_kind`), has no head, or its configuration names the
    problem that it solves; those of a `task` "causal-lm" or "question-answering" are tokens."""
    if task in ("causal-lm", "question-answering"):
        return Head("tokens")
    own: Any = getattr(model, "head_kind", None)
    if own is not None:
        return Head(own)
    if task == "classification" and gives_embedding(model):
        return Head("embedding", _width(model))
    kind, outputs = _problem(model)
    return Head(kind, outputs)


def gives_embedding(model: nn.Module) -> bool:
    """Whether a model, or the one inside a wrapper without weights of its own, has no head: its output is a feature
    vector, or one in the space that images share with texts."""
    return bool(_told(model))


def _told(model: nn.Module) -> bool | None:
    """Whether a model gives an embedding; None where nothing tells."""
    own: Any = getattr(model, "get_classifier", None)
    found: Any = own() if callable(own) else [getattr(model, name, None) for name in _HEADS]
    heads = [h for h in (found if isinstance(found, (tuple, list)) else [found]) if isinstance(h, nn.Module)]
    if not all(map(_passes, heads)):
        return _projects(model)
    parts = [child for child in model.children() if any(True for _ in child.parameters())]
    if len(parts) == 1 and not any(True for _ in model.parameters(recurse=False)):
        inside = _told(parts[0])
        if inside is not None:
            return inside
    return True if heads or getattr(model, "num_classes", None) == 0 else None


def _passes(module: nn.Module) -> bool:
    """Whether a module hands on what it gets."""
    return isinstance(module, (nn.Identity, nn.Dropout)) or (
        isinstance(module, nn.Sequential) and all(map(_passes, module))
    )


def _projects(model: Any) -> bool:
    """Whether timm's configuration says that the head is still the projection of an image–text model.

    Those are listed with the width of the space as their number of classes; fine-tuned ones have it in their tag.
    """
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    if not isinstance(config, Mapping) or not config.get("num_classes"):
        return False
    name, tag = str(config.get("architecture") or ""), str(config.get("tag") or "")
    return (
        any(part in name for part in ("_clip_", "_pe_core_"))
        and "ft_" not in tag
        and config["num_classes"] == getattr(model, "num_classes", None)
    )


def _width(model: nn.Module) -> int | None:
    """How many features an embedding has, where that is told."""
    for part in model.modules():
        if _projects(part):
            return int(cast("Any", part).num_classes)
        config: Any = getattr(part, "config", None)
        told = [getattr(part, name, None) for name in ("num_features", "embed_dim", "hidden_dim")]
        sizes = [v for v in (*told, _of(config, "hidden_size")) if isinstance(v, int) and v > 0]
        if sizes and any(True for _ in part.children()):  # a norm has features, too
            return sizes[0]
    return None


def _problem(model: nn.Module) -> tuple[Kind, int | None]:
    """The problem that a model's configuration names; that of a model inside a wrapper counts for as many outputs."""
    own: Any = getattr(model, "config", None)
    if own is not None:
        return _PROBLEMS.get(_of(own, "problem_type"), "classes"), None
    for part in modules_of(model):
        config: Any = vars(part).get("config")  # an attribute that modules lack takes long to look for
        if (
            config is not None
            and _of(config, "problem_type") in _PROBLEMS
            and isinstance(_of(config, "num_labels"), int)
        ):
            return _PROBLEMS[_of(config, "problem_type")], _of(config, "num_labels")
    return "classes", None


def _of(config: Any, name: str) -> Any:
    return config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)


# Probabilities


def probabilities(logits: Tensor, scale: Scale) -> Tensor:
    """The probability of each class or label, (…, class) as the logits, 0 to 1; those of a softmax sum to 1."""
    return logits.softmax(-1) if scale == "softmax" else logits.sigmoid()


def log_odds(logits: Tensor, index: Tensor, scale: Scale) -> Tensor:
    """`log(p / (1 - p))` of the classes `index` (…, row) in logits (…, row, class)."""
    own = logits.gather(-1, index[..., None])[..., 0]
    if scale == "sigmoid":
        return own
    least = torch.finfo(logits.dtype).min / 4  # where all others are -inf, their sum has no derivative
    others = logits.scatter(-1, index[..., None], -torch.inf).clamp(min=least)
    return own - others.logsumexp(-1)


def probability_of(odds: Tensor) -> Tensor:
    """`p` of log-odds, whose derivative `p (1 - p)` is right where `p` rounds to 1, too."""
    return torch.where(odds < 0, odds.sigmoid(), 1 - (-odds).sigmoid())


def log_probability_of(odds: Tensor) -> Tensor:
    """`log p` of log-odds."""
    return F.logsigmoid(odds)


# Names


def config_labels(config: Any) -> list[str] | None:
    """The names of classes in a configuration, in the order of their numbers; None where it has none.

    `id2label` counts, or `label2id` where the former holds the names that transformers makes up. Raises `LoadError` as
    `labels_by_index` does.
    """
    there, back = _of(config, "id2label"), _of(config, "label2id")
    named = labels_by_index(there) if isinstance(there, Mapping) else None
    made_up = named is None or all(name in (f"LABEL_{i}", f"class {i}") for i, name in enumerate(named))
    if made_up and isinstance(back, Mapping) and back:
        other = labels_by_index({number: name for name, number in back.items()})  # pyright: ignore
        return other if other is not None else named
    return named


def labels_by_index(names: Mapping[Any, Any] | Sequence[str] | None) -> list[str] | None:
    """Names in a list by their numbers, whatever the type of the keys; a number without a name is "class 7".

    None where there are no names, or keys are no numbers. Raises `LoadError` for numbers of classes beyond reason.
    """
    if not names:
        return None
    if not isinstance(names, Mapping):
        return [str(name) for name in names]
    try:
        found = {int(key): str(name) for key, name in names.items()}
    except (TypeError, ValueError, OverflowError):
        return None
    if max(found) > _CLASSES:
        raise LoadError("names of classes go by their numbers", expected=f"0 to {_CLASSES:,}", got=max(found))
    return [found.get(i, f"class {i}") for i in range(max(found) + 1)]

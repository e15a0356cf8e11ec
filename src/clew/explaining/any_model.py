"""Explain a model of which nothing is declared: what enters it is seen, what comes out is scored, all is verified."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ..attributions import Attribution, StreamsAttribution, normalized
from ..draw import Picture
from ..errors import OptionError, UnknownArchitecture
from ..explainers import Method, methods
from ..inputs import holds_pictures, pictures_of
from ..models import LoadedModel, how_to_declare
from ..places import Entries, Pixels, Places, Words
from ..seam.twin import twin
from ..streams import ModelCall
from ..subject import Result, StreamSubject
from ..targets import Each, Resolved, Similarity, Target, config_labels, flatten_targets, labels_by_index
from ..traversal import floats_of
from ..verification import verify_streams
from ..verification.thread_state import verifying
from ..version import __version__
from .any_target import AskedTarget, resolve_any
from .arrangements import Observed, arranged
from .assemble import Settings
from .next_tokens import mask_of
from .prepare import colours_of, image_inputs, in_dtype, like
from .processed import is_raw, processed, with_beginning


@dataclass(frozen=True)
class AnyModel:
    """A model, one call of it, and what it is to be explained by."""

    given: nn.Module
    module: nn.Module
    call: ModelCall
    name: str
    labels: Sequence[str] | None
    tokenizer: Any = None
    columns: Mapping[str, Sequence[str]] | None = None
    pictures: Sequence[Picture] = ()
    loaded: LoadedModel | None = None
    precise: bool = False

    def encode(self, inputs: Any) -> ModelCall:
        """Another input as a call of the same model."""
        if self.loaded is not None:
            inputs, _ = encoded(self.loaded, inputs)
        return ModelCall.of(self.module, _tables_as_tensors(inputs)).moved(_like(self.module))

    @staticmethod
    def of(
        model: nn.Module | LoadedModel,
        module: nn.Module,
        inputs: Any,
        dtype: torch.dtype | None,
        *,
        truncate: bool = False,
    ) -> AnyModel:
        """A model with its input as tensors, on its device. Raises `InputError` where it is in training."""
        loaded = model if isinstance(model, LoadedModel) else None
        given = loaded.model if loaded is not None else cast(nn.Module, model)
        tokenizer = loaded.tokenizer if loaded is not None else None
        pictures: Sequence[Picture] = ()
        if loaded is not None:
            inputs, pictures = encoded(loaded, inputs, truncate=truncate)
        columns = _column_names(inputs)
        call = ModelCall.of(module, _tables_as_tensors(inputs))
        if dtype is not None:
            module = in_dtype(module, dtype)
        call = call.moved(_like(module))
        labels = (
            labels_by_index(loaded.labels) if loaded is not None else config_labels(getattr(module, "config", None))
        )
        name = loaded.name if loaded is not None else type(module).__name__
        return AnyModel(
            given, twin(module), call, name, labels, tokenizer, columns, pictures, loaded, dtype == torch.float64
        )


def explain_any(
    ready: AnyModel,
    method: Method,
    target: Target,
    score: str,
    options: Mapping[str, Any],
    settings: Settings,
    at: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Attribution:
    """Every stream of a model by one method.

    Raises `TargetError` where the output does not say what to explain.
    """
    if not method.any_model:
        kind = type(ready.given)
        raise UnknownArchitecture(
            f"{method.name} needs to know where the blocks of a model are, and no declaration fits "
            f"{kind.__module__}.{kind.__qualname__}",
            expected="a declared model, or a method that works on any: "
            + ", ".join(name for name, one in methods().items() if one.any_model),
            got="a module with "
            + (", ".join(f"{n}: {type(c).__name__}" for n, c in ready.given.named_children()) or "no submodules"),
            todo=how_to_declare(ready.given),
        )
    more: dict[str, Any] = {"at": at, "details": settings.details, "verify": settings.checks != "off"}
    if (several := _targets_of_each(target)) is not None:
        examples = len(subject_of_any(ready, several[0], score).clean_scores())
        flat, each = flatten_targets(target, examples)
        if each > 1 and (method.by_mass or examples > 1):  # these tell examples apart by their scores
            parts = [
                explain_any(ready, method, one, score, options, settings, at, progress)
                for one in _nth_targets(cast("list[Any]", flat), each)
            ]
            return Attribution.concatenate([part[i] for i in range(examples) for part in parts])
    subject = subject_of_any(ready, target, score, progress=progress, **more)
    result = method(subject, **options)
    if result.streams is None:
        expected = "Result(streams={name: (batch, …)}), such as leaves_of(subject).result(values) gives"
        raise OptionError(f"{method.name} gave no scores of streams", expected=expected, got="scores or pixels")
    checks: dict[str, Any] = {"streams": ", ".join(result.streams)}
    if settings.checks != "off":
        with verifying():
            checks |= verify_streams(subject, ready.given, result, again=settings.checks == "full")
    return _attribution(ready, subject, method.name, result, settings, checks)


def _targets_of_each(target: Target) -> list[Any] | None:
    """The first target of each example, where some have several; None where none has."""
    rows = target if isinstance(target, (list, tuple)) else [target]
    if not any(isinstance(one, Each) for one in rows):
        return None
    first = [one.targets[0] if isinstance(one, Each) else one for one in cast("list[Any]", rows)]
    return [first] if isinstance(target, (list, tuple)) else first


def _nth_targets(flat: list[Any], each: int) -> list[list[Any]]:
    """The first target of every example, the second, …"""
    return [flat[i::each] for i in range(each)]


def subject_of_any(ready: AnyModel, target: Target = None, score: str = "logit", **more: Any) -> StreamSubject:
    """What a method gets: a model and one call of it, with a target."""
    asked = AskedTarget(target, score, ready.module, ready.call, ready.labels, ready.encode, ready.tokenizer)
    return StreamSubject(
        ready.module,
        ready.call,
        partial(resolve_any, asked),
        callable_target=isinstance(target, Similarity) or (callable(target) and not isinstance(target, Tensor)),
        precise=ready.precise,
        **more,
    )


def _attribution(
    ready: AnyModel,
    subject: StreamSubject,
    method: str,
    result: Result,
    settings: Settings,
    checks: dict[str, Any],
) -> Attribution:
    with torch.no_grad():
        value = subject.score(subject.clean_output).detach()
    resolved: Resolved = subject.target.inner
    asked: dict[str, Any] = {"normalize": settings.normalize, "zero_cls": settings.zero_cls}
    logits = subject.target.logits(subject.clean_output)
    common: dict[str, Any] = {
        "method": method,
        "options": {**result.options, "score": resolved.kind, **{k: v for k, v in asked.items() if v}},
        "target": resolved.names,
        "score": value,
        "logits": None if logits is None else logits.detach(),
        "labels": None if resolved.embedding else ready.labels,
        "checks": {**_again(result), **subject.target.checks, **checks, **result.checks},
        "details": {k: v.detach() for k, v in result.details.items()},
        "provenance": {
            "model": ready.name,
            "architecture": "any",
            "clew": __version__,
            "torch": torch.__version__,
        },
    }
    parts: dict[str, Attribution] = {}
    for name, scores in (result.streams or {}).items():
        part = _of_stream(ready, subject, name, scores.detach(), {**common, "stream": name})
        parts[name] = _normalized(part, settings.normalize)
    if len(parts) == 1:
        return next(iter(parts.values()))
    return StreamsAttribution.of(parts)


def _of_stream(
    ready: AnyModel, subject: StreamSubject, name: str, scores: Tensor, common: dict[str, Any]
) -> Attribution:
    """The result of one stream; of several targets of one example each has its own, in the same places."""
    if subject.each == 1:
        return places_of(ready, subject, name, scores).attribution(scores, common)
    count, places = len(scores), places_of(ready, subject, name, scores[:1])

    def nth(value: Any, i: int) -> Any:
        if isinstance(value, dict):
            return {k: nth(v, i) for k, v in cast("dict[str, Any]", value).items()}
        of_each = isinstance(value, list) or (isinstance(value, Tensor) and value.ndim)
        return value[i : i + 1] if of_each and len(value) == count else value

    varying = ("target", "score", "logits", "checks", "details")
    return Attribution.concatenate(
        [
            places.attribution(scores[i : i + 1], {k: nth(v, i) if k in varying else v for k, v in common.items()})
            for i in range(count)
        ]
    )


def _again(result: Result) -> dict[str, str]:
    """A word about tokens that a model looks up several times, whose further look-ups are no part of the scores."""
    if not result.details:
        return {}
    names = ", ".join(name.partition(".")[0] for name in result.details)
    return {
        "advice": f"the model looks up the tokens of {names} more than once (a decoder, or tables of later layers): "
        "scores are of the first look-up, what the others got is in details"
    }


def _normalized(part: Attribution, how: str | None) -> Attribution:
    if how is None:
        return part
    changed: dict[str, Any] = {"all_scores": normalized(part.all_scores, part.all_scores, how)}
    for name in ("pixels", "bands"):  # scores within those of patches and frames
        if (inner := getattr(part, name, None)) is not None:
            changed[name] = normalized(inner.flatten(1), inner.flatten(1), how).view_as(inner)
    return replace(part, **changed)


# Places


def places_of(ready: AnyModel, subject: StreamSubject, name: str, scores: Tensor) -> Places:
    """How a stream's entries are arranged, by what was seen of it: its shape, and where it entered."""
    given = ready.call.tensors().get(name)
    if given is None:  # a station
        return Entries()
    if not given.is_floating_point():
        ids = given.mT if given.ndim == 2 and given.shape != scores.shape == given.mT.shape else given
        return _words(ready, name, ids) if ids.ndim >= 2 and len(ids) == len(scores) else Entries()
    assert subject.clean is not None
    patch = subject.clean.entrance.patches.get(name)
    in_patches = patch is not None and len(patch) == 2
    loaded = ready.loaded
    seen = Observed(
        ready.call,
        name,
        scores,
        (patch[0], patch[1]) if patch is not None and in_patches else None,
        getattr(ready.module, "config", None),
        loaded.processor if loaded is not None else None,
        ready.tokenizer,
    )
    if (found := arranged(seen)) is not None:
        return found
    if scores.ndim == 4 and (in_patches or scores.shape[1] in (1, 3, 4)):
        pictures: Sequence[Picture] = ready.pictures
        if len(pictures) != len(scores):
            drawn = given.shape == scores.shape and given.shape[1] in (1, 3)
            pictures = pictures_of(given, *colours_of(loaded)) if drawn else ()
        return Pixels((patch[0], patch[1]) if patch is not None and in_patches else (1, 1), pictures)
    if scores.ndim == 2:
        columns = ready.columns or {}
        return Entries(columns.get(name, columns.get("", ())))  # a table that is the only argument has no name yet
    return Entries()


def _words(ready: AnyModel, name: str, ids: Tensor) -> Places:
    shown = ids.flatten(2)[..., 0] if ids.ndim > 2 else ids
    mask = mask_of(ready.call, name, tuple(shown.shape))
    real = torch.ones_like(shown, dtype=torch.bool) if mask is None else mask
    special = torch.zeros_like(real)
    tokenizer = ready.tokenizer if ids.ndim == 2 else None
    if tokenizer is not None:
        added = set(getattr(tokenizer, "all_special_ids", ()))
        special = torch.tensor([[i in added for i in row] for row in shown.tolist()]).to(real.device)
        tokens = [
            shown_once(list(tokenizer.convert_ids_to_tokens(row)), added_here)
            for row, added_here in zip(shown.tolist(), special.tolist(), strict=True)
        ]
    elif ids.ndim == 2:
        tokens = [[str(i) for i in row] for row in shown.tolist()]
    else:
        tokens = [[str(tuple(i)) for i in row] for row in ids.flatten(2).tolist()]
    return Words(shown, real, special, tokens)


def shown_once(tokens: list[str], special: list[bool]) -> list[str]:
    """Tokens, with a special one that comes many times in a row (the places of a picture) written once."""
    found = list(tokens)
    start = 0
    while start < len(tokens):
        stop = start
        while stop < len(tokens) and special[start] and tokens[stop] == tokens[start]:
            stop += 1
        if stop - start > 2:
            found[start:stop] = [f"{tokens[start]} × {stop - start}", *[""] * (stop - start - 1)]
        start = max(stop, start + 1)
    return found


# Inputs


def _like(module: nn.Module) -> Tensor | None:
    """A tensor where inputs go and in their precision; None for a model without weights, which takes any."""
    return None if next(floats_of(module), None) is None else like(module)


def encoded(loaded: LoadedModel, inputs: Any, *, truncate: bool = False) -> tuple[Any, Sequence[Picture]]:
    """Strings, pictures and sound as the loaded model's own tokenizer, preprocessing or processor makes them; pictures
    to draw on."""
    if is_raw(inputs):
        return processed(loaded, inputs), ()
    texts: list[Any] = [inputs] if isinstance(inputs, str) else inputs if isinstance(inputs, list) else []
    tokenizer: Any = loaded.tokenizer
    if texts and all(isinstance(one, str) for one in texts) and tokenizer is not None:
        made = dict(tokenizer(texts, return_tensors="pt", padding=len(texts) > 1, truncation=truncate))
        return with_beginning(loaded, made), ()
    if loaded.preprocess is not None and holds_pictures(inputs):
        tensors, pictures = image_inputs(inputs, loaded, str(getattr(loaded.model, "main_input_name", "")), None)
        return (tensors if all(tensors) else next(iter(tensors.values()))), pictures
    return inputs, ()


def _column_names(inputs: Any) -> dict[str, list[str]]:
    """Names of the columns of tables (pandas), by argument."""
    items = inputs.items() if isinstance(inputs, Mapping) else [("", inputs)]
    return {str(k): [str(c) for c in v.columns] for k, v in items if _is_table(v)}


def _is_table(value: Any) -> bool:
    return hasattr(value, "columns") and callable(getattr(value, "to_numpy", None))


def _tables_as_tensors(inputs: Any) -> Any:
    if isinstance(inputs, Mapping):
        found: Any = {k: _tables_as_tensors(v) if _is_table(v) else v for k, v in inputs.items()}
        return found if any(_is_table(v) for v in inputs.values()) else inputs
    return torch.tensor(inputs.to_numpy(dtype=np.float64, copy=True)) if _is_table(inputs) else inputs

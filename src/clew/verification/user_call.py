"""Calls the model as its user does, with the given inputs and its own kernels, to compare with the explained pass.

Once per model, signature and shape, and again every 64 results. Outputs are cached by input, so that no input is
run twice.
"""

from __future__ import annotations

import inspect
import warnings
from collections import OrderedDict
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from ..inputs import BOOKKEEPING, TextBatch
from ..models import NON_INPUT_ARGUMENTS, copy_cache
from ..seam import callers_autocast, in_callers_modes, is_quantized, owning_model
from ..seam.twin import twin
from ..shapes import at_least_float32
from ..subject import LEAST_LOGIT, Discrepancy, Subject
from ..targets import comparable_outputs, kept_rows
from ..traversal import modules_of
from .rounding import ALWAYS_ALLOWED, allowed_difference

_AGAIN = 64  # a signature that is known is called again every so many results: less than 2 % of a forward pass
_KEPT = 16  # signatures of one model that are remembered,
_INPUTS = 4  # and inputs of one signature
_LARGEST = 2**24  # numbers of an output or input that are remembered at most
# Keys of a tokenizer's output that are not inputs of a model.
_BOOKS = (*NON_INPUT_ARGUMENTS, *BOOKKEEPING)


@dataclass(frozen=True)
class UserCall:
    """A model as it was given, with its tokenizer, and what it was asked to explain, as it was given."""

    model: nn.Module
    inputs: Any
    tokenizer: Any = None
    truncate: bool = False


@dataclass
class _CachedOutputs:
    """What the model's own calls of one signature said: of some inputs, each as it was given, the newest last."""

    difference: float = 0.0
    uses: int = 0
    said: list[tuple[list[Any], list[Tensor]]] = field(default_factory=list[tuple[list[Any], list[Tensor]]])

    def of(self, given: list[Any]) -> list[Tensor] | None:
        """What the model said of that very input; None where it is not remembered."""
        for known, said in self.said:
            if len(known) == len(given) and all(map(_equal, known, given)):
                return said
        return None

    def remember(self, given: list[Any], said: list[Tensor]) -> None:
        """Keep what the model said of an input, unless it is large."""
        if sum(t.numel() for t in (*given, *said) if isinstance(t, Tensor)) <= _LARGEST:
            kept = [t.clone() if isinstance(t, Tensor) else t for t in given]
            self.said = [*self.said[1 - _INPUTS :], (kept, said)]


_known: WeakKeyDictionary[nn.Module, OrderedDict[Any, _CachedOutputs]] = WeakKeyDictionary()


@dataclass
class ForwardComparison:
    """The largest `difference` of a logit to the model's own call, what is `told`, and what was `measured`, if so."""

    difference: float
    measured: Discrepancy | None = None
    told: dict[str, Any] = field(default_factory=dict[str, Any])


def compare_forward(
    call: UserCall, subject: Subject, text: TextBatch | None, *, again: bool = False
) -> ForwardComparison | None:
    """The pass that was explained against the model's own call. None where its output holds no numbers to compare."""
    own = _Call(call, subject, text)
    explained = own.explained()
    if not explained:
        return None
    given, key = own.given(), own.signature()
    by_key = _known.setdefault(owning_model(call.model), OrderedDict())
    known = by_key.get(key)
    if known is not None and not again:
        known.uses += 1
        by_key[key] = by_key.pop(key, known)  # the newest last; another thread may have dropped it
        said = known.of(given)
        if said is not None:
            found, measured = own.against(said, explained)
            if measured.error <= measured.allowed:
                return found
        elif known.uses % _AGAIN:
            return ForwardComparison(known.difference)
    try:
        found, said = own.made(explained)
    except _Raised as raised:
        return ForwardComparison(float("nan"), None, {"as_called": f"the model's own call raises {raised}"})
    known = by_key.setdefault(key, _CachedOutputs())
    known.difference = found.difference
    known.remember(given, said)
    while len(by_key) > _KEPT:
        by_key.popitem(last=False)
    return found


class _Raised(Exception):
    """The user's model raises where it is called by itself, whatever that is."""


def _equal(a: Any, b: Any) -> bool:
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return type(a) is type(b) and a == b
    return a.shape == b.shape and a.dtype == b.dtype and a.device == b.device and bool(torch.equal(a, b))


@dataclass
class _Call:
    """How one model is called on one input."""

    call: UserCall
    subject: Subject
    text: TextBatch | None

    @cached_property
    def _own(self) -> nn.Module:
        """The user's model; of one whose layers are packed anew when called, a twin, which takes the change."""
        model = self.call.model
        return twin(model, as_is=True) if any(map(is_quantized, modules_of(model))) else model

    def signature(self) -> Any:
        """What calls that are alike share."""
        tensors = {k: v for k, v in self.subject.inputs.items() if isinstance(v, Tensor)}
        shapes = tuple((k, tuple(v.shape), v.dtype, str(v.device)) for k, v in tensors.items())
        name, kind = self.subject.bound.architecture.name, type(self.call.inputs).__name__
        rows = tuple(map(tuple, self._rows())) if self._by_token else ()
        return shapes, tuple(self._kept() or ()), rows, name, kind, self.subject.precise, callers_autocast()

    def given(self) -> list[Any]:
        """What was given to be explained, as it was given where it can be compared, and all that a score depends on."""
        inputs, strings = self.call.inputs, self._strings()
        features = getattr(self.subject.model, "features", None)
        found: list[Any] = [] if features is None else [features.detach()]
        if strings is not None:
            return [*found, *strings]
        if isinstance(inputs, Tensor):
            return [*found, inputs.detach()]
        own = inputs if isinstance(inputs, Mapping) else self.subject.inputs | self.subject.constant
        return [*found, *(v.detach() for v in cast("Mapping[Any, Any]", own).values() if isinstance(v, Tensor))]

    def _kept(self) -> list[int] | None:
        """The rows of the sequence that the output holds; None for all."""
        return kept_rows(self.subject.constant.get("logits_to_keep"), self.subject.clean_output)

    @property
    def _by_token(self) -> bool:
        return self.text is not None and self.subject.bound.task != "classification"

    @property
    def _answers(self) -> bool:
        return self.subject.bound.task == "question-answering"

    @property
    def _one_length(self) -> bool:
        """Whether all texts are filled up to one length, with what the model reads like tokens."""
        return bool(getattr(self.call.model, "context", None) or getattr(self.call.model, "reads_padding", False))

    def _rows(self) -> list[list[int]]:
        """Rows of each text at which outputs are compared: those that the target reads, for only these are computed."""
        assert self.text is not None
        lengths, target_rows = self.text.lengths.tolist(), self.subject.target_rows
        if target_rows is None:
            return [list(range(n)) for n in lengths]
        of_each = target_rows.reshape(len(lengths), -1).tolist()  # of all targets of a text
        return [sorted({row for row in some if row >= 0}) for some in of_each]

    # Outputs as numbers of what is compared: (example, …), or (token, …) of all texts one after the other

    def explained(self) -> list[Tensor]:
        """Of the pass that was explained."""
        found, kept = comparable_outputs(self.subject.clean_output, answers=self._answers), self._kept()
        if not self._by_token:
            return found
        places = [some if kept is None else [kept.index(row) for row in some] for some in self._rows()]
        return [torch.cat([t[i, some] for i, some in enumerate(places)]) for t in found]

    def against(self, said: list[Tensor], explained: list[Tensor]) -> tuple[ForwardComparison, Discrepancy]:
        """The difference, absolute and of the largest size in each example."""
        if [t.shape for t in said] != [t.shape for t in explained]:
            shapes = [tuple(t.shape) for t in said], [tuple(t.shape) for t in explained]
            words = f"the model's own call, whose output has other shapes: {shapes[0]}, explained {shapes[1]}"
            measured = Discrepancy("forward", torch.tensor(torch.inf), 0.0, words)
            return ForwardComparison(float("inf"), measured), measured
        errors, largest = list[Tensor](), list[Tensor]()
        for a, b in zip(said, explained, strict=True):
            a, b = at_least_float32(a), at_least_float32(b).to(a.device)
            a, b = a.to(torch.promote_types(a.dtype, b.dtype)), b.to(torch.promote_types(a.dtype, b.dtype))
            difference = torch.where(a == b, 0.0, (a - b).abs()).reshape(len(a), -1).amax(1)
            size = torch.where(a.isfinite(), a.abs(), 0.0).reshape(len(a), -1).amax(1)
            errors.append((difference / size.clamp(min=LEAST_LOGIT)).amax())
            largest.append(difference.amax())
        words = "the pass that was explained, against the model called as its user calls it"
        absolute = float(torch.stack(largest).amax())
        error, allowed = torch.stack(errors).amax().cpu(), ALWAYS_ALLOWED
        if not error <= allowed:  # what the model's weights allow takes longer to find out
            allowed = allowed_difference(self.call.model, self.subject.given.device)
        measured = Discrepancy("forward", error, allowed, words)
        return ForwardComparison(absolute, measured), measured

    # The model's own call

    def made(self, explained: list[Tensor]) -> tuple[ForwardComparison, list[Tensor]]:
        """The comparison, and what the model said."""
        with _plainly(self.call.model):
            if self.text is None:
                said = comparable_outputs(self._whole())
                return self.against(said, explained)[0], said
            if not self._as_tensors() or self._one_length:
                said = self._alone()
                return self.against(said, explained)[0], said
            said = self._batch()
            found, measured = self.against(said, explained)
            whole = bool(self.text.mask.all()) or self.subject.cached
            if whole or measured.error <= measured.allowed:
                return found, said
            alone = self._alone()  # where padding stands may change positions, and so what the model says
            other, measured = self.against(alone, explained)
            if measured.error <= measured.allowed:
                told = f"with its padding the model says something else, by up to {found.difference:.3g}: explained is"
                other.told["padding_changes"] = told + " what it says of each text alone"
                return other, alone
            return found, said

    def _output(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return self._own(*args, **kwargs)
        except Exception as error:
            line = next(iter(str(error).splitlines()), "")
            raise _Raised(f"{type(error).__name__}: {line}") from error

    def _as_tensors(self) -> bool:
        """Whether token numbers were given as the model takes them."""
        inputs = self.call.inputs
        if not isinstance(inputs, Mapping):
            return isinstance(inputs, Tensor)
        given = {str(k): v for k, v in cast("Mapping[Any, Any]", inputs).items()}
        plain = {k: v for k, v in given.items() if k not in _BOOKS and not k.startswith("_") and v is not None}
        return not any(isinstance(v, (list, np.ndarray)) for v in plain.values())

    def _like(self) -> Tensor:
        """A tensor on the device and in the precision that the model takes."""
        device = self.subject.given.device
        floats = (p for p in self.call.model.parameters() if p.is_floating_point())
        return torch.empty(0, dtype=next(floats, torch.empty(0)).dtype, device=device)

    def _moved(self, values: Mapping[str, Any]) -> dict[str, Any]:
        like, found = self._like(), dict[str, Any]()
        for name, value in values.items():
            if name in _BOOKS or name.startswith("_") or value is None:
                continue
            if isinstance(value, Tensor):
                found[name] = value.detach().to(like.device, like.dtype if value.is_floating_point() else None)
            else:
                found[name] = copy_cache(value)  # a cache that the model would fill
        return found

    def _whole(self) -> Any:
        """A batch of pictures."""
        inputs = self.call.inputs
        if isinstance(inputs, Mapping):
            return self._output(**self._moved({str(k): v for k, v in cast("Mapping[Any, Any]", inputs).items()}))
        if isinstance(inputs, Tensor) and inputs.is_floating_point():
            for batch in (inputs, inputs[None]):
                if batch.shape == self.subject.given.shape:
                    return self._output(*self._moved({"x": batch}).values())
        given = self._moved(self.subject.inputs)
        return self._output(*[v for k, v in given.items() if not k], **{k: v for k, v in given.items() if k})

    def _batch(self) -> list[Tensor]:
        """Token numbers as they were given, of which what is real is read."""
        text, inputs = self.text, self.call.inputs
        assert text is not None
        kept = self.subject.constant.get("logits_to_keep") if self._kept() and bool(text.mask.all()) else None
        more = {} if kept is None else {"logits_to_keep": kept}
        if isinstance(inputs, Tensor):
            output = self._output(*self._moved({"x": text.input_ids}).values(), **more)
        else:
            given = self._moved({str(k): v for k, v in cast("Mapping[Any, Any]", inputs).items()})
            whole = {k: v[None] if isinstance(v, Tensor) and v.ndim == 1 else v for k, v in given.items()}
            output = self._output(**whole, **more)
        found = comparable_outputs(output, answers=self._answers)
        if not self._by_token:
            return found
        parts: list[list[Tensor]] = [[] for _ in found]
        for i, some in enumerate(self._rows()):
            columns = text.mask[i].nonzero().flatten().tolist()
            places = [columns[row] if kept is None else kept.tolist().index(row) for row in some]
            for part, t in zip(parts, found, strict=True):
                part.append(t[i, places])
        return [torch.cat(part) for part in parts]

    def _strings(self) -> list[Any] | None:
        """Texts, where they were given as strings or pairs of strings."""
        return strings_of(self.call.inputs) if self.call.tokenizer is not None else None

    def _alone(self) -> list[Tensor]:
        """Each text by itself, without padding."""
        text, strings, kept = self.text, self._strings(), self._kept()
        assert text is not None
        parts: list[list[Tensor]] = []
        rows = self._rows() if self._by_token else []
        for i, length in enumerate(text.lengths.tolist()):
            again = strings is None or "a second" in str(text.checks.get("left_out", ""))
            given = self._cut_out(i, length) if again or strings is None else self._encoded(strings[i], length)
            if kept is not None:
                given["logits_to_keep"] = torch.tensor(rows[i], device=self.subject.given.device)
            found = comparable_outputs(self._output(**given), answers=self._answers)
            parts.append([t[0] if kept is not None else t[0, rows[i]] for t in found] if self._by_token else found)
        if any(len({t.shape[1:] for t in several}) > 1 for several in zip(*parts, strict=True)):
            raise _Raised("nothing, but gives as many rows as each text has tokens, which are not compared")
        return [torch.cat([part[k] for part in parts]) for k in range(len(parts[0]))]

    def _cut_out(self, i: int, length: int) -> dict[str, Any]:
        """One text of the batch that was explained, without padding; all of it where the model wants one length."""
        given, shape = self._moved(self.subject.inputs), self.subject.given.shape
        stop = shape[1] if self._one_length else length
        return {
            k: v[i : i + 1, :stop]
            if isinstance(v, Tensor) and v.shape[:2] == shape
            else v[i : i + 1]
            if isinstance(v, Tensor) and v.ndim and len(v) == shape[0] and k in self.subject.inputs
            else v
            for k, v in given.items()
        }

    def _encoded(self, string: Any, length: int) -> dict[str, Any]:
        """One string or pair, as its own tokenizer gives it."""
        tokenizer, model = self.call.tokenizer, self.call.model
        first, second = string if isinstance(string, tuple) else (string, None)
        context = getattr(model, "context", None)
        options: dict[str, Any] = {"truncation": True, "max_length": length} if self.call.truncate else {}
        if context and not hasattr(tokenizer, "inner"):
            options = {"padding": "max_length", "max_length": context, "truncation": True, "padding_side": "right"}
        encoded: Any = tokenizer(first, second, **options)
        given = {k: torch.tensor([list(v)], device="cpu") for k, v in encoded.items() if k not in _BOOKS}
        if getattr(model, "reads_padding", False):  # which is then seen like any token
            given.pop("attention_mask", None)
        if context and hasattr(tokenizer, "inner"):
            given = {"input_ids": tokenizer.inner([first])}
        taken = inspect.signature(model.forward).parameters
        if not any(p.kind is p.VAR_KEYWORD for p in taken.values()):
            given = {k: v for k, v in given.items() if k in taken}
        return self._moved(given)


def strings_of(inputs: Any) -> list[Any] | None:
    """Texts, where they were given as strings or pairs of strings."""
    items: list[Any] = list(cast("list[Any]", inputs)) if isinstance(inputs, list) else [inputs]

    def is_pair(one: Any) -> bool:
        return (
            isinstance(one, tuple) and len(one) == 2 and all(isinstance(part, str) for part in cast("list[Any]", one))
        )

    return items if items and all(isinstance(one, str) or is_pair(one) for one in items) else None


@contextmanager
def _plainly(model: nn.Module) -> Generator[None]:
    """Around a plain call: the caller's autocast and default device, and no graph."""
    with in_callers_modes(), torch.no_grad():
        if not any(map(is_quantized, modules_of(model))):
            yield
            return
        with warnings.catch_warnings():  # which other threads see: not where it is not needed
            warnings.filterwarnings("ignore", module="bitsandbytes")  # about precision, which is told here in numbers
            yield

"""A call of several inputs (pictures and words, a source, sound) that a model goes on from, and its answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..inputs import Tokenizer, decode_incrementally, decoder, named_token_ids, special_ids
from ..models import LoadedModel, forward_signature
from ..seam import in_callers_modes, owning_model
from ..streams import ModelCall
from ..subject import Discrepancy, refusals_told
from ..targets import logits_of
from .any_model import encoded, shown_once
from .greedy import written_by
from .next_tokens import written_name
from .prepare_text import NUMBERS
from .processed import is_raw, with_beginning
from .prompts import PromptAndAnswer, answer_ids

_later: WeakKeyDictionary[nn.Module, dict[frozenset[str], bool]] = WeakKeyDictionary()


@dataclass
class Continued:
    """Arguments of a model, of which `name` holds the tokens that it goes on from; the first `prompt` are given."""

    inputs: dict[str, Any]
    name: str
    prompt: int
    checks: dict[str, Any] = field(default_factory=dict[str, Any])
    text: PromptAndAnswer | None = None  # of words alone, whose characters are known

    @property
    def ids(self) -> list[int]:
        """The tokens: given and written."""
        return [int(i) for i in self.inputs[self.name][0].tolist()]

    def until(self, stop: int) -> dict[str, Any]:
        """The call with only so many tokens."""
        return {k: v[:, :stop] if self._follows(k) else v for k, v in self.inputs.items()}

    def goes_on(self, new: Sequence[int]) -> Continued:
        """The call with more tokens. What comes with each token (its mask, its type) goes on as it ended."""
        grown: dict[str, Any] = {}
        for k, v in self.inputs.items():
            if not self._follows(k):
                grown[k] = v
                continue
            if k == self.name:
                more = torch.tensor([list(new)], dtype=v.dtype, device=v.device)
            elif k.endswith("position_ids"):
                more = v[:, -1:] + torch.arange(1, len(new) + 1, dtype=v.dtype, device=v.device)
            else:
                more = v[:, -1:].expand(-1, len(new), *v.shape[2:])
            grown[k] = torch.cat([v, more], 1)
        return Continued(grown, self.name, self.prompt, self.checks)

    def _follows(self, name: str) -> bool:
        """Whether an argument has an entry for each of the tokens."""
        value, ids = self.inputs[name], self.inputs[self.name]
        own = name.startswith("decoder_") == self.name.startswith("decoder_")
        follows = isinstance(value, Tensor) and not value.is_floating_point() and value.shape[:2] == ids.shape
        return own and follows

    def strings(self, tokenizer: Tokenizer | None, model: nn.Module) -> list[str]:
        """What each token looks like: together they are the text, in which a picture has one place."""
        if self.text is not None:
            return self.text.strings(tokenizer, model)
        if tokenizer is None:
            return [f"{i} " for i in self.ids]
        special = special_ids(model, tokenizer)
        found = decode_incrementally(self.ids, decoder(tokenizer), special)
        return shown_once(found, [i in special for i in self.ids])


def has_several_inputs(prompt: Any, module: nn.Module) -> bool:
    """Whether a prompt is more than the words of a language model: pictures, sound, or what an encoder reads."""
    if bool(getattr(getattr(module, "config", None), "is_encoder_decoder", False)):
        return True
    if isinstance(prompt, Mapping):
        given = {str(k): v for k, v in cast("Mapping[Any, Any]", prompt).items()}
        floats = {k for k, v in given.items() if isinstance(v, Tensor) and v.is_floating_point()}
        return is_raw(given) or bool(floats - {"input_ids", "attention_mask"})
    if not isinstance(prompt, (list, tuple)) or not is_raw(prompt):
        return False
    contents = [one["content"] for one in cast("list[Any]", prompt)]
    parts = [part for content in contents if isinstance(content, (list, tuple)) for part in cast("list[Any]", content)]
    return any(isinstance(part, Mapping) and part.get("type") != "text" for part in parts)


def begun(prompt: Any, model: nn.Module | LoadedModel, module: nn.Module, device: torch.device) -> Continued:
    """The call that an answer goes on from. Raises `InputError` where there is none, or several."""
    inputs = encoded(model, prompt)[0] if isinstance(model, LoadedModel) else prompt
    if isinstance(model, LoadedModel):
        inputs = with_beginning(model, dict(inputs)) if isinstance(inputs, Mapping) else inputs
    if not isinstance(inputs, Mapping):
        raise InputError(
            "this is no prompt of a model of several inputs",
            expected="what model(**inputs) takes; for a loaded model pictures and words, a source, sound",
            got=type(prompt).__name__,
        )
    given = {k: v.to(device) if isinstance(v, Tensor) else v for k, v in cast("Mapping[str, Any]", inputs).items()}
    call = ModelCall.of(module, given)
    name = _asked_by(module) if "decoder_input_ids" not in given else written_name(call)
    ids = given.get(name)
    if not isinstance(ids, Tensor) or ids.shape[:1] != (1,) or ids.ndim != 2 or ids.dtype not in NUMBERS:
        raise InputError(
            "this is no prompt",
            expected=f"{name} (1, token) among the arguments: of one example, from the first token on",
            got=f"{name} {tuple(ids.shape)}" if isinstance(ids, Tensor) else ", ".join(given),
            todo="an encoder with a decoder needs the token that its answer begins with: decoder_input_ids",
        )
    return Continued(given, name, ids.shape[1])


def _asked_by(module: nn.Module) -> str:
    """The argument that a model goes on from, where none of a decoder is given."""
    both = bool(getattr(getattr(module, "config", None), "is_encoder_decoder", False))
    return "decoder_input_ids" if both and "decoder_input_ids" in forward_signature(module).names else "input_ids"


def with_its_answer(
    start: Continued, module: nn.Module, tokenizer: Tokenizer | None, answer: Any, count: int
) -> Continued:
    """The call with an answer: words, or token numbers, or what the model writes, greedily."""
    if answer is not None:
        return start.goes_on(answer_ids(answer, start.ids, tokenizer))
    new = written_by(module, start.inputs, start.name, count) if hasattr(module, "generate") else None
    return _written_on(start, module, count) if new is None else start.goes_on(new)


def _written_on(start: Continued, module: nn.Module, count: int) -> Continued:
    """The likeliest token each time, by a pass over all before it, until one that ends the text."""
    ends = named_token_ids(getattr(module, "generation_config", None) or getattr(module, "config", None), "eos")
    found = start
    with torch.no_grad(), in_callers_modes():
        for _ in range(count):
            best = int(logits_of(module(**found.inputs))[0, -1].argmax())
            if best in ends:
                break
            found = found.goes_on([best])
    return found


def reads_later(written: Continued, module: nn.Module) -> bool:
    """Whether what the model says behind the prompt depends on what comes later: seen once for each model and kind of
    call, as a mask or types of tokens may decide that."""
    known, kind = _later.setdefault(owning_model(module), {}), frozenset(written.inputs)
    if kind not in known:
        with torch.no_grad(), in_callers_modes():
            whole, alone = (_logits(module, written, n) for n in (len(written.ids), written.prompt))
        known[kind] = False
        last = written.prompt - 1
        if whole.ndim == alone.ndim == 3 and min(whole.shape[1], alone.shape[1]) > last:
            error = Discrepancy.of("", alone[:, last], whole[:, last], "")
            known[kind] = float(error.error) > error.allowed
    return known[kind]


def _logits(module: nn.Module, written: Continued, count: int) -> Tensor:
    """What the model says of so many tokens. Raises `InputError` where it refuses them, as it has no positions."""
    with refusals_told(owning_model(module), (1, count), is_text=True):
        return logits_of(module(**written.until(count)))

"""What benchmarks of models with several inputs share: examples as arguments, the places of their words, and what the
model says where one stream is another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

import torch
from torch import Tensor

from ...attributions import STREAMS, Attribution, TextAttribution
from ...datasets import Example
from ...errors import ClewError, InputError, OptionError
from ...explainers import find_method
from ...explaining import unwrap
from ...explaining.any_model import AnyModel, encoded, places_of, subject_of_any
from ...explaining.any_target import AnyTarget, AskedTarget, resolve_any
from ...inputs import decode_incrementally, decoder
from ...metrics.perturbation import copied_logits
from ...models import LoadedModel, is_declared
from ...places import Places, Words
from ...seam import in_callers_modes
from ...streams import ModelCall
from ...targets import Scale, Target, head_of, logits_of


def arguments_of(loaded: LoadedModel, examples: Sequence[Example]) -> Any:
    """Examples as the model takes them, each made by its own processor or tokenizer, in one batch.

    Raises `InputError` for an example that has nothing the model takes, and for examples of several sizes.
    """
    each = [encoded(loaded, _given(loaded, example))[0] for example in examples]
    if len(each) == 1:
        return each[0]
    if isinstance(each[0], Tensor):
        return _joined("the input", each)
    return {name: _joined(name, [one[name] for one in each]) for name in cast("Mapping[str, Any]", each[0])}


def _given(loaded: LoadedModel, example: Example) -> Any:
    images = None if example.image is None else [example.image]
    given = {"images": images, "text": example.text, "answer": example.prefix}
    given |= {"audio": example.audio, "sampling_rate": example.sampling_rate}
    given = {name: value for name, value in given.items() if value is not None}
    if not given:
        expected = "a picture, a text or sound"
        raise InputError("there is nothing in this example", expected=expected, got=repr(example.id))
    return images if list(given) == ["images"] and loaded.preprocess is not None else given


def _joined(name: str, values: Sequence[Any]) -> Any:
    if not all(isinstance(value, Tensor) for value in values):
        return values[0]
    if len({value.shape for value in values}) > 1:
        got = sorted({tuple(value.shape) for value in values})
        raise InputError(f"{name} of several sizes at once", expected="one size", got=got)
    return torch.cat(list(values))


def tokenizer_among(loaded: LoadedModel) -> Any:
    """The model's tokenizer, or its processor's. Raises `InputError` where there is none."""
    found = loaded.tokenizer or getattr(loaded.processor, "tokenizer", None)
    if found is None:
        raise InputError("words have no places without a tokenizer", expected="a tokenizer", got=loaded.name)
    return found


def word_columns(loaded: LoadedModel, ids: Sequence[int], words: Sequence[str]) -> list[list[int]]:
    """The columns of each word among token numbers: the last place where they stand one after another.

    Letters are compared, without white space and case, so that it does not matter what stands before the words; a
    token may be of two words. Raises `InputError` where the words do not stand there.
    """
    tokenizer = tokenizer_among(loaded)
    special = set(map(int, tokenizer.all_special_ids))
    spelled = decode_incrementally(list(ids), decoder(tokenizer), special)
    shown = [
        (letter, column)
        for column, text in enumerate(spelled)
        for letter in ("\0" if ids[column] in special else _letters(text))
    ]
    wanted = [(letter, w) for w, word in enumerate(words) for letter in _letters(word)]
    start = "".join(letter for letter, _ in shown).rfind("".join(letter for letter, _ in wanted))
    if start < 0 or not wanted:
        raise InputError(
            "the words of an example are not found in what the model reads",
            expected=" ".join(words)[:80],
            got="".join(spelled)[:80],
        )
    found: list[list[int]] = [[] for _ in words]
    for (_, column), (_, word) in zip(shown[start:], wanted, strict=False):
        if column not in found[word]:
            found[word].append(column)
    return found


def _letters(text: str) -> str:
    """A text without white space and case, as many characters as it has letters."""
    return "".join(low if len(low := one.lower()) == 1 else one for one in text if not one.isspace())


def answer_of(example: Example) -> int | str:
    """The word or class that is the answer. Raises `InputError` where there is none."""
    if example.label is None:
        expected = "the word or class that is right as the label"
        raise InputError("the answer of an example is not known", expected=expected, got=repr(example.id))
    return example.label


def refuse_declared(loaded: LoadedModel, todo: str) -> None:
    """Raise `OptionError` for a model of one input, whose blocks are declared."""
    if is_declared(loaded.model):
        expected = "for example mini:reverse or mini:digits-chat"
        what = "streams are of models that are not declared, such as those of several inputs"
        raise OptionError(what, expected=expected, got=loaded.name, todo=todo)


def stream_of(result: Attribution, name: str) -> Attribution:
    """The result of a stream, by its argument or what people call it. Raises `OptionError` where there is none."""
    try:
        return result[name]
    except ClewError as error:
        known = [*result.streams, *(alias for alias, own in STREAMS.items() if set(own) & set(result.streams))]
        raise OptionError(f"no stream {name!r}", expected=" or ".join(known), got=name) from error


@dataclass(frozen=True)
class StreamBatch:
    """A batch of a model of several inputs; what the model says to copies of it with other values of some arguments."""

    ready: AnyModel

    @staticmethod
    def of(loaded: LoadedModel, inputs: Any) -> StreamBatch:
        """The batch that `explain` takes as `inputs`."""
        return StreamBatch(AnyModel.of(loaded, unwrap(loaded.model), inputs, None))

    @property
    def arguments(self) -> dict[str, Tensor]:
        """The tensors that the model takes, by name."""
        return self.ready.call.tensors()

    def logits(self, values: Mapping[str, Tensor], owner: Tensor) -> Tensor:
        """Logits (copy, class) of copies of the examples `owner` (copy,), with `values` (copy, …) of some arguments."""
        copies = {name: self.rows(value, owner) for name, value in self.arguments.items() if name not in values}
        return self._read(self.ready.call.replaced({**copies, **values}))[0]

    def rows(self, value: Tensor, owner: Tensor) -> Tensor:
        """Of an argument what belongs to some examples; of patches of all examples in a row several for each.

        Raises `InputError` where examples do not share it evenly.
        """
        if not value.ndim or len(value) % self.count:
            expected, got = f"a first axis of {self.count} examples", tuple(value.shape)
            raise InputError("it is not known what belongs to which example", expected=expected, got=got)
        return value.unflatten(0, (self.count, -1))[owner.to(value.device)].flatten(0, 1)

    def places(self, name: str) -> Places:
        """How the entries of an argument are arranged, in which scores of it are given and erased: seen in a pass."""
        subject = subject_of_any(self.ready)
        return places_of(self.ready, subject, name, (find_method("saliency")(subject).streams or {})[name])

    def erased(self, name: str, places: Places, keep: Tensor, owner: Tensor, fill: Tensor) -> Tensor:
        """Copies of an argument of the examples `owner` (copy,), with `fill` where `keep` (copy, score) is not."""
        x, found = self.arguments[name], list[Tensor]()
        for kept, example in zip(keep, owner, strict=True):  # places are those of the whole batch
            others = torch.ones(self.count, len(kept), dtype=torch.bool, device=keep.device)
            others[example] = kept
            found.append(self.rows(places.erase(x, others, fill), example[None]))
        return torch.cat(found)

    @property
    def count(self) -> int:
        """How many examples there are."""
        return len(self.clean)

    @property
    def clean(self) -> Tensor:
        """Logits (example, class) of the batch as it is."""
        return self._clean[0]

    @property
    def scale(self) -> Scale | None:
        """What makes probabilities of logits."""
        return self._clean[1]

    def classes(self, target: Target) -> Tensor:
        """The numbers (example,) of classes or words among the logits."""
        plus = self._target(target, self.ready.call, self._output(self.ready.call)).inner.plus
        if plus is None:
            raise OptionError("this is no class or word", expected="a class, or a word of one token", got=target)
        return plus[:, 0]

    @cached_property
    def _clean(self) -> tuple[Tensor, Scale | None]:
        return self._read(self.ready.call)

    def _read(self, call: ModelCall) -> tuple[Tensor, Scale | None]:
        output = self._output(call)
        target = self._target(None, call, output)
        found = None if target.inner.embedding else target.logits(output)
        if found is None:
            got = type(output).__name__
            raise OptionError("this protocol asks for probabilities of classes or words", expected="logits", got=got)
        try:
            task = "causal-lm" if logits_of(output).ndim == 3 else "classification"
        except ClewError:  # the only table of an output
            task = "classification"
        return found, head_of(self.ready.given, task).scale(found.shape[-1])

    def _output(self, call: ModelCall) -> Any:
        with torch.no_grad(), in_callers_modes():
            return self.ready.given(*call.args, **call.kwargs)

    def _target(self, target: Target, call: ModelCall, output: Any) -> AnyTarget:
        ready = self.ready
        asked = AskedTarget(target, "logit", ready.given, call, ready.labels, ready.encode, ready.tokenizer)
        return resolve_any(asked, output)


def logits_without_words(
    whole: StreamBatch, part: TextAttribution, example: int, erased: Tensor, by: int | None, chunk: int
) -> Tensor:
    """Logits (step, case, class) of one example whose words are `erased` (case, step, token) from the stream of `part`.

    Another token stands in their place, `by` its number, or with None no attention is paid to them.
    """
    name, words = part.stream_name, Words(part.input_ids, part.mask, part.special, part.tokens)
    if by is None:
        name = name.replace("input_ids", "attention_mask")
        if name not in whole.arguments:
            raise OptionError("no mask goes with these words", expected=name, got=", ".join(whole.arguments))
    x = whole.arguments[name][example]

    def of(case: Tensor, step: Tensor) -> Tensor:
        keep = ~erased[case, step].to(x.device)
        values = words.erase(x.expand(len(keep), -1), keep, by or 0)
        return whole.logits({name: values}, torch.full((len(keep),), example))

    return copied_logits(of, len(erased), erased.shape[1], chunk, erased.device)

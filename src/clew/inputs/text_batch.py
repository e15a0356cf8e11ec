"""A batch of texts: tokens, where they lie in the text, which are special, and which are no padding."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError, TargetError

_LONGEST = 1_000  # characters of a token


@dataclass(frozen=True)
class TextBatch:
    """Texts as they were given, (batch, token), and the order in which the model gets their tokens.

    `mask` says which tokens are no padding, `special` which are no words. `offsets` (batch, token, 2) are characters
    of `texts`, where known; `answers` says where an answer to a question may be; `checks` what was cut or left out.
    `order` (batch, position) are columns in the order in which the model sees them: padding comes last, wherever it
    was, so that padding changes neither positions nor what a head reads. It is cut behind the longest text; a model
    that wants more tokens than that gets `length`, filled up with padding.
    """

    input_ids: Tensor
    mask: Tensor
    special: Tensor
    tokens: Sequence[Sequence[str]]
    texts: Sequence[str] = ()
    offsets: Tensor | None = None
    encode: Callable[[str], list[int]] | None = None
    decode: Callable[[Sequence[int]], str] | None = None
    answers: Tensor | None = None
    checks: dict[str, Any] = field(default_factory=dict[str, Any])
    length: int = 0
    order: Tensor = field(init=False)

    def __post_init__(self) -> None:
        order = (~self.mask).to(torch.int8).argsort(dim=1, stable=True)
        object.__setattr__(self, "order", order[:, : int(self.mask.sum(1).max())])
        object.__setattr__(self, "length", max(self.length, self.order.shape[1]))

    def repeated(self, each: int) -> TextBatch:
        """Every text so often, one after the other."""
        return self if each == 1 else self._chosen([i for i in range(len(self.input_ids)) for _ in range(each)])

    def once(self, each: int) -> TextBatch:
        """Texts that are there so often each, once."""
        return self if each == 1 else self._chosen(range(0, len(self.input_ids), each))

    def _chosen(self, examples: Sequence[int]) -> TextBatch:
        batch, index = len(self.input_ids), list(examples)

        def of_each(value: Any) -> Any:
            if isinstance(value, Tensor):
                return value[index] if value.ndim and len(value) == batch else value
            several = isinstance(value, (list, tuple)) and len(cast("Sequence[Any]", value)) == batch
            return [value[i] for i in index] if several else value

        names = ("input_ids", "mask", "special", "tokens", "texts", "offsets", "answers")
        checks = {k: of_each(v) if isinstance(v, Tensor) else v for k, v in self.checks.items()}
        return replace(self, checks=checks, **{name: of_each(getattr(self, name)) for name in names})

    @property
    def lengths(self) -> Tensor:
        """Number of tokens of each text that are no padding."""
        return self.mask.sum(1)

    @property
    def has_no_padding(self) -> bool:
        """Whether the model gets no padding at all."""
        return bool(self.mask.all()) and self.length == self.order.shape[1]

    @property
    def as_given(self) -> bool:
        """Whether the model gets the tokens just as they were given."""
        columns = torch.arange(self.input_ids.shape[1], device=self.order.device)
        same = self.order.shape[1] == self.length == len(columns)
        return same and bool((self.order == columns).all())

    def to_model_order(self, values: Tensor, fill: int = 0) -> Tensor:
        """Values (batch, token, …) as given, in the order in which the model sees them; `fill` where it wants more."""
        index = self.order.to(values.device)
        index = index.view(*index.shape, *[1] * (values.ndim - 2)).expand(-1, -1, *values.shape[2:])
        more = (0, 0) * (values.ndim - 2) + (0, self.length - self.order.shape[1])
        return F.pad(values.gather(1, index), more, value=fill)

    def to_given_order(self, values: Tensor, axis: int = 1) -> Tensor:
        """Values over the model's positions on an axis, over the tokens as given; 0 at padding."""
        moved = values.movedim(axis, 1)[:, : self.order.shape[1]]
        index = self.order.to(values.device)
        real = (torch.arange(index.shape[1], device=index.device) < self.lengths.to(index.device)[:, None]).to(values)
        index, real = (t.view(*t.shape, *[1] * (moved.ndim - 2)) for t in (index, real))
        whole = moved.new_zeros(moved.shape[0], self.input_ids.shape[1], *moved.shape[2:])
        kept = torch.where(real > 0, moved, torch.zeros_like(moved))
        return whole.scatter(1, index.expand_as(moved), kept).movedim(1, axis)

    def position(self, example: int, column: int) -> int:
        """Where the model sees a token as given. Raises `TargetError` for padding and tokens that do not exist."""
        count = self.input_ids.shape[1]
        if not -count <= column < count or not bool(self.mask[example, column]):
            raise TargetError(
                f"text {example} has no token {column}",
                expected=f"one of its {int(self.lengths[example])} tokens, counted from 0 as given",
                got=column,
            )
        return int((self.order[example] == column % count).nonzero()[0])

    def find(self, example: int, words: str, nth: int | None = None) -> list[int]:
        """Positions of the tokens that words of the text cover. Raises `TargetError` where they are not there."""
        if self.offsets is None or not self.texts:
            raise TargetError(
                f"the words {words!r} cannot be looked up",
                expected="texts as strings, and a tokenizer that gives offsets (a fast one)",
                got="token numbers alone" if not self.texts else "a tokenizer without offsets",
                todo="pass token positions instead: Span(start, stop)",
            )
        text, starts, at = self.texts[example], list[int](), -1
        while words and (at := text.find(words, at + 1)) >= 0:
            starts.append(at)
        if not starts:
            raise TargetError(f"the words {words!r} are not in the text", expected="words of the text", got=_cut(text))
        if nth is None and len(starts) > 1:
            raise TargetError(
                f"the words {words!r} are there {len(starts)} times",
                expected="words that occur once",
                got=f"at characters {starts}",
                todo="say which: Span(…, nth=0), or pass token positions",
            )
        chosen = nth or 0
        if not -len(starts) <= chosen < len(starts):
            raise TargetError(f"{words!r} is there {len(starts)} times", expected=f"nth below {len(starts)}", got=nth)
        first, last = starts[chosen], starts[chosen] + len(words)
        spans: list[tuple[int, int]] = self.offsets[example].tolist()
        found = [c for c, (a, b) in enumerate(spans) if a < last and b > first and bool(self.mask[example, c])]
        if not found:
            raise TargetError(
                f"no token covers the words {words!r}",
                expected="words that the model got",
                got="a place that was cut off",
            )
        return [self.position(example, column) for column in found]

    def token_id(self, word: str) -> int:
        """The number of the one token that a word is, with or without a space before it.

        Raises `TargetError` where it is several tokens, or no tokenizer is known.
        """
        if self.encode is None:
            raise TargetError(
                f"the token {word!r} cannot be looked up",
                expected="a model with its tokenizer (clew.load, or LoadedModel(…, tokenizer=…))",
                got="no tokenizer",
                todo="pass the token's number",
            )
        return token_number(word, self.encode)

    def name(self, token: int) -> str:
        """A token as text."""
        return repr(self.decode([token])) if self.decode is not None else f"token {token}"


def token_number(word: str, encode: Callable[[str], list[int]]) -> int:
    """The number of the one token that a word is, with or without a space before it. Raises `TargetError` where it is
    several."""
    if len(word) > _LONGEST:
        raise TargetError("this is not one token", expected="a single token", got=f"{len(word):,} characters")
    for spelled in (word, " " + word.lstrip(), word.lstrip()):
        ids = encode(spelled)
        if len(ids) == 1:
            return ids[0]
    todo = "pass the number of its first token; to explain several tokens, put them into the text: Span(…)"
    if "/" in word.strip()[1:-1]:
        todo = "for one token rather than another pass clew.Contrast(a, b), or --target 'a / b' with spaces; or " + todo
    raise TargetError(f"{word!r} is not one token", expected="a single token", got=f"tokens {encode(word)}", todo=todo)


def arrange(batch: TextBatch, values: dict[str, Any], padding: int = 0) -> dict[str, Any]:
    """Inputs in the order in which the model sees them: those with an entry for each token follow.

    Raises `InputError` where an attention mask is no mask of tokens.
    """
    shape = batch.input_ids.shape
    return {
        name: batch.to_model_order(value, padding if name == "input_ids" else 0)
        if isinstance(value, Tensor) and value.shape[:2] == shape
        else value
        for name, value in values.items()
    }


def read_mask(mask: Any, input_ids: Tensor) -> Tensor:
    """An attention mask as booleans (batch, token). Raises `InputError` for other shapes and for empty texts."""
    found = torch.ones_like(input_ids, dtype=torch.bool)
    if mask is not None:
        expected = f"ones and zeros of shape {tuple(input_ids.shape)}"
        if not isinstance(mask, Tensor) or mask.shape != input_ids.shape:
            got = tuple(mask.shape) if isinstance(mask, Tensor) else type(mask).__name__
            raise InputError("the attention mask does not fit the tokens", expected=expected, got=got)
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise InputError(
                "the attention mask is no mask of tokens", expected=expected, got=mask.unique().tolist()[:6]
            )
        found = mask.to(torch.bool)
    empty = (~found.any(1)).nonzero().flatten().tolist()
    if empty or not found.numel():
        raise InputError("there is an empty text", expected="at least one token", got=f"examples {empty or 'none'}")
    return found


def _cut(text: str, longest: int = 60) -> str:
    return repr(text if len(text) <= longest else text[: longest - 1] + "…")

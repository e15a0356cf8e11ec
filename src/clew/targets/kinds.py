"""The kinds of targets there are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..errors import TargetError

Classes = int | str | Sequence[int] | Sequence[str] | Tensor | NDArray[Any] | np.integer[Any]
"""Classes by index or label, one or one per example."""


class Similarity:
    """How alike an image–text model finds the input and something else: `Similarity("a photo of a dog")`.

    The other is a text, token numbers, an image (PIL, or a tensor as the model takes it), or a list of these: then each
    has a result of its own, in order, and the input runs once. `Contrast("a dog", "a cat")` of texts or images says why
    the one rather than the other. Raises `TargetError` for nothing to compare with.
    """

    def __init__(self, *others: Any) -> None:
        first = others[0] if len(others) == 1 else list(others)
        self.others: list[Any] = list(cast("Sequence[Any]", first)) if isinstance(first, (list, tuple)) else [first]
        if not self.others:
            raise TargetError("nothing to compare with", expected="a text, an image, or a list of these", got="none")

    def __repr__(self) -> str:
        shown = (repr(o) if isinstance(o, str) else type(o).__name__ for o in self.others)
        return f"Similarity({', '.join(shown)})"


@dataclass(frozen=True)
class Contrast:
    """Why `a` rather than `b`: the score of `a` minus that of `b`; each an index, a label, or one per example.

    Of language models: a next token, by its number or as text; of image–text models a text, or a `Similarity`, one
    `Contrast` per example where they differ.
    """

    a: Classes | Similarity
    b: Classes | Similarity


@dataclass(frozen=True)
class Span:
    """Several tokens of the text at once: `Span("words of the text")`, or `Span(start, stop)` by position, which
    counts from 0 and leaves `stop` out.

    Language models: the tokens' own scores, each where it was predicted, added up (of probabilities: multiplied), in
    one backward pass. Question answering: the answer from the first of them to the last. `nth` chooses between several
    occurrences of the words, from 0.
    """

    start: int | str
    stop: int | None = None
    nth: int | None = None


@dataclass(frozen=True)
class Token:
    """One token of the text, by position (from 0) or as a word of it, and what the model says there.

    `nth` chooses between several occurrences of the word, from 0. `target`: a class or label (default: the predicted
    one); of language models the token predicted next.
    """

    where: int | str
    target: int | str | None = None
    nth: int | None = None


class Each:
    """Several targets for one input, each with a result of its own, in order; the input runs once.

    `Each("cat", "dog")`: the same for every input, or one `Each` per input in a list, all of one length. Raises
    `TargetError` for none.
    """

    def __init__(self, *targets: Any) -> None:
        only = targets[0] if len(targets) == 1 else targets
        self.targets: list[Any] = list(cast("Sequence[Any]", only)) if isinstance(only, (list, tuple)) else [only]
        if not self.targets:
            raise TargetError("no target", expected="Each(a, b, …)", got="none")

    def __repr__(self) -> str:
        return f"Each({', '.join(map(repr, self.targets))})"


One = None | int | str | Contrast | Span | Token | Each | Similarity
"""A target of one example."""
Target = One | Classes | Sequence[Any] | Callable[[Any], Tensor]
"""What `explain` takes: one for all examples, one per example, or a function of the model's output."""

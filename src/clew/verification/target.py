"""Checks the score and the target's name by recomputing them from the model's output."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckFailed, ClewError
from ..inputs import TextBatch
from ..shapes import at_least_float32
from ..subject import LEAST_LOGIT, Discrepancy, Subject, tolerance
from ..targets import Contrast, Each, Similarity, Span, Token, answer_logits_of, kept_rows, logits_of


def check_target(
    subject: Subject,
    target: Any,
    kind: str,
    score: Tensor,
    names: Sequence[str],
    labels: Sequence[str] | None,
    text: TextBatch | None,
) -> Iterator[Discrepancy]:
    """The score (batch,) of a result and the names of what was explained, against the output of the clean pass."""
    output = subject.clean_output
    words = "the score, against the output of the model"
    if callable(target) and not isinstance(target, Tensor):
        own: Any = target(output)
        yield Discrepancy.of("score", own.detach(), score, words)
        return
    made = _RecomputedScores(subject, kind, labels, text)
    expected: list[Tensor] = []
    for i, one in enumerate(_each(target, subject.batch, subject.each)):
        found = made.of(one, i, names[i] if len(names) == subject.batch else names[0])
        if found is None:
            return
        expected.append(found)
    yield Discrepancy.of("score", torch.stack(expected), score, words)
    yield Discrepancy(
        "target", torch.tensor(float(made.misnamed)), 0.5, "what was explained, against the name it goes by"
    )
    for trace in subject.traces:
        words, computed = "the score of the pass that attention was taken from", trace.layers[subject.last].o.dtype
        least = made.largest_logit if kind == "logit" else 0.0  # of two logits the difference may be near 0
        yield Discrepancy.of("score", score, trace.score, words, allowed=tolerance(computed), least=least)


def _each(target: Any, batch: int, each: int) -> list[Any]:
    """The target of each result, one after the other."""
    if isinstance(target, (Tensor, np.ndarray)):
        target = target.tolist()
    several = list(target) if isinstance(target, (list, tuple)) else [target] * (batch // each)
    flat = [one for t in several for one in (t.targets if isinstance(t, Each) else [t])]
    if flat and isinstance(flat[0], Contrast) and not isinstance(target, (list, tuple)) and len(flat) == batch:
        flat = [Contrast(_nth(c.a, i, batch), _nth(c.b, i, batch)) for i, c in enumerate(flat)]
    return flat


def _nth(value: Any, i: int, batch: int) -> Any:
    """A class for all, or one for each example."""
    if isinstance(value, (Tensor, np.ndarray)):
        value = value.tolist()
    return value[i] if isinstance(value, (list, tuple)) and len(value) == batch else value


def _largest(logits: Tensor) -> list[list[int]]:
    """The classes of the largest of logits (example, class): several may be equal; none where one is NaN."""
    found: list[list[int]] = [[] for _ in logits]
    for example, index in (logits == logits.amax(1, keepdim=True)).nonzero().tolist():
        found[example].append(index)
    return found


class _RecomputedScores:
    """Scores made again, example by example; `misnamed` counts names that are those of something else."""

    def __init__(self, subject: Subject, kind: str, labels: Sequence[str] | None, text: TextBatch | None) -> None:
        self._subject, self._kind, self._labels, self._text = subject, kind, labels, text
        asked = subject.bound.task == "question-answering"
        self._answers = answer_logits_of(subject.clean_output, asked=asked)
        try:
            self._logits = None if self._answers is not None else at_least_float32(logits_of(subject.clean_output))
            if self._logits is not None and self._logits.ndim == 2:
                self._logits = self._logits.detach().cpu()
                self._largest = _largest(self._logits)
        except ClewError:
            self._logits = None
        # Lists and numbers are read once: a GPU is waited for each time.
        self._ids: list[list[int]] = [] if text is None else text.input_ids.tolist()
        self._mask: list[list[bool]] = [] if text is None else text.mask.tolist()
        self._kept = kept_rows(subject.constant.get("logits_to_keep"), subject.clean_output)
        self.misnamed = 0

    @property
    def largest_logit(self) -> float:
        """The largest size of a logit, by which rounding of scores is measured."""
        parts = [t for t in (self._logits, *(self._answers or ())) if t is not None]
        return max([LEAST_LOGIT, *(float(t.detach().nan_to_num(neginf=0.0).abs().max()) for t in parts)])

    def of(self, one: Any, i: int, name: str) -> Tensor | None:
        """The score of one result; None where this way knows none."""
        if isinstance(one, Similarity):
            return None
        if self._answers is not None and self._text is not None:
            return self._answer(one, i)
        if self._logits is None:
            return None
        if self._logits.ndim == 2:
            return self._of_classes(one, i // self._subject.each, name)
        return self._of_tokens(one, i, name)

    def _of_classes(self, one: Any, example: int, name: str) -> Tensor | None:
        assert self._logits is not None
        logits = self._logits[example]
        if one is None and name.startswith(("norm of", "feature ")):  # an embedding, which has no classes
            return logits.norm() if name.startswith("norm of") else None
        if isinstance(one, Contrast):
            a, b = self._class(one.a), self._class(one.b)
            self.misnamed += name not in {
                f"{one} rather than {other}" for one, other in zip(self._names(a), self._names(b), strict=True)
            }
            return self._value(logits, a) - self._value(logits, b)
        if not self._largest[example]:
            return None
        chosen = self._largest[example] if one is None else [self._class(one)]
        self.misnamed += not any(name in self._names(i) for i in chosen)
        return self._value(logits, chosen[0])

    def _of_tokens(self, one: Any, i: int, name: str) -> Tensor | None:
        subject, text = self._subject, self._text
        assert self._logits is not None
        if text is None or subject.target_rows is None:
            return None
        real = self._real(i)
        ids = [self._ids[i][column] for column in real]
        causal, inner = subject.bound.task == "causal-lm", one
        rows, wanted = [len(ids) - 1], list[Any]()
        if isinstance(one, Span):
            places = self._places(one.start, one.stop, one.nth, i, real)
            rows, wanted, inner = [p - 1 for p in places], [ids[p] for p in places], None
        elif isinstance(one, Token):
            rows, inner = self._places(one.where, None, one.nth, i, real)[:1], one.target
        slots = self._slots(i, rows)
        at = [self._logits[i // subject.each, slot].detach() for slot in slots]
        if wanted:
            values = [self._value(logits, token, log=True) for logits, token in zip(at, wanted, strict=True)]
            total = torch.stack(values).sum()
            return total.exp() if self._kind == "probability" else total
        if isinstance(inner, Contrast):
            a, b = (self._token(t, causal) for t in (inner.a, inner.b))
            return None if a is None or b is None else self._value(at[0], a) - self._value(at[0], b)
        chosen = int(at[0].argmax()) if inner is None else self._token(inner, causal)
        return None if chosen is None else self._value(at[0], chosen)

    def _slots(self, i: int, rows: list[int]) -> list[int]:
        """Where rows of a text are in the output, which may hold some rows only."""
        kept = self._kept
        if kept is None:
            return rows
        if not set(rows) <= set(kept):
            raise CheckFailed(
                "the model was asked for other rows of the text than the target reads", expected=rows, got=kept
            )
        return [kept.index(row) for row in rows]

    def _real(self, i: int) -> list[int]:
        """Columns of the tokens of a text."""
        return [column for column, there in enumerate(self._mask[i]) if there]

    def _places(self, start: Any, stop: Any, nth: int | None, i: int, real: list[int]) -> list[int]:
        assert self._text is not None
        if isinstance(start, str):
            return self._text.find(i, start, nth)
        count = self._text.input_ids.shape[1]
        columns = range(start, start + 1 if stop is None else stop)
        return [real.index(column % count) for column in columns]

    def _token(self, one: Any, causal: bool) -> int | None:
        if isinstance(one, str):
            return self._text.token_id(one) if causal and self._text is not None else self._class(one)
        return int(one)

    def _answer(self, one: Any, i: int) -> Tensor | None:
        assert self._answers is not None and self._text is not None
        if isinstance(one, Span):
            places = self._places(one.start, one.stop, one.nth, i, self._real(i))
        elif self._subject.target_rows is not None:  # the answer that was found best
            places = self._subject.target_rows[i].tolist()
        else:
            return None
        start, end = (at_least_float32(t)[i // self._subject.each].detach() for t in self._answers)
        if self._kind == "logit":
            return start[places[0]] + end[places[-1]]
        total = start.log_softmax(-1)[places[0]] + end.log_softmax(-1)[places[-1]]
        return total.exp() if self._kind == "probability" else total

    def _value(self, logits: Tensor, index: int, *, log: bool = False) -> Tensor:
        if self._kind == "logit":
            return logits[index]
        squash = self._squash(len(logits))
        value = squash(logits)[index]
        return value if self._kind == "probability" and not log else value.log()

    def _squash(self, count: int) -> Callable[[Tensor], Tensor]:
        """Labels that do not exclude each other, and one output, have a sigmoid."""
        config: Any = getattr(self._subject.model, "config", None)
        several = getattr(config, "problem_type", None) == "multi_label_classification"
        several = (several and self._subject.bound.task.endswith("classification")) or (
            self._subject.target.scale == "sigmoid"
        )
        return torch.sigmoid if several or count == 1 else lambda x: x.double().softmax(-1)

    def _class(self, one: Any) -> int:
        if not isinstance(one, str):
            return int(one)
        written = [i for i, label in enumerate(self._labels or ()) if label == one]
        labels = [label.lower() for label in self._labels or ()]
        matches = [i for i, label in enumerate(labels) if label == one.lower()]
        return (written or matches or [i for i, label in enumerate(labels) if one.lower() in label.split(", ")])[0]

    def _names(self, index: int) -> tuple[str, str]:
        """What a class goes by: its label or its number; entries of an embedding are features."""
        known = self._labels and index < len(self._labels)
        return self._labels[index] if known and self._labels else f"class {index}", f"feature {index}"

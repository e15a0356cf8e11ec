"""What is explained: one number per example, made from the model's output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ..errors import TargetError, short_repr
from ..inputs import TextBatch
from ..shapes import at_least_float32
from .answer_spans import best_answers
from .classes import ADVICE, class_index, class_indices, name_of, refuse, refuse_class_target, refuse_probability
from .heads import Head, Scale, log_odds, log_probability_of, probability_of
from .kinds import Contrast, Each, Span, Target, Token
from .outputs import answer_logits_of, logits_of

KINDS = ("logit", "probability", "log_probability")


@dataclass(frozen=True)
class Resolved:
    """A target fixed for one batch: classes `plus` and `minus` (batch, row), or a `function` of the output.

    `kind` is "logit", "probability" (0 to 1) or "log_probability" (in nats), `names` what each is called.
    `slots` (batch, row) are places on the token axis of the output, -1 for none; without it there is no such axis.
    `answer`: classes are the first and the last token of an answer; `advice` is for whoever reads the result. Where
    `each` example of the output has several targets, the batch counts them all. `scale` makes probabilities of logits.
    Of an `embedding` without `plus` the norm is explained.
    """

    kind: str
    names: list[str]
    batch: int
    plus: Tensor | None = None
    minus: Tensor | None = None
    slots: Tensor | None = None
    answer: bool = False
    advice: str = ""
    function: Callable[[Any], Tensor] | None = None
    each: int = 1
    scale: Scale | None = "softmax"
    embedding: bool = False

    @property
    def checks(self) -> dict[str, str]:
        """What a reader of the score has to know: how probabilities were made, and that there are no classes."""
        found: dict[str, str] = {} if self.kind == "logit" else {"probability": str(self.scale)}
        return found | ({"advice": ADVICE} if self.embedding and self.plus is None else {})

    @property
    def per_row(self) -> bool:
        """Whether any selection of examples can be scored; a user's callable gets the whole batch."""
        return self.function is None

    def __call__(self, output: Any, rows: Tensor | None = None) -> Tensor:
        """One score per example of `output`, (batch,), which holds the examples `rows` (all of them, if None).

        Raises `TargetError` where a function gives something else.
        """
        if self.function is not None:
            return _one_per_example(self.function(output), self.batch)
        logits = self._read(output, rows)
        if self.plus is None:
            return torch.linalg.vector_norm(at_least_float32(logits[:, 0]), dim=-1)
        slots = None if self.answer else _some(self.slots, rows)
        counted = None if slots is None else slots >= 0
        score = _pick(logits, _some(self.plus, rows), counted, self.kind, self.scale)
        if self.minus is None:
            return score
        return score - _pick(logits, _some(self.minus, rows), counted, self.kind, self.scale)

    def logits(self, output: Any) -> Tensor | None:
        """The logits that the target is one of: (batch, class), or (batch, row, class) of several rows."""
        if self.function is not None:
            return None
        found = self._read(output, None)
        return found[:, 0] if found.shape[1] == 1 else found

    def _read(self, output: Any, rows: Tensor | None) -> Tensor:
        """Logits (batch, row, class), of all targets of each example of the output."""
        if self.answer:
            return _repeated(_answers(output), self.each)
        return _at(logits_of(output), _some(self.slots, rows), self.each)


def rows_of(target: Target, batch: TextBatch, task: str) -> Tensor | None:
    """Rows of the sequence at which a target is read, (batch, row) with -1 for none, as far as the target says so.

    `task` is "causal-lm", "token-classification" or "question-answering". None where the output tells, or a function
    may read anything. Raises `TargetError` for a target that does not fit the task, and for places that are not there.
    """
    examples = len(batch.input_ids)
    last = (batch.lengths - 1).tolist()
    found: list[list[int]] = []
    for i, one in enumerate(targets_per_example(target, examples)):
        if callable(one):
            return None  # it may read anything
        if isinstance(one, Token) and task in ("causal-lm", "token-classification"):
            found.append(_positions(one.where, None, one.nth, batch, i)[:1])
        elif isinstance(one, Span) and task == "causal-lm":
            places = _positions(one.start, one.stop, one.nth, batch, i)
            if places[0] == 0:
                raise TargetError("the first token is not predicted from anything", expected="tokens after it", got=one)
            found.append([place - 1 for place in places])
        elif isinstance(one, Span) and task == "question-answering":
            places = _positions(one.start, one.stop, one.nth, batch, i)
            found.append([places[0], places[-1]])
        elif task == "causal-lm" and not isinstance(one, (Span, Token)):
            found.append([last[i]])
        elif task == "question-answering" and one is None:
            return None  # the answer is read from the output
        else:
            refuse(one, task)
    longest = max(map(len, found))
    return torch.tensor([rows + [-1] * (longest - len(rows)) for rows in found])


def covered_tokens(span: Any, batch: TextBatch) -> Tensor:
    """Which tokens of each text a `Span` is, or those from a first position up to another, as far as they are there:
    (batch, token) in the order in which the model sees them. Raises `TargetError` for anything else."""
    found = torch.zeros_like(batch.input_ids, dtype=torch.long)
    if isinstance(span, Span):
        found = batch.to_model_order(found)
        for i in range(len(found)):
            found[i, _positions(span.start, span.stop, span.nth, batch, i)] = 1
        return found.bool()
    places: list[Any] = list(cast("Sequence[Any]", span)) if isinstance(span, Sequence) else []
    whole = all(isinstance(place, Integral) for place in places)
    if len(places) != 2 or not whole or not 0 <= places[0] < places[1]:
        raise TargetError("these are no tokens", expected="Span(…), or positions (start, stop)", got=short_repr(span))
    found[:, places[0] : places[1]] = 1
    return batch.to_model_order(found * batch.mask).bool()


def resolve(
    target: Target,
    output: Any,
    batch: int,
    labels: Sequence[str] | None,
    kind: str = "logit",
    *,
    head: Head | None = None,
    text: TextBatch | None = None,
    rows: Tensor | None = None,
    slots: Tensor | None = None,
    answers: bool = False,
) -> Resolved:
    """Fix a target on the clean output of a batch, so that it stays the same however the input is changed.

    `head` says what the output is (default: classes that exclude each other), `kind` what the score is, as in
    `Resolved`.
    Texts whose tokens have outputs of their own: `rows` are those of `rows_of`, `slots` where they are in the output;
    where each example has several targets, `text`, `rows` and `slots` have an entry for each of them. `answers` says
    that the model answers questions.
    Raises `TargetError` for a class that does not exist (with the labels most like it), an unknown kind, and a
    probability of what has none.
    """
    if kind not in KINDS:
        raise TargetError("unknown score", expected=" or ".join(KINDS), got=kind)
    if callable(target) and not isinstance(target, Tensor):
        if kind != "logit":
            raise TargetError("a target function makes its own score", expected="score='logit', the default", got=kind)
        _one_per_example(target(output), batch)
        return Resolved(kind, [getattr(target, "__name__", repr(target))], batch, function=target)
    if text is not None and answer_logits_of(output, asked=answers) is not None:
        each = flatten_targets(target, batch)[1]
        return replace(_answer(output, batch * each, kind, text, rows), each=each)
    logits = logits_of(output).detach()
    if logits.ndim != (2 if slots is None else 3):
        raise TargetError(
            "the model's output is no table of classes",
            expected="logits of shape (batch, class)",
            got=tuple(logits.shape),
            todo="pass a callable as target: output -> Tensor[batch]",
        )
    outputs = logits.shape[-1]
    what, scale = (head or Head()).of(outputs), (head or Head()).scale(outputs)
    if kind != "logit" and scale is None:
        refuse_probability(what, kind)
    if slots is not None and text is not None:
        flat, each = flatten_targets(target, batch)
        found = _of_tokens(flat, _at(logits, slots, each), batch * each, labels, kind, text, slots, rows)
        return replace(found, scale=scale, each=each)
    embedding = what == "embedding" and (labels is None or len(labels) != outputs)
    if embedding:
        if target is None:
            return Resolved(kind, ["norm of the embedding"] * batch, batch, scale=None, embedding=True)
        refuse_class_target(target)
        labels = None
    noun = "feature" if embedding else "class"
    target, count = flatten_targets(target, batch)
    if count > 1:
        logits = logits.repeat_interleave(count, 0)
    if isinstance(target, Sequence) and target and all(isinstance(one, Contrast) for one in target):
        several = cast("Sequence[Any]", target)
        target = Contrast([one.a for one in several], [one.b for one in several])
    elif isinstance(target, Sequence) and any(isinstance(one, Contrast) for one in target):
        raise TargetError("contrasts cannot be mixed with other targets in one batch", expected="contrasts only")
    if isinstance(target, Contrast):
        plus, minus = class_indices(target.a, logits, labels, noun), class_indices(target.b, logits, labels, noun)
        names = [f"{name_of(i, labels, noun)} rather than {name_of(j, labels, noun)}" for i, j in _pairs(plus, minus)]
    else:
        plus, minus = logits.argmax(-1) if target is None else class_indices(target, logits, labels, noun), None
        names = [name_of(i, labels, noun) for i in plus.tolist()]
    found = Resolved(kind, names, batch * count, plus[:, None], None if minus is None else minus[:, None], each=count)
    return replace(found, scale=scale, embedding=embedding)


def flatten_targets(target: Target, batch: int) -> tuple[Target, int]:
    """Targets of all examples one after the other, and how many each of them has: as given, and 1, without `Each`.

    Raises `TargetError` where some examples have more than others.
    """
    several = [target] * batch if isinstance(target, Each) else target
    if not isinstance(several, Sequence) or not any(isinstance(one, Each) for one in several):
        return target, 1
    rows = [list(one.targets) if isinstance(one, Each) else [one] for one in cast("Sequence[Any]", several)]
    if len(rows) != batch or len({len(row) for row in rows}) != 1:
        got = f"{len(rows)} for {batch} examples, of {sorted({len(row) for row in rows})} targets"
        raise TargetError("every example needs equally many targets", expected="one Each(a, b, …) for each", got=got)
    return [one for row in rows for one in row], len(rows[0])


# Outputs of tokens


def _of_tokens(
    target: Target,
    logits: Tensor,
    batch: int,
    labels: Sequence[str] | None,
    kind: str,
    text: TextBatch,
    slots: Tensor,
    rows: Tensor | None,
) -> Resolved:
    """Classes or next tokens at some rows; `logits` (batch, row, class) are those of the rows."""
    ids, classes = text.to_model_order(text.input_ids), logits.shape[-1]
    plus, minus = slots.clone().clamp(min=0).cpu(), None
    names: list[str] = []

    def number(one: int | str) -> int:
        found = class_index(one, labels) if labels is not None or not isinstance(one, str) else text.token_id(one)
        if not 0 <= found < classes:
            raise TargetError("no such class", expected=f"0 to {classes - 1}", got=found)
        return found

    def name(found: int) -> str:
        return name_of(found, labels) if labels is not None else text.name(found)

    best = logits.argmax(-1).cpu()
    for i, one in enumerate(targets_per_example(target, batch)):
        if isinstance(one, Span):
            assert rows is not None
            numbers = ids[i].tolist()
            said = [numbers[row + 1] for row in rows[i].tolist() if row >= 0]
            plus[i, : len(said)] = torch.tensor(said)
            names.append(text.decode(said) if text.decode is not None else f"{len(said)} tokens")
            continue
        inner = one.target if isinstance(one, Token) else one
        if isinstance(inner, Contrast):
            a, b = number(_single(inner.a)), number(_single(inner.b))
            minus = torch.zeros_like(plus) if minus is None else minus
            plus[i, 0], minus[i, 0] = a, b
            names.append(f"{name(a)} rather than {name(b)}")
            continue
        found = int(best[i, 0]) if inner is None else number(_single(inner))
        plus[i, 0] = found
        names.append(name(found) + (f" at {one.where!r}" if isinstance(one, Token) else ""))
    if minus is not None and len([n for n in names if " rather than " in n]) != batch:
        raise TargetError("contrasts cannot be mixed with other targets in one batch", expected="contrasts only")
    device = logits.device
    return Resolved(kind, names, batch, plus.to(device), None if minus is None else minus.to(device), slots.to(device))


def _answer(output: Any, batch: int, kind: str, text: TextBatch, rows: Tensor | None) -> Resolved:
    """An answer in the text: given, or the pair of a start and an end behind it with the largest sum of logits."""
    advice = ""
    if rows is None:
        start, end = (at_least_float32(t.detach()) for t in _starts_and_ends(output))
        rows, advice = best_answers(start, end, text)
    ids = text.to_model_order(text.input_ids)
    said = [ids[i, a : b + 1].tolist() for i, (a, b) in enumerate(rows.tolist())]
    names = [text.decode(s) if text.decode is not None else f"{len(s)} tokens" for s in said]
    return Resolved(kind, names, batch, plus=rows, answer=True, advice=advice)


def targets_per_example(target: Target, batch: int) -> list[Any]:
    """The target of each example, in a list. Raises `TargetError` where a list is given that has another length."""
    if isinstance(target, (Tensor, np.ndarray)):
        target = cast("list[int]", target.tolist())
    if isinstance(target, np.integer):
        target = int(target)
    if isinstance(target, Sequence) and not isinstance(target, str):
        if len(target) != batch:
            raise TargetError("one target per example is needed", expected=f"{batch}", got=f"{len(target)}")
        return list(target)
    return [target] * batch


def _single(one: Any) -> int | str:
    if isinstance(one, np.integer):
        return int(one)
    if isinstance(one, bool) or not isinstance(one, (int, str)):
        raise TargetError("a class or token is a number or a word", expected="int or str", got=short_repr(one))
    return one


def _positions(start: int | str, stop: int | None, nth: int | None, batch: TextBatch, example: int) -> list[int]:
    places = {"start": start, "stop": stop, "nth": nth}
    wrong = {k: v for k, v in places.items() if not (isinstance(v, Integral) or (v is None and k != "start"))}
    if isinstance(start, str):
        wrong.pop("start")
    if wrong or any(isinstance(v, bool) for v in places.values()):
        raise TargetError(
            "a place in a text is words, or a token's position", expected="str or int", got=short_repr(places)
        )
    if isinstance(start, str):
        return batch.find(example, start, nth)
    columns = range(start, start + 1 if stop is None else stop)
    if not columns:
        raise TargetError("this span is empty", expected="start < stop", got=f"Span({start}, {stop})")
    return [batch.position(example, column) for column in columns]


# Scores


def _at(logits: Tensor, slots: Tensor | None, each: int = 1) -> Tensor:
    """Logits (batch · each, row, class) at some rows of an output."""
    if slots is None:
        return _repeated(logits, each)[:, None]
    index = slots.clamp(min=0).to(logits.device)
    if each > 1:  # only the rows that are read of a large vocabulary
        examples = torch.arange(len(index), device=index.device) // each
        return logits[examples[:, None], index]
    return logits.gather(1, index[:, :, None].expand(-1, -1, logits.shape[-1]))


def _repeated(values: Tensor, each: int) -> Tensor:
    return values if each == 1 else values.repeat_interleave(each, 0)


def _answers(output: Any) -> Tensor:
    return torch.stack(_starts_and_ends(output), 1)


def _starts_and_ends(output: Any) -> tuple[Tensor, Tensor]:
    return cast("tuple[Tensor, Tensor]", answer_logits_of(output, asked=True))


def _pick(logits: Tensor, index: Tensor, counted: Tensor | None, kind: str, scale: Scale | None) -> Tensor:
    """The score of classes `index` (batch, row) in `logits` (batch, row, class), over the rows that count."""
    logits, index = at_least_float32(logits), index.to(logits.device)
    if kind == "logit":
        chosen = logits.gather(2, index[:, :, None]).squeeze(2)
    else:
        odds = log_odds(logits, index, scale or "softmax")
        if kind == "probability" and index.shape[1] == 1:  # the derivative of exp(log …) rounds
            return probability_of(odds).flatten()
        chosen = log_probability_of(odds)
    if counted is not None:
        chosen = chosen * counted.to(chosen)
    score = chosen.sum(1)
    return score.exp() if kind == "probability" else score


def _one_per_example(score: Any, batch: int) -> Tensor:
    if not isinstance(score, Tensor) or score.shape != (batch,) or not score.is_floating_point():
        got = f"{score.dtype} of shape {tuple(score.shape)}" if isinstance(score, Tensor) else type(score).__name__
        expected = f"a floating point tensor of shape ({batch},)"
        raise TargetError("the target function must return one number per example", expected=expected, got=got)
    return score


def _some(values: Tensor | None, rows: Tensor | None) -> Any:
    return values if values is None or rows is None else values[rows.to(values.device)]


def _pairs(a: Tensor, b: Tensor) -> list[tuple[int, int]]:
    return list(zip(a.tolist(), b.tolist(), strict=True))

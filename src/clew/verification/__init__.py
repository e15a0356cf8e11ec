"""What is verified about every result: each step against something independent of it.

The references are the model's own call and attention output, gradients seen by hooks, and sums computed directly. A
result that disagrees is not returned: an error says what disagrees, and by how much.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..draw import Picture
from ..errors import CheckFailed
from ..inputs import TextBatch
from ..seam import is_quantized, kernel_difference, original
from ..seam.twin import twin
from ..subject import Discrepancy, Result, Subject
from .attention import check_attention, check_chain, check_gradients, check_projection, check_readout
from .placement import check_patches, check_pixels, check_text_placement, check_tokenization, padding_share
from .relevance import check_relevance
from .rounding import rounds_to_tf32
from .streams import unseen_operations, verify_streams
from .target import check_target
from .user_call import UserCall, compare_forward, strings_of
from .windows import verify_windows

__all__ = [
    "ResultToVerify",
    "UserCall",
    "check_pixels",
    "rounds_to_tf32",
    "unseen_operations",
    "verify_result",
    "verify_streams",
    "verify_windows",
]

_turn = itertools.count()


@dataclass(frozen=True)
class ResultToVerify:
    """A result on its way out, and what it was made of.

    `asked` are the method's options as given, `target` and `kind` what was to be explained, `names` and `score` what
    the result says was; `placed` are its scores over tokens or patches as they will be handed out. Of pictures
    `pictures` with their `preprocess`, where the model's input was made from them, `grid` and `patch`.
    """

    method: str
    asked: Mapping[str, Any]
    target: Any
    kind: str
    result: Result
    names: Sequence[str]
    score: Tensor
    labels: Sequence[str] | None
    placed: Tensor
    text: TextBatch | None = None
    pictures: Sequence[Picture] = ()
    preprocess: Any = None
    grid: tuple[int, int] | None = None
    patch: tuple[int, int] | None = None
    quantised: bool = False


def verify_result(subject: Subject, call: UserCall, made: ResultToVerify, *, again: bool = False) -> dict[str, Any]:
    """What was verified, as numbers for `checks`. Raises `CheckFailed` where something disagrees."""
    found: dict[str, Any] = {}
    measured = [*subject.measured, *_all(subject, made)]
    text = None if made.text is None else made.text.once(subject.each)
    if text is not None:
        strings = strings_of(call.inputs)
        measured += check_tokenization(text, subject.given, strings, call.tokenizer)
    own = compare_forward(call, subject, text, again=again)
    if own is not None:
        found["forward_difference"] = own.difference
        found |= own.told
        measured += [own.measured] if own.measured is not None else []
    errors = torch.stack([m.error.detach().cpu().double() for m in measured]).tolist()
    worst: dict[str, float] = {}
    wrong: list[tuple[float, Discrepancy]] = []
    for error, one in zip(errors, measured, strict=True):
        if error > one.allowed:
            wrong.append((error, one))
        if one.name in _NUMBERS and error == error:
            worst[one.name] = max(worst.get(one.name, 0.0), error)
    if wrong:
        _refuse(made.method, wrong)
    found |= {f"{name.replace(' ', '_')}_error": value for name, value in worst.items()}
    if made.text is not None and not bool(made.text.mask.all()):
        found["padding_share"] = padding_share(made.text, made.result)
    found["verified"] = ", ".join(dict.fromkeys(m.name for m in measured))
    subject.traces.clear()
    subject.relevance.clear()
    return found


# Discrepancies whose size is reported in `checks`, not only that they are small.
_NUMBERS = ("attention", "attention gradient", "path")


def _refuse(method: str, wrong: list[tuple[float, Discrepancy]]) -> None:
    seen: dict[str, tuple[float, Discrepancy]] = {}
    for error, one in wrong:
        if one.words not in seen or error > seen[one.words][0]:
            seen[one.words] = error, one
    lines = [f"{one.words}: {error:.3g}, allowed {one.allowed:.3g}" for error, one in list(seen.values())[:4]]
    raise CheckFailed(
        f"the result of {method} cannot be trusted: " + ", ".join(dict.fromkeys(one.name for _, one in wrong)),
        expected="agreement to rounding",
        got="; ".join(lines),
        todo="run clew.doctor(model), which tells where a declaration or a model departs; "
        "checks='off' gives the result all the same",
    )


def _all(subject: Subject, made: ResultToVerify) -> Iterator[Discrepancy]:
    yield from check_readout(subject)  # which sees a gradient, where the method needed none
    yield from check_attention(subject)
    yield from check_chain(subject)
    yield from check_gradients(subject)
    yield from check_projection(subject)
    yield from check_relevance(subject, made.result, made.method, made.asked)
    yield from check_target(subject, made.target, made.kind, made.score, made.names, made.labels, made.text)
    yield from _placed(subject, made)
    yield from _quantised(subject, made)


def _placed(subject: Subject, made: ResultToVerify) -> Iterator[Discrepancy]:
    if made.text is not None:
        yield from check_text_placement(made.text, made.result, made.placed)
        return
    pixels = made.result.pixels
    if pixels is not None and made.grid is not None and made.patch is not None:
        yield from check_patches(pixels.detach(), made.placed, made.grid, made.patch)
    elif made.result.scores is not None:
        scores = made.result.scores.detach()[:, subject.bound.prefix :]
        yield Discrepancy.of("placement", scores, made.placed, "scores of patches, as the method gave them")
    if made.preprocess is not None:
        yield from check_pixels(subject.given, made.pictures, made.preprocess)


def _quantised(subject: Subject, made: ResultToVerify) -> Iterable[Discrepancy]:
    if made.quantised:
        layers = [part for part in subject.model.modules() if is_quantized(part)]
        layer = layers[next(_turn) % len(layers)]
        words = "a quantised layer in floats, against its own kernel"
        yield Discrepancy("quantised weights", kernel_difference(twin(original(layer), as_is=True)), 0.03, words)

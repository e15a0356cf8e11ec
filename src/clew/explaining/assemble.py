"""From what a method returned to an attribution: checked, normalised if asked for, with what belongs to the input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attributions import Attribution, ImageAttribution, TextAttribution, normalized, normalized_pixels, require_range
from ..errors import InputError, OptionError
from ..inputs import TextBatch
from ..seam import quantized_layers
from ..subject import Result, Subject, repeated
from ..targets import logits_of
from ..verification import ResultToVerify, UserCall, verify_result
from ..verification.thread_state import verifying
from ..version import __version__
from .prepare import PreparedBatch

# Details whose last axis does not run over tokens.
_OVER_OTHERS = ("head_importance", "path_scores")


@dataclass(frozen=True)
class Settings:
    """What `explain` was asked for beside the method's own options."""

    checks: str = "default"
    details: bool = False
    normalize: str | None = None
    zero_cls: bool | str = False

    def __post_init__(self) -> None:
        if self.checks not in ("default", "full", "off"):
            raise OptionError("unknown checks", expected="default, full or off", got=self.checks)
        require_range(self.normalize)
        if self.zero_cls not in (True, False, "min"):
            raise OptionError("unknown zero_cls", expected="True, False or 'min'", got=self.zero_cls)


@dataclass(frozen=True)
class Request:
    """What `explain` was asked: the model and input as they were given, the target, and the method's options."""

    call: UserCall
    target: Any
    options: Mapping[str, Any]


def attribution_of(
    ready: PreparedBatch, subject: Subject, method: str, result: Result, settings: Settings, request: Request
) -> Attribution:
    """The attribution, verified. Raises `InputError` where scores are not those of the model's tokens, `CheckFailed`
    where something that it is made of disagrees with something independent."""
    make = _of_images if ready.text is None else _of_texts
    return make(ready, subject, method, result, settings, request)


def _of_images(
    ready: PreparedBatch, subject: Subject, method: str, result: Result, settings: Settings, request: Request
) -> Attribution:
    bound, x, grid = ready.bound, subject.x, subject.grid()
    size = x.shape[-2], x.shape[-1]
    patch = _patch_size(bound.patches, size, grid)
    if result.pixels is not None:
        scores = F.pad(_patch_sums(result.pixels, grid, patch), (bound.prefix, 0))
    else:
        scores = _scores(method, result)
    tokens = bound.prefix + grid[0] * grid[1]
    if scores.shape != (subject.batch, tokens):
        raise InputError(
            f"{method} gave scores for other tokens than the model has",
            expected=f"(batch, token) = {(subject.batch, tokens)}: {bound.prefix} prefix tokens, {grid} patches",
            got=tuple(scores.shape),
            todo="give a number for each token, those before the patches (CLS) first, 0 where there is nothing to say: "
            "subject.length is how many, or give pixels, of which they are made: Result(pixels=…). Where the method is "
            "clew's own, correct `prefix` or `patches` in the declaration of the model",
        )
    common = _common(ready, subject, method, result, settings)
    shown: dict[str, Any] = {"pictures": ready.pictures, "preprocess": ready.preprocess, "grid": grid, "patch": patch}
    made = _made(ready, subject, method, result, request, common, placed=scores[:, bound.prefix :], **shown)
    checks = _checked(subject, scores, settings, request, made)
    checks["prefix_share"] = _share(scores, scores[:, : bound.prefix])
    if settings.zero_cls and bound.prefix:
        scores = _without_first(scores, settings.zero_cls)
    return ImageAttribution(
        all_scores=normalized(scores.detach(), scores[:, bound.prefix :].detach(), settings.normalize),
        prefix=bound.prefix,
        patch_grid=grid,
        patch_size=patch,
        input_size=size,
        logits=_repeated_logits(subject),
        pixels=None if result.pixels is None else normalized_pixels(result.pixels.detach(), settings.normalize),
        pictures=[picture for picture in ready.pictures for _ in range(subject.each)],
        maps_per_image=subject.each,
        details={k: v.detach() for k, v in result.details.items()} if settings.details else {},
        checks=_joined(checks, result.checks),
        **common,
    )


def _of_texts(
    ready: PreparedBatch, subject: Subject, method: str, result: Result, settings: Settings, request: Request
) -> Attribution:
    assert ready.text is not None
    text = ready.text.repeated(subject.each)
    scores = _scores(method, result).detach()
    if scores.shape != (len(text.order), text.length):
        raise InputError(
            f"{method} gave scores for other tokens than the text has",
            expected=f"(batch, token) = {(len(text.order), text.length)}",
            got=tuple(scores.shape),
        )
    scores = text.to_given_order(scores)
    common = _common(ready, subject, method, result, settings)
    made = _made(ready, subject, method, result, request, common, placed=scores, text=text)
    checks = _checked(subject, scores, settings, request, made)
    special = text.special.to(scores.device)
    checks["special_share"] = _share(scores, scores * special)
    checks |= text.checks
    if settings.zero_cls:
        first = text.order[:, :1].to(scores.device)
        least = scores.masked_fill(~text.mask.to(scores.device), torch.inf).amin(1, keepdim=True)
        scores = scores.scatter(1, first, least if settings.zero_cls == "min" else torch.zeros_like(least))
    real = scores.masked_fill(~text.mask.to(scores.device), torch.nan)
    logits = subject.target.logits(subject.clean_output)
    return TextAttribution(
        all_scores=normalized(scores, real, settings.normalize).masked_fill(~text.mask.to(scores.device), 0.0),
        input_ids=text.input_ids,
        mask=text.mask,
        special=text.special,
        tokens=text.tokens,
        texts=text.texts,
        offsets=text.offsets,
        logits=None if logits is None else logits.detach(),
        details=_restored(result.details, text) if settings.details else {},
        checks=_joined(checks, {"advice": said} if (said := subject.target.advice) else {}, result.checks),
        **common,
    )


def _joined(*several: Mapping[str, Any]) -> dict[str, Any]:
    """Checks of the input, the target and the method; advice of all."""
    advice = [str(one["advice"]) for one in several if "advice" in one]
    found = {k: v for one in several for k, v in one.items()}
    return found | ({"advice": "; ".join(advice)} if advice else {})


def _restored(details: Mapping[str, Tensor], text: TextBatch) -> dict[str, Tensor]:
    """Details over the tokens as given."""
    found: dict[str, Tensor] = {}
    for name, value in details.items():
        value = value.detach()
        if not text.as_given and name not in _OVER_OTHERS and value.shape[-1] == text.length:
            if name == "attention":
                value = text.to_given_order(value, 2)
            value = text.to_given_order(value, value.ndim - 1)
        found[name] = value
    return found


def _scores(method: str, result: Result) -> Tensor:
    if result.scores is None:
        raise OptionError(f"{method} returned neither scores nor pixels", expected="Result(scores=…) or (pixels=…)")
    return result.scores


def _made(
    ready: PreparedBatch,
    subject: Subject,
    method: str,
    result: Result,
    request: Request,
    common: dict[str, Any],
    **more: Any,
) -> ResultToVerify:
    """What is verified of a result: what was asked, and what the result will say."""
    return ResultToVerify(
        method=method,
        asked=request.options,
        target=request.target,
        kind=subject.target.kind,
        result=result,
        names=common["target"],
        score=common["score"],
        labels=ready.labels,
        **more,
    )


def _checked(
    subject: Subject, scores: Tensor, settings: Settings, request: Request, made: ResultToVerify
) -> dict[str, Any]:
    found: dict[str, Any] = {"non_finite": (~torch.isfinite(scores)).sum(-1), **subject.target.checks}
    if subject.backend is not None:
        found["attention"] = subject.backend
    if packed := quantized_layers(subject.model):
        found["weights"] = f"{packed} quantised layers, explained with their weights in floats"
    if settings.checks != "off":
        made = replace(made, quantised=packed > 0)
        with verifying():
            found |= verify_result(subject, request.call, made, again=settings.checks == "full")
    return found


def _common(ready: PreparedBatch, subject: Subject, method: str, result: Result, settings: Settings) -> dict[str, Any]:
    with torch.no_grad():
        value = subject.score(subject.clean_output)
    asked: dict[str, Any] = {"normalize": settings.normalize, "zero_cls": settings.zero_cls}
    return {
        "method": method,
        "options": {**result.options, "score": subject.target.kind, **{k: v for k, v in asked.items() if v}},
        "target": subject.target.names,
        "score": value.detach(),
        "labels": None if subject.target.embedding else ready.labels,
        "provenance": {
            "model": ready.name,
            "architecture": ready.bound.architecture.name,
            "clew": __version__,
            "torch": torch.__version__,
        },
    }


def _logits(output: Any) -> Tensor | None:
    try:
        return logits_of(output).detach()
    except Exception:
        return None  # a target function may score outputs that have none


def _repeated_logits(subject: Subject) -> Tensor | None:
    logits = _logits(subject.clean_output)
    return logits if logits is None else repeated(logits, subject.each)


def _patch_size(patches: nn.Module, size: tuple[int, int], grid: tuple[int, int]) -> tuple[int, int]:
    """Pixels per patch, down and across: the stride of the patch convolution, or what the grid implies."""
    stride = getattr(patches, "stride", None)
    if isinstance(stride, tuple) and all(abs(n - s * g) < s for n, s, g in zip(size, stride, grid, strict=True)):
        return stride[0], stride[1]
    return max(1, size[0] // grid[0]), max(1, size[1] // grid[1])


def _patch_sums(pixels: Tensor, grid: tuple[int, int], patch: tuple[int, int]) -> Tensor:
    height, width = grid[0] * patch[0], grid[1] * patch[1]
    missing = (0, max(0, width - pixels.shape[-1]), 0, max(0, height - pixels.shape[-2]))
    covered = F.pad(pixels, missing)[:, :height, :width]
    return covered.reshape(-1, grid[0], patch[0], grid[1], patch[1]).sum((2, 4)).flatten(1)


def _share(scores: Tensor, some: Tensor) -> Tensor:
    total = scores.detach().abs().sum(-1)
    return torch.where(total > 0, some.detach().abs().sum(-1) / total, 0.0)


def _without_first(scores: Tensor, how: bool | str) -> Tensor:
    scores = scores.clone()
    scores[:, 0] = scores.amin(1) if how == "min" else 0
    return scores

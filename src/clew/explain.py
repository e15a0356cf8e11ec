"""`explain`: one call from a model and its input to an attribution."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .architectures import Architecture
from .attribution import Attribution
from .borrow import borrowed
from .image_attribution import ImageAttribution
from .load import LoadedModel
from .methods import find as find_method
from .outputs import logits_of
from .prepare import Prepared, prepare
from .shapes import InputError, OptionError
from .subject import Subject
from .targets import Target, resolve
from .trace import Result

# The difference instrumentation made to the logits, by model and input shape.
_differences: WeakKeyDictionary[nn.Module, dict[Any, float]] = WeakKeyDictionary()


def explain(
    model: nn.Module | LoadedModel,
    inputs: Any,
    *,
    method: str | Callable[..., Any] = "beyond_intuition_token",
    target: Target = None,
    score: str = "logit",
    architecture: Architecture | None = None,
    checks: str = "default",
    details: bool = False,
    normalize: str | None = None,
    zero_cls: bool = False,
    compute_dtype: torch.dtype | None = None,
    show_progress: bool = False,
    **options: Any,
) -> Attribution:
    """Explain a model's output for a batch of images by one method.

    Args:
        model: any supported `nn.Module` in evaluation mode, or what `clew.load` returned.
        inputs: images as the model takes them, `(batch, channel, height, width)` or without batch; a mapping of
            arguments; or, for a loaded model, PIL images, single or in a list.
        method: a name from `clew.methods()`, an entry of it, or a function like those.
        target: None (the predicted class), an index, a label, one of these per example, `Contrast(a, b)`, or a
            callable `output -> Tensor[batch]`.
        score: explain the logit, the probability or the log-probability of the target.
        architecture: a declaration to use instead of the registered one.
        checks: "default" verifies once per model and input shape that instrumentation leaves the output as it was;
            "full" verifies it again; "off" does not.
        details: keep the method's intermediate results in `Attribution.details`.
        normalize: "minmax" or "max" over the patches of each example, as the papers' code does; default: raw scores.
        zero_cls: set the score of the first prefix token to 0.
        compute_dtype: `torch.float64` explains a copy of the model in double precision; the model stays as it is.
        show_progress: show a progress bar along paths.
        **options: options of the method, see `clew.methods()[name].options`.

    Raises:
        ClewError: a subclass that says what was expected, what came, and what to do.
    """
    chosen = find_method(method)
    if checks not in ("default", "full", "off"):
        raise OptionError("unknown checks", expected="default, full or off", got=checks)
    if normalize not in (None, "minmax", "max"):
        raise OptionError("unknown normalize", expected="minmax or max", got=normalize)
    # Gradients are needed whatever mode the caller is in.
    with torch.inference_mode(False), torch.enable_grad(), _progress(chosen.name, show_progress) as progress:
        ready = prepare(model, inputs, architecture, compute_dtype)
        subject = Subject(
            ready.model,
            ready.bound,
            ready.inputs,
            lambda output: resolve(target, output, ready.batch, ready.labels, score),
            per_row=not callable(target) or isinstance(target, Tensor),
            progress=progress,
            details=details,
            precise=ready.precise,
        )
        grid = subject.grid()
        result = chosen(subject, **options)
        if subject.target is None:
            with torch.no_grad():
                subject.score(subject.forward(), clean=True)
        return _attribution(ready, subject, grid, chosen.name, result, checks, details, normalize, zero_cls)


def _attribution(
    ready: Prepared,
    subject: Subject,
    grid: tuple[int, int],
    method: str,
    result: Result,
    checks: str,
    details: bool,
    normalize: str | None,
    zero_cls: bool,
) -> Attribution:
    bound, x = ready.bound, subject.x
    patch = _patch_size(bound.patches, (x.shape[-2], x.shape[-1]), grid)
    if result.pixels is not None:
        sums = _patch_sums(result.pixels, grid, patch)
        scores = F.pad(sums, (bound.prefix, 0))
    elif result.scores is not None:
        scores = result.scores
    else:
        raise OptionError(f"{method} returned neither scores nor pixels", expected="Result(scores=…) or (pixels=…)")
    tokens = bound.prefix + grid[0] * grid[1]
    if scores.shape != (subject.batch, tokens):
        raise InputError(
            f"{method} gave scores for other tokens than the model has",
            expected=f"(batch, token) = {(subject.batch, tokens)}: {bound.prefix} prefix tokens, {grid} patches",
            got=tuple(scores.shape),
            todo="correct `prefix` or `patches` in the declaration",
        )
    with torch.no_grad():
        value = subject.score(subject.clean_output)
    verified: dict[str, Any] = {
        "non_finite": (~torch.isfinite(scores)).sum(-1),
        "prefix_share": _share(scores, bound.prefix),
    }
    if subject.backend is not None:
        verified["attention"] = subject.backend
    if checks != "off":
        verified["forward_difference"] = _forward_difference(subject, again=checks == "full")
    if zero_cls and bound.prefix:
        scores = scores.clone()
        scores[:, 0] = 0
    common: dict[str, Any] = {"score": subject.target.kind}
    common |= {k: v for k, v in (("normalize", normalize), ("zero_cls", zero_cls)) if v}
    return ImageAttribution(
        all_scores=_normalized(scores.detach(), bound.prefix, normalize),
        prefix=bound.prefix,
        patch_grid=grid,
        patch_size=patch,
        input_size=(x.shape[-2], x.shape[-1]),
        method=method,
        options={**result.options, **common},
        target=subject.target.names,
        score=value.detach(),
        logits=_logits(subject.clean_output),
        pixels=None if result.pixels is None else result.pixels.detach(),
        labels=ready.labels,
        checks={**verified, **result.checks},
        details={k: v.detach() for k, v in result.details.items()} if details else {},
        pictures=ready.pictures,
        provenance={
            "model": ready.name,
            "architecture": bound.architecture.name,
            "clew": _version(),
            "torch": torch.__version__,
        },
    )


@cache
def _version() -> str:
    return metadata.version("clew")


def _forward_difference(subject: Subject, *, again: bool) -> float:
    """Largest change that instrumenting every block makes to the logits; measured once per model and input shape."""
    key = (
        subject.bound.architecture.name,
        subject.backend,
        tuple(subject.x.shape),
        subject.x.dtype,
        subject.precise,
        str(subject.x.device),
    )
    known = _differences.setdefault(subject.model, {})
    if again or key not in known:
        with torch.no_grad(), borrowed(subject.model):
            plain = _logits(subject.forward())
            seen = _logits(subject.run(range(subject.last + 1), hidden=range(subject.last + 1)).output)
        known[key] = 0.0 if plain is None or seen is None else float((plain - seen).abs().max())
    return known[key]


def _logits(output: Any) -> Tensor | None:
    try:
        return logits_of(output).detach()
    except Exception:
        return None  # a target function may score outputs that have none


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


def _share(scores: Tensor, prefix: int) -> Tensor:
    size = scores.detach().abs()
    total = size.sum(-1)
    return torch.where(total > 0, size[:, :prefix].sum(-1) / total, 0.0)


def _normalized(scores: Tensor, prefix: int, how: str | None) -> Tensor:
    if how is None:
        return scores
    patches = scores[:, prefix:]
    if how == "max":
        low, span = 0.0, patches.abs().amax(-1, keepdim=True)
    else:
        low = patches.amin(-1, keepdim=True)
        span = patches.amax(-1, keepdim=True) - low
    return torch.where(span > 0, (scores - low) / span, 0.0)  # a constant map becomes zeros


@contextmanager
def _progress(name: str, show: bool) -> Generator[Callable[[int, int], None] | None]:
    if not show:
        yield None
        return
    from rich.progress import Progress

    with Progress(transient=True) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)

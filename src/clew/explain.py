"""`explain`: one call from a model and its input to an attribution."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from .architectures import Architecture, Bound
from .architectures import find as find_architecture
from .attribution import Attribution
from .images import picture_of
from .load import LoadedModel
from .methods import find as find_method
from .plots import Picture
from .seam import borrowed
from .shapes import InputError, OptionError
from .targets import Target, resolve
from .trace import Result, Subject, logits_of, reject_nan

# The difference instrumentation made to the logits, by model and input shape.
_differences: WeakKeyDictionary[nn.Module, dict[Any, float]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Prepared:
    """A model ready to be explained on a batch: what `subject` needs, and what drawing needs."""

    model: nn.Module
    bound: Bound
    inputs: dict[str, Tensor]
    labels: Sequence[str] | None
    pictures: Sequence[Picture]
    name: str


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
    show_progress: bool = False,
    **options: Any,
) -> Attribution:
    """Explain a model's output for a batch of images by one method.

    Args:
        model: any supported `nn.Module` in evaluation mode, or what `clew.load` returned.
        inputs: images as the model takes them, `(batch, channel, height, width)` or without batch; a mapping of
            arguments; or, for a loaded model, PIL images or paths, single or in a list.
        method: a name from `clew.methods()`, or a function like those.
        target: None (the predicted class), an index, a label, one of these per example, `Contrast(a, b)`, or a
            callable `output -> Tensor[batch]`.
        score: explain the logit, the probability or the log-probability of the target.
        architecture: a declaration to use instead of the registered one.
        checks: "default" verifies once per model and input shape that instrumentation leaves the output as it was;
            "full" verifies it again; "off" does not.
        details: keep the method's intermediate results in `Attribution.details`.
        normalize: "minmax" or "max" over the patches of each example, as the papers' code does; default: raw scores.
        zero_cls: set the score of the first prefix token to 0.
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
    ready = prepare(model, inputs, architecture)
    with _progress(chosen.name, show_progress) as progress:
        subject = Subject(
            ready.model,
            ready.bound,
            ready.inputs,
            lambda output: resolve(target, output, ready.labels, score),
            per_row=not callable(target) or isinstance(target, Tensor),
            progress=progress,
        )
        grid = subject.grid()
        result = chosen(subject, **options)
    if subject.clean_output is None:
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
    common = {"score": subject.target.kind} | ({"normalize": normalize} if normalize else {})
    return Attribution(
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
            "clew": metadata.version("clew"),
            "torch": torch.__version__,
        },
    )


def prepare(model: nn.Module | LoadedModel, inputs: Any, architecture: Architecture | None = None) -> Prepared:
    """Check a model and its inputs, and bring the inputs to the model's device and dtype."""
    loaded = model if isinstance(model, LoadedModel) else None
    module = unwrap(loaded.model if loaded is not None else model)
    if module.training:
        raise InputError(
            f"{type(module).__name__} is in training mode, so dropout makes every pass different",
            expected="a model in evaluation mode",
            got="model.training == True",
            todo="call model.eval()",
        )
    bound = (architecture or find_architecture(module)).bind(module)
    tensors, pictures = _as_tensors(inputs, loaded, bound)
    like = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
    moved = {
        name: value.to(like.device, like.dtype if value.is_floating_point() else None)
        for name, value in tensors.items()
    }
    name = loaded.name if loaded is not None else type(module).__name__
    labels = loaded.labels if loaded is not None else _labels(module)
    moved = {k: v.clone() if v.is_inference() else v.detach() for k, v in moved.items()}
    return Prepared(module, bound, moved, labels, pictures, name)


def unwrap(model: Any) -> nn.Module:
    """The module inside `torch.compile`, `DataParallel` and the like."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            inner = model.module  # pyright: ignore[reportUnknownMemberType]
        if inner is None:
            break
        model = inner
    if not isinstance(model, nn.Module):
        raise InputError("this is no model", expected="a torch.nn.Module or a model from clew.load", got=type(model))
    return model


def _as_tensors(inputs: Any, loaded: LoadedModel | None, bound: Bound) -> tuple[dict[str, Tensor], Sequence[Picture]]:
    name = bound.architecture.input_name or ""
    if isinstance(inputs, Mapping):
        given = {str(k): v for k, v in inputs.items() if v is not None}
        if not given or not all(isinstance(v, Tensor) for v in given.values()):
            raise InputError("a mapping of inputs holds tensors", got={k: type(v).__name__ for k, v in given.items()})
        main = given.get(name, next(iter(given.values())))
        _check_image(main, bound)
        return given, [picture_of(image) for image in main]
    if isinstance(inputs, Tensor):
        batch = inputs[None] if inputs.ndim == 3 else inputs
        _check_image(batch, bound)
        return {name: batch}, [picture_of(image) for image in batch]
    items = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
    if not items or not all(isinstance(i, Image.Image) for i in items):
        kinds = sorted({type(i).__name__ for i in items}) or ["nothing"]
        raise InputError(
            "these inputs cannot be explained",
            expected="a tensor, a mapping of tensors, or PIL images",
            got=", ".join(kinds),
            todo="open picture files with clew.open_image(path)",
        )
    if loaded is None or loaded.preprocess is None:
        raise InputError(
            "PIL images need the model's own preprocessing",
            expected="a model from clew.load, or a tensor (batch, channel, height, width)",
            got=type(items[0]).__name__,
            todo="load the model with clew.load, or preprocess the images yourself",
        )
    batch, pictures = loaded.preprocess.batch(items)
    _check_image(batch, bound)
    return {name: batch}, pictures


def _check_image(x: Tensor, bound: Bound) -> None:
    channels = getattr(bound.patches, "in_channels", None)
    if x.ndim != 4 or not x.is_floating_point() or 0 in x.shape or (channels and x.shape[1] != channels):
        raise InputError(
            "the input is not a batch of images for this model",
            expected=f"floats of shape (batch, {channels or 'channel'}, height, width), normalised for the model",
            got=f"{x.dtype} of shape {tuple(x.shape)}",
            todo="convert the image to RGB and preprocess it, or pass a PIL image to a model from clew.load",
        )
    reject_nan(x)


def _forward_difference(subject: Subject, *, again: bool) -> float:
    """Largest change that instrumenting every block makes to the logits; measured once per model and input shape."""
    key = (tuple(subject.x.shape), subject.x.dtype, str(subject.x.device))
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


def _labels(model: nn.Module) -> Sequence[str] | None:
    names: Any = getattr(getattr(model, "config", None), "id2label", None)
    return [str(names[i]) for i in sorted(names)] if isinstance(names, Mapping) and names else None


@contextmanager
def _progress(name: str, show: bool) -> Generator[Callable[[int, int], None] | None]:
    if not show:
        yield None
        return
    from rich.progress import Progress

    with Progress(transient=True) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


__all__ = ["explain", "prepare", "unwrap"]

"""`explain`: one call from a model and its input to an attribution."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..attributions import Attribution
from ..errors import ClewError, OptionError
from ..explainers import find_method, parse_method
from ..inputs import column_as_list, refuse_unreadable
from ..models import (
    Architecture,
    LoadedModel,
    architecture_inside,
    as_loaded,
    find_pair,
    is_declared,
    supports_logits_to_keep,
)
from ..progress import progress_bar
from ..seam import in_callers_device, isolated_modes
from ..streams import ModelCall
from ..subject import Subject
from ..targets import Similarity, Target, covered_tokens, flatten_targets, head_of, logits_of, resolve, rows_of
from ..validation import validate_call
from ..verification import UserCall
from .any_model import AnyModel, encoded, explain_any
from .any_target import AskedTarget, resolved_by_function
from .assemble import Request, Settings, attribution_of
from .pair_model import LoadedPair
from .prepare import PreparedBatch, like, prepare, refuse_unexplainable, unwrap
from .similarity import PairExplainer
from .windows import Windows


@validate_call
@isolated_modes()
def explain(
    model: Any,
    inputs: Any,
    *,
    method: str | Callable[..., Any] = "beyond_intuition_token",
    target: Target = None,
    side: str | None = None,
    score: str = "logit",
    architecture: Architecture | None = None,
    at: str | None = None,
    checks: str = "default",
    details: bool = False,
    normalize: str | None = None,
    zero_cls: bool | str = False,
    compute_dtype: torch.dtype | None = None,
    truncate: bool = False,
    window: int | None = None,
    stride: int | None = None,
    show_progress: bool = False,
    **options: Any,
) -> Attribution:
    """Explain a model's output for a batch of images or texts by one method.

    Args:
        model: any `nn.Module` in evaluation mode, what `clew.load` returned, a pipeline of transformers, a
            SentenceTransformer or CrossEncoder. Methods of gradients and LRP need to know nothing of it.
        inputs: what the model takes: a tensor, a mapping of arguments, as a tokenizer gives it, or a tuple of them;
            images as the model takes them, floats `(batch, channel, height, width)` or without batch, of one
            channel also `(batch, height, width)`, as tensor, array or a list of these; token numbers `(batch, token)`,
            also in lists or arrays; a table of pandas; or, for a loaded model, PIL images, arrays of 8 bits `(height,
            width, 3)` in RGB order, strings, pairs of strings (question, context), lists of words, or a chat, a list of
            messages {"role": …, "content": …}; single, in a list, or in a column (Series) of pandas.
        method: a name from `clew.methods()`, or "NAME(option=value, …)", an entry of it, or a function like those.
        target: None (the predicted class, next token or answer; of an embedding its norm), an index, a label,
            `Contrast(a, b)`, of texts also `Span(…)` and `Token(…)`, one of these per example, or a callable
            `output -> Tensor[batch]`. `Each(a, b)` of images: a result for each, one after the other. Image–text
            models: `Similarity(…)`, words that mean it, or `Contrast` of two texts or images.
        side: of image–text models, whether to explain the "image", the "text" or "both"; default: the input's side.
        score: explain the logit, the probability or the log-probability of the target. A probability is a softmax over
            the classes; labels that do not exclude each other (`config.problem_type`) and an only output have a sigmoid
            each; `checks["probability"]` says which. A regression has none.
        architecture: a declaration to use instead of the registered one.
        at: the path of a module: scores are those of its output, instead of the input's.
        checks: "default" verifies each step against something independent of it: the model called as you call it (once
            per model and input shape), its own attention output, gradients, the rows that its head reads, padding, the
            score, where scores are placed; "full" calls the model every time; "off" verifies nothing.
        details: keep the method's intermediate results in `Attribution.details`.
        normalize: "minmax" or "max" over the patches of each example, as the papers' code does, and of methods that
            give pixels over the pixels, too, so that scores and heatmap have that range each; default: raw scores.
        zero_cls: set the score of the first token (CLS, BOS) to 0, or with "min" to the least score.
        truncate: cut strings to the model's positions; `checks` says how much was cut.
        window: explain windows of so many tokens as one text; texts for classifiers only. Scores are means over the
            windows that hold a token.
        stride: tokens from one window to the next; default: half a window.
        compute_dtype: `torch.float64` explains a copy of the model in double precision; the model stays as it is.
        show_progress: show a progress bar along paths.
        **options: options of the method, see `clew.methods()[name].options`.

    Raises:
        CheckFailed: the result would be wrong; says what disagrees with what, and by how much.
        ClewError: another subclass that says what was expected, what came, and what to do.
    """
    inputs, target = column_as_list(inputs), column_as_list(target)
    refuse_unreadable(inputs)
    refuse_unreadable(target, "the target")
    target = in_callers_device(target)
    if isinstance(method, str) and "(" in method:  # as tables and the command line write it
        method, own = parse_method(method)
        options = own | options
    chosen = find_method(method)
    settings = Settings(checks, details, normalize, zero_cls)
    more: dict[str, Any] = {"method": method, "score": score, "checks": checks, "details": details}
    more |= {"compute_dtype": compute_dtype, "show_progress": show_progress, **options}
    model = as_loaded(model)
    module = unwrap(model.model if isinstance(model, LoadedModel) else model)
    refuse_unexplainable(module)
    pair = find_pair(module) if architecture is None else None
    if pair is not None:
        if window is not None or score != "logit":
            todo = "for probabilities explain model.zero_shot(classes)"
            raise OptionError("an image–text model takes neither score nor window", expected="logit", todo=todo)
        more |= {"normalize": normalize, "zero_cls": zero_cls, "truncate": truncate}
        found = model if isinstance(model, LoadedModel) else LoadedPair(module, name=type(module).__name__)
        return PairExplainer(explain, pair, more).of(replace(found, model=module), inputs, target, side)
    if side is not None:
        todo = "leave side out; `clew.load` an image–text model"
        raise OptionError("only image–text models have sides", expected="CLIP and its kin", got=side, todo=todo)
    if window is not None:
        more["architecture"] = architecture
        return Windows(explain, window, stride, more, settings).of(model, inputs, target)
    declared_first = not chosen.any_model or chosen.by_mass
    if architecture is None and at is None and declared_first and not is_declared(module):
        architecture = architecture_inside(module, own_heads=not chosen.by_mass)
    if at is not None or (architecture is None and not is_declared(module)):
        if zero_cls:
            todo = "leave it out; the first token is not known to be one of the model's own"
            raise OptionError("zero_cls is for declared models", expected="False", got=zero_cls, todo=todo)
        with progress_bar(chosen.name, show_progress) as progress:
            anything = AnyModel.of(model, module, inputs, compute_dtype, truncate=truncate)
            return explain_any(anything, chosen, target, score, options, settings, at, progress)
    with progress_bar(chosen.name, show_progress) as progress:
        ready = prepare(
            model, inputs, architecture, compute_dtype, truncate=truncate, gradients=not chosen.without_gradients
        )
        subject = subject_of(ready, target, score, details=details, progress=progress, verify=checks != "off")
        if ready.text is None:
            subject.grid()  # a declaration that does not fit is told before anything runs
        result = chosen(subject, **options)
        if subject.target is None:
            with torch.no_grad():
                subject.score(subject.forward(), clean=True)
        tokenizer = model.tokenizer if isinstance(model, LoadedModel) else None
        call = UserCall(module, inputs, tokenizer, truncate)
        return attribution_of(ready, subject, chosen.name, result, settings, Request(call, target, options))


def subject_of(ready: PreparedBatch, target: Target = None, score: str = "logit", **more: Any) -> Subject:
    """What a method gets: a prepared model and batch, with its target. Raises `TargetError` where that does not fit."""
    task, (flat, each) = ready.bound.task, flatten_targets(target, ready.batch)
    text = None if ready.text is None else ready.text.repeated(each)
    per_row = not isinstance(target, Similarity) and (not callable(target) or isinstance(target, Tensor))
    rows = slots = None
    kept = torch.empty(0)
    if text is not None and task != "classification":
        rows = rows_of(flat, text, task)
    constant: dict[str, Any] = {}
    if rows is not None and task in ("causal-lm", "token-classification"):
        slots = rows
        if task == "causal-lm" and supports_logits_to_keep(
            ready.model
        ):  # a large vocabulary for every token is not needed
            kept = rows[rows >= 0].unique()
            constant["logits_to_keep"] = kept.to(ready.device)

    head, batch, labels = head_of(ready.model, task), ready.batch, ready.labels

    def fix(output: Any) -> Any:
        places = slots
        if places is not None and "logits_to_keep" in constant and _logits_given(output) == len(kept):
            places = torch.where(places >= 0, torch.searchsorted(kept, places.clamp(min=0)), -1)
        more: dict[str, Any] = {"text": text, "rows": rows, "slots": places, "answers": task == "question-answering"}
        embedding = not _has_logits(output) or head.of(logits_of(output).shape[-1]) == "embedding"
        if (
            embedding
            and task == "classification"
            and (_others_fit(target, ready) if not per_row else not _has_logits(output))
        ):
            return resolved_by_function(_asked(ready, target, score), output)
        return resolve(target, output, batch, labels, score, head=head, **more)

    subject = Subject(
        ready.model,
        ready.bound,
        ready.inputs,
        fix,
        per_row=per_row,
        precise=ready.precise,
        frozen=ready.frozen,
        mask=None if text is None or text.has_no_padding else text.to_model_order(text.mask),
        target_rows=rows,
        constant=constant,
        each=each,
        covered=None if text is None else partial(covered_tokens, batch=text),
        **more,
    )
    if ready.bound.readout.is_seen or (rows is None and ready.bound.readout.by_target and not per_row):
        subject.target_rows = _rows_reached(subject)
    return subject


def _others_fit(target: Target, ready: PreparedBatch) -> bool:
    """Whether a target compares with inputs of the same model: words only where it reads words."""
    tokenizer = None if ready.loaded is None else ready.loaded.tokenizer
    words = isinstance(target, Similarity) and any(isinstance(one, str) for one in target.others)
    return isinstance(target, Similarity) and (tokenizer is not None or not words)


def _has_logits(output: Any) -> bool:
    try:
        logits_of(output)
    except ClewError:
        return False
    return True


def _asked(ready: PreparedBatch, target: Target, score: str) -> AskedTarget:
    """A target of a model without a head, whose output is scored as a whole."""
    inputs = {k: v for k, v in ready.inputs.items() if k}
    call = ModelCall.of(ready.model, inputs or next(iter(ready.inputs.values())))

    def encode(other: Any) -> ModelCall:
        own = other if ready.loaded is None else encoded(ready.loaded, other)[0]
        return ModelCall.of(ready.model, own).moved(like(ready.model))

    return AskedTarget(target, score, ready.model, call, None, encode)


def _logits_given(output: Any) -> int | None:
    """For how many tokens the output has logits: a `forward` may not hand on which it is asked for."""
    try:
        found = logits_of(output)
    except ClewError:
        return None
    return found.shape[1] if found.ndim == 3 else None


def _rows_reached(subject: Subject) -> Tensor:
    """Rows of the last attention that reach a score of which nothing is known, (batch, row) with -1 for none."""
    last = subject.last
    trace = subject.run([last], leaf=(last, "o"))
    reached = trace.gradients([(last, "o")])[last, "o"].abs().amax((1, 3)) > 0
    found = [row.nonzero().flatten().tolist() or [0] for row in reached]
    longest = max(map(len, found))
    return torch.tensor([rows + [-1] * (longest - len(rows)) for rows in found])

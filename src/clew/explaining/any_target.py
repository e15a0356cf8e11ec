"""Targets of models of which nothing is declared: classes, next tokens, features, similarities, any function."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..errors import ClewError, TargetError
from ..streams import ModelCall
from ..targets import Head, Resolved, Similarity, Target, flatten_targets, head_of, logits_of, resolve, rows_of
from .next_tokens import in_given_order, steps_without_tokens, written_text

# What outputs call an embedding, (batch, feature), the surest first.
_EMBEDDINGS = ("sentence_embedding", "image_embeds", "text_embeds", "embeddings", "pooler_output")
_STATES = ("last_hidden_state", "token_embeddings")


@dataclass(frozen=True)
class AskedTarget:
    """A target as it was asked for, of one call of a model; `encode` makes the call for another input."""

    target: Target
    score: str
    model: nn.Module
    call: ModelCall
    labels: Sequence[str] | None
    encode: Callable[[Any], ModelCall]
    tokenizer: Any = None


@dataclass(frozen=True)
class AnyTarget:
    """A target of any output: `inner`, of what is `read` of the output; `told` is what a reader has to know."""

    inner: Resolved
    read: Callable[[Any], Any] = lambda output: output
    told: tuple[tuple[str, str], ...] = ()

    def __call__(self, output: Any, rows: Tensor | None = None) -> Tensor:
        """One score per example."""
        return self.inner(self.read(output), rows)

    def logits(self, output: Any) -> Tensor | None:
        """The logits that the target is one of, (batch, class)."""
        return self.inner.logits(self.read(output))

    @property
    def each(self) -> int:
        """How many targets an example has."""
        return self.inner.each

    @property
    def checks(self) -> dict[str, Any]:
        """What a reader of the score has to know."""
        return {**self.inner.checks, **dict(self.told)}


def resolved_by_function(asked: AskedTarget, output: Any) -> Resolved:
    """A target of an output without logits as a function of the whole output."""
    found = resolve_any(asked, output)
    return replace(found.inner, function=lambda output: found(output), plus=None, minus=None, each=1)


def resolve_any(asked: AskedTarget, output: Any) -> AnyTarget:
    """The target, fixed on the first output. Raises `TargetError` that shows the output where it does not say it."""
    target = asked.target
    if isinstance(target, Similarity):
        return _similarity(asked, output, target)
    if callable(target) and not isinstance(target, Tensor):
        made: Any = target(output)
        if not isinstance(made, Tensor) or made.ndim > 1:
            raise _shown(output, "the target function gives no number per example", getattr(made, "shape", made))
        return AnyTarget(resolve(target, output, made.numel(), None, asked.score))
    try:
        logits = logits_of(_only_table(output))
    except ClewError as error:
        found = embedding_of(output, asked.call)
        if found is None:
            what = "the output does not say which of its numbers to explain"
            raise _shown(output, what, type(output).__name__) from error
        return _feature(asked, found)
    if logits.ndim == 1:  # one number for each example
        return AnyTarget(_only_number(asked, logits), lambda output: logits_of(_only_table(output))[:, None])
    if logits.ndim not in (2, 3):
        raise _shown(output, "the output is no table of classes", tuple(logits.shape))
    head = head_of(asked.model, "classification" if logits.ndim == 2 else "causal-lm")
    labels = asked.labels if logits.ndim == 2 and asked.labels and len(asked.labels) == logits.shape[1] else None
    if logits.ndim == 3:
        return _next_tokens(asked, logits, head)

    def read(output: Any) -> Any:
        return logits_of(_only_table(output))

    return AnyTarget(resolve(target, logits, len(logits), labels, asked.score, head=head), read)


def _next_tokens(asked: AskedTarget, logits: Tensor, head: Head) -> AnyTarget:
    """A target of logits (batch, token, class): what comes behind the last token of each text, or tokens of it."""
    batch = len(logits)
    flat, each = flatten_targets(asked.target, batch)
    text = written_text(asked.call, logits.shape, asked.model, asked.tokenizer, flat)

    def read(output: Any) -> Any:
        return logits_of(_only_table(output))

    text = text or steps_without_tokens(logits.shape, asked.tokenizer, flat)
    text = text.repeated(each)
    rows = rows_of(flat, text, "causal-lm")
    assert rows is not None
    slots = in_given_order(text, rows)
    return AnyTarget(
        resolve(asked.target, logits, batch, None, asked.score, head=head, text=text, rows=rows, slots=slots), read
    )


def _only_number(asked: AskedTarget, logits: Tensor) -> Resolved:
    return resolve(asked.target, logits[:, None], len(logits), None, asked.score, head=Head("values"))


def _feature(asked: AskedTarget, found: tuple[Tensor, str]) -> AnyTarget:
    """A feature of an embedding, or its length."""
    embedding, name = found
    resolved = resolve(asked.target, embedding, len(embedding), None, asked.score, head=Head("embedding"))

    def read(output: Any) -> Tensor:
        return cast("tuple[Tensor, str]", embedding_of(output, asked.call))[0]

    return AnyTarget(resolved, read, (("embedding", name),))


def _similarity(asked: AskedTarget, output: Any, target: Similarity) -> AnyTarget:
    """The cosine of an input's embedding with that of another input, or of one for each example."""
    own = _compared(asked, output, asked.call)
    if own is None:
        raise _shown(output, "the output has no embedding to compare", type(output).__name__)
    batch = len(own[0])
    if len(target.others) not in (1, batch):
        expected = f"one other input, or {batch}: one for each example"
        raise TargetError("similarities with several others at once", expected=expected, got=len(target.others))
    with torch.no_grad():
        others = [_embedded(asked, one) for one in target.others]
    reference = torch.cat([other.expand(batch if len(others) == 1 else 1, -1) for other in others])

    def cosine(output: Any) -> Tensor:
        found = cast("tuple[Tensor, str]", _compared(asked, output, asked.call))[0]
        return torch.cosine_similarity(found, reference.to(found), dim=-1)

    names = [f"similarity with {str(one)[:40] if isinstance(one, str) else 'the other'}" for one in target.others]
    resolved = Resolved("logit", names * (batch // len(names)), batch, function=cosine)
    return AnyTarget(resolved, told=(("embedding", own[1]),))


def _compared(asked: AskedTarget, output: Any, call: ModelCall) -> tuple[Tensor, str] | None:
    """The embedding of an output; what a model without a head calls logits is one."""
    logits = _named(output, "logits")
    if isinstance(logits, Tensor) and logits.ndim == 2 and head_of(asked.model).of(logits.shape[1]) == "embedding":
        return logits, "logits of a model without a head"
    return embedding_of(output, call)


def _embedded(asked: AskedTarget, other: Any) -> Tensor:
    call = asked.encode(other)
    found = _compared(asked, asked.model(*call.args, **call.kwargs), call)
    if found is None or len(found[0]) != 1:
        raise TargetError("the other input is no single example", expected="an embedding (1, feature) of it", got=found)
    return found[0].detach()


def embedding_of(output: Any, call: ModelCall) -> tuple[Tensor, str] | None:
    """The embedding (batch, feature) in an output, and what it is in words; None where there is none.

    A tensor (batch, feature); by the names that libraries give it; or the mean of the last hidden states over real
    tokens.
    """
    if isinstance(output, Tensor):
        return (output, "the output") if output.ndim == 2 else None
    for name in _EMBEDDINGS:
        found = _named(output, name)
        if isinstance(found, Tensor) and found.ndim == 2:
            return found, name
    for name in _STATES:
        found = _named(output, name)
        if isinstance(found, Tensor) and found.ndim == 3:
            given = call.tensors()
            mask = next(
                (m for m in (given.get("attention_mask"),) if m is not None and m.shape == found.shape[:2]), None
            )
            weights = torch.ones_like(found[..., 0]) if mask is None else mask.to(found)
            return (found * weights[..., None]).sum(1) / weights.sum(1, keepdim=True), f"the mean of {name}"
    return None


def _named(output: Any, name: str) -> Any:
    if isinstance(output, Mapping):
        return cast("Mapping[str, Any]", output).get(name)
    return getattr(output, name, None)


def _only_table(output: Any) -> Any:
    """The only tensor of an output, where it is one (batch, class) or (batch,); else the output as it is."""
    if isinstance(output, Mapping) and len(cast("Mapping[Any, Any]", output)) == 1:
        only: Any = next(iter(cast("Mapping[Any, Any]", output).values()))
        if isinstance(only, Tensor) and only.ndim in (1, 2):
            return only
    return output


def _shown(output: Any, what: str, got: object) -> TargetError:
    path = next(iter(structure_of(output)), "output").partition(":")[0]
    example = f"target=lambda output: {path}.flatten(1)[:, 0]"
    return TargetError(
        what,
        expected="logits (batch, class) or (batch, token, class), or a function as target",
        got=f"{got}; the output is\n    " + "\n    ".join(structure_of(output)),
        todo=f"pass a function that gives one number per example, such as {example}",
    )


def structure_of(output: Any, path: str = "output") -> list[str]:
    """The tensors of an output: how each is got, its shape and dtype."""
    if isinstance(output, Tensor):
        return [f"{path}: {tuple(output.shape)} {str(output.dtype).removeprefix('torch.')}"]
    if isinstance(output, Mapping):
        items = [(f"{path}[{k!r}]", v) for k, v in cast("Mapping[Any, Any]", output).items()]
    elif hasattr(output, "_fields"):
        items = [(f"{path}.{k}", getattr(output, k)) for k in output._fields]
    elif isinstance(output, (list, tuple)):
        items = [(f"{path}[{i}]", v) for i, v in enumerate(cast("list[Any]", output))]
    else:
        items = [(f"{path}.{k}", v) for k, v in vars(output).items()] if hasattr(output, "__dict__") else []
    return [line for p, v in items for line in structure_of(v, p)][:20]

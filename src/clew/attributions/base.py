"""The result: scores, what was verified about them, and how to keep them. What it looks like depends on the input."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from safetensors.torch import save as save_tensors
from torch import Tensor

from ..draw import Bars
from ..errors import ClewError
from ..files import ANY, Number, write
from ..shapes import Pixels, Scores, at_least_float32
from . import tables
from .exports import Exports
from .saved_fields import SavedFields

FORMAT = "clew-attribution-1"

# What people call a stream, and how models call its argument.
STREAMS = {
    "image": ("pixel_values", "pixel_values_videos"),
    "prompt": ("input_ids",),
    "source": ("input_ids",),
    "text": ("input_ids",),
    "prefix": ("decoder_input_ids",),
    "audio": ("input_features", "input_values"),
}

_kinds: dict[str, type[Attribution]] = {}


@dataclass(frozen=True, kw_only=True)
class Attribution(Exports):
    """Scores of one method for a batch of inputs.

    `all_scores` (batch, token) are signed and never normalised unless asked for. `target` names what was explained,
    `score` is its value, `checks` says what was verified about this very result, `options` and `provenance` say how it
    was made. Images and texts add what belongs to them: `ImageAttribution`, `TextAttribution`.
    """

    all_scores: Scores
    method: str
    options: Mapping[str, Any]
    target: Sequence[str]
    score: Tensor
    logits: Tensor | None = None
    labels: Sequence[str] | None = None
    checks: Mapping[str, Any] = field(default_factory=dict[str, Any])
    details: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    stream: str | None = None  # the name of the input that was explained

    kind: ClassVar[str] = ""
    tensors: ClassVar[tuple[str, ...]] = ("all_scores", "score", "logits")  # fields with an entry for each example
    lists: ClassVar[tuple[str, ...]] = ()
    same: ClassVar[tuple[str, ...]] = ("method",)  # fields that results to be joined must share
    nested: ClassVar[tuple[str, ...]] = ()  # fields that are attributions of as many examples

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        _kinds[cls.kind] = cls

    @property
    def scores(self) -> Scores:
        """(batch, token): the scores of what the input is made of."""
        return self.all_scores

    def __len__(self) -> int:
        return len(self.all_scores)

    @property
    def stream_name(self) -> str:
        """The name of the input that was explained."""
        return self.stream or self.kind

    @property
    def streams(self) -> dict[str, Attribution]:
        """The result of each input, by its name."""
        return {self.stream_name: self}

    def shares(self) -> dict[str, Tensor]:
        """What each stream got of the score, (batch,) each, and what operations kept, by cause.

        Of methods that account for the score (LRP) these add up to it.
        """
        found = {name: part.all_scores.detach().flatten(1).sum(1) for name, part in self.streams.items()}
        leaks = {k.removeprefix("leak_"): v for k, v in self.checks.items() if k.startswith("leak_")}
        rest = {"unexplained": self.checks["unexplained"]} if "unexplained" in self.checks else {}
        return found | leaks | rest

    def __getitem__(self, index: int | slice | str) -> Attribution:
        """One example, or some, as an attribution of its own; by a name the result of one stream."""
        if isinstance(index, str):
            found = (
                index if index in self.streams else next((n for n in STREAMS.get(index, ()) if n in self.streams), "")
            )
            if not found:
                raise ClewError(f"no stream {index!r}", expected=", ".join(self.streams), got=index)
            return self.streams[found]
        chosen = slice(index, index + 1 or None) if isinstance(index, int) else index
        batch = len(self)
        if isinstance(index, int) and not -batch <= index < batch:
            raise IndexError(f"example {index} of {batch}")

        def take(value: Any) -> Any:
            return value[chosen] if isinstance(value, Tensor) and value.ndim and len(value) == batch else value

        return replace(
            self,
            target=self.target[chosen] if len(self.target) == batch else self.target,
            checks={k: take(v) for k, v in self.checks.items()},
            details={k: take(v) for k, v in self.details.items()},
            **{name: take(getattr(self, name)) for name in self.tensors},
            **{name: getattr(self, name)[chosen] for name in self.lists if len(getattr(self, name))},
            **self.inner_fields({name: part[chosen] for name, part in self.inner().items()}),
        )

    def inner(self) -> dict[str, Attribution]:
        """Results of as many examples within this one, by name."""
        return {name: getattr(self, name) for name in self.nested}

    @classmethod
    def inner_fields(cls, inner: Mapping[str, Attribution]) -> dict[str, Any]:
        """Fields that hold results within this one."""
        return dict(inner)

    @classmethod
    def inner_names(cls, saved: SavedFields) -> Sequence[str]:
        """The names of results within a saved one."""
        return cls.nested

    @staticmethod
    def concatenate(parts: Sequence[Attribution]) -> Attribution:
        """Results of one method for several batches as one. Raises `ClewError` where the batches do not match."""
        first = parts[0]
        if any(type(p) is not type(first) for p in parts) or any(
            getattr(p, name) != getattr(first, name) for p in parts for name in first.same
        ):
            raise ClewError("these results cannot be joined", expected="one method, one input size", got=list(parts))
        sizes = [len(p) for p in parts]
        same = all(list(p.labels or ()) == list(first.labels or ()) for p in parts)
        same &= len({None if p.logits is None else p.logits.shape[1:] for p in parts}) == 1  # of as many tokens each
        parts = parts if same else [replace(p, logits=None) for p in parts]
        return replace(
            first,
            labels=first.labels
            if same
            else None,  # image–text models compare each batch with other things, whose logits do not join
            target=[name for p in parts for name in (p.target if len(p.target) == len(p) else [p.target[0]] * len(p))],
            checks={  # a word of advice may be in some parts only
                k: first.join([p.checks[k] for p in parts], sizes, torch.nan)
                if all(k in p.checks for p in parts)
                else value
                for p in reversed(parts)
                for k, value in p.checks.items()
            },
            details={
                k: joined
                for k in first.details
                if (joined := first.join([p.details[k] for p in parts if k in p.details], sizes)) is not None
            },
            **{k: first.join([getattr(p, k) for p in parts], sizes) for k in first.tensors},
            **{k: [one for p in parts for one in getattr(p, k)] for k in first.lists},
            **first.inner_fields({k: Attribution.concatenate([p.inner()[k] for p in parts]) for k in first.inner()}),
        )

    def join(self, values: Sequence[Any], sizes: Sequence[int], room: float = 0.0) -> Any:
        """One field of several results: tensors with an entry for each example one after the other, else the first.

        `room`: what fills up rows that are shorter than others.
        """
        per_example = len(values) == len(sizes) and all(
            isinstance(v, Tensor) and v.ndim and len(v) == n for v, n in zip(values, sizes, strict=True)
        )
        return torch.cat(list(values)) if per_example else values[0]

    def to_numpy(self) -> np.ndarray:
        """`scores` as a NumPy array; of half precision in single."""
        return at_least_float32(self.scores.detach()).cpu().numpy()

    def scored(self, example: int) -> tables.Columns:
        """What one example's scores are of, and last the `score`s themselves: lists of one length, by name."""
        scores = tables.numbers(self.scores[example])
        return {"position": list(range(len(scores))), "score": scores}

    # What only some kinds have

    def heatmap(self) -> Pixels:
        """(batch, height, width) in the frame of the model's input; images only."""
        raise self._lacks("heatmap", "images")

    def words(self, reduce: str = "max", spans: Any = None) -> Any:
        """Scores of words; texts only."""
        raise self._lacks("words", "texts")

    def drawn_over(self, pictures: Any) -> Attribution:
        """The same result, drawn over other pictures: one, or one for each image; of several inputs, the image's.

        Each is a `Picture`, a PIL image or 8 bits (height, width, 3). Raises `ClewError` for results without images.
        """
        inner = self.inner()
        shown = [name for name, part in inner.items() if part.kind == "image"]
        if len(shown) != 1:
            raise self._lacks("one image to draw over", "images")
        return replace(self, **self.inner_fields({**inner, shown[0]: inner[shown[0]].drawn_over(pictures)}))

    def _lacks(self, what: str, kind: str) -> ClewError:
        return ClewError(f"this result has no {what}", expected=f"an attribution of {kind}", got=type(self).__name__)

    # In plain words

    def facts(self, example: int) -> dict[str, str]:
        """What was explained, verified and chosen, in plain words."""
        facts = {"target": f"{self.name_of_target(example)}, score {float(self.score[example]):.4g}"}
        for name, value in self.checks.items():
            shown = value[example] if isinstance(value, Tensor) and value.ndim else value
            facts[name.replace("_", " ")] = _in_words(shown)
        facts["options"] = ", ".join(f"{k}={v}" for k, v in self.options.items()) or "none"
        return facts | {k: str(v) for k, v in self.provenance.items()}

    def name_of_target(self, example: int) -> str:
        """What was explained of one example."""
        return self.target[example] if len(self.target) == len(self) else self.target[0]

    def flow(self) -> list[Bars]:
        """Relevance at each stage, from the input to the output, one chart per example; of LRP methods only."""
        if "relevance_by_stage" not in self.checks:
            return []
        names = self.checks["stages"].split(", ")
        note = (
            "Sums of relevance from the input (below) to the output (above). "
            "They differ by what rules and biases keep, which “what was checked” counts as leaks."
        )
        rows = self.checks["relevance_by_stage"].tolist()
        return [Bars(names, values, "relevance by stage", note) for values in rows]

    def __repr__(self) -> str:
        names = ", ".join(self.target[:3]) + (", …" if len(self.target) > 3 else "")
        return f"{type(self).__name__}({self.method}, {len(self)} examples, {self.shape_in_words()}, target {names})"

    def shape_in_words(self) -> str:
        """How much there is of one example."""
        return f"{self.scores.shape[1]} tokens"

    # Keeping

    def writers(self) -> dict[str, Any]:
        """What makes the content of a file, by suffix."""
        return {".safetensors": self.to_safetensors, **super().writers()}

    def save(self, path: str | Path, *, inputs: Sequence[str] = ()) -> Path:
        """Write a file by its suffix, whole or not at all; `inputs` are names of the examples, for `.csv` and `.json`.

        `.safetensors` holds everything and is read again by `Attribution.load`; `.csv` and `.json` hold the scores of
        every stream with what they are of, `.npy` the array `scores`; others are for looking.
        """
        return write(path, self.named_writers(inputs))

    def to_safetensors(self) -> bytes:
        """Everything, as the bytes of a `.safetensors` file."""
        tensors, meta = self._everything()
        on_disk = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
        return save_tensors(on_disk, {"format": FORMAT, "attribution": json.dumps(meta)})

    def _everything(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All tensors by name, and all that is plain."""
        tensors = {k: v for k in self.tensors if (v := getattr(self, k)) is not None}
        tensors |= {f"details.{k}": v for k, v in self.details.items()}
        tensors |= {f"checks.{k}": v for k, v in self.checks.items() if isinstance(v, Tensor)}
        more, meta = self._to_file()
        meta |= {
            "kind": self.kind,
            "method": self.method,
            "options": self.plain_options(),
            "target": list(self.target),
            "labels": list(self.labels) if self.labels else None,
            "checks": {k: None if isinstance(v, Tensor) else v for k, v in self.checks.items()},  # in their order
            "provenance": dict(self.provenance),
        }
        if self.stream is not None:
            meta["stream"] = self.stream
        for name, part in self.inner().items():
            inner, plain = part._everything()
            more |= {f"{name}/{k}": v for k, v in inner.items()}
            meta[f"{name}/"] = plain
        return tensors | more, meta

    def _to_file(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Tensors and plain values of a kind of its own."""
        return {}, {}

    @classmethod
    def _from_file(cls, saved: SavedFields, batch: int, tokens: int) -> dict[str, Any]:
        """Its fields from what `_to_file` gave, of results of so many tokens."""
        return {}

    @staticmethod
    def load(path: str | Path) -> Attribution:
        """Read what `save("….safetensors")` wrote. Raises `LoadError` for anything else, and for what does not fit
        together."""
        return Attribution._made_of(SavedFields.read(path, FORMAT))

    @staticmethod
    def _made_of(saved: SavedFields, among: int | None = None) -> Attribution:
        """What `_everything` gave, as an attribution; of so many examples, where that is known."""
        kind = saved.value("kind", str, "image")
        if kind not in _kinds:
            raise saved.wrong("kind", ", ".join(filter(None, _kinds)), kind)
        cls, scores = _kinds[kind], saved.tensor("all_scores", "floats", (among, None))
        batch, tokens = map(int, scores.shape)
        target = saved.value("target", [str])
        if len(target) not in (1, batch):
            raise saved.wrong("target", f"{batch} names, or one for all", len(target))
        plain = (None, bool, Number(), str, [ANY], {str: ANY})
        checks: dict[str, Any] = saved.value("checks", {str: plain}) | saved.tensors("checks.")
        stages = checks.get("relevance_by_stage")
        if stages is not None:
            names = checks.get("stages")
            count = names.count(", ") + 1 if isinstance(names, str) else None
            if not isinstance(stages, Tensor) or stages.shape != (batch, count):
                raise saved.wrong(
                    "relevance_by_stage", f"({batch}, {count}), and the names of its stages", f"names {names}"
                )
        made: dict[str, Any] = {
            "all_scores": scores,
            "score": saved.tensor("score", "floats", (batch,)),
            "logits": saved.tensor("logits", "floats", (batch, None), optional=True),
            "method": saved.value("method", str),
            "options": saved.value("options", {str: ANY}),
            "target": target,
            "labels": saved.value("labels", (None, [str])),
            "checks": checks,
            "provenance": saved.value("provenance", {str: ANY}),
            **cls._from_file(saved, batch, tokens),
            **cls.inner_fields({n: Attribution._made_of(saved.inner(n), batch) for n in cls.inner_names(saved)}),
            "stream": saved.value("stream", (None, str), None),
            "details": saved.tensors("details."),
        }
        saved.done()
        return cls(**made)


def _in_words(value: Any) -> str:
    if isinstance(value, Tensor) and value.ndim:
        several = value.flatten().tolist()
        while several and several[-1] != several[-1]:  # room that other examples need
            several.pop()
        return ", ".join(map(_in_words, several))
    value = value.item() if isinstance(value, Tensor) else value
    return f"{value:.3g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)

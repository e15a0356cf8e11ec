"""Flipping of tokens: what happens to the answer while words are pruned, or put back, in the order of their scores?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ... import metrics as measures
from ...attributions import TextAttribution
from ...datasets import Dataset, Example
from ...errors import InputError, OptionError
from ...explaining import position_limit
from ...metrics import flipped_tokens
from ...metrics.curves import TENTHS
from ...models import LoadedModel, find_architecture
from . import (
    Again,
    Batch,
    Benchmark,
    Curve,
    Metric,
    Results,
    Values,
    benchmark,
    label_of,
    mean_of_column,
    needs_probabilities,
    one_of,
)
from .streams import (
    StreamBatch,
    arguments_of,
    logits_without_words,
    refuse_declared,
    stream_of,
    tokenizer_among,
    word_columns,
)
from .texts import BETWEEN, FLIPPED, WATCHED, next_token_logits, shortened, text_of, tokenizer_of, unpadded

STEPS = tuple(np.linspace(0, 1, 11).tolist())  # as released: 0.30000000000000004, of which ceil makes one token more
_GENERATE, _PRUNE = ("generate/most", "generate/least", "prune/least"), ("prune/most", "prune/least")


@dataclass(frozen=True)
class Setting:
    """What a published setting flips and watches.

    `runs`: mode and what comes first. `explain` and `watch`: the "predicted" or the "given" class, or next token;
    `all_classes`: squared errors are of all logits. `magnitudes`: runs that compare scores by their size. `letters`:
    the given answer is a letter, and is watched among the letters. `hits`: whether the watched class is predicted.
    """

    explain: str
    watch: str
    runs: tuple[str, ...] = _GENERATE
    eraser: str = "token"
    all_classes: bool = False
    magnitudes: tuple[str, ...] = ()
    only_correct: bool = False
    hits: bool = False
    released: Mapping[str, Any] | None = None


SETTINGS = {
    "imdb": Setting(
        "predicted", "given", all_classes=True, magnitudes=("generate/least", "prune/least"),
        released={"fractions": STEPS, "pad_to": 512},
    ),
    "arc_easy": Setting("predicted", "predicted", only_correct=True, released={"fractions": STEPS, "pad_to": None}),
    "wikipedia": Setting("predicted", "predicted", released={"fractions": STEPS, "pad_to": None}),
    "movies": Setting(
        "given", "given", _PRUNE, "mask", hits=True,
        released={"fractions": tuple(round(0.52 + 0.02 * i, 2) for i in range(9)), "pad_to": None},
    ),
    "20newsgroups": Setting(
        "given", "given", _PRUNE, "mask", hits=True, released={"fractions": TENTHS, "pad_to": 512}
    ),
}  # fmt: skip


@benchmark(
    name="flipping",
    version=1,
    modality="text",
    paper="Ali et al. 2022, sec. 4; Bakish et al. 2025, sec. 5; Chen et al. 2023, sec. 4.3",
    summary="tokens are pruned, or put back, in the order of their scores, and the answer is watched",
    variants=("beyond_intuition", "pa_lrp"),
)
@dataclass(frozen=True)
class Flipping(Benchmark):
    """Tokens are pruned from a text, or put back into an empty one, in the order of their scores.

    `protocol`: a published setting. "imdb", a classifier: the predicted class is explained, the given one watched, the
    squared error is of all logits, the least relevant are those of the smallest magnitude. "wikipedia", a language
    model: the next token. "arc_easy": the same on prompts, of answers that are right; fixed parts of the prompt stay.
    "movies" and "20newsgroups", a classifier: the given class; tokens are masked. Default: "imdb" for classifiers,
    "wikipedia" for language models.
    `eraser`: a "token" (unknown, or "#"), the attention "mask", or the "zero" embedding. `ranking`: by "value" or
    "magnitude". `answers`: of arc_easy, watch the right letter among the letters, whatever the model would say.
    `max_length`: cut texts to so many tokens. `internal_batch_size`: copies at a time.
    Special tokens and fixed parts of prompts stay, and do not count. The causal mask stays on.
    `variant`: "pa_lrp" flips special tokens and prompts too, and takes the steps of its code, of imdb with padding to
    512 tokens that counts; "beyond_intuition" (movies, 20newsgroups) does, of 20newsgroups with that padding, and sets
    negative scores to 0.
    `stream`: of models of several inputs, of which nothing is declared, the stream whose words are flipped: "prompt",
    "source", "text", "prefix" or the argument's name; all others stay as they are, and so does what a template adds to
    the words. The model's own processor or tokenizer prepares it. Protocol "wikipedia", by a "token" or the "mask".
    """

    later: ClassVar[tuple[str, ...]] = ("stream",)

    protocol: str | None = None
    eraser: str | None = None
    ranking: str | None = None
    fractions: tuple[float, ...] | None = None
    answers: bool = False
    max_length: int | None = None
    internal_batch_size: int = 32
    stream: str | None = None

    @property
    def _setting(self) -> Setting:
        return SETTINGS[self.protocol or "wikipedia"]

    @property
    def _released(self) -> Mapping[str, Any] | None:
        """What the code does that is asked for by the variant: its steps, and the length that it pads texts to."""
        theirs = "beyond_intuition" if self._setting.hits else "pa_lrp"
        return self._setting.released if self.variant == theirs else None

    @property
    def _x(self) -> tuple[float, ...]:
        if self.fractions is not None:
            return self.fractions
        return TENTHS if self._released is None else self._released["fractions"]

    @property
    def metrics(self) -> Sequence[Metric]:
        area = partial(measures.auc, fractions=self._x, span="measured")
        found: list[Metric] = []

        def add(run: str, column: str, name: str, higher: bool, headline: bool = False) -> None:
            mode, order = run.split("/")
            what = (
                f"{WATCHED[column]} while words are {FLIPPED[mode]}, the {order} relevant first: area under that curve"
            )
            found.append(Metric(name, (f"{run}/{column}",), area, higher, headline, what))

        for run in self._setting.runs:
            grows = run in ("generate/most", "prune/least")  # the answer should hold as long as it can
            if self._setting.hits:
                add(run, "hits", f"{run} accuracy AUC", grows, True)
                add(run, "evidence", f"{run} probability AUC", grows)
            elif run == "generate/least":
                add(run, "logit", "generate LERF (logit)", False)
            else:
                mode = run.split("/")[0]
                add(run, "squared_error", f"{mode} AU-MSE", False, True)
                add(run, "evidence", f"{mode} AUAC", True, mode == "prune")
                if mode == "generate":
                    add(run, "logit", "generate MERF (logit)", True)
        if "generate/least" in self._setting.runs:
            both = ("generate/most/logit", "generate/least/logit")
            of = partial(measures.area_between, fractions=self._x)
            found.append(Metric("generate MERF - LERF", both, of, True, True, BETWEEN))
        if self._setting.only_correct or self._setting.watch == "given":
            found.append(Metric("model accuracy", ("correct",), mean_of_column, None, False, "of the intact text"))
        return found

    @property
    def curves(self) -> Sequence[Curve]:
        names = ("hits", "evidence") if self._setting.hits else ("squared_error", "evidence", "logit")
        return [
            Curve(f"{run}: {what.replace('_', ' ')}", (f"{run}/{what}",), np.asarray, self._x, "fraction flipped", what)
            for run in self._setting.runs
            for what in names
        ]

    def fitted(self, loaded: LoadedModel, dataset: Dataset) -> Benchmark:
        if self.stream is not None:
            refuse_declared(loaded, "leave stream out")
        task = "causal-lm" if self.stream is not None else _task(loaded)
        protocol = self.protocol or ("wikipedia" if task == "causal-lm" else "imdb")
        one_of("protocol", protocol, tuple(SETTINGS))
        wanted = "causal-lm" if protocol in ("wikipedia", "arc_easy") else "classification"
        if task != wanted:
            raise OptionError(
                f"protocol {protocol!r} is for other models", expected=wanted, got=f"{loaded.name}: {task}"
            )
        one_of("eraser", self.eraser or "mask", ("token", "mask", "zero"))
        one_of("ranking", self.ranking or "value", ("value", "magnitude"))
        fitted = replace(self, protocol=protocol)
        if self.variant == "beyond_intuition" and not fitted._setting.hits:
            raise OptionError("Beyond Intuition has no such protocol", expected="movies or 20newsgroups", got=protocol)
        if self.answers and protocol != "arc_easy":
            raise OptionError("only arc_easy has answers to choose from", expected="protocol arc_easy", got=protocol)
        if (
            list(fitted._x) != sorted(set(fitted._x))
            or len(fitted._x) < 2
            or not 0 <= fitted._x[0] <= fitted._x[-1] <= 1
        ):
            raise OptionError("steps of flipping", expected="rising fractions from 0 to 1", got=fitted._x)
        complete = replace(fitted, fractions=fitted._x, eraser=self.eraser or fitted._setting.eraser)
        if self.stream is not None:
            self._refuse_for_streams(complete)
            return complete
        needs_probabilities(loaded, task)
        tokenizer_of(loaded)
        longest = position_limit(loaded.model, find_architecture(loaded.model).bind(loaded.model))
        if longest is not None and longest < fitted._padding(0):
            raise OptionError(
                f"variant {self.variant!r} pads texts",
                expected=f"a model of {fitted._padding(0)} positions",
                got=longest,
            )
        return complete

    def _refuse_for_streams(self, fitted: Flipping) -> None:
        """Raise `OptionError` for what only texts have."""
        known = {"protocol": ("wikipedia",), "eraser": ("token", "mask"), "variant": ("paper",), "max_length": (None,)}
        for name, values in known.items():
            if (value := getattr(fitted, name)) not in values:
                raise OptionError(f"streams have no such {name}", expected=" or ".join(map(str, values)), got=value)

    def left_out(self, loaded: LoadedModel, examples: Sequence[Example]) -> list[str | None]:
        watches = self._setting.only_correct and not self.answers
        found: list[str | None] = []
        for example in examples:
            text = self._words_of(example)
            if text is not None and not text.strip():  # 20 Newsgroups without headers and quotes
                found.append("it has no words")
            else:
                found.append(self._wrong_answer(loaded, example) if watches else None)
        return found

    def _wrong_answer(self, loaded: LoadedModel, example: Example) -> str | None:
        text = shortened(loaded, text_of(example), self.max_length)
        token = int(next_token_logits(loaded, text).argmax())
        said = str(loaded.tokenizer.decode([token])).strip()
        right = said[-1:] in example.choices and said[-1:] == str(example.label)
        return None if right else f"answered {said!r}, which is wrong"

    def _words_of(self, example: Example) -> str | None:
        """The words that are flipped."""
        return (example.prefix or "") if self.stream in ("prefix", "decoder_input_ids") else example.text

    def batch(self, loaded: LoadedModel, examples: Sequence[Example]) -> Batch:
        if self.stream is not None:
            return Batch(examples, arguments_of(loaded, examples), {"": None})
        texts = [shortened(loaded, text_of(e), self.max_length) for e in examples]
        targets: Any = None
        if self.answers:
            targets = [letters_of(loaded, e)[str(e.label)] for e in examples]
        elif self._setting.explain == "given":
            targets = [label_of(e) for e in examples]
        return Batch(examples, texts, {"": targets}, more={"truncate": True})

    def measure(self, loaded: LoadedModel, batch: Batch, results: Results, again: Again) -> dict[str, list[Values]]:
        if self.stream is not None:
            return self._measured_stream(loaded, batch, results)
        found: dict[str, list[Values]] = {method: [] for method in results}
        some = next(iter(results.values()))[""]
        for i, example in enumerate(batch.examples):
            ids, special = unpadded(some, i)
            keep = special | _protected(some, i, example, len(ids)) if self.variant == "paper" else special & False
            scores = torch.stack([result[""].scores[i].cpu()[: len(ids)] for result in results.values()]).double()
            attention = torch.ones_like(ids)
            more = self._padding(len(ids))
            scores = scores.clamp(min=0) if self.variant == "beyond_intuition" else scores
            ids, attention, keep = F.pad(ids, (0, more)), F.pad(attention, (0, more)), F.pad(keep, (0, more))
            eraser: Any = unknown_token(loaded) if self.eraser == "token" else self.eraser
            flip = partial(
                measures.flipping, loaded, ids, fractions=self._x, eraser=eraser, attention_mask=attention,
                mask_id=0 if self.variant == "beyond_intuition" else None, internal_batch_size=self.internal_batch_size,
            )  # fmt: skip
            rows = self._rows(flip, F.pad(scores, (0, more)), keep, self._watched(loaded, example))
            for method, row in zip(results, rows, strict=True):
                found[method].append(row)
        return found

    def _measured_stream(self, loaded: LoadedModel, batch: Batch, results: Results) -> dict[str, list[Values]]:
        """Of one stream of a model of several inputs."""
        found: dict[str, list[Values]] = {method: [] for method in results}
        parts = [stream_of(result[""], str(self.stream)) for result in results.values()]
        whole, part = StreamBatch.of(loaded, batch.inputs), parts[0]
        if not isinstance(part, TextAttribution):
            got, todo = part.shape_in_words(), "clew bench perturbation erases pictures and sound"
            raise OptionError("flipping is of words", expected="a stream of words", got=got, todo=todo)
        by = unknown_token(loaded) if self.eraser == "token" else None
        for i, example in enumerate(batch.examples):
            words = (self._words_of(example) or "").split()
            columns = [c for own in word_columns(loaded, part.input_ids[i].tolist(), words) for c in own]
            keep = torch.ones(part.input_ids.shape[1], dtype=torch.bool)
            keep[columns] = False

            def flip(scores: Tensor, erased: Tensor, i: int = i) -> measures.Curves:
                logits = logits_without_words(whole, part, i, erased, by, self.internal_batch_size)
                return measures.Curves(self._x, logits, whole.clean[i].expand(len(erased), -1), whole.scale)

            scores = torch.stack([one.scores[i].cpu() for one in parts]).double()
            for method, row in zip(results, self._rows(flip, scores, keep, (None, None)), strict=True):
                found[method].append(row)
        return found

    def _padding(self, length: int) -> int:
        whole = None if self._released is None else self._released["pad_to"]
        return 0 if whole is None else max(0, whole - length)

    def _rows(
        self,
        flip: Callable[..., measures.Curves],
        scores: Tensor,
        keep: Tensor,
        watch: tuple[int | None, tuple[int, ...] | None],
    ) -> list[Values]:
        """Of one text: the columns of each method, all copies together."""
        runs, m = self._setting.runs, len(scores)
        rounding = "floor" if self._setting.hits else "ceil"
        erased = [
            flipped_tokens(
                scores, keep, self._x, mode=mode, first=order, rounding=rounding,
                ranking=self.ranking or ("magnitude" if f"{mode}/{order}" in self._setting.magnitudes else "value"),
            )
            for mode, order in (run.split("/") for run in runs)
        ]  # fmt: skip
        curves = flip(scores.repeat(len(runs), 1), erased=torch.cat(erased))
        curves = replace(curves, logits=curves.logits.float(), clean=curves.clean.float())
        watched, among = watch
        classes = None if watched is None else torch.tensor([watched] * len(curves.clean), device=curves.clean.device)
        columns: dict[str, Callable[[], Tensor]] = {
            "evidence": lambda: curves.probability(classes, among=among),
            "hits": lambda: curves.hits(classes),
            "logit": lambda: curves.logit(classes),
            "squared_error": lambda: curves.squared_error(all_classes=self._setting.all_classes or self.answers),
        }
        used = ("evidence", "hits") if self._setting.hits else ("evidence", "logit", "squared_error")
        values = {name: columns[name]().T.tolist() for name in used}
        correct = None
        if watched is not None or self._setting.only_correct:
            correct = 1.0 if watched is None else float(_best(curves.clean[0], among) == watched)
        found: list[Values] = []
        for k in range(m):
            row: Values = {} if correct is None else {"correct": correct}
            for r, run in enumerate(runs):
                row |= {f"{run}/{name}": values[name][r * m + k] for name in used}
            found.append(row)
        return found

    def _watched(self, loaded: LoadedModel, example: Example) -> tuple[int | None, tuple[int, ...] | None]:
        """The class or token that is watched (None: what is predicted for the intact text), and among which."""
        if self.answers:
            letters = letters_of(loaded, example)
            return letters[str(example.label)], tuple(letters.values())
        return (label_of(example) if self._setting.watch == "given" else None), None


def _best(logits: Tensor, among: tuple[int, ...] | None) -> int:
    return int(logits.argmax()) if among is None else among[int(logits[list(among)].argmax())]


def _task(loaded: LoadedModel) -> str:
    return find_architecture(loaded.model).bind(loaded.model).task


def unknown_token(loaded: LoadedModel) -> int:
    """The token that stands for none: the tokenizer's unknown one, or else "#"."""
    tokenizer = tokenizer_among(loaded)
    unknown = tokenizer.unk_token_id
    return int(unknown if unknown is not None else tokenizer.convert_tokens_to_ids("#"))


def letters_of(loaded: LoadedModel, example: Example) -> dict[str, int]:
    """The token of each answer's letter, as it follows "Answer:". Raises `InputError` without answers."""
    if not example.choices or str(example.label) not in example.choices:
        raise InputError("this text has no answers to choose from", expected="data like ARC", got=example.id)
    found: dict[str, int] = {}
    for letter in example.choices:
        ids = loaded.tokenizer(f"Answer: {letter}", add_special_tokens=False)["input_ids"]
        found[letter] = int(ids[-1])
    return found


def _protected(result: Any, i: int, example: Example, length: int) -> Tensor:
    """Tokens that cover any character of a part of the text that is to stay."""
    found = torch.zeros(length, dtype=torch.bool)
    offsets: list[list[int]] = [] if result.offsets is None else result.offsets[i].tolist()[:length]
    for column, (start, end) in enumerate(offsets):
        found[column] = any(start < b and end > a for a, b in example.protected)
    return found

"""Attributions of generated text: a matrix of scores, a row for each generated token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from ..draw import Piece, generation_fragment, generation_page, generation_png, terminal, text_fragment
from ..files import Number
from . import tables
from .base import Attribution
from .output_panels import called, cell_of, drawn_below, on_terminal, panel_of, whole_answer
from .saved_fields import SavedFields


@dataclass(frozen=True, kw_only=True, repr=False)
class GenerationAttribution(Attribution):
    """A matrix: `scores` (output, input) of one method for each generated token, over all tokens before it.

    `tokens` are those of the prompt and the answer, of which the first `prompt` are the prompt's; row `i` explains
    token `prompt + i`. Tokens from there on have 0. Together they are the text: a character of several tokens stands at
    the first of them, and the others are empty.

    `inputs`: what other inputs got, by name, for each generated token: `g["image"].heatmap()`, `g["source"].scores`.
    """

    input_ids: Tensor
    tokens: Sequence[str]
    prompt: int
    inputs: Mapping[str, Attribution] = field(default_factory=dict[str, Attribution])

    kind: ClassVar[str] = "generation"
    tensors: ClassVar[tuple[str, ...]] = ("all_scores", "score", "logits")

    @property
    def streams(self) -> dict[str, Attribution]:
        """The result of each input, by its name."""
        return {**self.inputs, self.stream_name: self}

    def inner(self) -> dict[str, Attribution]:
        """Results within this one."""
        return dict(self.inputs)

    @classmethod
    def inner_fields(cls, inner: Mapping[str, Attribution]) -> dict[str, Any]:
        """Fields that hold results within this one."""
        return {"inputs": dict(inner)}

    @classmethod
    def inner_names(cls, saved: SavedFields) -> Sequence[str]:
        """The names of results within a saved one."""
        return saved.value("names", [str], [])

    @property
    def outputs(self) -> Sequence[str]:
        """The generated tokens."""
        return self.tokens[self.prompt :]

    def scored(self, example: int) -> tables.Columns:
        """The tokens before one generated token with their scores."""
        before = self.prompt + example
        return {
            "position": list(range(before)),
            "token": list(self.tokens[:before]),
            "score": tables.numbers(self.scores[example, :before]),
        }

    def total(self) -> Tensor:
        """Scores of the whole answer, (input,): the sum over generated tokens."""
        return self.scores.sum(0)

    def to_html(self) -> str:
        """One self-contained page: choose a generated token and see what it goes back to, or read the matrix.

        Beside the text a panel for each other input: pictures with a heatmap, words, charts of sound.
        """
        facts = {k: v for k, v in self.facts(0).items() if k != "target"}
        others = [panel_of(name, part) for name, part in self.inputs.items()]
        shares = {k: v.double().tolist() for k, v in self.shares().items() if k not in self.inputs}
        parts = {"score": self.score.double().tolist(), "text": shares.pop(self.stream_name)}
        return generation_page(self.method, self.tokens, self.prompt, self._matrix(), facts, others, parts, shares)

    def _matrix(self) -> Any:
        return self.scores.detach().float().cpu().numpy()

    def to_png(self) -> bytes:
        """The matrix as a picture, and below what other inputs got from the whole answer."""
        matrix = generation_png(self.tokens, self.prompt, self._matrix())
        others = {name: whole_answer(part) for name, part in self.inputs.items()}
        return drawn_below(others, [matrix]) if others else matrix

    def to_rich(self, example: int = 0) -> Any:
        """The text in colours for one generated token, as `rich` prints it on a terminal; then the other inputs."""
        scores = self.scores[example].tolist()
        scored = [Piece(t, s, False, (i,)) for i, (t, s) in enumerate(zip(self.tokens, scores, strict=True))]
        text = terminal(scored[: self.prompt + example])
        if not self.inputs:
            return text
        from rich.console import Group
        from rich.text import Text

        shares = {name: float(values[example]) for name, values in self.shares().items()}
        shown: list[Any] = []
        for name, part in self.inputs.items():
            shown += [Text(f"{called(name)} ({shares[name]:+.4g})", style="bold"), *on_terminal(part, example)]
        return Group(*shown, Text(f"text ({shares[self.stream_name]:+.4g})", style="bold"), text)

    def _repr_html_(self) -> str:
        drawn = generation_fragment(self.method, self.tokens, self.prompt, self._matrix())
        if not self.inputs:
            return drawn
        whole = {called(name): whole_answer(part) for name, part in self.inputs.items()}
        return drawn + text_fragment([cell_of(self.method, whole)], charts=True)

    def _repr_png_(self) -> bytes:
        return self.to_png()

    def shape_in_words(self) -> str:
        """How large the matrix is."""
        return f"over {self.scores.shape[1]} tokens"

    def writers(self) -> dict[str, Any]:
        """What makes the content of a file, by suffix."""
        return {".html": self.to_html, ".png": self.to_png, **super().writers()}

    def _to_file(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        plain = {"tokens": list(self.tokens), "prompt": self.prompt}
        return {"input_ids": self.input_ids}, plain | ({"names": list(self.inputs)} if self.inputs else {})

    @classmethod
    def _from_file(cls, saved: SavedFields, batch: int, tokens: int) -> dict[str, Any]:
        names, prompt = saved.value("tokens", [str]), saved.value("prompt", Number(whole=True, least=1))
        if len(names) != tokens:
            raise saved.wrong("tokens", f"{tokens} names", len(names))
        if prompt + batch != tokens:
            raise saved.wrong("prompt", f"{tokens - batch}, so that each token behind it has a row", prompt)
        return {"input_ids": saved.tensor("input_ids", "whole", (tokens,)), "tokens": names, "prompt": prompt}

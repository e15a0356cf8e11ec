"""Attributions of texts: scores of tokens and words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, ClassVar, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from ..draw import Piece, TextCell, latex, layers_png, terminal, text_fragment, text_page
from ..errors import ClewError, OptionError, short_repr
from ..inputs import Spans, Word, score_words, verify_words, word_spans
from . import tables
from .base import Attribution
from .figure_text import texts_png
from .saved_fields import SavedFields


class Ranked(NamedTuple):
    """A token with its score: its column as given, what it looks like, its score."""

    column: int
    token: str
    score: float


@dataclass(frozen=True, kw_only=True, repr=False)
class TextAttribution(Attribution):
    """Scores of one method for a batch of texts.

    `all_scores` (batch, token) are aligned with `input_ids` as given: special tokens included, 0 at padding. `mask`
    says which tokens are no padding, `special` which the tokenizer added, `tokens` what they look like; `offsets`
    (batch, token, 2) are their characters in `texts`, where known.
    """

    input_ids: Tensor
    mask: Tensor
    special: Tensor
    tokens: Sequence[Sequence[str]]
    texts: Sequence[str] = ()
    offsets: Tensor | None = None

    kind: ClassVar[str] = "text"
    tensors: ClassVar[tuple[str, ...]] = (
        "all_scores", "score", "logits", "input_ids", "mask", "special", "offsets",
    )  # fmt: skip
    lists: ClassVar[tuple[str, ...]] = ("tokens", "texts")

    def scored(self, example: int) -> tables.Columns:
        """The tokens of one text with their scores, without padding; `start` and `stop` are their characters."""
        kept = [i for i, real in enumerate(self.mask[example].tolist()) if real]
        found: dict[str, list[Any]] = {
            "position": kept,
            "token": list(self.tokens[example]),
            "special": self.special[example].tolist(),
        }
        if self.offsets is not None and self.texts:
            found["start"], found["stop"] = self.offsets[example].T.tolist()
        found["score"] = tables.numbers(self.scores[example])
        return {k: v if k == "position" else [v[i] for i in kept] for k, v in found.items()}

    # Words and ranks

    def words(self, reduce: str = "max", spans: Sequence[Spans] | None = None) -> list[list[Word]]:
        """The words of each text with their scores: the "max", "sum" or "mean" over the tokens that cover them.

        A word is what stands between white space, or what `spans` says: for each text, first and behind-last
        characters of its words. Special tokens are left out. Raises `ClewError` without offsets.
        """
        if self.offsets is None or not self.texts:
            raise ClewError(
                "the words of these texts are not known",
                expected="texts as strings, and a tokenizer that gives offsets (a fast one)",
                got="token numbers alone" if not self.texts else "a tokenizer without offsets",
                todo="explain strings, with a model from clew.load; token scores are in .scores",
            )
        if spans is not None:
            _refuse_spans(spans, len(self))
        counted = (self.mask & ~self.special).tolist()
        scores, offsets = self.scores.tolist(), [[(a, b) for a, b in row] for row in self.offsets.tolist()]
        found: list[list[Word]] = []
        for i, text in enumerate(self.texts):
            marked = list(text)  # special tokens that are written in the text are no part of its words
            for (a, b), special in zip(offsets[i], self.special[i].tolist(), strict=True):
                marked[a:b] = " " * (b - a) if special else marked[a:b]
            shown = "".join(marked)
            own = word_spans(shown) if spans is None else spans[i]
            found.append(score_words(text, scores[i], offsets[i], counted[i], reduce, own))
            if spans is None:
                verify_words(shown, found[-1], scores[i], offsets[i], counted[i], reduce)
        return found

    def top(self, k: int = 10, *, special: bool = False, absolute: bool = False) -> list[list[Ranked]]:
        """The `k` tokens of each text with the largest scores (or sizes); special tokens only if asked for.

        Of equal scores the earlier token comes first.
        """
        found: list[list[Ranked]] = []
        for i in range(len(self)):
            counted = self.mask[i] if special else self.mask[i] & ~self.special[i]
            columns = counted.nonzero().flatten()
            values = self.scores[i][columns.to(self.scores.device)].cpu()
            order = (values.abs() if absolute else values).sort(descending=True, stable=True).indices[:k]
            names: list[str] = list(self.tokens[i])
            chosen = zip(columns.cpu()[order].tolist(), values[order].tolist(), strict=True)
            found.append([Ranked(column, names[column], value) for column, value in chosen])
        return found

    def pieces(self, example: int) -> list[Piece]:
        """The text of one example cut at its tokens, in order, with what stands between them."""
        spans = None if self.offsets is None or not self.texts else self.offsets[example].tolist()
        text = self.texts[example] if self.texts else ""
        scores, mask, special = self.scores[example].tolist(), self.mask[example].tolist(), self.special[example]
        found, at = list[Piece](), 0
        for column, token in enumerate(self.tokens[example]):
            if not mask[column]:
                continue
            score, added = scores[column], bool(special[column])
            if spans is not None and added and spans[column][1] > at:  # written in the text itself
                found += [Piece(text[at : spans[column][0]])] if spans[column][0] > at else []
                at = spans[column][1]
            if spans is None and added and not token and found:  # one more place of a picture
                shown = found[-2]
                found[-2] = Piece(shown.text, (shown.score or 0) + score, True, (*shown.columns, column))
                continue
            if spans is None or added or spans[column][0] == spans[column][1]:
                found += [Piece(token, score, added, (column,)), *([Piece(" ")] if spans is None else [])]
                continue
            start, stop = spans[column]
            k = next((k for k in reversed(range(len(found))) if found[k].columns and not found[k].special), None)
            if stop <= at and k is not None:  # several tokens of one character
                last = found[k]
                found[k] = Piece(last.text, (last.score or 0) + score, False, (*last.columns, column))
                continue
            if start > at:
                found.append(Piece(text[at:start]))
            piece = text[max(at, start) : stop]
            word = piece.lstrip() or piece  # byte-level tokens begin with the space before them, which has no colour
            if word != piece:
                found.append(Piece(piece[: -len(word)]))
            found.append(Piece(word, score, False, (column,)))
            at = stop
        found = [*found, Piece(text[at:])] if spans is not None and at < len(text) else found
        return self._marked_cuts(example, found)

    def _marked_cuts(self, example: int, pieces: list[Piece]) -> list[Piece]:
        """The same, with what the model did not see as the number of its characters."""
        cut = self.checks.get("characters_cut")
        count = int(cut[example]) if isinstance(cut, Tensor) else 0
        told = Piece(f" … ({count:,} characters cut) ")
        return [told if 0 < count <= len(p.text) and p.score is None else p for p in pieces]

    # Looking

    def cells(self) -> list[TextCell]:
        """One cell per text, for a page."""
        return [
            TextCell(self.method, self.name_of_target(i), self.pieces(i), self.facts(i), self._charts(i), flow)
            for i, flow in enumerate(self.flow() or [None] * len(self))
        ]

    def _charts(self, example: int) -> list[tuple[str, bytes]]:
        layers = self.position_by_layer()
        if layers is None:
            return []
        real = self.mask[example].to(layers.device)
        names = [t for t, kept in zip(self.tokens[example], real.tolist(), strict=True) if kept]
        heat = layers[example][:, real].detach().float().cpu().numpy()
        return [("relevance of positions, by block", layers_png(heat, names))]

    def position_by_layer(self) -> Tensor | None:
        """Relevance of positions (batch, layer, token), signed; of LRP methods, with `details=True`."""
        return self.details.get("position_by_layer")

    def to_html(self) -> str:
        """One self-contained HTML page."""
        return text_page(f"clew: {self.method}", [[cell] for cell in self.cells()])

    def to_png(self) -> bytes:
        """The texts in colours as a picture, each with its target."""
        count = range(len(self))
        return texts_png([[self.pieces(i) for i in count]], [self.name_of_target(i) for i in count], [self.method])

    def to_latex(self) -> str:
        """A LaTeX document of coloured words, for xelatex or lualatex."""
        return latex(self.cells())

    def to_rich(self, example: int = 0) -> Any:
        """The text of one example in colours, as `rich` prints it on a terminal."""
        return terminal(self.pieces(example))

    def _repr_html_(self) -> str:
        return text_fragment(self.cells())

    # Keeping

    def writers(self) -> dict[str, Any]:
        """What makes the content of a file, by suffix."""
        return {".html": self.to_html, ".png": self.to_png, ".tex": self.to_latex, **super().writers()}

    def join(self, values: Sequence[Any], sizes: Sequence[int], room: float = 0.0) -> Any:
        """One field of several results; shorter texts are filled up with padding, their floats with `room`."""
        tensors = [v for v in values if isinstance(v, Tensor)]
        if len(tensors) == len(sizes) and len({t.shape[1:] for t in tensors}) > 1:
            if any(t.ndim < 2 or t.shape[2:] != tensors[0].shape[2:] for t in tensors):
                return None if tensors[0].ndim > 2 else values[0]
            longest = max(t.shape[1] for t in tensors)
            value = room if all(t.is_floating_point() for t in tensors) else 0
            wide = [(0, 0) * (t.ndim - 2) + (0, longest - t.shape[1]) for t in tensors]
            return torch.cat([F.pad(t, w, value=value) for t, w in zip(tensors, wide, strict=True)])
        return super().join(values, sizes, room)

    def __post_init__(self) -> None:
        longest = self.all_scores.shape[1]
        if any(len(row) != longest for row in self.tokens):  # after joining
            filled = [[*row, *[""] * (longest - len(row))] for row in self.tokens]
            object.__setattr__(self, "tokens", filled)

    def _to_file(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {}, {"tokens": [list(row) for row in self.tokens], "texts": list(self.texts)}

    @classmethod
    def _from_file(cls, saved: SavedFields, batch: int, tokens: int) -> dict[str, Any]:
        names, texts = saved.value("tokens", [[str]]), saved.value("texts", [str])
        if [len(row) for row in names] != [tokens] * batch:
            raise saved.wrong("tokens", f"{batch} lists of {tokens}", [len(row) for row in names[:5]])
        if len(texts) not in (0, batch):
            raise saved.wrong("texts", f"{batch}, or none", len(texts))
        saved.detail("position_by_layer", (batch, None, tokens))
        offsets = saved.tensor("offsets", "whole", (batch, tokens, 2), optional=True)
        if offsets is not None and texts:
            longest = torch.tensor([len(text) for text in texts])[:, None]
            if not ((offsets[..., 0] >= 0) & (offsets[..., 0] <= offsets[..., 1]) & (offsets[..., 1] <= longest)).all():
                raise saved.wrong("offsets", "first and behind-last characters of the texts", "others")
        return {
            "tokens": names,
            "texts": texts,
            "input_ids": saved.tensor("input_ids", "whole", (batch, tokens)),
            "mask": saved.tensor("mask", "truth", (batch, tokens)),
            "special": saved.tensor("special", "truth", (batch, tokens)),
            "offsets": offsets,
        }


def _refuse_spans(spans: Any, texts: int) -> None:
    """Raise `OptionError` for what is no pair of characters for each word of each text."""
    if (
        isinstance(spans, (list, tuple))
        and len(cast("list[Any]", spans)) == texts
        and all(isinstance(row, (list, tuple)) for row in cast("list[Any]", spans))
        and all(_is_span(one) for row in cast("list[list[Any]]", spans) for one in row)
    ):
        return
    raise OptionError(
        "spans are words of each text by their characters",
        expected=f"{texts} lists of pairs (start, stop)",
        got=short_repr(spans),
    )


def _is_span(one: Any) -> bool:
    return isinstance(one, (list, tuple)) and [isinstance(i, Integral) for i in cast("list[Any]", one)] == [True, True]

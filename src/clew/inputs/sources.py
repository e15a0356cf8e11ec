"""Parts of a text that may be behind an answer: its sentences, lines, paragraphs or words."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..errors import InputError, OptionError
from .words import Spans, word_spans

SPLITS = ("sentence", "line", "paragraph", "word")

# Western marks end a sentence before white space only, which numbers and addresses do not have.
_END = re.compile(r"[.!?…]+[\"'”’»)\]]*(?=\s)|[。！？]+[”’」』）]*|\n")
_SHORT = re.compile(r"(?:^|\W)(?:\w|Mr|Mrs|Ms|Dr|Prof|St|vs)$")


def source_spans(text: str, within: Spans, split: str | None) -> list[tuple[int, int]]:
    """Characters of the sources of a text, in order: its parts `within`, each split as its name says, or left whole.

    A sentence ends at `. ! ? …` before white space, at `。！？`, and with its line; but not at a full stop behind one
    letter or digit ("U.S.", "2.") or behind "Mr", "Mrs", "Ms", "Dr", "Prof", "St", "vs". A paragraph ends at an empty
    line. White space around a source is no part of it. Raises `OptionError` for an unknown way to split.
    """
    if split is not None and split not in SPLITS:
        raise OptionError("unknown way to split", expected=f"{', '.join(SPLITS)}, or None", got=repr(split))
    found = list[tuple[int, int]]()
    for start, stop in within:
        part = text[start:stop]
        if split == "word":
            found += [(start + a, start + b) for a, b in word_spans(part)]
            continue
        marks = {None: (), "line": re.finditer(r"\n", part), "paragraph": re.finditer(r"\n\s*\n", part)}
        ends = _sentence_ends(part) if split == "sentence" else [one.end() for one in marks[split]]
        for a, b in zip([0, *ends], [*ends, len(part)], strict=True):
            words = part[a:b].strip()
            if words:
                first = start + part.index(words, a)
                found.append((first, first + len(words)))
    return found


def _sentence_ends(text: str) -> list[int]:
    def ends(mark: re.Match[str]) -> bool:
        return mark[0][0] != "." or not _SHORT.search(text, max(0, mark.start() - 6), mark.start())

    return [mark.end() for mark in _END.finditer(text) if ends(mark)]


def places_of(words: Sequence[str], text: str) -> list[tuple[int, int]]:
    """Characters of parts of a text, in order. Raises `InputError` where they are not there, or at other places too."""
    found, at = list[tuple[int, int]](), 0
    for one in words:
        start = text.find(one, at) if one.strip() else -1
        if start < 0:
            raise InputError(
                "these words are not in the prompt", expected="its parts, in their order", got=repr(one[:80])
            )
        if text.count(one) != list(words).count(one):
            raise InputError(
                f"the prompt has these words {text.count(one)} times",
                expected="words that are there once, or as often as they are listed",
                got=repr(one[:80]),
                todo="name more words, or their characters: context=[(start, stop), …]",
            )
        at = start + len(one)
        found.append((start, at))
    return found

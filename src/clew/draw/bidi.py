"""In which direction a text is read, and where its characters stand on a line: the Unicode Bidirectional Algorithm.

The rules are those of Unicode Standard Annex 9 for texts without explicit embeddings: characters that set a direction
by hand are read as the neutral characters that they look like.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any
from unicodedata import bidirectional, category, decomposition, mirrored

RLM, ZWJ = "\u200f", "\u200d"  # a mark that is read from right to left; a joiner that asks for a letter's joined form
_BRACKETS = dict(
    zip(
        "([{⁅⁽₍⟦⟨⟪⟬⟮⦃⦅⦇〈《「『【〔〖〘〚﹙﹛﹝（［｛｟｢",
        ")]}⁆⁾₎⟧⟩⟫⟭⟯⦄⦆⦈〉》」』】〕〗〙〛﹚﹜﹞）］｝｠｣",
        strict=True,
    )
)
_CLOSING = set(_BRACKETS.values())
_STRONG = {"L": "L", "R": "R", "AL": "R", "EN": "R", "AN": "R"}  # as rules N0 to N2 read them


def direction(text: str) -> str:
    """ "rtl" or "ltr": that of the first strong character outside of isolates (rules P2 and P3)."""
    isolated = 0
    for character in text:
        kind = bidirectional(character)
        if kind in ("LRI", "RLI", "FSI"):
            isolated += 1
        elif kind == "PDI":
            isolated = max(0, isolated - 1)
        elif not isolated and kind in ("L", "R", "AL"):
            return "ltr" if kind == "L" else "rtl"
    return "ltr"


def levels(text: str, base: str) -> list[int]:
    """The embedding level of each character of a paragraph whose direction is `base`: odd ones run to the left."""
    own = "R" if base == "rtl" else "L"
    kinds = [k if (k := bidirectional(c)) in _KINDS else "ON" for c in text]
    _weak(kinds, own)
    _paired(text, kinds, own)
    _neutral(kinds, own)
    found: list[int] = []
    for kind in kinds:
        if own == "L":
            found.append({"L": 0, "R": 1}.get(kind, 2))
        else:
            found.append(1 if kind == "R" else 2)
    for i in reversed(range(len(text))):  # L1: white space at the end
        if not text[i].isspace():
            break
        found[i] = int(own == "R")
    return found


_KINDS = {"L", "R", "AL", "EN", "ES", "ET", "AN", "CS", "NSM", "BN", "B", "S", "WS", "ON"}


def _weak(kinds: list[str], own: str) -> None:
    """Rules W1 to W7, in place."""
    last = own
    for i, kind in enumerate(kinds):  # W1: marks are as what they stand on
        if kind in ("NSM", "BN"):
            kinds[i] = last
        last = kinds[i]
    strong = own
    for i, kind in enumerate(kinds):  # W2, W3: digits after Arabic letters
        if kind in ("L", "R", "AL"):
            strong = kind
            kinds[i] = "R" if kind == "AL" else kind
        elif kind == "EN" and strong == "AL":
            kinds[i] = "AN"
    for i in range(1, len(kinds) - 1):  # W4: one separator between two numbers
        before, after = kinds[i - 1], kinds[i + 1]
        if before == after and ((kinds[i] == "ES" and before == "EN") or (kinds[i] == "CS" and before in ("EN", "AN"))):
            kinds[i] = before
    i = 0
    while i < len(kinds):  # W5, W6: signs beside numbers, other signs
        end = i
        while end < len(kinds) and kinds[end] == "ET":
            end += 1
        if end > i:
            beside = (i and kinds[i - 1] == "EN") or (end < len(kinds) and kinds[end] == "EN")
            kinds[i:end] = ["EN" if beside else "ON"] * (end - i)
        elif kinds[i] in ("ES", "CS"):
            kinds[i] = "ON"
        i = max(end, i + 1)
    strong = own
    for i, kind in enumerate(kinds):  # W7: numbers in a text that runs to the right
        if kind in ("L", "R"):
            strong = kind
        elif kind == "EN" and strong == "L":
            kinds[i] = "L"


def _paired(text: str, kinds: list[str], own: str) -> None:
    """Rule N0, in place: both brackets of a pair go with what they hold."""
    other = "L" if own == "R" else "R"
    for start, stop in _pairs(text, kinds):
        held = {_STRONG.get(k, "") for k in kinds[start + 1 : stop]}
        if own in held:
            kinds[start] = kinds[stop] = own
        elif other in held:
            ahead = next((_STRONG[k] for k in reversed(kinds[:start]) if k in _STRONG), own)
            kinds[start] = kinds[stop] = other if ahead == other else own
        else:
            continue
        for at in (start, stop):
            for mark in range(at + 1, len(text)):
                if bidirectional(text[mark]) != "NSM":
                    break
                kinds[mark] = kinds[at]


def _pairs(text: str, kinds: Sequence[str]) -> list[tuple[int, int]]:
    waiting: list[tuple[str, int]] = []
    found: list[tuple[int, int]] = []
    for i, character in enumerate(text):
        if kinds[i] != "ON":
            continue
        if character in _BRACKETS:
            waiting.append((_BRACKETS[character], i))
        elif character in _CLOSING:
            for k in reversed(range(len(waiting))):
                if waiting[k][0] == character:
                    found.append((waiting[k][1], i))
                    del waiting[k:]
                    break
    return sorted(found)


def _neutral(kinds: list[str], own: str) -> None:
    """Rules N1 and N2, in place: what has no direction takes that of both neighbours, or the paragraph's."""
    i = 0
    while i < len(kinds):
        end = i
        while end < len(kinds) and kinds[end] not in _STRONG:
            end += 1
        if end > i:
            before = _STRONG[kinds[i - 1]] if i else own
            after = _STRONG[kinds[end]] if end < len(kinds) else own
            kinds[i:end] = [before if before == after else own] * (end - i)
        i = max(end, i + 1)


def in_order(of: Sequence[int]) -> list[int]:
    """Places of the parts of one line from left to right, by their levels (rule L2)."""
    order = list(range(len(of)))
    for level in range(max(of, default=0), 0, -1):
        i = 0
        while i < len(order):
            end = i
            while end < len(order) and of[order[end]] >= level:
                end += 1
            order[i:end] = reversed(order[i:end])
            i = max(end, i + 1)
    return order


def visual(text: str) -> str:
    """A line as it looks from left to right, for what draws one character after the other (rules L2 to L4)."""
    of = levels(text, direction(text))
    swapped = _BRACKETS | {b: a for a, b in _BRACKETS.items()} | {"<": ">", ">": "<", "«": "»", "»": "«"}
    clusters: list[tuple[str, int]] = []
    for character, level in zip(text, of, strict=True):
        if clusters and category(character).startswith("M"):
            clusters[-1] = clusters[-1][0] + character, clusters[-1][1]
        else:
            turned = swapped.get(character, character) if level % 2 and mirrored(character) else character
            clusters.append((turned, level))
    return "".join(clusters[i][0] for i in in_order([level for _, level in clusters]))


def joins(before: str, after: str) -> bool:
    """Whether the last letter of one part and the first of the next are written as one, as in Arabic."""
    first = next((c for c in reversed(before) if not category(c).startswith("M")), "")
    second = next((c for c in after if not category(c).startswith("M")), "")
    return bool(first and second) and first in _letters("<initial>") and second in _letters("<final>")


@cache
def _letters(form: str) -> frozenset[str]:
    """Letters that have a form of this kind, by the compatibility characters that Unicode keeps for such forms."""
    found: set[Any] = {"ـ"}
    for number in (*range(0xFB50, 0xFE00), *range(0xFE70, 0xFF00)):
        parts = decomposition(chr(number)).split()
        if len(parts) == 2 and parts[0] == form:
            found.add(chr(int(parts[1], 16)))
    return frozenset(found)

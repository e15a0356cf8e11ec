"""Pieces of a text in lines of a figure: where lines end, what stands where in them, from whichever side it is read."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from unicodedata import bidirectional, category, east_asian_width

from .bidi import RLM, ZWJ, direction, in_order, joins, levels
from .lettering import Ruler
from .text_html import Piece, direction_of

_MOST = 10_000  # characters of a text that lines are made of; fourteen lines hold 4,000
_INSIDE = "\ufffc"  # stands for a special token, which is read by itself


@dataclass(frozen=True)
class TextRun:
    """A word of a piece, or a part of one, or a space; `shown` is what is drawn of it, `wide` in points."""

    text: str
    piece: Piece
    level: int
    base: str
    shown: str = ""
    wide: float = 0.0
    gap: float = 0.0
    x: float = 0.0

    @property
    def blank(self) -> bool:
        """Whether there is nothing to see."""
        return self.text.isspace()


def set_in_lines(pieces: Sequence[Piece], width: float, most: int, ruler: Ruler, space: float) -> list[list[TextRun]]:
    """Lines of parts with their places, no line wider than `width` points; more than `most` lines end in …."""
    pieces = _beginning(pieces)
    found: list[list[TextRun]] = []
    for paragraph, base in _paragraphs(pieces):
        found += _lines(paragraph, width, base, ruler, space)
        if len(found) > most:
            break
    if len(found) > most:
        last = found[most - 1]
        base = "rtl" if last and last[0].base == "rtl" else "ltr"
        found = [*found[: most - 1], _ending(last, width, base, ruler, space)]
    return [_placed(line, width) for line in found]


def _beginning(pieces: Sequence[Piece]) -> Sequence[Piece]:
    """As much of a text as lines can hold, so that what is never seen is not measured either."""
    left, found = _MOST, list[Piece]()
    for piece in pieces:
        if len(piece.text) > left:
            return [*found, replace(piece, text=piece.text[:left]), Piece("…")]
        found.append(piece)
        left -= len(piece.text) + 1  # tokens without characters have an end, too
    return found


def _ending(line: Sequence[TextRun], width: float, base: str, ruler: Ruler, space: float) -> list[TextRun]:
    """A line that says that the text goes on."""
    more = _measured(TextRun("…", Piece(" "), int(base == "rtl"), base), ruler, space)
    kept = list(line)
    while len(kept) > 1 and sum(p.wide + p.gap for p in kept) + more.wide > width:
        kept.pop()
    return [*kept, more]


def _paragraphs(pieces: Sequence[Piece]) -> list[tuple[list[Piece], str]]:
    """The text with its direction; its paragraphs apart where some are read from the other side."""
    base = direction_of(pieces)
    found: list[list[Piece]] = [[]]
    for piece in pieces:
        for k, words in enumerate([piece.text] if piece.special else piece.text.split("\n")):
            if k:
                found.append([])
            found[-1].append(replace(piece, text=words))
    ways = [direction_of(some) if any(_strong(p) for p in some) else base for some in found]
    return [(list(pieces), base)] if len(set(ways)) == 1 else list(zip(found, ways, strict=True))


def _strong(piece: Piece) -> bool:
    return not piece.special and any(bidirectional(c) in ("L", "R", "AL") for c in piece.text)


def _lines(pieces: Sequence[Piece], width: float, base: str, ruler: Ruler, space: float) -> list[list[TextRun]]:
    parts = [_measured(p, ruler, space) for p in _joined(_parts(pieces, base))]
    lines: list[list[TextRun]] = [[]]
    used = 0.0
    for group in _groups([chunk for part in parts for chunk in _chunks(part, width, ruler, space)]):
        whole = sum(p.wide + p.gap for p in group) - group[-1].gap
        if used + whole > width and whole <= width and lines[-1]:
            lines.append([])
            used = 0.0
        for part in group:
            if used + part.wide > width and lines[-1] and not part.blank:
                lines.append([])
                used = 0.0
            if part.blank and not lines[-1]:
                continue
            lines[-1].append(part)
            used += part.wide + part.gap
    return lines


def _parts(pieces: Sequence[Piece], base: str) -> list[TextRun]:
    """Words and spaces, cut where the direction changes."""
    whole = "".join(_INSIDE if p.special else p.text for p in pieces)
    of, at = levels(re.sub(r"\s", " ", whole), base), 0
    found: list[TextRun] = []
    for piece in pieces:
        if piece.special:
            found.append(TextRun(re.sub(r"\s+", " ", piece.text), piece, of[at], base))
            at += 1
            continue
        for match in re.finditer(r"\s+|\S+", piece.text):
            word, start = match[0], at + match.start()
            cuts = [0, *(i for i in range(1, len(word)) if of[start + i] != of[start + i - 1]), len(word)]
            if word.isspace():
                cuts = [0, len(word)]
            for a, b in pairwise(cuts):
                _add(found, TextRun(word[a:b], piece, of[start + a], base))
        at += len(piece.text)
    return found


def _add(found: list[TextRun], part: TextRun) -> None:
    """A part behind the others; marks at its beginning stand on the letter before them."""
    marks = len(part.text) - len(part.text.lstrip("".join(c for c in part.text if _is_mark(c))))
    if marks and found and not found[-1].blank and not found[-1].piece.special:
        found[-1] = replace(found[-1], text=found[-1].text + part.text[:marks])
        part = replace(part, text=part.text[marks:])
    if part.text:
        found.append(part)


def _is_mark(character: str) -> bool:
    return category(character).startswith("M") or character == ZWJ


def _joined(parts: Sequence[TextRun]) -> list[TextRun]:
    """Parts with what is drawn of them: letters that are joined over the edge of a token keep their joined forms."""
    shown: list[TextRun] = []
    for i, part in enumerate(parts):
        before = i > 0 and not parts[i - 1].piece.special and joins(parts[i - 1].text, part.text)
        after = i + 1 < len(parts) and not parts[i + 1].piece.special and joins(part.text, parts[i + 1].text)
        words = (ZWJ if before else "") + part.text + (ZWJ if after else "")
        if part.level % 2 and not part.piece.special and direction(part.text) != "rtl":
            words = RLM + words  # or a bracket alone would be turned the other way
        gap = 2.0 if part.piece.special else 0.0 if after or part.piece.score is None else 0.6
        shown.append(replace(part, shown=words, gap=0.0 if part.blank else gap))
    return shown


def _measured(part: TextRun, ruler: Ruler, space: float) -> TextRun:
    shown = part.shown or part.text
    wide = space * min(len(part.text), 20) if part.blank else ruler.of(shown, part.piece.special)[0]
    return replace(part, shown=shown, wide=wide)


def _chunks(part: TextRun, width: float, ruler: Ruler, space: float) -> list[TextRun]:
    """A part, cut at its letters where it is wider than a line."""
    if part.wide <= width or len(part.text) < 2:
        return [part]
    half = len(part.text) // 2
    halves = [replace(part, text=t, shown=t) for t in (part.text[:half], part.text[half:])]
    return [c for h in halves for c in _chunks(_measured(h, ruler, space), width, ruler, space)]


def _groups(parts: Sequence[TextRun]) -> list[list[TextRun]]:
    """Parts that belong on one line: words; Chinese and Japanese may be cut anywhere."""
    found: list[list[TextRun]] = []
    for part in parts:
        last = found[-1][-1] if found else None
        if last is None or _may_part(last, part):
            found.append([])
        found[-1].append(part)
    return found


def _may_part(a: TextRun, b: TextRun) -> bool:
    if category(b.text[0]) in ("Pe", "Pf", "Po") and not (a.blank or a.piece.special):
        return False  # a line does not begin with 。 or 」
    wide = east_asian_width(b.text[0]) in "WF" or east_asian_width(a.text[-1]) in "WF"
    return wide or a.blank or b.blank or a.piece.special or b.piece.special


def _placed(line: Sequence[TextRun], width: float) -> list[TextRun]:
    """The parts of a line in their order of reading, each at its place from the left."""
    while line and line[-1].blank:
        line = line[:-1]
    whole = sum(p.wide + p.gap for p in line)
    x = width - whole if line and line[0].base == "rtl" else 0.0
    found = list(line)
    for i in in_order([p.level for p in line]):
        before = line[i].gap if line[i].level % 2 else 0.0  # the gap is behind it as one reads
        found[i] = replace(line[i], x=x + before)
        x += line[i].wide + line[i].gap
    return found

"""Draw scores on words: a self-contained HTML page, LaTeX, and the terminal. Knows words and numbers, no model."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from math import isfinite
from typing import Any

from .bidi import direction
from .lettering import visible
from .plots import Bars, bars_png

_SIGN = re.compile(r"</?[A-Za-z][^<>\s]{0,40}>|<\|[^<>\s]{1,40}\|>|<0x[0-9A-F]{2}>|\[[A-Z_]{2,12}\]")
RED, BLUE = (178, 24, 43), (33, 102, 172)  # for and against


@dataclass(frozen=True)
class Piece:
    """A piece of a text: characters between tokens have no `score`; `special` ones were added by the tokenizer."""

    text: str
    score: float | None = None
    special: bool = False
    columns: tuple[int, ...] = ()


@dataclass(frozen=True)
class TextCell:
    """One text with its scores on a page, and facts about it in plain words; `charts` are PNGs with captions, `flow`
    is a chart that is folded."""

    title: str
    subtitle: str
    pieces: Sequence[Piece]
    facts: Mapping[str, str]
    charts: Sequence[tuple[str, bytes]] = ()
    flow: Bars | None = None


def scale_of(pieces: Sequence[Piece]) -> float:
    """The score that gets the full colour: the largest of tokens that are not special, or of all if there are none."""
    sizes = [abs(p.score) for p in pieces if p.score is not None and isfinite(p.score) and not p.special]
    if not any(sizes):
        sizes = [abs(p.score) for p in pieces if p.score is not None and isfinite(p.score)]
    return max(sizes, default=0.0) or 1.0


def shade(score: float, scale: float) -> tuple[int, int, int]:
    """The colour behind a piece: white for 0, red for what speaks for the target, blue for what speaks against it."""
    strength = min(1.0, abs(score) / scale) if isfinite(score) else 0.0
    end = RED if score > 0 else BLUE
    r, g, b = (round(255 + (c - 255) * strength * 0.85) for c in end)
    return r, g, b


def direction_of(pieces: Sequence[Piece]) -> str:
    """ "rtl" or "ltr": how the text is read, whatever the tokenizer put before it."""
    return direction("".join(p.text for p in pieces if not p.special and not stands_apart(p.text)))


def stands_apart(token: str) -> bool:
    """Whether a token looks like a sign of the tokenizer, such as `<s>`, `<0xE6>` or `[SEP]`."""
    return bool(_SIGN.fullmatch(token.strip()))


# HTML


def text_page(title: str, rows: Sequence[Sequence[TextCell]]) -> str:
    """The page: a row per text, a cell per method; a slider hides weak tokens, hovering a token gives its number."""
    return _template("text.html.j2").render(title=title, rows=[[_drawn(cell) for cell in row] for row in rows])


def text_fragment(cells: Sequence[TextCell], charts: bool = False) -> str:
    """The texts alone, or with their charts, for a notebook."""
    return _template("text_fragment.html.j2").render(cells=[_drawn(cell) for cell in cells], charts=charts)


def _drawn(cell: TextCell) -> dict[str, Any]:
    scale = scale_of(cell.pieces)
    return {
        "title": cell.title,
        "subtitle": cell.subtitle,
        "largest": f"{scale:.3g}",
        "signed": any(p.score is not None and p.score < 0 for p in cell.pieces),
        "dir": direction_of(cell.pieces),
        "pieces": drawn_pieces(cell.pieces),
        "facts": dict(cell.facts),
        "flow": None if cell.flow is None else drawn_folded(cell.flow),
        "charts": [(name, "data:image/png;base64," + base64.b64encode(png).decode()) for name, png in cell.charts],
    }


def drawn_folded(bars: Bars) -> dict[str, str]:
    """What templates need of a chart that is folded: its title stands before it, and is not drawn again."""
    source = "data:image/png;base64," + base64.b64encode(bars_png(replace(bars, title=""))).decode()
    return {"title": bars.title, "note": bars.note, "source": source}


def drawn_pieces(pieces: Sequence[Piece]) -> list[dict[str, Any]]:
    """What templates need of each piece."""
    scale = scale_of(pieces)
    return [
        {
            "text": p.text,
            "scored": p.score is not None,
            "special": p.special,
            "number": f"{p.score:.4g}" if p.score is not None else "",
            "strength": f"{min(1.0, abs(p.score) / scale) if isfinite(p.score) else 0:.3f}"
            if p.score is not None
            else "",
            "colour": "rgb({},{},{})".format(*shade(p.score, scale)) if p.score is not None else "",
            "columns": ", ".join(map(str, p.columns)),
        }
        for p in pieces
    ]


@cache
def _template(name: str) -> Any:
    from jinja2 import DictLoader, Environment

    folder = resources.files("clew.draw").joinpath("templates")
    files = {n: folder.joinpath(n).read_text(encoding="utf-8") for n in ("text.html.j2", "text_fragment.html.j2")}
    return Environment(autoescape=True, loader=DictLoader(files), trim_blocks=True, lstrip_blocks=True).get_template(
        name
    )


# LaTeX

_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
}


def latex(cells: Sequence[TextCell]) -> str:
    """A LaTeX document, for xelatex or lualatex: one paragraph of coloured boxes per text."""
    lines = [
        r"\documentclass{article}",
        r"\usepackage{fontspec,xcolor}",
        r"\setlength{\fboxsep}{0.5pt}",
        r"\newcommand{\clewbox}[2]{\allowbreak\colorbox[RGB]{#1}{\strut #2}}",
        r"\begin{document}",
        r"\raggedright",
    ]
    for cell in cells:
        scale = scale_of(cell.pieces)
        lines.append(rf"\textbf{{{_escaped(cell.title)}}}: {_escaped(cell.subtitle)}\par")
        lines.append("".join(_latex_piece(p, scale) for p in cell.pieces) + r"\par\bigskip")
    return "\n".join([*lines, r"\end{document}", ""])


def _latex_piece(piece: Piece, scale: float) -> str:
    text = _escaped(piece.text)
    if piece.score is None:
        return text.replace("\n", "\\par\n")
    inner = text.replace("\n", " ").replace(" ", r"\ ")
    return r"\clewbox{{{},{},{}}}{{{}}}".format(*shade(piece.score, scale), inner)


def _escaped(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in visible(text))


# The terminal


def terminal(pieces: Sequence[Piece]) -> Any:
    """The text in colours, as `rich.text.Text`."""
    from rich.text import Text

    scale, shown = scale_of(pieces), Text()
    for piece in pieces:
        if piece.score is None:
            shown.append(visible(piece.text))
        else:
            r, g, b = shade(piece.score, scale)
            dim = "italic " if piece.special else ""
            shown.append(visible(piece.text), style=f"{dim}black on rgb({r},{g},{b})")
    return shown

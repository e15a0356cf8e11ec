"""Words on figures as they were given: no mathematics in them, in fonts that have their letters, in lines that fit.

matplotlib reads `$…$` as mathematics, knows one font by name, and warns of each letter that it lacks. What is drawn
here is read as plain words; fonts that have the missing letters are looked for among those installed; what no font
has is drawn as □, and told once in the log.
"""

from __future__ import annotations

import logging
import re
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, NamedTuple
from unicodedata import category, combining, east_asian_width, name

import numpy as np
from numpy.typing import NDArray

from ..files import without_halves
from .bidi import RLM, ZWJ, visual

logger = logging.getLogger("clew")
_LACKING = "□"
_MOST, _MARKS = 4_000, 8  # characters of a name or a caption, and marks on a letter
_CONTROL = {
    **{chr(i): f"<0x{i:02X}>" for i in (*range(10), *range(11, 32), *range(127, 160))},  # as bytes are shown
    **dict.fromkeys("\t\r\x85", " "),
    "\ufeff": "",  # the mark of byte order: it shows nothing, and matplotlib writes no PDF with it
}
# Fonts of boxes or of single signs, whose letters are no letters.
_NO_LETTERS = re.compile(r"last ?resort|^\.|^cm[a-z]{1,2}\d+$|stixsize|stixnonunicode", re.I)
_PACKAGES = {"CJK": "fonts-noto-cjk", "HIRAGANA": "fonts-noto-cjk", "KATAKANA": "fonts-noto-cjk",
             "HANGUL": "fonts-noto-cjk", "BOPOMOFO": "fonts-noto-cjk", "FULLWIDTH": "fonts-noto-cjk",
             "HALFWIDTH": "fonts-noto-cjk", "IDEOGRAPHIC": "fonts-noto-cjk", "symbols": "fonts-symbola"}  # fmt: skip
_told: set[str] = set()
_chosen: dict[tuple[str, str], str] = {}  # by language and character: the font, empty where none has it


class _Rulers(threading.local):
    """Rulers by the size of letters, of each thread its own: a lock would be copied held into a process that forks."""

    def __init__(self) -> None:
        self.by_size: dict[float, Ruler] = {}


_rulers = _Rulers()


class Font(NamedTuple):
    """A font on this machine: the name that matplotlib knows it by, and its file."""

    family: str
    path: str
    face: int = 0


def shapes_letters() -> bool:
    """Whether matplotlib joins Arabic letters and writes from right to left by itself (3.11 and newer do)."""
    import matplotlib

    return matplotlib.__version_info__[:2] >= (3, 11)


# What is drawn


def apply_fonts(figure: Any) -> Any:
    """The figure, its titles, labels and texts drawn as plain words in fonts that have their letters."""
    texts: list[Any] = list(figure.texts)
    for axes in figure.axes:
        # matplotlib keeps a title for each side
        texts += [axes.title, axes._left_title, axes._right_title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
    language = language_of("".join(text.get_text() for text in texts))
    for text in texts:
        apply_font(text, language)
    return figure


def apply_font(text: Any, language: str = "") -> None:
    """One text of a figure, in place."""
    shown, manner = drawable(text.get_text(), text.get_fontfamily(), language)
    text.update(manner)
    if shown != text.get_text():
        text.set_text(shown)


def ticks(axis: Any, names: Sequence[str], **manner: Any) -> None:
    """Names beside an axis, at 0, 1, 2, …."""
    from matplotlib import rcParams

    own = [drawable(word, rcParams["font.family"])[0] for word in names]
    manner = drawable("".join(names), rcParams["font.family"])[1] | manner
    axis.set_ticks(range(len(names)), own, **manner)


def drawable(text: str, family: Sequence[str], language: str = "") -> tuple[str, dict[str, Any]]:
    """What to draw for a text, and matplotlib's settings of it, whose fonts begin with `family`.

    `language` is that of all words of a figure, as `language_of` says it; else it is guessed from the text alone.
    """
    text = visible(text)
    if not shapes_letters() and not text.isascii():
        if any(name(c, "").startswith("ARABIC LETTER") for c in text):
            _tell("matplotlib before 3.11 draws Arabic letters unjoined; pip install 'matplotlib>=3.11' joins them")
        text = "\n".join(visual(line) for line in text.split("\n"))
    manner: dict[str, Any] = {"parse_math": False, "usetex": False}
    missing = _missing(text, tuple(family))
    if missing:
        added, unknown = fallbacks(missing, language or language_of(text))
        manner["fontfamily"] = [*family, *added]
        drawn = {c: "" if _invisible(c) else _LACKING for c in unknown}
        text = "".join(drawn.get(c, c) for c in text)
        _tell_of(c for c, sign in drawn.items() if sign)
    return text, manner


def visible(text: str) -> str:
    """A text without characters that steer a device; line ends stay."""
    return "".join(_CONTROL.get(c, c) for c in without_halves(text))


def _invisible(character: str) -> bool:
    """Marks and signs that only change others: without them the word can still be read."""
    return bool(combining(character)) or category(character) in ("Cf", "Mn", "Me") or character in (RLM, ZWJ)


# Fonts


def _missing(text: str, family: tuple[str, ...]) -> frozenset[str]:
    from matplotlib.font_manager import FontProperties, fontManager

    if text.isascii():
        return frozenset()
    asked = {c for c in text if ord(c) > 126}
    for one in family:
        if asked:
            path = fontManager.findfont(FontProperties(family=[one]))
            asked -= _held(Font("", str(path), getattr(path, "face_index", 0)), frozenset(asked))
    return frozenset(asked)


def _held(font: Font, characters: frozenset[str]) -> frozenset[str]:
    """Which of these characters a font has."""
    codes = _codes(font)
    asked = sorted(characters)
    found = np.isin(np.array([ord(c) for c in asked], dtype=np.int64), codes)
    return frozenset(c for c, held in zip(asked, found.tolist(), strict=True) if held)


@cache
def _codes(font: Font) -> NDArray[np.int64]:
    """The numbers of the characters that a font has; none if it cannot be read."""
    from matplotlib.ft2font import FT2Font

    try:
        more: dict[str, Any] = {"face_index": font.face} if font.face else {}  # matplotlib before 3.11 has none
        opened: Any = FT2Font(font.path, **more)
        return np.array([code for code, glyph in opened.get_charmap().items() if glyph], dtype=np.int64)
    except (OSError, RuntimeError, ValueError, TypeError):
        return np.array([], dtype=np.int64)


def fallbacks(missing: frozenset[str], language: str) -> tuple[list[str], frozenset[str]]:
    """Names of installed fonts that together have as many of these characters as can be had, and the rest."""
    unknown = frozenset(c for c in missing if (language, c) not in _chosen)
    for newly in (False, True):
        if not unknown:
            break
        fonts = sorted(installed(newly=newly), key=lambda f: (_preference(f, language), f))
        while unknown:
            best = max(fonts, key=lambda f: len(_held(f, unknown)), default=None)
            held = frozenset[str]() if best is None else _held(best, unknown)
            if best is None or not held:
                break
            _chosen.update({(language, c): best.family for c in held})
            unknown -= held
    _chosen.update(dict.fromkeys([(language, c) for c in unknown], ""))
    families = Counter(_chosen[language, c] for c in sorted(missing))
    return [f for f, _ in families.most_common() if f], frozenset(c for c in missing if not _chosen[language, c])


def installed(*, newly: bool = False) -> list[Font]:
    """Fonts that matplotlib knows, one of each name; `newly`: after a look for those installed since it last looked."""
    from matplotlib.font_manager import findSystemFonts, fontManager

    if newly:
        known = {entry.fname for entry in fontManager.ttflist}
        for path in findSystemFonts():
            if path not in known:
                try:
                    fontManager.addfont(path)
                except (OSError, RuntimeError, ValueError):  # pictures for letters, which matplotlib cannot draw
                    continue
    plain: dict[str, tuple[Any, Font]] = {}
    for entry in list(fontManager.ttflist):
        if _NO_LETTERS.search(entry.name):
            continue
        rank = (entry.style != "normal", entry.weight not in (400, "normal", "regular"), entry.fname)
        font = Font(entry.name, entry.fname, getattr(entry, "index", 0))
        if entry.name not in plain or rank < plain[entry.name][0]:
            plain[entry.name] = (rank, font)
    return [font for _, font in plain.values()]


def _preference(font: Font, language: str) -> tuple[bool, bool, bool]:
    words = font.family.split()
    return language not in words, "Mono" in words or "Sans" not in words, "Serif" in words


def language_of(text: str) -> str:
    """Chinese characters look different in Japanese, Korean and Chinese: as fonts name what a text seems to be."""
    scripts = {_script(c) for c in set(text) if ord(c) > 126}
    return "JP" if scripts & {"HIRAGANA", "KATAKANA"} else "KR" if "HANGUL" in scripts else "SC"


def _script(character: str) -> str:
    if category(character) in ("So", "Sk", "Co", "Cn"):
        return "symbols"
    return name(character, "symbols").split()[0].split("-")[0]


def _tell_of(characters: Iterable[str]) -> None:
    by_script: dict[str, list[str]] = {}
    for character in characters:
        by_script.setdefault(_script(character), []).append(character)
    for script, some in by_script.items():
        shown = " ".join(sorted(some)[:5])
        what = (
            "symbols and emoji" if script == "symbols" else f"{script.title() if script != 'CJK' else script} letters"
        )
        package = _PACKAGES.get(script, "fonts-noto-core")
        _tell(
            f"no installed font has {what} ({shown}), so the figure shows □ for them; install one "
            f"(Debian, Ubuntu: apt-get install {package}), or choose yours by matplotlib.rcParams['font.family']"
        , script)  # fmt: skip


def _tell(message: str, once: str | None = None) -> None:
    if (once or message) not in _told:
        _told.add(once or message)
        logger.warning(message)


# Lines


def slant(words: str) -> str:
    """The style of words that are to be italic: oblique fonts have no letters but those of the alphabet."""
    return "italic" if words.isascii() else "normal"


def width_of(text: str) -> int:
    """How wide a text is in letters of the alphabet; Chinese characters and emoji are two wide, marks none."""
    return sum(0 if combining(c) or category(c) in ("Mn", "Me", "Cf") else 2 if east_asian_width(c) in "WF" else 1
               for c in text)  # fmt: skip


def cut(text: str, width: int) -> str:
    """A text of at most this width, its end replaced by … where it is longer."""
    text = _bounded(text)
    if width_of(text) <= width:
        return text
    return _head(text, width - 1).rstrip() + "…"


def _bounded(text: str) -> str:
    """As much of a text as is ever drawn as a name or a caption, with as many marks on a letter as languages have."""
    text = text if len(text) <= _MOST else text[:_MOST] + "…"
    kept, marks = list[str](), 0
    for character in text:
        marks = marks + 1 if combining(character) else 0
        kept += [character] if marks <= _MARKS else []
    return "".join(kept)


def _wider(text: str, width: int) -> bool:
    """Whether a text is wider; looks no farther than it must."""
    return len(_head(text, width)) < len(text)


def _head(text: str, width: int) -> str:
    """As much of the beginning as fits, one character at least, its marks with it."""
    used = 0
    for i, character in enumerate(text):
        used += width_of(character)
        if used > width and i:
            return text[:i]
    return text


def wrapped(text: str, width: int, lines: int | None = None) -> str:
    """A text in lines of at most this width; names are broken at their underscores, the rest where it must be.

    With `lines`, no more of them than that, the last ending in … where the text is longer.
    """
    found: list[str] = []
    text = _bounded(text)
    for paragraph in text.splitlines() or [text]:
        found += _lines_of(paragraph, width)
    if lines is not None and len(found) > lines:
        last = found[lines - 1]
        found = [*found[: lines - 1], (last if width_of(last) < width else _head(last, width - 1)) + "…"]
    return "\n".join(found)


def _lines_of(text: str, width: int) -> list[str]:
    found = [""]
    for part in re.findall(r"\s+|[^\s_]*_+|[^\s_]+", text):
        if part.isspace():
            part = " " if found[-1] else ""
        elif _wider(found[-1] + part, width) and found[-1].strip():
            found.append("")
        while _wider(found[-1] + part, width) and part.strip():
            head = _head(part, width - width_of(found[-1]))
            if head == part:
                break
            found[-1] += head
            found.append("")
            part = part[len(head) :]
        found[-1] += part
    return [line.rstrip() for line in found if line.strip()] or [""]


class Ruler:
    """Measures words as they will be printed."""

    def __init__(self, size: float, dpi: int, language: str = "") -> None:
        """For letters of so many points."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(1, 1), dpi=dpi)
        self._text: Any = figure.text(0, 0, "", fontsize=size)
        self._plain = self._text.get_fontfamily()
        self._renderer: Any = FigureCanvasAgg(figure).get_renderer()
        self._language, self._dpi = language, dpi
        self._known = dict[tuple[str, bool], tuple[float, float]]()

    def of(self, words: str, italic: bool = False) -> tuple[float, float]:
        """Width and height in points."""
        key = words, italic
        if key not in self._known:
            style = slant(words) if italic else "normal"
            self._text.update({"text": words, "style": style, "fontfamily": self._plain})
            apply_font(self._text, self._language)
            box = self._text.get_window_extent(self._renderer)
            self._known[key] = box.width * 72 / self._dpi, box.height * 72 / self._dpi
        return self._known[key]


def fitted(text: str, points: float, size: float, lines: int) -> str:
    """A text in lines that are no wider than so many points when printed in this size, and no more lines than these."""
    ruler = _ruler(size)
    width = max(4, round(points / size * 2.2))
    while True:
        found = wrapped(text, width, lines)
        if width <= 4 or ruler.of(found)[0] <= points:
            return found
        width -= 1


def _ruler(size: float) -> Ruler:
    if size not in _rulers.by_size:
        _rulers.by_size[size] = Ruler(size, 100)
    return _rulers.by_size[size]

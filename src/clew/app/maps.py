"""Results as HTML for the page: cells over a picture, or coloured words. All that comes from users is escaped.

How strong a cell is (`--v`, 0 to 1) and its colour (`--c`) are written into it; the page's sliders set `--clew-opacity`
and `--clew-threshold`, so that nothing is computed anew when they move. `data-n` and `data-at` are read on hovering.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from math import isfinite

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex
from numpy.typing import NDArray
from PIL import Image

from ..attributions import Attribution, ImageAttribution, PairAttribution, TextAttribution
from ..draw import (
    Picture,
    Piece,
    colour_scale,
    direction,
    direction_of,
    encode_image,
    in_frame,
    is_tiny,
    scale_of,
    shade,
    shrunk,
)
from ..errors import InputError

LONGEST = 480  # pixels of a picture on the page


@dataclass(frozen=True)
class Card:
    """One map on the page under its `title`: the body is HTML, `facts` are plain words (escaped here)."""

    title: str
    subtitle: str
    body: str
    facts: Mapping[str, str]

    def html(self) -> str:
        """The card."""
        rows = "".join(f"<dt>{escape(k)}</dt><dd dir='auto'>{escape(v)}</dd>" for k, v in self.facts.items())
        facts = f"<details><summary>What was checked</summary><dl>{rows}</dl></details>" if rows else ""
        return (
            f'<section class="clew-card"><h3 dir="auto">{escape(self.title)}</h3>'
            f'<p class="clew-sub"><bdi>{escape(self.subtitle)}</bdi></p>'
            f'{self.body}<p class="clew-reading" aria-live="polite">Point at a part of the map to read its number.</p>'
            f"{facts}</section>"
        )


def cards(results: Sequence[Attribution], titles: Sequence[str] | None = None) -> list[Card]:
    """A card for each example of each result."""
    found: list[Card] = []
    for k, result in enumerate(results):
        for i in range(len(result)):
            title = result.method if titles is None else titles[k]
            found.append(Card(title, f"for {result.name_of_target(i)}", body(result, i), in_plain_words(result, i)))
    return found


def row_of(found: Sequence[Card]) -> str:
    """Cards side by side."""
    return f'<div class="clew-row">{"".join(card.html() for card in found)}</div>'


def message(text: str, kind: str = "error") -> str:
    """A message to the user in place of a result; `kind` "error" or "note"."""
    return f'<div class="clew-message clew-{kind}" role="alert">{escape(text)}</div>'


def framed(page: str, title: str = "the answer") -> str:
    """A page of its own within the page: it can run its script, and reach nothing of what is around it."""
    return (
        f'<iframe class="clew-frame" title="{escape(title)}" sandbox="allow-scripts" srcdoc="{escape(page)}"></iframe>'
    )


def body(result: Attribution, i: int) -> str:
    """The map of one example."""
    if isinstance(result, PairAttribution):
        return _picture(result.pictures[i], *_patches(result, i)) + _words(result.text.pieces(i))
    if isinstance(result, ImageAttribution):
        picture = result.pictures[i] if result.pictures else _blank(result)
        return _picture(picture, *_patches(result, i))
    if isinstance(result, TextAttribution):
        return _words(result.pieces(i))
    return framed(str(result.writers()[".html"]()), f"what {result.method} found")  # of several inputs, and of tensors


def _patches(result: ImageAttribution, i: int) -> tuple[NDArray[np.float32], tuple[float, float]]:
    """Scores on the patch grid, and which share of the input's width and height the grid covers."""
    values = result.scores[i].detach().float().cpu().numpy().reshape(result.patch_grid)
    (rows, columns), (down, across), (height, width) = result.patch_grid, result.patch_size, result.input_size
    return values, (min(1.0, columns * across / width), min(1.0, rows * down / height))


def _blank(result: ImageAttribution) -> Picture:
    height, width = result.input_size
    return Picture(np.full((height, width, 3), 128, np.uint8), (0.0, 0.0, float(width), float(height)))


def _picture(
    picture: Picture, values: NDArray[np.float32], covered: tuple[float, float] = (1.0, 1.0), said: str | None = None
) -> str:
    small = shrunk(picture, LONGEST)
    height, width = small.pixels.shape[:2]
    left, top, right, bottom = small.box
    name, low, high = colour_scale(values)
    image, kind = encode_image(small.pixels)
    data, tiny = base64.b64encode(image).decode(), ' class="clew-tiny"' if is_tiny(small.pixels) else ""
    across, down = (right - left) * covered[0] / width, (bottom - top) * covered[1] / height
    place = f"left:{left / width:.4%};top:{top / height:.4%};width:{across:.4%};height:{down:.4%}"
    order = np.argsort(np.argsort(-np.nan_to_num(values, nan=-np.inf), axis=None, kind="stable")).reshape(values.shape)
    cells = "".join(
        _cell(
            float(values[r, c]),
            low,
            high,
            name,
            f"row {r + 1}, column {c + 1}, rank {order[r, c] + 1} of {values.size}",
        )
        for r in range(values.shape[0])
        for c in range(values.shape[1])
    )
    return (
        f'<div class="clew-map" style="aspect-ratio:{width}/{height};width:min(100%,85vh*{width / height:.4f})">'
        f'<img{tiny} alt="the picture" src="data:image/{kind};base64,{data}">'
        f'<div class="clew-grid" style="{place};grid-template-columns:repeat({values.shape[1]},1fr)">{cells}</div>'
        + "</div>"
        + _legend(name, low, high, said)
    )


def _cell(value: float, low: float, high: float, name: str, at: str) -> str:
    if not isfinite(value):
        return f'<i data-n="not a number" data-at="{at}"></i>'
    colour = to_hex(colormaps[name](min(1.0, max(0.0, (value - low) / (high - low)))))
    return f'<i style="--v:{min(1.0, abs(value) / high):.3f};--c:{colour}" data-n="{value:.4g}" data-at="{at}"></i>'


def _legend(name: str, low: float, high: float, said: str | None) -> str:
    stops = ",".join(to_hex(colormaps[name](i / 8)) for i in range(9))
    said = said or ("blue speaks against the target, red for it" if low < 0 else "brighter counts more")
    return (
        f'<div class="clew-legend"><span>{low:.2g}</span><b style="background:linear-gradient(90deg,{stops})"></b>'
        f"<span>{high:.2g}</span></div><p class='clew-said'>{said}</p>"
    )


def _words(pieces: Sequence[Piece], said: str | None = None) -> str:
    scale = scale_of(pieces)
    scored = sorted((p.score for p in pieces if p.score is not None), reverse=True)
    spans = "".join(_word(p, scale, scored) for p in pieces)
    signed = any(p.score is not None and p.score < 0 for p in pieces)
    said = said or ("red words speak for the target, blue ones against it" if signed else "darker words count more")
    return (
        f'<div class="clew-words" tabindex="0" dir="{direction_of(pieces)}">{spans}</div>'
        f'<p class="clew-said">{said}; the darkest has {scale:.3g}</p>'
    )


def _word(piece: Piece, scale: float, scored: Sequence[float]) -> str:
    if piece.score is None:
        return escape(piece.text)
    strength = min(1.0, abs(piece.score) / scale) if isfinite(piece.score) else 0.0
    colour = "rgb({},{},{})".format(*shade(scale if piece.score > 0 else -scale, scale))
    isolated = f"\u2068{piece.text}\u2069" if direction(piece.text) == "rtl" else piece.text
    at = f"{isolated}, rank {scored.index(piece.score) + 1} of {len(scored)}"
    kind, way = (" clew-special", ' dir="ltr"') if piece.special else ("", "")
    return (
        f'<i class="clew-word{kind}"{way} style="--v:{strength:.3f};--c:{colour}" data-n="{piece.score:.4g}" '
        f'data-at="{escape(at)}">{escape(piece.text)}</i>'
    )


# What was checked, in plain words

_PLAIN = {
    "forward difference": "by how much the model, called by itself, says something else",
    "attention error": "how far its attention is from what it made of it",
    "attention gradient error": "how far gradients of attention are from those that came by",
    "path error": "how far the path is from a straight one",
    "padding share": "share of the scores that lay on padding, and are left out",
    "as called": "why the model could not be called by itself",
    "padding changes": "what padding does to the model",
    "non finite": "scores that are not numbers",
    "attention": "how attention is computed",
    "prefix share": "share of the scores on CLS and register tokens, which the map does not show",
    "special share": "share of the scores on tokens that the tokenizer added",
    "characters cut": "characters at the end that the model did not see",
    "integration error": "estimated error of the path integral, as a share of the largest score",
    "completeness gap": "by how much the sum of the scores misses the change of the output",
    "explained": "the score that is handed back through the model",
    "relevance": "what of it arrived at the input",
    "unexplained": "what of it no known cause accounts for",
    "relevance by stage": "what of it there was at each stage",
    "conditioning": "how much rounding may have changed the scores",
}


def in_plain_words(result: Attribution, i: int) -> dict[str, str]:
    """The facts of a result, its checks under names that need no manual."""
    return {_in_words(name): value for name, value in result.facts(i).items()}


def _in_words(name: str) -> str:
    side, _, bare = name.rpartition("text: ")
    lost = f"what of it was lost to: {bare.removeprefix('leak ')}" if bare.startswith("leak ") else bare
    return ("of the text: " if side or name != bare else "") + _PLAIN.get(bare, lost)


# Differences

_MORE = "red: A has more; blue: B has more"


def difference(a: Attribution, b: Attribution, i: int = 0, j: int = 0) -> str:
    """The map of `a - b`, each divided by its largest size: red where `a` has more.

    Patches and tokens are compared one by one where both have the same; else pictures on a common grid, and texts word
    by word. Raises `InputError` where both are not of the same input.
    """
    if isinstance(a, ImageAttribution) and isinstance(b, ImageAttribution):
        one, other = (r.pictures[k] if r.pictures else _blank(r) for r, k in ((a, i), (b, j)))
        if a.patch_grid == b.patch_grid and one.box == other.box:
            values, covered = _patches(a, i)
            return _picture(one, _scaled(values) - _scaled(_patches(b, j)[0]), covered, _MORE)
        if one.pixels.shape != other.pixels.shape:
            raise InputError("these maps are of different pictures", expected="one picture", got="two")
        frames = [_sampled(in_frame(one, r.heatmap()[k].detach().float().cpu().numpy())) for r, k in ((a, i), (b, j))]
        height, width = one.pixels.shape[:2]
        whole = Picture(one.pixels, (0.0, 0.0, float(width), float(height)))
        return _picture(whole, _scaled(frames[0]) - _scaled(frames[1]), said=_MORE)
    if isinstance(a, TextAttribution) and isinstance(b, TextAttribution):
        return _words(_text_difference(a, b, i, j), _MORE)
    raise InputError("a picture's map and a text's have no difference", expected="maps of the same input", got="both")


def _scaled(values: NDArray[np.float32]) -> NDArray[np.float32]:
    largest = float(np.nanmax(np.abs(values), initial=0.0))
    return values / largest if largest else values


def _sampled(frame: NDArray[np.float32], longest: int = 24) -> NDArray[np.float32]:
    """A map in the frame of a picture on a coarse grid; what the model did not see counts nothing."""
    height, width = frame.shape
    scale = longest / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(Image.fromarray(np.nan_to_num(frame)).resize(size, Image.Resampling.BOX))


def _text_difference(a: TextAttribution, b: TextAttribution, i: int, j: int) -> list[Piece]:
    one, other = a.pieces(i), b.pieces(j)
    if [p.text for p in one] == [p.text for p in other]:
        sizes = [scale_of(one), scale_of(other)]
        return [
            replace(p, score=None if p.score is None else p.score / sizes[0] - (q.score or 0.0) / sizes[1])
            for p, q in zip(one, other, strict=True)
        ]
    text, theirs = a.texts[i], b.texts[j]
    if text != theirs:
        raise InputError("these maps are of different texts", expected="one text", got="two")
    words = a.words()[i], b.words()[j]
    sizes = [max((abs(w.score) for w in some), default=0.0) or 1.0 for some in words]
    found, at = list[Piece](), 0
    second = {(w.start, w.stop): w.score for w in words[1]}
    for word in words[0]:
        if word.start > at:
            found.append(Piece(text[at : word.start]))
        value = word.score / sizes[0] - second.get((word.start, word.stop), 0.0) / sizes[1]
        found.append(Piece(text[word.start : word.stop], value))
        at = word.stop
    return [*found, Piece(text[at:])]

"""Which methods the page offers for a model, and what it says of them."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from html import escape
from importlib import resources
from typing import Any

import numpy as np
from PIL import Image

from ..errors import OptionError
from ..explainers import methods
from ..explaining.attempts import attempts
from ..requests import kind_of
from .page_requests import OfferedModels, PageRequest, explain_request

LONGEST_TRIAL = 10.0  # seconds, after which no further method is tried
_FEW = {"n_steps": 2, "n_samples": 1, "n_masks": 8}  # of what is repeated, where a method is only tried
_WORDS = "A few words to try it on."


@dataclass(frozen=True)
class Offer:
    """The methods that are offered for a model, and by name why the others are not."""

    names: Sequence[str]
    left_out: Mapping[str, str]

    def kept(self, chosen: Sequence[str], usual: Sequence[str]) -> list[str]:
        """Of what was chosen what is offered, else of what is usual, else the first."""
        kept = [name for name in chosen if name in self.names] or [name for name in usual if name in self.names]
        return kept or list(self.names[:1])


class OfferedMethods:
    """What works on the models of the page: what is known of them, and what a trial found, as `evaluate(methods="all")`
    makes it."""

    def __init__(self, models: OfferedModels) -> None:
        self._models = models
        self._tried: dict[str, dict[str, str | None]] = {}

    def offer(self, name: str) -> Offer:
        """What is offered for a model; nothing is computed. Where no method worked, all that could are offered, for
        then it is what they were tried on that did not fit."""
        known = self._known(name)
        tried = self._tried.get(name, {})
        works = [one for one, why in known.items() if why is None]
        left_out = {one: why for one, why in known.items() if why is not None}
        failed = {one: why for one in works if (why := tried.get(one)) is not None}
        if tried and len(failed) == len(tried):
            return Offer(works, left_out)
        return Offer([one for one in works if one not in failed], {**left_out, **failed})

    def trial(self, name: str, seconds: float = LONGEST_TRIAL) -> Generator[tuple[int, int]]:
        """Try the methods on a model that was brought along, the cheapest first; how many are tried, of how many.

        Of the bundled ones it is known what works. What is not tried within the seconds stays offered.
        """
        if name in self._models.bundled or name in self._tried:
            return
        found: dict[str, str | None] = {}
        loaded, every = self._models[name], methods()
        picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
        words = _WORDS if kind_of(loaded) == "text" else ""
        asked = sorted(self.offer(name).names, key=lambda one: _passes(one) or 1e3)

        def work(one: str) -> None:
            options = {option: few for option, few in _FEW.items() if option in every[one].options}
            asked_for = PageRequest(name, [(one, options)], picture, words, ["a picture"])
            got = next(explain_request(asked_for, loaded))
            if isinstance(got, Exception):
                raise got

        ends = time.monotonic() + seconds
        for one, why in attempts(asked, work):
            found[one] = why
            yield len(found), len(asked)
            if time.monotonic() > ends:
                break
        self._tried[name] = found

    def _known(self, name: str) -> dict[str, str | None]:
        """By method what is known without a trial to keep it from a model."""
        text = self._models.kind(name) == "text"
        return {one: f"{one} explains images" if method.images and text else None for one, method in methods().items()}


@lru_cache(1)
def _costs() -> dict[str, dict[str, Any]]:
    return json.loads(resources.files("clew.explainers").joinpath("costs.json").read_text(encoding="utf-8"))


def _passes(name: str) -> float | None:
    return _costs()[name]["passes"] if name in _costs() else None


def cost(name: str) -> str:
    """What a method costs, in words; empty where it was not measured."""
    if name not in _costs():
        return ""
    known = _costs()[name]
    of = f" ({known['options']})" if known["options"] else ""
    return f"about {known['passes']:g} passes of the model{of}"


def sentence(name: str) -> str:
    """What a method does, and what it costs."""
    method = methods().get(name)
    if method is None:
        raise OptionError("no such method", expected="a name from clew.methods()", got=name)
    said = f"{method.summary}."
    return f"{said[0].upper()}{said[1:]}" + (f" Costs {cost(name)}." if cost(name) else " Cost not measured.")


def described(offer: Offer, chosen: Sequence[str]) -> str:
    """The chosen methods in a sentence each, and folded all that are offered, and what is left out, with the reason."""
    rows = "".join(_row(name, sentence(name)) for name in chosen if name in offer.names)
    every = _folded(
        f"All {len(offer.names)} methods in a sentence each", {name: sentence(name) for name in offer.names}
    )
    others = len(offer.left_out)
    left_out = _folded(f"{others} left out for this model", offer.left_out) if others else ""
    return f'<div class="clew-methods"><dl>{rows}</dl>{every}{left_out}</div>'


def _folded(title: str, lines: Mapping[str, str]) -> str:
    rows = "".join(_row(name, said) for name, said in lines.items())
    return f'<details><summary>{escape(title)}</summary><dl tabindex="0">{rows}</dl></details>'


def _row(name: str, said: str) -> str:
    return f"<div><dt>{escape(name)}</dt><dd>{escape(said)}</dd></div>"

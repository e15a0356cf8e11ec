"""What the page does with texts longer than a model's positions: say so, cut them, or explain them in windows."""

from __future__ import annotations

from typing import Any

from ..errors import OptionError, UnknownArchitecture
from ..explaining import LoadedPair, longest_text, unwrap
from ..models import LoadedModel, find_architecture
from ..requests import kind_of

REFUSED, CUT, WINDOWS = "say so", "explain their beginning", "explain them in windows"
_MOST_OVERLAP = 8  # windows that may hold one token: all run as one batch


class LongTexts:
    """What to do with texts that are too long, for models of text; windows are for classifiers."""

    def __init__(self, gr: Any, loaded: LoadedModel) -> None:
        self._gr = gr
        known = ways(loaded)
        self.how = gr.Radio(
            known or [REFUSED], value=REFUSED, label="Texts longer than the model's positions", visible=bool(known),
            elem_id="long", info=said_of(loaded),
        )  # fmt: skip
        with gr.Row(visible=False, elem_id="windows") as self.row:
            self.window = gr.Number(
                longest(loaded), label="Tokens of a window", precision=0, minimum=1, elem_id="window"
            )
            self.stride = gr.Number(
                label="A window every so many", placeholder="half a window", precision=0, minimum=1, elem_id="stride"
            )
        self.how.change(
            lambda how: gr.update(visible=how == WINDOWS), self.how, self.row, queue=False, api_visibility="private",
            show_progress="hidden",
        )  # fmt: skip
        self.all = [self.how, self.window, self.stride]

    def shown_for(self, loaded: LoadedModel, how: str) -> list[Any]:
        """The components for a model; what was chosen stays where the model takes it."""
        update, known = self._gr.update, ways(loaded)
        value = how if how in known else REFUSED
        return [
            update(choices=known or [REFUSED], value=value, visible=bool(known), info=said_of(loaded)),
            update(value=longest(loaded)), update(value=None),
        ]  # fmt: skip


def ways(loaded: LoadedModel) -> list[str]:
    """What can be done with a text that is too long; nothing where a model reads pictures."""
    if isinstance(loaded, LoadedPair) or kind_of(loaded) != "text":
        return []
    module = unwrap(loaded.model)
    try:
        classifies = find_architecture(module).task(module) == "classification"
    except UnknownArchitecture:
        classifies = False
    windows = classifies and bool(getattr(loaded.tokenizer, "is_fast", False))
    return [REFUSED, CUT, *([WINDOWS] if windows else [])]


def longest(loaded: LoadedModel) -> int | None:
    """How many tokens a text may have; None where it is not known, or a model reads none."""
    if not ways(loaded):
        return None
    module = unwrap(loaded.model)
    try:
        bound = find_architecture(module).bind(module)
    except UnknownArchitecture:
        bound = None
    return longest_text(module, bound, loaded.tokenizer)


def said_of(loaded: LoadedModel) -> str:
    """How long a text may be."""
    limit = longest(loaded)
    return "" if limit is None else f"It reads at most {limit:,} tokens (of about four letters in English)"


def options_for(loaded: LoadedModel, how: str, window: int | None, stride: int | None) -> dict[str, Any]:
    """Options of `clew.explain` for what was chosen. Raises `OptionError` for windows that overlap too much."""
    if how == CUT:
        return {"truncate": True}
    if how != WINDOWS or how not in ways(loaded):
        return {}
    size = window or longest(loaded)
    if size is None:
        raise OptionError(
            "of how many tokens is a window?", expected="a number", got="none", todo="type one, such as 256"
        )
    if stride and stride * _MOST_OVERLAP < size:
        expected = f"a window every {-(-size // _MOST_OVERLAP)} tokens or more"
        raise OptionError("these windows overlap too much", expected=expected, got=f"every {stride}")
    return {"window": int(size), **({"stride": int(stride)} if stride else {})}

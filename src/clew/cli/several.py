"""`clew explain` of models that take several inputs: a picture with a question, a source with an answer, sound."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from ..attributions import Attribution
from ..errors import InputError, OptionError
from ..explaining.explain import explain
from ..files import parsed
from ..inputs import open_image
from ..models import LoadedModel
from ..requests import target_of
from .parameters import refuse_suffix


def several_inputs(image: Sequence[Path], text: Sequence[str], **given: Any) -> dict[str, Any] | None:
    """What a loaded model is to be given; None where none of these options is. Raises `InputError` for files that
    cannot be read."""
    found: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if not image and not found:
        return None
    if "messages" in found:
        found["messages"] = _messages(found["messages"])
    if image:
        found["images"] = [open_image(path) for path in image]
    if text:
        found["text"] = text[0] if len(text) == 1 else list(text)
    if "answer" in found and not {"source", "images", "audio"} & found.keys():
        raise OptionError("an answer to nothing", expected="--source, --image or --audio with it", got="--answer alone")
    return found


def _messages(path: Path) -> Any:
    try:
        return parsed(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, ValueError) as error:
        raise InputError(
            f"{path} holds no messages", expected='[{"role": "user", "content": "…"}] in JSON', got=error
        ) from error


def explain_several(
    console: Console,
    loaded: LoadedModel,
    given: Mapping[str, Any],
    chosen: Sequence[tuple[str, Mapping[str, Any]]],
    target: str | None,
    score: str,
    out: Path | None,
) -> Attribution:
    """Explain one call by one method, show it and write it, if there is a file to write."""
    if len(chosen) > 1:
        raise OptionError(
            "several inputs are explained by one method",
            expected="one --method",
            got=len(chosen),
            todo="run it once for each method",
        )
    if out is not None:
        refuse_suffix(out)
    ((name, options),) = chosen
    found: Any = explain(loaded, dict(given), method=name, target=target_of(target), score=score, **options)
    console.print(f"[bold]{escape(found.name_of_target(0))}[/bold], by {escape(name)}")
    console.print(found.to_rich())
    if "advice" in found.checks:
        console.print(f"[yellow]{escape(str(found.checks['advice']))}[/yellow]")
    if out is not None:
        console.print(f"written: {escape(str(found.save(out)))}")
    return found

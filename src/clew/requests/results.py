"""From what is typed on a command line to results: inputs, targets, sides of image–text models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..attributions import Attribution
from ..errors import OptionError, UnknownArchitecture
from ..explaining import LoadedPair, explain_in_batches, unwrap
from ..models import LoadedModel, find_architecture, is_declared
from ..targets import Contrast, Similarity, Span, Target, labels_by_index
from .inputs import NamedInput, ReadInputs, read_images, read_texts
from .targets import target_of, texts_of


def kind_of(loaded: LoadedModel) -> str:
    """What a model reads: "image", "text" or "pair"."""
    if isinstance(loaded, LoadedPair):
        return "pair"
    module = unwrap(loaded.model)
    if not is_declared(module):
        return "image" if loaded.preprocess is not None else "text"
    return find_architecture(module).modality


def labels_of(loaded: LoadedModel) -> Sequence[str] | None:
    """Names of the classes that a target may be: none where outputs are words or places in a text."""
    if isinstance(loaded, LoadedPair):
        return None
    module = unwrap(loaded.model)
    if not is_declared(module):
        return labels_by_index(loaded.labels)
    task = find_architecture(module).task(module)
    return None if task in ("causal-lm", "question-answering") else labels_by_index(loaded.labels)


def items_for(loaded: LoadedModel, inputs: Sequence[str], text: Sequence[str]) -> ReadInputs:
    """Files, folders and words as inputs, with errors of those that cannot be read.

    Raises `InputError` where none can, and `OptionError` where there are none, or words that are not taken.
    """
    kind = kind_of(loaded)
    if kind == "text":
        found = read_texts(inputs) + read_texts(text, as_text=True)
    else:
        if text and kind == "image":
            raise OptionError("a model of images takes no --text", expected="picture files", got=text[0])
        found = read_images(inputs)
    if not found.require_any().items:
        raise OptionError("nothing to explain", expected="files or words" if kind == "text" else "pictures", got="none")
    return found


def explain_items(
    loaded: LoadedModel,
    items: Sequence[NamedInput],
    chosen: Sequence[tuple[str, dict[str, Any]]],
    *,
    target: str | None = None,
    text: Sequence[str] = (),
    span: str | None = None,
    score: str = "logit",
    batch_size: int = 16,
    more: dict[str, Any] | None = None,
    both_sides: bool = True,
    tell: Callable[[str], None] = lambda words: None,
) -> list[Attribution]:
    """A result for each method. Image–text models: of both sides where that can be, unless `more` has a `side`.

    `tell` is told where only one side could be explained. Raises `OptionError` for an image–text model without a text.
    """
    more = dict(more or {})
    wanted: Target = Span(span) if span is not None else target_of(target, labels_of(loaded))
    pair, free = isinstance(loaded, LoadedPair), "side" not in more
    if pair:
        if bool(text) == (target is not None) or span is not None:
            todo = "--text 'a photo of a dog', or --target 'a dog / a cat' for one rather than the other"
            raise OptionError("say what to compare the pictures with", expected="--text or --target", todo=todo)
        wanted = Similarity(list(text)) if text else texts_of(str(target))
        more.setdefault("side", "both" if has_words(loaded, wanted) and both_sides else "image")
    values = [item.value for item in items]
    try:
        return explain_in_batches(loaded, values, chosen, wanted, score, batch_size, more)
    except OptionError as error:
        if not (pair and free and more["side"] == "both"):
            raise
        tell(f"the image alone, as the options fit one tower only: {error}")
        return explain_in_batches(loaded, values, chosen, wanted, score, batch_size, {**more, "side": "image"})


def has_words(loaded: LoadedModel, wanted: Target) -> bool:
    """Whether the texts can be explained too: a contrast has two, and some towers are only compared with."""
    if not isinstance(loaded, LoadedPair) or isinstance(wanted, Contrast):
        return False
    try:
        loaded.pair.text(loaded.model)
    except UnknownArchitecture:
        return False
    return True

"""What the page asks of the library: models by name, one input at a time, limits on it, and code that does the same."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from PIL import Image

from ..attributions import Attribution
from ..errors import ClewError, InputError, OptionError
from ..explainers import find_method
from ..explaining import LoadedPair, unwrap
from ..explaining.explain import explain
from ..inputs import open_image
from ..loading import MINIS, SEVERAL_INPUTS
from ..loading.load import load
from ..models import LoadedModel
from ..requests import has_words, kind_of, labels_of, target_of, texts_of
from ..targets import Contrast, Head, Similarity, head_of, probabilities

LARGEST_FILE = "20mb"
MOST_PIXELS = 40_000_000
MOST_CHARACTERS = 20_000
MOST_TEXTS = 8
MOST_METHODS = 8
_HELD = 3  # models in memory


NO_SOUND = (
    "the page takes no sound; clew generate --audio FILE explains what a model writes of it, clew explain --audio FILE "
    "one of its outputs"
)


@dataclass(frozen=True)
class PageRequest:
    """One question: a model by name, an input, what to explain, and by which methods ("NAME" or with options).

    `long`: options of `clew.explain` for texts longer than the model's positions.
    """

    model: str
    methods: Sequence[tuple[str, dict[str, Any]]]
    image: Image.Image | None = None
    text: str = ""
    texts: Sequence[str] = ()
    target: str = ""
    long: Mapping[str, Any] = field(default_factory=dict[str, Any])


class OfferedModels:
    """The models that the page offers: the bundled ones and those that it was started with; no other can be named.

    `names` are those to explain one input of; `writers` those whose answers are explained, as far as they write.
    """

    def __init__(self, names: Sequence[str] = (), **options: Any) -> None:
        """`options` go to `load`, for the names; bundled models take none of them."""
        self.bundled = [f"mini:{name}" for name in MINIS if name not in SEVERAL_INPUTS]
        self.names = [*names, *(name for name in self.bundled if name not in names)]
        self.bundled_writers = [f"mini:{name}" for name in SEVERAL_INPUTS]
        self.writers = list(dict.fromkeys([*names, *self.bundled_writers]))
        self._own, self._options = set(names), options
        self._held: OrderedDict[str, LoadedModel] = OrderedDict()
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> LoadedModel:
        """A model, loaded when it is first asked for. Raises `OptionError` for one that is not offered."""
        offered = list(dict.fromkeys([*self.names, *self.writers]))
        if name not in offered:
            raise OptionError("this model is not offered here", expected=", ".join(offered), got=name)
        with self._lock:
            if name not in self._held:
                self._held[name] = load(name, **(self._options if name in self._own else {}))
                while len(self._held) > _HELD:
                    self._held.popitem(last=False)
            self._held.move_to_end(name)
            return self._held[name]

    def kind(self, name: str) -> str:
        """What a model reads: "image", "text" or "pair"."""
        return kind_of(self[name])


def open_upload(
    path: str | Path | None, tell: Callable[[str], None] = lambda words: None, longest: int | None = None
) -> Image.Image | None:
    """A picture that was uploaded, of at most `longest` pixels a side; `tell` is told if it is nearly black.

    Raises `InputError` for a broken one, and for one that is too large.
    """
    if path is None:
        return None
    try:
        with Image.open(path) as header:  # reads the header alone
            width, height = header.size
    except Image.DecompressionBombError:
        width = height = 10 * MOST_PIXELS
    except Exception:  # `open_image` says what is wrong
        width = height = 0
    if width * height > MOST_PIXELS:
        raise InputError(
            "this picture is too large",
            expected=f"at most {MOST_PIXELS // 1_000_000} million pixels",
            got="far more" if width > MOST_PIXELS else f"{width} × {height}",
            todo="shrink it first",
        )

    def bare(words: str) -> str:  # without the server's paths
        return words.replace(str(path), "this file").replace(Path(path).name, "this file")

    try:
        return open_image(path, tell=lambda words: tell(bare(words)), longest=longest)
    except InputError as error:
        raise InputError(bare(str(error))) from None


def check_request(asked: PageRequest, kind: str) -> PageRequest:
    """The question, if it can be answered. Raises `InputError` or `OptionError` with what is missing or too much."""
    texts = [text.strip() for text in asked.texts if text.strip()]
    long = max([len(asked.text), len(asked.target), *map(len, texts)])
    if long > MOST_CHARACTERS:
        raise InputError("this text is too long", expected=f"at most {MOST_CHARACTERS:,} characters", got=f"{long:,}")
    if not 1 <= len(asked.methods) <= MOST_METHODS:
        raise OptionError("choose methods", expected=f"1 to {MOST_METHODS}", got=len(asked.methods))
    if kind != "text" and asked.image is None:
        raise InputError(
            "there is no picture", expected="a picture to explain", got="none", todo="drop one, or click an example"
        )
    if kind == "text" and not asked.text.strip():
        raise InputError(
            "there is no text", expected="words to explain", got="none", todo="type some, or click an example"
        )
    if kind == "pair" and not texts:
        raise InputError("there is no caption", expected="one on each line", got="none", todo="type what to look for")
    if len(texts) > MOST_TEXTS:
        raise InputError("there are too many captions", expected=f"at most {MOST_TEXTS}", got=len(texts))
    for name, _ in asked.methods:
        find_method(name)
    return replace(asked, texts=texts, target=asked.target.strip())


def hears(loaded: LoadedModel) -> bool:
    """Whether a model takes sound, and no pictures."""
    processor = loaded.processor
    return (
        getattr(processor, "image_processor", None) is None
        and getattr(processor, "feature_extractor", None) is not None
    )


def refuse_sound(loaded: LoadedModel) -> None:
    """Raise `InputError` for a model that hears."""
    if hears(loaded):
        expected = "a model that reads words or pictures"
        raise InputError("this page takes no sound", expected=expected, got="a model that hears", todo=NO_SOUND)


def explain_request(asked: PageRequest, loaded: LoadedModel) -> Generator[Attribution | ClewError]:
    """A result for each method as soon as it is there, or the error that came instead."""
    refuse_sound(loaded)
    kind = kind_of(loaded)
    asked = check_request(asked, kind)
    for name, options in asked.methods:
        try:
            yield _answer(asked, loaded, kind, name, options)
        except ClewError as error:
            yield error


def _answer(asked: PageRequest, loaded: LoadedModel, kind: str, name: str, options: dict[str, Any]) -> Attribution:
    if kind == "text":
        target = target_of(asked.target, labels_of(loaded))
        return explain(loaded, asked.text, method=name, target=target, **asked.long, **options)
    if kind == "image":
        return explain(loaded, asked.image, method=name, target=target_of(asked.target, labels_of(loaded)), **options)
    target, sides = _sides(asked, loaded)
    for side in sides:
        try:
            return explain(loaded, asked.image, method=name, target=target, side=side, **options)
        except OptionError:  # options that fit one tower only
            if side == sides[-1]:
                raise
    raise AssertionError("a side is returned or raises")


def _sides(asked: PageRequest, loaded: LoadedModel) -> tuple[Similarity | Contrast, list[str]]:
    target = texts_of(asked.texts[0]) if len(asked.texts) == 1 else Similarity(list(asked.texts))
    return target, ["both", "image"] if has_words(loaded, target) else ["image"]


def predictions(result: Attribution, loaded: LoadedModel, count: int = 5) -> list[tuple[str, float]]:
    """The likeliest classes of a result's first example with their probabilities; empty where there are none."""
    logits, labels = result.logits, result.labels
    if logits is None or not labels or logits.ndim != 2 or logits.shape[1] != len(labels) or len(labels) < 2:
        return []
    module = unwrap(loaded.model)
    head = Head(loaded.pair.head_kind(module)) if isinstance(loaded, LoadedPair) else head_of(module)
    scale = head.scale(len(labels))
    if scale is None:
        return []
    found = probabilities(logits[0].float(), scale)
    best = found.topk(min(count, len(labels)))
    return [(str(labels[k]), float(p)) for k, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)]


def snippet(asked: PageRequest, loaded: LoadedModel, side_by_side: bool = True) -> str:
    """Python that gives the same results, in one file or in a file for each."""
    kind = kind_of(loaded)
    lines = ["import clew", "", f"model = clew.load({asked.model!r})"]
    if kind == "text":
        inputs, target = repr(asked.text), target_of(asked.target, labels_of(loaded))
    else:
        lines.append('image = clew.open_image("picture.png")  # your picture')
        inputs, target = "image", target_of(asked.target, labels_of(loaded))
    more = "".join(f", {k}={v!r}" for k, v in asked.long.items()) if kind == "text" else ""
    if kind == "pair":
        texts = [text.strip() for text in asked.texts if text.strip()]
        target = texts_of(texts[0]) if len(texts) == 1 else Similarity(texts)
        more = ', side="both"' if has_words(loaded, target) else ', side="image"'
    own = "clew." if isinstance(target, (Contrast, Similarity)) else ""
    said = "" if target is None else f", target={own}{target!r}"
    for i, (name, options) in enumerate(asked.methods):
        given = "".join(f", {k}={v!r}" for k, v in options.items())
        lines.append(f"a{i} = clew.explain(model, {inputs}, method={name!r}{given}{said}{more})")
    names = ", ".join(f"a{i}" for i in range(len(asked.methods)))
    lines.append("print(a0.checks)")
    if side_by_side:
        lines.append(f'clew.compare([{names}], "clew.html")')
    else:
        lines += [f'a{i}.save("clew-{i}.html")' for i in range(len(asked.methods))]
    return "\n".join(lines) + "\n"

"""What the chat tab asks of the library: an answer of a model that writes, explained, and code that does the same."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from ..attributions import GenerationAttribution
from ..errors import InputError
from ..explainers import find_method
from ..explaining import LoadedPair, explained_in_steps, unwrap
from ..models import LoadedModel
from .page_requests import MOST_CHARACTERS, NO_SOUND, hears, refuse_sound

MOST_PICTURES = 4
MOST_TOKENS = 100  # of an answer
_AT_ONCE = 4  # tokens, between which the work can be stopped


@dataclass(frozen=True)
class ChatRequest:
    """One question to a model by name: `words` with pictures, a source, or a beginning; an empty answer is written by
    the model. `message`: the words are a message to an assistant."""

    model: str
    method: str
    words: str
    images: Sequence[Image.Image] = ()
    answer: str = ""
    message: bool = False
    most: int = 20


def reads(loaded: LoadedModel) -> str:
    """What a model goes on from: "pictures" with words, a "source", "words"; empty where it does not
    write, or goes on from sound."""
    module: Any = unwrap(loaded.model)
    decoder = bool(getattr(getattr(module, "config", None), "is_encoder_decoder", False))
    can = getattr(module, "can_generate", None)
    tokenizer = loaded.tokenizer or getattr(loaded.processor, "tokenizer", None)
    if isinstance(loaded, LoadedPair) or tokenizer is None or not (decoder or (can is not None and can())):
        return ""
    if getattr(loaded.processor, "image_processor", None) is not None:
        return "pictures"
    if hears(loaded):
        return ""
    return "source" if decoder else "words"


def why_not(loaded: LoadedModel, name: str) -> str:
    """Why a model is not for this tab, and what is."""
    if hears(loaded):
        return f"{name} is not for chat: {NO_SOUND}."
    return f"{name} is not for chat, for it writes no answers: choose another model, or the other tabs."


def has_messages(loaded: LoadedModel) -> bool:
    """Whether words alone can be a message to an assistant."""
    return reads(loaded) == "words" and bool(getattr(loaded.tokenizer, "chat_template", None))


def check_chat(asked: ChatRequest, loaded: LoadedModel) -> ChatRequest:
    """The question, if it can be answered. Raises `InputError` or `OptionError` with what is missing or too much."""
    kind = reads(loaded)
    refuse_sound(loaded)
    if not kind:
        raise InputError(
            f"{asked.model} is not for chat",
            expected="a model that writes words after a text, a source text, or pictures and words",
            got=type(unwrap(loaded.model)).__name__,
            todo="choose another model, or the other tabs",
        )
    long = max(len(asked.words), len(asked.answer))
    if long > MOST_CHARACTERS:
        raise InputError("this text is too long", expected=f"at most {MOST_CHARACTERS:,} characters", got=f"{long:,}")
    if kind == "pictures" and not 1 <= len(asked.images) <= MOST_PICTURES:
        what = "there are too many pictures" if asked.images else "there is no picture"
        todo = "drop one, or click an example"
        raise InputError(what, expected=f"1 to {MOST_PICTURES} pictures", got=len(asked.images) or "none", todo=todo)
    if not asked.words.strip():
        raise InputError("there is no text", expected="words", got="none", todo="type some, or click an example")
    find_method(asked.method)
    images = asked.images if kind == "pictures" else ()
    most = max(1, min(int(asked.most), MOST_TOKENS))
    return replace(asked, images=images, message=asked.message and has_messages(loaded), most=most)


def answer_chat(asked: ChatRequest, loaded: LoadedModel) -> Generator[tuple[int, int], None, GenerationAttribution]:
    """The result, and on the way how many tokens are explained, of how many."""
    asked = check_chat(asked, loaded)
    steps = explained_in_steps(
        loaded,
        _prompt(asked, loaded),
        max_new_tokens=asked.most,
        answer=asked.answer if asked.answer.strip() else None,
        method=asked.method,
        batch_size=_AT_ONCE,
    )
    return (yield from steps)


def _prompt(asked: ChatRequest, loaded: LoadedModel) -> Any:
    kind = reads(loaded)
    if kind == "pictures":
        return {"images": list(asked.images), "text": asked.words}
    if kind == "source":
        return {"source": asked.words}
    return [{"role": "user", "content": asked.words}] if asked.message else asked.words


def chat_snippet(asked: ChatRequest, loaded: LoadedModel) -> str:
    """Python that gives the same result."""
    names = [f"image{i + 1}" for i in range(len(asked.images))]
    lines = ["import clew", "", f"model = clew.load({asked.model!r})"]
    lines += [f'{name} = clew.open_image("picture{i + 1}.png")  # your picture' for i, name in enumerate(names)]
    prompt = repr(_prompt(replace(asked, images=()), loaded)).replace(
        "'images': []", f"'images': [{', '.join(names)}]", 1
    )
    answer = f"answer={asked.answer!r}" if asked.answer.strip() else f"max_new_tokens={asked.most}"
    lines.append(f"g = clew.explain_generation(model, {prompt}, {answer}, method={asked.method!r})")
    return "\n".join([*lines, "print(g.checks)", 'g.save("clew.html")']) + "\n"

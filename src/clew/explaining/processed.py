"""What people give a loaded model of several inputs: pictures with words, messages of a chat, sound, a source text with
an answer; made tensors by the model's own processor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..models import LoadedModel

_RAW = frozenset({"images", "text", "messages", "audio", "sampling_rate", "source", "answer"})


def is_raw(inputs: Any) -> bool:
    """Whether these are pictures, words or sound by name, or messages of a chat, and no tensors of a model yet."""
    if _are_messages(inputs):
        return True
    if not isinstance(inputs, Mapping) or not inputs or not {str(k) for k in inputs} <= _RAW:
        return False
    return not isinstance(inputs.get("text", ""), Tensor) and not isinstance(inputs.get("source", ""), Tensor)


def processed(loaded: LoadedModel, inputs: Any) -> dict[str, Any]:
    """Arguments of a loaded model. Raises `InputError` for what the model does not take, pictures without a place in
    the words, places without a picture, and sound of another rate."""
    given: dict[str, Any] = {"messages": inputs} if _are_messages(inputs) else {str(k): v for k, v in inputs.items()}
    _refuse(loaded, given)
    if given.get("messages") is not None:
        found = _of_messages(loaded, given)
    elif given.get("audio") is not None:
        found = _of_audio(loaded, given)
    elif given.get("source") is not None:
        found = _encoded(loaded, given["source"])
    elif given.get("images") is not None:
        found = _of_pictures(loaded, given)
    else:
        found = _encoded(loaded, given.get("text"))
    return _with_beginning(loaded, found, given.get("answer"))


def with_beginning(loaded: LoadedModel, found: dict[str, Any]) -> dict[str, Any]:
    """Arguments of an encoder–decoder with the token that its answer begins with, so that the first word is next."""
    return _with_beginning(loaded, found, None)


def takes(loaded: LoadedModel) -> str:
    """What a model can be given, in words."""
    processor = loaded.processor
    found: list[str] = []
    if getattr(processor, "image_processor", None) is not None:
        found += ['{"images": [picture], "text": "…"}', "messages of a chat"]
    if _extractor(processor) is not None:
        found.append('{"audio": array, "sampling_rate": …}')
    if _is_encoder_decoder(loaded) and loaded.tokenizer is not None and _extractor(processor) is None:
        found.append('{"source": "…", "answer": "…"}')
    if loaded.tokenizer is not None and not found:
        found.append('a string, or {"text": "…"}')
    return ", or ".join([*found, "tensors as model(**inputs) takes them"])


def _refuse(loaded: LoadedModel, given: Mapping[str, Any]) -> None:
    processor = loaded.processor
    kinds = {
        "images": ("pictures", getattr(processor, "image_processor", None)),
        "audio": ("sound", _extractor(processor)),
        "source": ("source text", loaded.tokenizer if _is_encoder_decoder(loaded) else None),
        "text": ("words", loaded.tokenizer or getattr(processor, "tokenizer", None)),
        "messages": ("messages", _templated(loaded)),
    }
    for name, (words, reader) in kinds.items():
        if given.get(name) is not None and reader is None:
            raise InputError(f"{loaded.name} takes no {words}", expected=takes(loaded), got=", ".join(given))
    if given.get("answer") is not None and not _is_encoder_decoder(loaded):
        todo = "put the answer into the text, or use explain_generation(…, answer=…)"
        raise InputError(f"{loaded.name} has no decoder of its own", expected=takes(loaded), got="answer", todo=todo)


# Pictures and words


def _of_pictures(loaded: LoadedModel, given: Mapping[str, Any]) -> dict[str, Any]:
    processor, images = loaded.processor, given["images"]
    pictures: list[Any] = list(cast("Sequence[Any]", images)) if isinstance(images, (list, tuple)) else [images]
    text = given.get("text")
    if text is None:
        return _tensors(processor(images=pictures, return_tensors="pt"))
    texts = [text] if isinstance(text, str) else list(cast("Sequence[str]", text))
    placeholder = _placeholder(loaded)
    places = sum(one.count(placeholder) for one in texts) if placeholder else len(pictures)
    if not places and len(texts) == 1 and _templated(loaded) is not None:  # words alone: a question about the pictures
        content = [*({"type": "image", "image": one} for one in pictures), {"type": "text", "text": texts[0]}]
        return _of_messages(loaded, {"messages": [{"role": "user", "content": content}]})
    if not places and len(texts) == 1 and placeholder:
        texts, places = [placeholder * len(pictures) + texts[0]], len(pictures)
    if places != len(pictures):
        raise InputError(
            "there are not as many pictures as places for them in the words",
            expected=f"{places} pictures, one for each {placeholder!r}",
            got=f"{len(pictures)} pictures",
            todo=f"write {placeholder!r} where a picture belongs, or leave it out everywhere",
        )
    found = _tensors(processor(images=pictures, text=texts, return_tensors="pt", padding=len(texts) > 1))
    _see_pictures(loaded, found)
    return found


def _of_messages(loaded: LoadedModel, given: Mapping[str, Any]) -> dict[str, Any]:
    messages, owner = list(given["messages"]), _templated(loaded)
    images = list(given.get("images") or ())
    messages = [_message(one, images) for one in messages]
    if images:
        todo = 'a {"type": "image"} in the content of a message for each'
        raise InputError("pictures without a place in the messages", expected="a place", got=len(images), todo=todo)
    asked = messages[-1]["role"] != "assistant"
    more: dict[str, Any] = {"add_generation_prompt": True} if asked else {"continue_final_message": True}
    try:
        made = owner.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt", **more)
    except (ValueError, TypeError, KeyError, IndexError) as error:
        raise InputError(
            "these messages do not fit the model's template", expected="role and content of each", got=error
        ) from error
    found = _tensors(made)
    if any(part.get("type") == "image" for one in messages for part in _parts(one)):
        _see_pictures(loaded, found)
    return found


def _message(one: Any, images: list[Any]) -> dict[str, Any]:
    """A message, with the next of the pictures in each place for one."""
    if not isinstance(one, Mapping) or "role" not in one or "content" not in one:
        raise InputError("this is no message of a chat", expected='{"role": …, "content": …}', got=repr(one)[:80])
    parts = [dict(part) for part in _parts(one)]
    for part in parts:
        source = next((part[k] for k in ("image", "url", "path") if part.get(k) is not None), None)
        if part.get("type") != "image":
            continue
        if source is None and not images:
            todo = 'images=[picture], or {"type": "image", "image": picture}'
            raise InputError("a place for a picture without its picture", expected="a picture", got="none", todo=todo)
        if isinstance(source, str) and "://" in source:
            raise InputError("pictures are not fetched", expected="a picture, or a file", got=source[:80])
        part["image"] = images.pop(0) if source is None else source
    return {**cast("Mapping[str, Any]", one), "content": parts or one["content"]}


def _parts(message: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    content = message["content"]
    return [part for part in content if isinstance(part, Mapping)] if isinstance(content, (list, tuple)) else []


def _see_pictures(loaded: LoadedModel, found: Mapping[str, Any]) -> None:
    """Raise `InputError` where a processor dropped the pictures that it was given."""
    if not any(isinstance(v, Tensor) and v.is_floating_point() for v in found.values()):
        raise InputError(f"the processor of {loaded.name} left the pictures out", expected=takes(loaded), got=[*found])


def _placeholder(loaded: LoadedModel) -> str:
    """The word that stands for a picture in a text."""
    processor = loaded.processor
    return str(getattr(processor, "image_token", None) or getattr(loaded.tokenizer, "image_token", None) or "")


# Sound


def _of_audio(loaded: LoadedModel, given: Mapping[str, Any]) -> dict[str, Any]:
    extractor = _extractor(loaded.processor)
    audio, rate = given["audio"], given.get("sampling_rate")
    if isinstance(audio, (str, Path)):
        audio, rate = _read_wave(Path(audio))
    wanted: Any = getattr(extractor, "sampling_rate", rate)
    if rate is None or int(rate) != int(wanted):
        raise InputError(
            f"{loaded.name} hears {wanted} samples a second",
            expected=f"sampling_rate={wanted}",
            got=rate,
            todo="resample it, for example with torchaudio.functional.resample or scipy.signal.resample_poly",
        )
    wave = np.asarray(audio.detach().cpu() if isinstance(audio, Tensor) else audio, dtype=np.float32)
    if wave.ndim > 2 or not wave.size or not bool(np.isfinite(wave).all()):
        raise InputError("this is no sound", expected="finite samples (sample,) or (batch, sample)", got=wave.shape)
    waves = list(wave) if wave.ndim == 2 else wave
    found = _tensors(extractor(waves, sampling_rate=int(wanted), return_tensors="pt"))
    if given.get("text") is not None:
        return _tensors(loaded.processor(text=given["text"], audio=waves, return_tensors="pt"))
    return found


def _read_wave(path: Path) -> tuple[Any, int]:
    from scipy.io import wavfile

    try:
        rate, samples = wavfile.read(path)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read", expected="a .wav file, or samples", got=error) from error
    if samples.dtype.kind in "iu":
        samples = samples / np.iinfo(samples.dtype).max
    return samples.mean(1) if samples.ndim == 2 else samples, int(rate)


# Encoders with a decoder


def _encoded(loaded: LoadedModel, text: Any) -> dict[str, Any]:
    texts: list[Any] = [text] if isinstance(text, str) else list(text or ())
    if not texts or not all(isinstance(one, str) and one.strip() for one in texts):
        raise InputError("there is an empty text", expected="words", got=repr(text)[:80])
    placeholder = _placeholder(loaded)
    if placeholder and any(placeholder in one for one in texts):
        raise InputError("a place for a picture without its picture", expected=takes(loaded), got=texts[0][:80])
    tokenizer = loaded.tokenizer or loaded.processor.tokenizer
    return _tensors(tokenizer(texts, return_tensors="pt", padding=len(texts) > 1))


def _with_beginning(loaded: LoadedModel, found: dict[str, Any], answer: Any) -> dict[str, Any]:
    if not _is_encoder_decoder(loaded) or "decoder_input_ids" in found:
        return found
    config = cast(Any, loaded.model).config
    start = getattr(config, "decoder_start_token_id", None)
    start = getattr(getattr(config, "decoder", None), "bos_token_id", None) if start is None else start
    if start is None:
        return found
    batch = len(next(v for v in found.values() if isinstance(v, Tensor)))
    answers = [answer] if isinstance(answer, str) else list(answer or ())
    if answers and len(answers) != batch:
        raise InputError("one answer for each source", expected=batch, got=len(answers))
    tokenizer = loaded.tokenizer or getattr(loaded.processor, "tokenizer", None)
    rows = [[int(start)] for _ in range(batch)]
    if answers:
        if tokenizer is None:
            raise InputError("an answer in words needs the model's tokenizer", expected="a tokenizer", got="none")
        written = [list(tokenizer(text_target=one, add_special_tokens=False)["input_ids"]) for one in answers]
        if len({len(one) for one in written}) > 1:
            raise InputError("answers of several lengths at once", expected="one at a time", got=[*map(len, written)])
        rows = [row + more for row, more in zip(rows, written, strict=True)]
    return {**found, "decoder_input_ids": torch.tensor(rows)}


# What there is


def _are_messages(inputs: Any) -> bool:
    several = isinstance(inputs, (list, tuple)) and bool(inputs)
    return several and all(isinstance(one, Mapping) and "role" in one for one in cast("list[Any]", inputs))


def _templated(loaded: LoadedModel) -> Any:
    """What has a template for chats: the processor, or the tokenizer."""
    for one in (loaded.processor, loaded.tokenizer):
        if getattr(one, "chat_template", None):
            return one
    return None


def _extractor(processor: Any) -> Any:
    """What makes features of sound."""
    found = getattr(processor, "feature_extractor", None) or processor
    return found if hasattr(found, "sampling_rate") else None


def _is_encoder_decoder(loaded: LoadedModel) -> bool:
    return bool(getattr(getattr(loaded.model, "config", None), "is_encoder_decoder", False))


def _tensors(made: Any) -> dict[str, Any]:
    """What a processor returned, as arguments."""
    return {str(k): v for k, v in dict(made).items() if v is not None}

"""Models of open_clip, with their preprocessing, and their tokenizers in the form that those of transformers have."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import LoadError, close_matches, optional_import
from ..files import read_object
from ..inputs import Preprocess
from ..models import (
    LoadedModel,
    check_configuration,
    download_error,
    dry_build,
    limit_size,
    load_weights,
    no_foreign_code,
    read_weights,
    stored_size,
)

logger = logging.getLogger("clew")


def load_open_clip(name: str, checkpoint: str | Path | None, model_args: dict[str, Any]) -> LoadedModel:
    """A model by `NAME/TAG` (or `pretrained=TAG`), with a `checkpoint` in place of a tag, or `hf-hub:ORG/NAME`."""
    open_clip = optional_import("open_clip", extra="openclip", purpose="load open_clip models")
    args = no_foreign_code(name, model_args)
    known, tag = name, args.pop("pretrained", None)
    if ":" not in name:
        known, _, given = name.partition("/")
        tag = given or tag
        models = open_clip.list_models()
        if known not in models:
            raise LoadError(f"open_clip has no model {known!r}", got=known, todo=close_matches(known, models))
        tags = open_clip.list_pretrained_tags_by_model(known)
        if checkpoint is None and tag not in tags:
            raise LoadError(
                f"open_clip has no such weights for {known}",
                expected=", ".join(f"open_clip:{known}/{one}" for one in tags) or "checkpoint=, as none are published",
                got=repr(tag),
            )
        if (open_clip.get_pretrained_cfg(known, tag) or {}).get("quick_gelu") and checkpoint is None:
            args.setdefault("force_quick_gelu", True)  # as these weights were trained, of which open_clip only warns
    elif tag is not None or checkpoint is not None:
        raise LoadError(f"{name} brings its weights", expected="no pretrained=, no checkpoint=", got=tag or checkpoint)
    weights = read_weights(checkpoint) if checkpoint is not None else None
    config = _configuration(open_clip, known)
    try:
        _known_to_transformers(config)

        def build() -> Any:
            return open_clip.create_model(known, pretrained=None if weights is not None else tag, **args)

        most = stored_size(known.removeprefix(_FOLDER)) if known.startswith(_FOLDER) else None
        dry_build(build, most, known)
        with limit_size(most, known):
            model = build()
    except LoadError:
        raise
    except TypeError as error:
        expected = "arguments of open_clip.create_model"
        raise LoadError(f"open_clip cannot build {known} so", expected=expected, got=error) from error
    except Exception as error:
        raise download_error(f"open_clip:{name}", error) from error
    if weights is not None:
        load_weights(model, weights, str(checkpoint))
    preprocess = Preprocess.from_open_clip(open_clip.get_model_preprocess_cfg(model))
    return LoadedModel(model, preprocess, tokenizer=_tokenizer(open_clip, known, config))


_FOLDER = "local-dir:"


def _configuration(open_clip: Any, name: str) -> dict[str, Any]:
    """The configuration of a model of open_clip; empty where the Hub has none, which open_clip tells of.

    Raises `LoadError` for that of a folder which cannot be read, or says what cannot be.
    """
    schema, _, place = name.rpartition(":")
    if not schema:
        return open_clip.get_model_config(name) or {}
    file = Path(place) / "open_clip_config.json"
    if schema == "hf-hub":
        from huggingface_hub import hf_hub_download

        try:
            file = Path(hf_hub_download(place.partition("@")[0], file.name))
        except Exception:
            return {}
    said = read_object(file, expected="a folder of open_clip, with open_clip_config.json")
    check_configuration(said, file)
    inner: Any = said.get("model_cfg")
    parts: list[Any] = (
        [inner[key] for key in ("vision_cfg", "text_cfg") if key in inner] if isinstance(inner, dict) else []
    )
    if len(parts) < 2 or not all(isinstance(part, dict) for part in parts):
        expected = "model_cfg, with vision_cfg and text_cfg in it"
        raise LoadError(f"{file} describes no model", expected=expected, got=", ".join(said), todo="fetch it again")
    return inner


def _known_to_transformers(config: dict[str, Any]) -> None:
    """Raise an error where the text side is a model of transformers that brings its own code: open_clip would ask."""
    inner = (config.get("text_cfg") or {}).get("hf_model_name")
    if inner:
        from transformers import AutoConfig

        AutoConfig.from_pretrained(inner, trust_remote_code=False)


def _tokenizer(open_clip: Any, name: str, config: dict[str, Any]) -> OpenClipTokenizer | None:
    text = config.get("text_cfg")
    # What a configuration says of its tokenizer's arguments would count otherwise.
    own = {"trust_remote_code": False} if text is None or text.get("hf_tokenizer_name") else {}
    try:
        return OpenClipTokenizer(open_clip.get_tokenizer(name, **own))
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        logger.warning("%s has no tokenizer that can be read (%s): pass token numbers", name, reason)
        return None


@dataclass
class OpenClipTokenizer:
    """A tokenizer of open_clip, called as those of transformers are, with one text at a time."""

    inner: Any
    is_fast = True

    @property
    def model_max_length(self) -> int:
        """The length that all texts have."""
        return int(self.inner.context_length)

    @property
    def _hf(self) -> Any:
        return getattr(self.inner, "tokenizer", None)

    @property
    def pad_token_id(self) -> int:
        """What fills up texts."""
        return 0 if self._hf is None else int(self._hf.pad_token_id)

    @property
    def all_special_ids(self) -> list[int]:
        """Numbers of tokens that are no words."""
        if self._hf is not None:
            return list(self._hf.all_special_ids)
        return [*map(int, self.inner.all_special_ids), self.pad_token_id]

    def decode(self, ids: Sequence[int]) -> str:
        """Tokens as text."""
        return str(self._hf.decode(list(ids)) if self._hf is not None else self.inner.decode(list(ids))).strip()

    def __call__(
        self, text: str, second: None = None, *, add_special_tokens: bool = True, max_length: int = 0, **_: Any
    ) -> dict[str, list[Any]]:
        """Token numbers of a text without what fills it up, which are special, and its characters."""
        row: list[int] = self.inner([text], max_length or self._longer(text))[0].tolist()
        ends = [i for i, number in enumerate(row) if number != self.pad_token_id]
        row = row[: ends[-1] + 1] if ends else row[:1]
        if self._hf is not None and row[-1] != self.pad_token_id == self._hf.eos_token_id:
            row = [*row, self.pad_token_id]  # the end of a text, where that is also what fills it up
        special = [int(number in self.all_special_ids) for number in row]
        if not add_special_tokens:
            row = [number for number, added in zip(row, special, strict=True) if not added]
            special = [0] * len(row)
        pieces = ["" if added else self.decode([number]) for number, added in zip(row, special, strict=True)]
        return {"input_ids": row, "special_tokens_mask": special, "offset_mapping": aligned(text, pieces)}

    def _longer(self, text: str) -> int:
        """Room for all of a text: what does not fit is told, not cut."""
        return max(self.model_max_length, len(text.encode()) + 3)


def aligned(text: str, pieces: Sequence[str]) -> list[tuple[int, int]]:
    """Characters (start, stop) of pieces of a text in order; (0, 0) of those that are not found as they are."""
    lower = "".join(c.lower() if len(c.lower()) == 1 else c for c in text)  # a place for each character
    at, lost, found = 0, False, list[tuple[int, int]]()
    for piece in pieces:
        start = lower.find(piece.lower(), at) if piece else -1
        gap = lower[at:start].strip(" \t\n.,;:!?'\"()-")
        if start < 0 or (gap and not lost):  # behind a piece that is not there, the next may be further on
            lost = lost or bool(piece)
            found.append((0, 0))
            continue
        at, lost = start + len(piece), False
        found.append((start, at))
    return found

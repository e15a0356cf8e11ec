"""Turns texts or encodings into the arguments of one forward call. An argument that cannot be passed on is an error."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..draw import token_string
from ..errors import InputError
from ..files import refuse_halves
from ..inputs import (
    BOOKKEEPING,
    BROKEN,
    EncodedTexts,
    TextBatch,
    Tokenizer,
    arrange,
    decode_incrementally,
    encode_texts,
    padding_of,
    read_mask,
    special_ids,
)
from ..models import (
    CACHES,
    NON_INPUT_ARGUMENTS,
    BoundArchitecture,
    ForwardSignature,
    cache_length,
    forward_signature,
    is_cache,
)
from .padding import as_tokens, infer_padding_mask, pad_to_length

MOST = 100_000  # tokens of a text for models that have positions for any length: attention has that many squared
NUMBERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)


def text_inputs(
    inputs: Any,
    model: nn.Module,
    bound: BoundArchitecture | None,
    tokenizer: Tokenizer | None,
    *,
    truncate: bool = False,
) -> tuple[dict[str, Any], TextBatch]:
    """Arguments for the model, padding last, and the batch of texts as they were given.

    `truncate` cuts strings to the model's positions. Raises `InputError` for empty texts, texts beyond the model's
    positions, strings without a tokenizer, and for what the model's `forward` does not take.
    """
    taken = forward_signature(model)
    name = _name_of_ids(taken, bound)
    limit = longest_text(model, bound, tokenizer) if truncate else None
    goes_on = bound is not None and bound.task == "causal-lm"
    came = encode_texts(inputs, model, tokenizer, limit=limit, goes_on=goes_on, name=name)
    given, checks = _without_loss(came.values, taken, dict(came.checks))
    ids: Tensor = given["input_ids"]
    if ids.ndim == 1:
        given = {k: v[None] if isinstance(v, Tensor) and v.ndim == 1 else v for k, v in given.items()}
        ids = given["input_ids"]
    if ids.ndim != 2 or ids.dtype not in NUMBERS or 0 in ids.shape:
        raise InputError(
            "these are no token numbers",
            expected="integers of shape (batch, token)",
            got=f"{ids.dtype} of shape {tuple(ids.shape)}",
        )
    given, cache = _cache_by_its_name(given, taken)
    past, earlier = cache_length(cache), None
    mask_given: Any = given.get("attention_mask")
    if past and isinstance(mask_given, Tensor) and mask_given.shape == (len(ids), past + ids.shape[1]):
        earlier, given["attention_mask"] = mask_given[:, :past], mask_given[:, past:]
    elif past and mask_given is not None:
        raise InputError(
            "the attention mask does not fit the cache",
            expected=f"ones and zeros for {past} tokens of the cache and {ids.shape[1]} after them",
            got=tuple(mask_given.shape) if isinstance(mask_given, Tensor) else type(mask_given).__name__,
        )
    mask = read_mask(given.get("attention_mask"), ids)
    pair = bound is None or bound.architecture.pair
    if mask_given is None and not pair and not getattr(model, "reads_padding", False):
        mask, told = infer_padding_mask(given, ids, model, tokenizer, taken, came.kind)
        checks |= told
    check_token_ids(ids.masked_fill(~mask, 0), None if bound is None else bound.patches)
    context, padding = int(getattr(model, "context", None) or 0), padding_of(model, tokenizer)
    if getattr(model, "reads_padding", False):  # then it is a token like any other, added behind the text
        given = pad_to_length(given, context, padding)
        special = _special(given, given["input_ids"], model, tokenizer)
        given, mask = as_tokens(given, mask, special, padding)
        ids = given["input_ids"]
    check_length(int(mask.sum(1).max()), past, model, bound, came.kind, tokenizer)
    batch = _batch(given, came, ids, mask, model, tokenizer, context, checks)
    # Classifiers find the last token by the number that they take for padding.
    passed: dict[str, Any] = {name: ids.masked_fill(~mask, padding)}
    passed |= {k: v for k, v in given.items() if k not in ("input_ids", *BOOKKEEPING) and k in taken}
    # A mask of the model's own told the padding, or the mask is passed on.
    _refuse_what_is_lost(given, mask_given is None or bool(mask.all()), taken, bound)
    passed = arrange(batch, _for_each(passed, batch), padding)
    if "attention_mask" in taken and (mask_given is not None or not bool(mask.all())):
        kind = mask_given.dtype if isinstance(mask_given, Tensor) else torch.long
        own = batch.to_model_order(mask.to(kind))
        if past:
            own = torch.cat([own.new_ones(len(ids), past) if earlier is None else earlier.to(own), own], 1)
        passed["attention_mask"] = own
    return passed, batch


def _name_of_ids(taken: ForwardSignature, bound: BoundArchitecture | None) -> str:
    """What the model calls token numbers; "" for a model that takes them by position only."""
    said = None if bound is None else bound.architecture.input_name
    if said and said in taken.names:
        return said
    if "input_ids" in taken:
        return "input_ids"
    return taken.names[0] if taken.names else ""


def _without_loss(
    values: Mapping[str, Any], taken: ForwardSignature, checks: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is no input left out, unless the model cannot be called without it."""
    out = [name for name in values if name in NON_INPUT_ARGUMENTS and name not in taken.required]
    if out:
        said = f"{', '.join(out)}: no input, the logits are the same without"
        checks["left_out"] = f"{checks['left_out']}; {said}" if "left_out" in checks else said
    kept = {k: v for k, v in values.items() if k not in out}
    if not taken.own and "token_type_ids" not in taken.names and _is_zero(kept.get("token_type_ids")):
        del kept["token_type_ids"]  # some tokenizers give them for all models
    return kept, checks


def _is_zero(value: Any) -> bool:
    return isinstance(value, Tensor) and not bool(value.any())


def _cache_by_its_name(given: dict[str, Any], taken: ForwardSignature) -> tuple[dict[str, Any], Any]:
    """What was given with its cache of keys and values under the name that the model has for it, and the cache."""
    name = next((n for n in CACHES if is_cache(given.get(n))), None)
    if name is None:
        return given, None
    own = name if name in taken.names else next((n for n in CACHES if n in taken.names), name)
    return {own if k == name else k: v for k, v in given.items()}, given[name]


def _refuse_what_is_lost(
    given: Mapping[str, Any], unmasked: bool, taken: ForwardSignature, bound: BoundArchitecture | None
) -> None:
    """Raise `InputError` for what changes the output, but would not reach the model; `unmasked`: no mask is needed."""
    lost = [k for k in given if k not in ("input_ids", "attention_mask", *BOOKKEEPING) and k not in taken]
    if bound is None or bound.architecture.pair:  # what a tower takes is declared
        lost = []
    lost = [k for k in lost if not (k == "token_type_ids" and _is_zero(given[k]))]
    # Behind the text, padding is not seen by a model that only looks back.
    looks_back = bound is None or bound.architecture.pair or bound.task == "causal-lm"
    if "attention_mask" not in taken and not unmasked and not looks_back:
        lost = ["attention_mask", *lost]
    if lost:
        whose = "the model's forward takes no " + ", ".join(lost)
        ids = "its token numbers" if "input_ids" not in taken.names else "input_ids"
        masks = "attention_mask" in lost
        raise InputError(
            f"{whose}, so it would be left out without a word",
            expected=f"arguments of forward: {', '.join(taken.names) or 'none by name'}",
            got=", ".join(k for k in given if k not in BOOKKEEPING),
            todo=f"pass a mapping with the model's own names, {ids} and what it calls {lost[0]}"
            + (", or one text at a time, which needs no mask" if masks else ", or leave it out of the mapping"),
        )


def _for_each(passed: Mapping[str, Any], batch: TextBatch) -> dict[str, Any]:
    """Positions that hold for all examples as a row for each. Raises `InputError` for what has tokens on another axis
    than the second, where tokens are moved: padding goes behind the text."""
    found, shape = dict(passed), batch.input_ids.shape
    for name, value in passed.items():
        if not isinstance(value, Tensor) or value.shape[:2] == shape:
            continue
        if name == "position_ids" and value.shape in ((shape[1],), (1, shape[1])):
            found[name] = value.reshape(1, -1).expand(shape)
        elif not batch.as_given and shape[1] in value.shape[1:]:
            raise InputError(
                f"{name} cannot follow the tokens when padding is moved behind the text",
                expected=f"an entry for each token, {tuple(shape)} …",
                got=tuple(value.shape),
                todo="explain one text at a time, without padding",
            )
    return found


def _special(given: Mapping[str, Any], ids: Tensor, model: nn.Module, tokenizer: Any | None) -> Tensor:
    """Which tokens are no words, by their numbers, and those that the tokenizer says it added, (batch, token)."""
    known = torch.tensor(sorted(special_ids(model, tokenizer)), dtype=ids.dtype, device=ids.device)
    special = torch.isin(ids, known)
    said = given.get("special_tokens_mask")
    return special if said is None else special | said.to(ids.device).bool()


def _batch(
    given: Mapping[str, Any],
    came: EncodedTexts,
    ids: Tensor,
    mask: Tensor,
    model: nn.Module,
    tokenizer: Any | None,
    length: int,
    checks: dict[str, Any],
) -> TextBatch:
    special = _special(given, ids, model, tokenizer) & mask
    offsets = given.get("offset_mapping") if came.texts else None
    encode: Callable[[str], list[int]] | None = None
    decode: Callable[[Sequence[int]], str] | None = None
    if tokenizer is not None:

        def encode_with(text: str) -> list[int]:
            refuse_halves(text, "a word")
            return list(tokenizer(text, add_special_tokens=False)["input_ids"])

        def decode_with(numbers: Sequence[int]) -> str:
            return str(tokenizer.decode(list(numbers)))

        encode, decode = encode_with, decode_with
    return TextBatch(
        input_ids=ids,
        mask=mask,
        special=special,
        tokens=_token_strings(ids, mask, special, came.texts, offsets, decode, tokenizer),
        texts=came.texts,
        offsets=offsets,
        encode=encode,
        decode=decode,
        answers=_may_answer(given, came, ids, mask, special),
        checks=checks,
        length=length,
    )


def _may_answer(given: Mapping[str, Any], came: EncodedTexts, ids: Tensor, mask: Tensor, special: Tensor) -> Tensor:
    """Where an answer may be, (batch, token): in the second text of a pair, or anywhere between special tokens."""
    words = mask & ~special
    types: Any = given.get("token_type_ids")
    if came.parts is not None and came.parts.shape == ids.shape and bool((came.parts >= 0).any()):
        second = came.parts.to(ids.device) == 1
    elif isinstance(types, Tensor) and types.shape == ids.shape and bool((types == 1).any()):
        second = types == 1
    else:  # by the separators between them: the last words behind a special token
        groups = (words & ~F.pad(words, (1, 0))[:, :-1]).cumsum(1)
        second = (groups == groups.amax(1, keepdim=True)) & (groups > 0)
    second = second & words
    words = torch.where(second.any(1, keepdim=True), second, words)
    return torch.where(words.any(1, keepdim=True), words, mask)


def _token_strings(
    ids: Tensor,
    mask: Tensor,
    special: Tensor,
    texts: Sequence[str],
    offsets: Tensor | None,
    decode: Callable[[Sequence[int]], str] | None,
    tokenizer: Any | None,
) -> list[list[str]]:
    """What each token looks like: its piece of the text where that is known, else what the tokenizer makes of it."""

    # As lists: a GPU is waited for at each number that is read of a tensor.
    numbers, real, added = (t.tolist() for t in (ids, mask, special))
    spans = offsets.tolist() if offsets is not None and texts else None
    whole: dict[int, list[str]] = {}  # texts with characters of several tokens, spelled out

    def string(i: int, j: int) -> str:
        if not real[i][j]:
            return ""
        if spans is not None and not added[i][j]:
            a, b = spans[i][j]
            if a < b:
                return texts[i][a:b]
        number = numbers[i][j]
        if decode is None:
            return str(number)
        found = decode([number])
        shown = _character(i, j, decode) if BROKEN in found or not found else found
        return shown if shown and BROKEN not in shown else token_string(tokenizer, number)

    def _character(i: int, j: int, decode: Callable[[Sequence[int]], str]) -> str:
        """The character that a token is a part of."""
        if i not in whole:
            columns = [c for c, there in enumerate(real[i]) if there]
            marked = {numbers[i][c] for c in columns if added[i][c]}
            strings = decode_incrementally([numbers[i][c] for c in columns], decode, marked)
            for before, after in zip(range(len(strings)), range(1, len(strings)), strict=False):
                strings[after] = strings[after] or strings[before]
            found = [""] * len(numbers[i])
            for c, string in zip(columns, strings, strict=True):
                found[c] = string
            whole[i] = found
        return whole[i][j]

    return [[string(i, j) for j in range(ids.shape[1])] for i in range(ids.shape[0])]


def check_token_ids(ids: Tensor, words: Any) -> None:
    """Raise `InputError` for token numbers that a model's word embeddings do not have."""
    known = getattr(words, "num_embeddings", None)
    if known is not None and (int(ids.max()) >= known or int(ids.min()) < 0):
        raise InputError(
            "there are token numbers that the model does not have",
            expected=f"0 to {known - 1}",
            got=f"{int(ids.min())} to {int(ids.max())}",
            todo="use the tokenizer that belongs to the model",
        )


def longest_text(model: nn.Module, bound: BoundArchitecture | None, tokenizer: Tokenizer | None) -> int | None:
    """How many tokens a text may have: the model's positions, or what the tokenizer or configuration says."""
    hard = position_limit(model, bound)
    said: Any = getattr(tokenizer, "model_max_length", None)
    config: Any = getattr(model, "config", None)
    found = [hard, said, getattr(config, "max_position_embeddings", None)]
    known = [int(n) for n in found if isinstance(n, int) and 0 < n < 10**9]
    return min(known, default=None)


def position_limit(model: nn.Module, bound: BoundArchitecture | None) -> int | None:
    """The longest text that the model has positions for; None where positions are computed for any length."""
    positions: Any = None if bound is None else bound.position_embeddings
    config: Any = getattr(model, "config", None)
    if isinstance(positions, Tensor):
        return positions.shape[0]
    if positions is not None:
        padding = getattr(positions, "padding_idx", None)
        offset = padding + 1 if padding is not None else 0  # RoBERTa's positions begin after the padding index
        return int(positions.num_embeddings) - offset
    return getattr(config, "max_seq_len", None) or getattr(model, "context", None)  # MPT makes no biases beyond it


def check_length(
    longest: int, past: int, model: nn.Module, bound: BoundArchitecture | None, kind: str, tokenizer: Tokenizer | None
) -> None:
    """Raise `InputError` for more tokens than the model has positions for; where these are computed, than `MOST`."""
    limit = position_limit(model, bound)
    soft: Any = getattr(getattr(model, "config", None), "max_position_embeddings", None)
    limit = limit if limit is not None else max(MOST, soft if isinstance(soft, int) else 0)
    if past + longest <= limit:
        return
    classifies = bound is not None and bound.task == "classification" and not bound.architecture.pair
    todo = "explain its beginning, truncate=True"
    if kind == "numbers":
        todo = "pass fewer tokens; strings can be cut, truncate=True"
    elif kind == "strings" and classifies and getattr(tokenizer, "is_fast", False):
        todo = f"explain windows of it, window={limit}, stride={limit // 2}, or its beginning, truncate=True"
    raise InputError(
        "a text is longer than the model's positions",
        expected=f"at most {limit} tokens",
        got=f"{longest} tokens" + (f" after {past} in the cache" if past else ""),
        todo=todo,
    )

"""Explains generated text: which earlier tokens each token that a model wrote goes back to."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import torch
from torch import nn

from ..attributions import Attribution, GenerationAttribution
from ..errors import InputError
from ..explainers import find_method, parse_method
from ..inputs import BROKEN, TextBatch, refuse_unreadable
from ..models import LoadedModel
from ..progress import progress_bar
from ..seam import cpu_by_default
from ..targets import Each, Span, covered_tokens
from ..validation import validate_call, validate_integer, validate_size
from .continued import Continued, begun, has_several_inputs, reads_later, with_its_answer
from .explain import explain
from .greedy import room_after, written_by
from .prepare import unwrap
from .prepare_text import check_length, check_token_ids
from .prompts import device_of, read_prompt, with_answer

MOST_TOKENS = 10_000  # of an answer: the matrix of its scores has as many rows


@validate_call
@cpu_by_default()
def explain_generation(
    model: nn.Module | LoadedModel,
    prompt: Any,
    *,
    max_new_tokens: int = 50,
    answer: Any = None,
    method: str = "attn_lrp",
    score: str = "logit",
    batch_size: int = 32,
    show_progress: bool = False,
    **options: Any,
) -> GenerationAttribution:
    """Let a model go on after a prompt, and explain each token that it wrote, by each of the inputs.

    Args:
        model: a causal language model, a chat model with pictures, an encoder with a decoder, or what `clew.load`
            returned.
        prompt: a string or messages of a chat (for a loaded model), token numbers (token,) or (1, token), or what a
            tokenizer returned for one text. What a tokenizer adds at the end of a text is left out. Of several inputs a
            mapping: {"images": [picture], "text": "…"}, {"source": "…"}, {"audio": samples, "sampling_rate": …} for a
            loaded model, or tensors of one example as `model(**inputs)` takes them.
        max_new_tokens: how many tokens to write at most (up to 10,000), greedily; fewer where the model ends its text.
            The token that ends it is no part of the answer.
        answer: explain these words, or token numbers, instead of what the model would write. Words become tokens
            together with those of the prompt; a token that has characters of both is the answer's.
        method: as in `explain`.
        score: as in `explain`.
        **options: as in `explain`. Of `flash_trace` the reasoning is all that was written, or words of it, or
            positions: `reasoning=Span("…")`, `(start, stop)`.
        batch_size: how many of the tokens are explained by one forward pass; each has a backward pass of its own.
            What was explained so far is given where it is interrupted (Ctrl-C).
        show_progress: show a progress bar.

    Raises:
        InputError: an empty prompt, several prompts, or a model that does not generate.
        ClewError: as in `explain`.
    """
    max_new_tokens = validate_integer("max_new_tokens", max_new_tokens, 1, MOST_TOKENS)
    batch_size = validate_size("batch_size", batch_size)
    steps = explained_in_steps(
        model, prompt, max_new_tokens=max_new_tokens, answer=answer, method=method, score=score, batch_size=batch_size,
        **options,
    )  # fmt: skip
    with progress_bar("explaining tokens", show_progress) as update:
        try:
            done, count = next(steps)
            while True:
                try:
                    if update is not None:
                        update(done, count)
                    done, count = next(steps)
                except KeyboardInterrupt as stopped:
                    done, count = steps.throw(stopped)
        except StopIteration as end:
            return end.value


def explained_in_steps(
    model: nn.Module | LoadedModel,
    prompt: Any,
    *,
    max_new_tokens: int,
    answer: Any,
    method: str,
    score: str = "logit",
    batch_size: int = 32,
    **options: Any,
) -> Generator[tuple[int, int], None, GenerationAttribution]:
    """As `explain_generation`; how many tokens are explained, of how many, after the answer and after each batch."""
    refuse_unreadable(prompt, "the prompt")
    refuse_unreadable(answer, "the answer")
    tokenizer: Any = model.tokenizer if isinstance(model, LoadedModel) else None
    module = unwrap(model.model if isinstance(model, LoadedModel) else model)
    written = call_with_answer(model, module, tokenizer, prompt, answer, max_new_tokens)
    first, count = written.prompt, len(written.ids)
    if count <= first:
        got = "none" if answer is not None else "the model ended the text at once"
        raise InputError("there is no generated token to explain", expected="at least one", got=got)
    if first < 1:
        raise InputError("the first token is not predicted from anything", expected="a prompt of a token", got="none")
    method, options = _with_reasoning(method, options, written, written.strings(tokenizer, module))
    later = count > first + 1 and reads_later(written, module)
    if later:
        batch_size = 1
        written.checks["later_tokens"] = "read by this model: each token is explained by a pass over those before it"
    parts: list[Attribution] = []
    done = first
    try:
        yield 0, count - first
        for place in range(first, count, batch_size):
            stop = min(place + batch_size, count)  # what comes later cannot matter
            target: Any = written.ids[place] if later else Each(*(Span(p, p + 1) for p in range(place, stop)))
            given = written.until(place if later else stop)
            parts.append(explain(model, given, method=method, target=target, score=score, **options))
            done = stop
            yield done - first, count - first
    except KeyboardInterrupt:
        if not parts:
            raise
        advice = f"interrupted: {done - first} of {count - first} tokens are explained"
        written.checks["advice"] = "; ".join(filter(None, [written.checks.get("advice"), advice]))
    tokens = written.strings(tokenizer, module)[:done]
    streams = {name: Attribution.concatenate([part.streams[name] for part in parts]) for name in parts[0].streams}
    own = written.name if written.name in streams else next(iter(streams))
    joined = streams.pop(own)
    names = _names(joined.target, tokens[first:]) if tokenizer is not None else _numbers(written.ids[first:done])
    scores = torch.nn.functional.pad(joined.all_scores, (0, done - joined.all_scores.shape[1]))
    columns = torch.arange(done, device=scores.device)
    return GenerationAttribution(
        all_scores=scores.masked_fill(columns >= columns[first:, None], 0.0),
        input_ids=torch.tensor(written.ids[:done]),
        tokens=tokens,
        prompt=first,
        method=joined.method,
        options=joined.options,
        target=names,
        score=joined.score,
        checks={**joined.checks, **written.checks},
        provenance=joined.provenance,
        inputs={name: replace(part, target=names) for name, part in streams.items()},
        stream=own if streams else None,
    )


def _with_reasoning(
    method: str, options: dict[str, Any], written: Continued, tokens: Sequence[str]
) -> tuple[str, dict[str, Any]]:
    """A method and its options, of which a reasoning is named by its positions: by default all that was written."""
    if isinstance(method, str) and "(" in method:  # pyright: ignore[reportUnnecessaryIsInstance]
        method, own = parse_method(method)
        options = own | options
    if "reasoning" not in find_method(method).options:
        return method, options
    given = options.get("reasoning")
    if isinstance(given, Span):
        places = covered_tokens(given, spelled(written.ids, tokens))[0].nonzero().flatten().tolist()
        given = places[0], places[-1] + 1
    return method, options | {"reasoning": (written.prompt, len(written.ids)) if given is None else given}


def spelled(ids: Sequence[int], tokens: Sequence[str]) -> TextBatch:
    """Tokens with the text that they are together, in which words can be found."""
    ends = list(accumulate(map(len, tokens)))
    everything = torch.ones(1, len(ids), dtype=torch.bool)
    return TextBatch(
        torch.tensor([list(ids)]), everything, ~everything, [tokens], ["".join(tokens)],
        torch.tensor([[(stop - len(token), stop) for token, stop in zip(tokens, ends, strict=True)]]),
    )  # fmt: skip


def call_with_answer(
    model: nn.Module | LoadedModel, module: nn.Module, tokenizer: Any, prompt: Any, answer: Any, most: int
) -> Continued:
    """The call with the answer that is explained; one that the model writes ends at its positions."""
    device = device_of(module)
    words: Any = getattr(module, "get_input_embeddings", lambda: None)()
    if has_several_inputs(prompt, module):
        start = begun(prompt, model, module, device)
        room = room_after(module, start.prompt)
        found = with_its_answer(start, module, tokenizer, answer, min(most, room or most))
    else:
        written = read_prompt(prompt, module, tokenizer)
        check_length(len(written.ids), 0, module, None, "numbers", tokenizer)
        check_token_ids(torch.tensor(written.ids), words)
        room = room_after(module, len(written.ids))
        if answer is None:
            written.ids += written_by(module, written.inputs(device), "input_ids", min(most, room or most)) or []
        else:
            written = with_answer(prompt, answer, written, tokenizer)
            check_length(len(written.ids), 0, module, None, "numbers", tokenizer)
        found = Continued(written.inputs(device), "input_ids", written.prompt, written.checks, written)
    if answer is None and room is not None and len(found.ids) - found.prompt == room < most:
        found.checks["advice"] = f"the answer ends where the positions of the model do, after {len(found.ids)} tokens"
    return found


def _numbers(ids: Sequence[int]) -> list[str]:
    """What was explained, where no words are known."""
    return [f"token {i}" for i in ids]


def _names(names: Sequence[str], tokens: Sequence[str]) -> list[str]:
    """What was explained, token by token: of a part of a character that character."""
    found: list[str] = []
    character = ""
    for name, token in zip(names, tokens, strict=True):
        character = token or character
        found.append(character or name if BROKEN in name else name)
    return found

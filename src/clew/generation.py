"""Attributions of generated text: which earlier tokens each token that a model wrote goes back to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from .attribution import Attribution
from .explain import explain
from .generation_html import generation_fragment, generation_page, generation_png
from .loaded import LoadedModel
from .prepare import unwrap
from .progress import progress_bar
from .shapes import InputError
from .targets import Span
from .text_attribution import TextAttribution
from .text_html import Piece, terminal


@dataclass(frozen=True, kw_only=True, repr=False)
class GenerationAttribution(Attribution):
    """A matrix: `scores` (output, input) of one method for each generated token, over all tokens before it.

    `tokens` are those of the prompt and the answer, of which the first `prompt` are the prompt's; row `i` explains
    token `prompt + i`. Tokens from there on have 0.
    """

    input_ids: Tensor
    tokens: Sequence[str]
    prompt: int

    kind: ClassVar[str] = "generation"
    tensors: ClassVar[tuple[str, ...]] = ("all_scores", "score", "logits")

    @property
    def outputs(self) -> Sequence[str]:
        """The generated tokens."""
        return self.tokens[self.prompt :]

    def total(self) -> Tensor:
        """Scores of the whole answer, (input,): the sum over generated tokens."""
        return self.scores.sum(0)

    def to_html(self) -> str:
        """One self-contained page: choose a generated token and see what it goes back to, or read the matrix."""
        facts = {k: v for k, v in self.facts(0).items() if k != "target"}
        return generation_page(self.method, self.tokens, self.prompt, self.scores.float().cpu().numpy(), facts)

    def to_png(self) -> bytes:
        """The matrix as a picture."""
        return generation_png(self.tokens, self.prompt, self.scores.float().cpu().numpy())

    def to_rich(self, example: int = 0) -> Any:
        """The text in colours for one generated token, as `rich` prints it on a terminal."""
        scores = self.scores[example].tolist()
        scored = [Piece(t, s, False, (i,)) for i, (t, s) in enumerate(zip(self.tokens, scores, strict=True))]
        return terminal(scored[: self.prompt + example])

    def _repr_html_(self) -> str:
        return generation_fragment(self.method, self.tokens, self.prompt, self.scores.float().cpu().numpy())

    def _repr_png_(self) -> bytes:
        return self.to_png()

    def shape_in_words(self) -> str:
        """How large the matrix is."""
        return f"over {self.scores.shape[1]} tokens"

    def writers(self) -> dict[str, Any]:
        """What makes the content of a file, by suffix."""
        return {".html": self.to_html, ".png": self.to_png, **super().writers()}

    def _to_file(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return {"input_ids": self.input_ids}, {"tokens": list(self.tokens), "prompt": self.prompt}


def explain_generation(
    model: nn.Module | LoadedModel,
    prompt: Any,
    *,
    max_new_tokens: int = 50,
    answer: str | Sequence[int] | None = None,
    method: str = "attn_lrp",
    score: str = "logit",
    batch_size: int = 8,
    show_progress: bool = False,
    **options: Any,
) -> GenerationAttribution:
    """Let a language model go on after a prompt, and explain each token that it wrote.

    Args:
        model: a causal language model, or what `clew.load` returned.
        prompt: a string (for a loaded model), or token numbers (token,) or (1, token).
        max_new_tokens: how many tokens to write at most, greedily; fewer where the model ends its text.
        answer: explain these words, or token numbers, instead of what the model would write.
        method, score, **options: as in `explain`.
        batch_size: how many of the tokens are explained at a time.
        show_progress: show a progress bar.

    Raises:
        InputError: an empty prompt, several prompts, or a model that does not generate.
        ClewError: as in `explain`.
    """
    tokenizer: Any = model.tokenizer if isinstance(model, LoadedModel) else None
    module = unwrap(model.model if isinstance(model, LoadedModel) else model)
    start = _prompt_ids(prompt, tokenizer)
    device = next(module.parameters()).device
    if answer is None:
        ids = _generated(module, start.to(device), max_new_tokens)
    else:
        ids = torch.cat([start, _answer_ids(answer, tokenizer)]).to(device)
    first, written = len(start), len(ids) - len(start)
    if written < 1:
        raise InputError("there is no generated token to explain", expected="at least one", got="none")
    parts: list[Attribution] = []
    with progress_bar("explaining tokens", show_progress, written) as update:
        for place in range(first, len(ids), batch_size):
            places = range(place, min(place + batch_size, len(ids)))
            shown = ids[: places[-1] + 1].repeat(len(places), 1)  # what comes later cannot matter
            spans = [Span(p, p + 1) for p in places]
            parts.append(explain(model, shown, method=method, target=spans, score=score, **options))
            if update is not None:
                update(places[-1] + 1 - first, written)
    joined = cast(TextAttribution, Attribution.concatenate(parts))
    scores = torch.nn.functional.pad(joined.scores, (0, len(ids) - joined.scores.shape[1]))
    columns = torch.arange(len(ids), device=scores.device)
    return GenerationAttribution(
        all_scores=scores.masked_fill(columns >= columns[first:, None], 0.0),
        input_ids=ids.cpu(),
        tokens=_strings(ids.tolist(), tokenizer),
        prompt=first,
        method=joined.method,
        options=joined.options,
        target=joined.target,
        score=joined.score,
        checks=joined.checks,
        provenance=joined.provenance,
    )


def _prompt_ids(prompt: Any, tokenizer: Any) -> Tensor:
    if isinstance(prompt, str):
        if tokenizer is None:
            raise InputError("a string needs the model's tokenizer", expected="a model from clew.load", got=prompt[:60])
        if not prompt.strip():
            raise InputError("the prompt is empty", expected="words to go on from", got=repr(prompt))
        return torch.tensor(tokenizer(prompt)["input_ids"])
    try:
        ids = torch.as_tensor(prompt)
    except (TypeError, ValueError, RuntimeError):
        ids = torch.empty(0)
    ids = ids[0] if ids.ndim == 2 and len(ids) == 1 else ids
    if ids.ndim != 1 or ids.is_floating_point() or not len(ids):
        expected = "a string, or token numbers of one text"
        raise InputError("this is no prompt", expected=expected, got=f"{type(prompt).__name__}")
    return ids


def _answer_ids(answer: str | Sequence[int], tokenizer: Any) -> Tensor:
    if not isinstance(answer, str):
        return torch.as_tensor(list(answer))
    if tokenizer is None:
        raise InputError(
            "an answer in words needs the model's tokenizer", expected="a model from clew.load", got="none"
        )
    return torch.tensor(tokenizer(answer, add_special_tokens=False)["input_ids"], dtype=torch.long)


def _generated(module: Any, ids: Tensor, count: int) -> Tensor:
    if not hasattr(module, "generate"):
        raise InputError("this model does not generate", expected="a causal language model", got=type(module).__name__)
    if count < 1:
        raise InputError("max_new_tokens is too small", expected="at least 1", got=count)
    pad = getattr(module.config, "pad_token_id", None)
    settings = {"do_sample": False, "num_beams": 1, "max_new_tokens": count, "pad_token_id": 0 if pad is None else pad}
    with torch.no_grad():
        return module.generate(ids[None], attention_mask=torch.ones_like(ids)[None], **settings)[0]


def _strings(ids: list[int], tokenizer: Any) -> list[str]:
    """What each token adds to the text before it; the tokenizer knows where spaces go."""
    if tokenizer is None:
        return [f"{i} " for i in ids]
    whole, strings = "", list[str]()
    for end in range(1, len(ids) + 1):
        longer = str(tokenizer.decode(ids[:end]))
        strings.append(longer[len(whole) :] if longer.startswith(whole) else str(tokenizer.decode([ids[end - 1]])))
        whole = longer
    return strings

"""Which parts of a prompt made a language model give its answer: parts are left out, and the answer is scored again."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..attributions import TextAttribution
from ..errors import InputError, OptionError, close_matches, short_repr
from ..explainers import methods, parse_method
from ..inputs import refuse_unreadable, score_words, special_ids
from ..models import LoadedModel, as_loaded, supports_logits_to_keep
from ..progress import progress_bar
from ..seam import cpu_by_default, in_callers_modes, owning_model
from ..subject import refusals_told
from ..targets import Span, covered_tokens, logits_of
from ..validation import validate_arguments, validate_call, validate_integer, validate_size
from ..version import __version__
from .ablations import BY_ABLATION, Masks, log_odds_of, log_odds_together, log_prob_together, random_masks
from .continued import has_several_inputs, reads_later
from .explain import explain
from .generation import MOST_TOKENS, call_with_answer, spelled
from .prepare import refuse_unexplainable, unwrap
from .prompt_parts import parts_of
from .prompts import device_of


class Sources:
    """The sources of a prompt (sentences, documents, lines), and the answer that a language model gave to it.

    A source is left out by joining the rest of the text as if it had never been there; then the answer is scored again.
    Scores of the answer's tokens are kept: what is asked again costs no pass.

    Attributes:
        texts: the sources, in order.
        prompt: the text before the answer, as the model reads it; "" of token numbers.
        answer: the answer.
    """

    @validate_call
    @cpu_by_default()
    def __init__(
        self,
        model: Any,
        prompt: Any,
        *,
        answer: Any = None,
        max_new_tokens: int = 50,
        context: Any = None,
        split: str | None = "sentence",
        batch_size: int = 8,
    ) -> None:
        """Read a prompt and its answer, and split the prompt.

        Args:
            model: a causal language model, or what `clew.load` returned.
            prompt: as in `explain_generation`, of words alone, without token types.
            answer: words or token numbers; default: what the model writes greedily.
            max_new_tokens: how many it writes at most, 1 to 10,000.
            context: what may be left out: words of the prompt, a list of such (documents), or of their characters
                (start, stop); default: all that was given. Of token numbers: positions (start, stop), each a source.
            split: "sentence", "line", "paragraph" or "word"; None: each part of `context` is a source.
            batch_size: how many ablations the model reads at a time.

        Raises:
            InputError: a model that is no causal language model, a `context` that is not in the prompt, and a prompt of
                which nothing is left without its sources.
            OptionError: options out of range.
        """
        most = validate_integer("max_new_tokens", max_new_tokens, 1, MOST_TOKENS)
        self._batch_size = validate_size("batch_size", batch_size)
        refuse_unreadable(prompt, "the prompt")
        refuse_unreadable(answer, "the answer")
        self._given = as_loaded(model)
        self._tokenizer: Any = self._given.tokenizer if isinstance(self._given, LoadedModel) else None
        inner: nn.Module = self._given.model if isinstance(self._given, LoadedModel) else self._given
        self._model = unwrap(inner)
        refuse_unexplainable(self._model)
        if has_several_inputs(prompt, self._model):
            expected = "a causal language model, and a prompt of words alone"
            raise InputError("sources are parts of words", expected=expected, got="several inputs")
        self._call = call_with_answer(self._given, self._model, self._tokenizer, prompt, answer, most)
        more = sorted(self._call.inputs.keys() - {"input_ids", "attention_mask"})
        if more:
            raise InputError("a prompt of sources is tokens alone", expected="no token types", got=", ".join(more))
        first, ids = self._call.prompt, self._call.ids
        if len(ids) <= first:
            got = "none" if answer is not None else "the model ended the text at once"
            raise InputError("there is no answer", expected="a token at least", got=got)
        if reads_later(self._call, self._model):
            got = f"{type(self._model).__name__}, which reads later tokens too"
            raise InputError("this is no causal language model", expected="tokens by those before them", got=got)
        self._parts = parts_of(prompt, ids[:first], self._call.text, answer, self._tokenizer, context, split)
        tokens = self._call.strings(self._tokenizer, self._model)
        self._answer, self._tokens = ids[first:], tokens[first:]
        self.prompt, self.answer = self._parts.text, "".join(self._tokens)
        self.texts = [self.prompt[a:b] if self.prompt else "".join(tokens[a:b]) for a, b in self._parts.spans]
        self._known: dict[tuple[bool, ...], Tensor] = {}

    def __len__(self) -> int:
        return len(self.texts)

    def __repr__(self) -> str:
        return f"Sources({len(self)} sources, answer {short_repr(self.answer)})"

    # The answer without some of them

    def random_masks(self, num_ablations: int = 64, ablation_keep_prob: float = 0.5, seed: int = 0) -> Masks:
        """Which sources stay, each with a probability of `ablation_keep_prob`, in each of `num_ablations`.

        Of seed 0 they are those of the released code. Raises `OptionError` for options out of range.
        """
        return random_masks(len(self), num_ablations, ablation_keep_prob, seed)

    @cpu_by_default()
    def token_log_odds(self, masks: Any, *, show_progress: bool = False) -> Float[Tensor, "ablation token"]:
        """`log p/(1−p)` of each token of the answer, in double precision, where sources stay as `masks` say: truth
        values (ablation, source).

        Raises `InputError` for masks of other sources, and where the model is no language model.
        """
        try:
            given = torch.as_tensor(masks)
        except (TypeError, ValueError, RuntimeError):
            given = torch.empty(0)
        if given.dtype != torch.bool or given.shape[1:] != (len(self),) or not len(given):
            expected = f"truth values (ablation, {len(self)}), True where a source stays"
            got = f"{given.dtype} {tuple(given.shape)}" if given.ndim > 1 else short_repr(masks)
            raise InputError("masks are not of these sources", expected=expected, got=got)
        rows = [tuple(row) for row in given.tolist()]
        new = list(dict.fromkeys(row for row in rows if row not in self._known))
        with progress_bar("leaving sources out", show_progress) as update:
            for start in range(0, len(new), self._batch_size):
                some = new[start : start + self._batch_size]
                self._known |= zip(some, self._pass(some), strict=True)
                if update is not None:
                    update(start + len(some), len(new))
        return torch.stack([self._known[row] for row in rows])

    def _pass(self, rows: Sequence[Sequence[bool]]) -> list[Tensor]:
        """Log odds of the answer's tokens in one forward pass. What fills rows up comes last: no token reads it."""
        texts = [[*self._parts.ids_with(row), *self._answer] for row in rows]
        longest, device = max(map(len, texts)), device_of(self._model)
        ids = torch.tensor([[*one, *self._answer[-1:] * (longest - len(one))] for one in texts], device=device)
        mask = torch.ones_like(ids)  # some models make NaN of rows that read nothing, which spreads
        places = torch.tensor([range(len(one) - len(self._answer) - 1, len(one) - 1) for one in texts])
        kept, asked = places.unique(), dict[str, Any]()
        if supports_logits_to_keep(self._model):  # a large vocabulary for every token is not needed
            asked["logits_to_keep"] = kept.to(device)
        told = refusals_told(owning_model(self._model), tuple(ids.shape), is_text=True)
        with torch.no_grad(), in_callers_modes(), told:
            logits = logits_of(self._model(input_ids=ids, attention_mask=mask, **asked))
        if logits.ndim != 3:
            got = f"{type(self._model).__name__}, with logits {tuple(logits.shape)}"
            raise InputError("this is no causal language model", expected="logits (batch, token, word)", got=got)
        if asked and logits.shape[1] == len(kept):
            places = torch.searchsorted(kept, places)
        numbers = torch.tensor(self._answer, device=logits.device)
        return [log_odds_of(row[at.to(row.device)], numbers).cpu() for row, at in zip(logits, places, strict=True)]

    def log_probs(self, masks: Any, part: Any = None) -> Float[Tensor, " ablation"]:
        """`log p` of the answer, or of a `part` of it as in `explain`, in nats. Raises as `token_log_odds`."""
        start, stop = self._positions(part)
        return log_prob_together(self.token_log_odds(masks)[:, start:stop])

    def log_odds(self, masks: Any, part: Any = None, *, show_progress: bool = False) -> Float[Tensor, " ablation"]:
        """`log p/(1−p)` of the answer, or of a `part` of it, as one event. Raises as `token_log_odds`."""
        start, stop = self._positions(part)
        return log_odds_together(self.token_log_odds(masks, show_progress=show_progress)[:, start:stop])

    def _positions(self, part: Any) -> tuple[int, int]:
        """Which of the answer's tokens are asked for. Raises `TargetError` for others than it has."""
        count = len(self._answer)
        if part is None:
            return 0, count
        places = covered_tokens(part, spelled(self._answer, self._tokens))[0].nonzero().flatten().tolist()
        if not places:
            raise InputError("these are no tokens of the answer", expected=f"positions, 0 to {count}", got=part)
        return places[0], places[-1] + 1

    # Scores

    @validate_call
    @cpu_by_default()
    def explain(
        self, method: str = "context_cite", *, part: Any = None, show_progress: bool = False, **options: Any
    ) -> TextAttribution:
        """How much each source is behind the answer: a text whose tokens are the sources, `scores` (1, source).

        Args:
            method: "context_cite" (Cohen-Wang et al., NeurIPS 2024, sec. 3): the weights of a sparse linear model of
                the answer's log odds by which sources stay; its options are `num_ablations=64`,
                `ablation_keep_prob=0.5`, `lasso_alpha=0.01`, `seed=0`. "leave_one_out": the answer's log odds minus
                those without the source. Or a name of `clew.methods()`, whose scores of tokens are added up. Also
                "NAME(option=value, …)".
            part: the tokens of the answer that are explained: `Span("words of it")`, or positions (start, stop) counted
                from its first; default: all. Parts of one answer cost no new passes.
            show_progress: show a progress bar.
            **options: options of the method.

        Scores of the first two are differences of log odds, in nats, and `score` is that of the whole prompt. Of
        context_cite `checks` have the `intercept` and `r2`, the share of the variance over the ablations that the
        linear model explains, and `details` the `masks` and `log_odds`. It needs scikit-learn, and a forward pass for
        each ablation.

        Raises:
            OptionError: an unknown method, or options that it does not have or take.
            InputError, TargetError: a part that the answer does not have.
            ClewError: of methods of tokens, as in `explain`.
        """
        refuse_unreadable(part, "the part")
        if "(" in method:
            method, own = parse_method(method)
            options = own | options
        start, stop = self._positions(part)
        everything, details = torch.ones(1, len(self), dtype=torch.bool), dict[str, Tensor]()
        if method in BY_ABLATION:
            function = BY_ABLATION[method]
            defaults = _options_of(function)
            for name in options:
                if name not in defaults:
                    known = close_matches(name, defaults) if defaults else "it has no options"
                    raise OptionError(f"{method} has no option {name!r}", got=f"{name}={options[name]!r}", todo=known)
            validate_arguments(options, function, f"{method}: ")

            def ablated(masks: Tensor) -> Tensor:
                return self.log_odds(masks, (start, stop), show_progress=show_progress)

            scores, checks, details = function(ablated, len(self), stop - start, **options)
            score, options = self.log_odds(everything, (start, stop)), {**defaults, **options}
        elif method in methods():
            scores, checks, score, options = self._of_tokens(method, start, stop, show_progress, options)
        else:
            raise OptionError(
                f"no method {method!r}", got=method, todo=close_matches(method, [*BY_ABLATION, *methods()])
            )
        exact = next(self._model.parameters()).dtype == torch.float64
        return TextAttribution(
            all_scores=scores[None] if exact else scores[None].float(),
            input_ids=torch.arange(len(self))[None],
            mask=everything,
            special=~everything,
            tokens=[self.texts],
            texts=[self.prompt] if self.prompt else (),
            offsets=torch.tensor([self._parts.spans]) if self.prompt else None,
            method=method,
            options=options,
            target=["".join(self._tokens[start:stop])],
            score=score,
            checks={**self._call.checks, **checks},
            details=details,
            provenance={
                "model": self._given.name if isinstance(self._given, LoadedModel) else type(self._model).__name__,
                "clew": __version__,
                "torch": torch.__version__,
            },
            stream="sources",
        )

    def _of_tokens(
        self, method: str, start: int, stop: int, show_progress: bool, options: dict[str, Any]
    ) -> tuple[Tensor, dict[str, Any], Tensor, dict[str, Any]]:
        """Sums over the tokens of each source of the scores of a method, of the answer's tokens as one span."""
        first, words = self._call.prompt, self._call.text
        target = Span(first + start, first + stop)
        if words is not None and self.prompt and not words.spans:
            raise InputError(
                "the tokens of each source are not known",
                expected="a tokenizer that gives offsets (a fast one)",
                got=type(self._tokenizer).__name__,
                todo="choose context_cite or leave_one_out, which need none",
            )
        more: dict[str, Any] = {"method": method, "target": target, "show_progress": show_progress, **options}
        found = explain(self._given, self._call.inputs, **more)
        found = found.streams.get(self._call.name, found)
        scores: list[float] = found.all_scores[0, :first].double().tolist()
        if words is None or not self.prompt:
            sums = [sum(scores[a:b]) for a, b in self._parts.spans]
        else:
            special = special_ids(self._model, self._tokenizer)
            counted = [i not in special for i in self._parts.ids]
            summed = score_words(self.prompt, scores, words.spans[:first], counted, "sum", self._parts.spans)
            by_place = {(one.start, one.stop): one.score for one in summed}
            sums = [by_place.get(span, 0.0) for span in self._parts.spans]
        return torch.tensor(sums, dtype=torch.float64), dict(found.checks), found.score, dict(found.options)


def _options_of(function: Any) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {one.name: one.default for one in parameters if one.kind is one.KEYWORD_ONLY}

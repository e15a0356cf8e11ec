"""Faults that are put into clew on purpose: each a function that patches it, by name. `test_faults.py` says what must
then happen: a result that comes out wrong is refused."""

from __future__ import annotations

import dataclasses
import importlib

import torch
from torch import nn

from clew.inputs.preprocessing import Preprocess
from clew.inputs.text_batch import TextBatch
from clew.seam.attention import Attention, Mixed
from clew.subject.trace import Trace, mean_heads
from clew.targets import Resolved

FAULTS = {}


def part(name):
    """A module of clew; some share their name with a function."""
    return importlib.import_module(f"clew.{name}")


SUBJECT = part("subject.subject")


def fault(function):
    FAULTS[function.__name__.replace("_", " ")] = function
    return function


def wrapped(monkeypatch, home, name, change):
    """Replace a function or method by `change(the original, *args, **kwargs)`."""
    original = getattr(home, name)
    monkeypatch.setattr(home, name, lambda *args, **kwargs: change(original, *args, **kwargs))


def result_of(home, name, change):
    """A fault: what a function returns is changed."""
    return lambda patch: wrapped(patch, home, name, lambda f, *a, **k: change(f(*a, **k)))


def names(**faults):
    FAULTS.update({name.replace("_", " "): function for name, function in faults.items()})


# Attention


def rescaled(f, self, *args, **kwargs):
    return torch.softmax(2 * f(self, *args, **kwargs).clamp(min=1e-30).log(), -1)


names(
    attention_at_twice_the_scale=lambda p: wrapped(p, Attention, "probabilities", rescaled),
    attention_of_another_head=result_of(Attention, "probabilities", lambda A: A.roll(1, 1)),
    attention_uniform=result_of(Attention, "probabilities", lambda A: torch.full_like(A, 1 / A.shape[-1])),
    attention_of_the_next_key=result_of(Attention, "probabilities", lambda A: A.roll(1, -1)),
    attention_of_another_example=result_of(Attention, "probabilities", lambda A: A.roll(1, 0)),
    attention_squared=result_of(Attention, "probabilities", lambda A: A.square() / A.square().sum(-1, keepdim=True)),
    attention_gradient_with_the_wrong_sign=result_of(Attention, "attention_gradient", torch.neg),
    attention_gradient_of_another_head=result_of(Attention, "attention_gradient", lambda G: G.roll(1, 1)),
    attention_gradient_of_the_next_key=result_of(Attention, "attention_gradient", lambda G: G.roll(1, -1)),
    attention_gradient_without_its_sign=result_of(Attention, "attention_gradient", torch.abs),
    gradients_with_the_wrong_sign=result_of(Trace, "gradients", lambda d: {k: -g for k, g in d.items()}),
    gradients_of_another_head=result_of(Trace, "gradients", lambda d: {k: g.roll(1, 1) for k, g in d.items()}),
    gradients_halved=result_of(Trace, "gradients", lambda d: {k: g / 2 for k, g in d.items()}),
)


def at_twice_the_scale(f, q, *args, **kwargs):
    return f(2 * q, *args, **kwargs)


MIXED = part("seam.mixed_pass")
names(
    attention_written_out_at_twice_the_scale=lambda p: wrapped(p, MIXED, "softmax_rows", at_twice_the_scale),
    attention_written_out_of_the_next_key=result_of(MIXED, "softmax_rows", lambda A: A.roll(1, -1)),
    attention_written_out_of_another_head=result_of(MIXED, "softmax_rows", lambda A: A.roll(1, 1)),
    attention_written_out_uniform=result_of(MIXED, "softmax_rows", lambda A: torch.full_like(A, 1 / A.shape[-1])),
)


@fault
def kept_maps_of_the_next_key(patch):
    patch.setattr(MIXED, "Mixed", lambda mix, rows, maps, few: Mixed(mix, rows, maps.roll(1, -1), few))


@fault
def kept_maps_of_one_head(patch):
    def change(f, self, *args, **kwargs):
        kept, self._mix = self._mix, lambda A: kept(A[:, :1])
        try:
            return f(self, *args, **kwargs)
        finally:
            self._mix = kept

    patch.setattr(MIXED, "Mixed", lambda mix, rows, maps, few: Mixed(mean_heads, rows, maps, few))
    wrapped(patch, MIXED.MixedPass, "_sdpa", change)


@fault
def other_rows_than_the_head_reads_are_computed(patch):
    wrapped(patch, SUBJECT, "few_rows", lambda f, *a: None if (rows := f(*a)) is None else [row + 1 for row in rows])


@fault
def the_seam_calls_the_kernel_at_another_scale(patch):
    def change(f, self, query, key, value, *args, scale=None, **kwargs):
        return f(self, query * 1.5, key, value, *args, scale=scale, **kwargs)

    wrapped(patch, part("seam.capture").Capture, "_sdpa", change)


@fault
def gradients_of_inputs_with_the_wrong_sign(patch):
    for home in (part("subject.input_gradient"), part("subject.trace")):
        wrapped(patch, home, "gradients_of", lambda f, *a, **k: [-g for g in f(*a, **k)])


@fault
def sparse_layers_pull_back_with_the_wrong_sign(patch):
    wrapped(patch, part("seam.row_sparse"), "input_gradient", lambda f, *a, **k: -f(*a, **k))


@fault
def transposed_attention_in_the_chain(patch):
    def change(f, self, r, layer, mix, **kwargs):
        def turned(*maps):
            C = mix(*maps)
            return C.mT if C.shape[-1] == C.shape[-2] else C.flip(-1)

        return f(self, r, layer, turned, **kwargs)

    wrapped(patch, Trace, "chain", change)


@fault
def the_chain_without_residuals(patch):
    wrapped(patch, Trace, "chain", lambda f, self, r, layer, mix, **k: f(self, r, layer, mix, **k) - r)


@fault
def the_chain_of_another_layer(patch):
    def change(f, self, r, layer, mix, **kwargs):
        others = [k for k in self.layers if k != layer]
        return f(self, r, others[0] if others else layer, mix, **kwargs)

    wrapped(patch, Trace, "chain", change)


# Masks, padding, positions


def in_calls(name, change):
    """A fault of what the model is called with: an attribute of the subject is another one during each call."""

    def called(f, self, *args, **kwargs):
        kept = getattr(self, name)
        setattr(self, name, change(self, kept))
        try:
            return f(self, *args, **kwargs)
        finally:
            setattr(self, name, kept)

    return lambda patch: wrapped(patch, SUBJECT.Subject, "forward", called)


def with_mask(change):
    def changed(subject, inputs):
        mask = inputs.get("attention_mask")
        return inputs if mask is None else {**inputs, "attention_mask": change(mask.clone())}

    return in_calls("inputs", changed)


def with_odd_positions(subject, constant):
    if subject.bound.architecture.name not in ("hf_bert", "hf_llama"):
        return constant
    return {**constant, "position_ids": torch.arange(1, 2 * subject.given.shape[1], 2)[None]}


names(
    a_mask_that_is_dropped_before_the_model=with_mask(torch.ones_like),
    one_real_token_masked_for_the_model=with_mask(lambda mask: mask.index_fill_(1, torch.tensor([2]), 0)),
    positions_that_are_every_other_one=in_calls("constant", with_odd_positions),
)


@fault
def masks_left_out_of_attention_made_again(patch):
    def change(f, self, *args, **kwargs):
        return f(dataclasses.replace(self, mask=None, causal=False), *args, **kwargs)

    wrapped(patch, Attention, "probabilities", change)


@fault
def scores_of_tokens_moved_by_one(patch):
    wrapped(patch, TextBatch, "to_given_order", lambda f, self, values, axis=1: f(self, values.roll(1, axis), axis))


@fault
def an_unknown_token_before_each_text(patch):
    def change(f, text, *args, **kwargs):
        first = (f"zzq {text[0]}", text[1]) if isinstance(text, tuple) else f"zzq {text}"
        return f(first, *args, **kwargs)

    wrapped(patch, part("inputs.encodings"), "tokenized", change)


@fault
def token_numbers_in_another_order(patch):
    def change(f, self, values, fill=0):
        found = f(self, values, fill)
        if found.shape[:2] == self.order.shape and not found.is_floating_point() and found.ndim == 2:
            found = torch.cat([found[:, :1], found[:, 1:3].flip(1), found[:, 3:]], 1)
        return found

    wrapped(patch, TextBatch, "to_model_order", change)


# Readout


def other_rows(read):
    return dataclasses.replace(read, rows=read.rows + 1)


names(
    the_row_beside_the_one_that_the_head_reads=result_of(SUBJECT, "readout_rows", other_rows),
    readout_weights_negative=result_of(SUBJECT, "readout_rows", lambda r: dataclasses.replace(r, weights=-r.weights)),
    readout_weights_doubled=result_of(SUBJECT, "readout_rows", lambda r: dataclasses.replace(r, weights=2 * r.weights)),
    rows_that_are_few_miss_the_row=result_of(SUBJECT, "few_rows", lambda rows: rows and [r + 1 for r in rows]),
    the_start_is_another_row=result_of(Trace, "start", lambda r: r.roll(1, -1)),
)


# Rules


@fault
def linear_layers_hand_on_half(patch):
    wrapped(patch, part("lrp.operations.layers"), "input_gradient", lambda f, *a, **k: f(*a, **k) / 2)


@fault
def linear_layers_by_absolute_weights(patch):
    wrapped(patch, part("lrp.operations.layers"), "input_gradient", lambda f, S, W, *a: f(S, W.abs(), *a))


@fault
def activations_hand_on_plain_gradients(patch):
    from clew.lrp.operations.activations import activation
    from clew.lrp.tape import HANDLERS

    for function in [f for f, handler in HANDLERS.items() if handler is activation]:
        patch.setitem(HANDLERS, function, lambda tape, func, args, kwargs: func(*args, **kwargs))


@fault
def norms_without_their_means(patch):
    def change(f, tape, func, args, kwargs, x, compute, pull, bias, eps):
        return f(tape, func, args, kwargs, x, compute, lambda g: pull(g) * 1.3, bias, eps)

    wrapped(patch, part("lrp.operations.norms"), "norm", change)


@fault
def relevance_of_queries_and_keys_with_the_wrong_sign(patch):
    from clew.lrp.tape import HANDLERS

    sdpa = torch.nn.functional.scaled_dot_product_attention
    right = HANDLERS[sdpa]

    def turned(tape, func, args, kwargs):
        (q, k, *rest) = args
        return right(
            tape, func, (tape.hook_backward(q, lambda g, _: -g), tape.hook_backward(k, lambda g, _: -g), *rest), kwargs
        )

    patch.setitem(HANDLERS, sdpa, turned)


@fault
def values_get_relevance_of_the_next_token(patch):
    from clew.lrp.tape import HANDLERS

    sdpa = torch.nn.functional.scaled_dot_product_attention
    right = HANDLERS[sdpa]

    def turned(tape, func, args, kwargs):
        q, k, v, *rest = args
        return right(tape, func, (q, k, tape.hook_backward(v, lambda g, _: g.roll(1, 2)), *rest), kwargs)

    patch.setitem(HANDLERS, sdpa, turned)


@fault
def patches_get_three_times_the_relevance(patch):
    def change(found):
        return dataclasses.replace(found, semantic=3 * found.semantic, entering=3 * found.entering)

    wrapped(patch, part("lrp.relevance"), "_collected", lambda f, *a, **k: change(f(*a, **k)))


@fault
def another_rule_set_than_the_one_asked_for(patch):
    from clew.rules.rule_sets import RULE_SETS

    def change(f, rules):
        name, _ = f(rules)
        return name, RULE_SETS["cp_lrp" if name != "cp_lrp" else "attn_lrp"]

    wrapped(patch, part("lrp.relevance"), "rule_set", change)


@fault
def another_rule_set_asked_of_the_tape(patch):
    wrapped(
        patch, part("explainers.lrp"), "propagate",
        lambda f, subject, rules, **k: f(subject, "cp_lrp" if rules != "cp_lrp" else "attn_lrp", **k),
    )  # fmt: skip


names(
    relevance_of_tokens_in_another_order=result_of(part("explainers.lrp"), "reduced", lambda s: s.roll(1, -1)),
    relevance_collected_in_another_order=result_of(
        part("lrp.relevance"),
        "_collected",
        lambda r: dataclasses.replace(r, semantic=r.semantic.roll(1, 1), entering=r.entering.roll(1, 1)),
    ),
    relevance_of_positions_moved_by_one=result_of(
        part("explainers.lrp"), "add_positional_relevance", lambda found: (found[0].roll(1, 1), found[1])
    ),
)


# Paths


@fault
def weights_of_the_path_doubled(patch):
    for home in (part("explainers.beyond_intuition"), part("explainers.gradient")):
        result_of(home, "quadrature_rule", lambda q: dataclasses.replace(q, weights=2 * q.weights))(patch)


@fault
def points_of_the_path_squared(patch):
    for home in (part("explainers.beyond_intuition"), part("explainers.gradient")):
        result_of(home, "quadrature_rule", lambda q: dataclasses.replace(q, points=q.points**2))(patch)


@fault
def paths_that_do_not_move(patch):
    def still(f, start, x, rule, point, example):
        return {key: value[example] for key, value in x.items()} if isinstance(x, dict) else x[example]

    wrapped(patch, part("explainers.beyond_intuition"), "scaled_along", still)
    wrapped(patch, part("explainers.gradient"), "scaled_leaves", still)


# Targets


@fault
def the_least_likely_class_for_the_predicted_one(patch):
    def change(f, target, output, batch, labels, kind="logit", **kwargs):
        if target is None:
            logits = part("targets.outputs").logits_of(output)
            target = (logits if logits.ndim == 2 else logits[:, -1]).argmin(-1).tolist()
        return f(target, output, batch, labels, kind, **kwargs)

    wrapped(patch, part("explaining.explain"), "resolve", change)


@fault
def the_next_class_under_this_class_s_name(patch):
    def change(found):
        plus = None if found.plus is None else (found.plus + 1) % 3
        return dataclasses.replace(found, plus=plus)

    wrapped(patch, part("explaining.explain"), "resolve", lambda f, *a, **k: change(f(*a, **k)))


@fault
def this_class_under_the_next_class_s_name(patch):
    def change(found, labels):
        known = list(labels or [f"class {i}" for i in range(10)])
        following = [known[(known.index(n) + 1) % len(known)] if n in known else n + "!" for n in found.names]
        return dataclasses.replace(found, names=following)

    wrapped(
        patch, part("explaining.explain"), "resolve",
        lambda f, target, output, batch, labels, *a, **k: change(f(target, output, batch, labels, *a, **k), labels),
    )  # fmt: skip


names(the_score_with_the_wrong_sign=result_of(Resolved, "__call__", torch.neg))


# Pictures


@fault
def mean_and_deviation_left_out(patch):
    def change(f, self, image):
        return f(dataclasses.replace(self, mean=(0.0,) * len(self.mean), std=(1.0,) * len(self.std)), image)

    wrapped(patch, Preprocess, "__call__", change)


@fault
def colours_in_the_wrong_order(patch):
    wrapped(patch, Preprocess, "__call__", lambda f, self, image: ((r := f(self, image))[0].flip(0), r[1]))


@fault
def pictures_upside_down(patch):
    wrapped(patch, Preprocess, "__call__", lambda f, self, image: ((r := f(self, image))[0].flip(1), r[1]))


names(patches_summed_in_another_order=result_of(part("explaining.assemble"), "_patch_sums", lambda s: s.roll(1, -1)))


# The twin


def of_twins(change):
    """A fault in the modules that are explained in place of the model's own."""

    def put(patch):
        for home in (part("explaining.prepare"), part("explaining.pair_model")):

            def changed(model, original=home.twin, **options):
                found = original(model, **options)
                change(found)
                return found

            patch.setattr(home, "twin", changed)

    return put


def larger(model):
    for p in model.parameters():
        if p.ndim > 1:
            p.data = p.data * 1.05


def without_a_block(model):
    blocks = next(m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) > 1)

    def dropped(module, args, kwargs, output):
        x = args[0] if args else kwargs["hidden_states"]
        return (x, *output[1:]) if isinstance(output, tuple) else x

    blocks[1].register_forward_hook(dropped, with_kwargs=True)


names(weights_larger_in_the_twin=of_twins(larger), a_block_dropped_in_the_twin=of_twins(without_a_block))


# Projections


@fault
def values_projected_with_their_bias(patch):
    wrapped(patch, SUBJECT.Subject, "project", lambda f, self, layer, v, **k: f(self, layer, v, bias=True))


@fault
def values_projected_by_another_layer(patch):
    wrapped(patch, SUBJECT.Subject, "project", lambda f, self, layer, v, **k: f(self, layer - 1, v, **k))


# Words and windows: what is made of a result afterwards


def with_next_names(words):
    return [dataclasses.replace(w, text=v.text) for w, v in zip(words, [*words[1:], words[0]], strict=True)]


def of_windows(change):
    def put(patch):
        windows = part("explaining.windows")
        wrapped(patch, windows, "_joined", lambda f, *a: dataclasses.replace(r := f(*a), **change(r)))

    return put


def of_words(change):
    return lambda patch: wrapped(patch, part("attributions.text"), "score_words", lambda f, *a: change(f(*a)))


def without_the_first(r):
    names = ("all_scores", "input_ids", "mask", "special", "offsets")
    return {name: getattr(r, name)[:, 1:] for name in names} | {"tokens": [r.tokens[0][1:]]}


LATER = {
    "words get the scores of the next token": lambda p: wrapped(
        p, part("attributions.text"), "score_words", lambda f, text, s, *a: f(text, [*s[1:], s[0]], *a)
    ),
    "words are summed twice": of_words(lambda words: [dataclasses.replace(w, score=2 * w.score) for w in words]),
    "words under the next word's name": of_words(with_next_names),
    "a word is lost": of_words(lambda words: [dataclasses.replace(w, tokens=()) for w in words]),
    "windows moved by one token": of_windows(lambda r: {"all_scores": r.all_scores.roll(1, 1)}),
    "windows lose a token": of_windows(without_the_first),
}

# What only language models and pairs of texts have


def swapped_types(subject, inputs):
    return {**inputs, "token_type_ids": 1 - inputs["token_type_ids"]}


def row_before(patch):
    wrapped(patch, part("explaining.explain"), "rows_of", lambda f, *a: f(*a) - 1)


# Quantised weights
QUANTISED = {
    "weights too large": lambda w: 1.05 * w,
    "rows in another order": lambda w: w.roll(1, 0),
    "columns in another order": lambda w: w.roll(1, 1),
}

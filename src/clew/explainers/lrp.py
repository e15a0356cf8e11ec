"""Layer-wise relevance propagation: relevance by a rule set, and methods made of the relevance of attention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..errors import OptionError, short_repr
from ..lrp import (
    PositionAggregation,
    Relevance,
    ResidualSums,
    add_positional_relevance,
    propagate,
    propagate_to_streams,
    reduced,
)
from ..rules import ResidualGamma
from ..rules.rule_sets import DEFAULTS, RULE_SETS, RuleSet, rule_set, with_gamma
from ..shapes import Attn, at_least_float32
from ..subject import Result, StreamSubject, Subject, stream_result
from ..validation import validate_float
from . import is_released, method
from .mass import refuse_variant
from .relevant_attention import relevance_method

Rules = str | Mapping[str, Any]


@method(paper="Bach et al. 2015", summary="relevance by any rule set", any_model=True)
def lrp(
    subject: Subject | StreamSubject,
    *,
    rules: Rules = "epsilon",
    level: str | None = None,
    part: str = "semantic",
    reduction: str = "sum",
    start: str | None = None,
    clamp: bool | None = None,
    gamma_linear: float | None = None,
    gamma_conv: float | None = None,
) -> Result:
    """Relevance `R` of the score, handed back through the model by `rules` until the patches or words.

    `rules`: a name in `clew.RULE_SETS`, or a dict of operations and rules. `level`: end at the embedded "token", go on
    to the "pixel", or end at the "sequence" that enters the first block of a text, positions included. `part`: what
    the content got ("semantic"), the positional encodings ("position"), or "all"; encodings inside the blocks (rotary,
    biases of attention) get relevance only if they are asked for, and count by the sum of their positive entries, see
    `pa_lrp`. `reduction` over features: "sum", which conserves, or "l2" (no pixels). `start`: relevance at the output
    is the "score" or "one". `clamp`: negative scores become 0. Options left out are "token", "score" and False, but
    for the named sets of released code what that code does. `gamma_linear`, `gamma_conv`: other γ in the set's gamma
    rules.

    `checks`: the account of conservation (`explained`, `relevance`, `leak_…` by cause, `unexplained`), relevance by
    stage. `details`: `semantic`, `position`, `entering` (batch, token) and their `…_l2`; `position_by_layer` (batch,
    layer, token). Raises `OptionError` where an operation has no rule.
    """
    return _lrp(subject, rules, level, part, reduction, start, clamp, gammas=(gamma_linear, gamma_conv))


def _lrp(
    subject: Subject | StreamSubject,
    rules: Rules,
    level: str | None = None,
    part: str = "semantic",
    reduction: str = "sum",
    start: str | None = None,
    clamp: bool | None = None,
    *,
    positions: bool = False,
    gather: PositionAggregation | None = None,
    gammas: tuple[float | None, float | None] = (None, None),
    sums: bool = False,
) -> Result:
    defaults = DEFAULTS.get(rules, {}) if isinstance(rules, str) else {}
    if gammas != (None, None):
        rules = with_gamma(rule_set(rules)[1], *gammas)
    if isinstance(subject, StreamSubject):
        return _of_streams(subject, rules, level, part, reduction, start, clamp, sums=sums)
    text = subject.bound.is_text
    level = level or ("token" if text else str(defaults.get("level", "token")))
    start = start or str(defaults.get("start", "score"))
    clamp = defaults.get("clamp", False) and level == "pixel" if clamp is None else clamp
    _one_of("level", level, ("token", "sequence") if text else ("token", "pixel"))
    _one_of("part", part, ("all", "semantic", "position"))
    _one_of("reduction", reduction, ("sum",) if level == "pixel" else ("sum", "l2"))
    _one_of("start", start, ("score", "one"))
    gather = gather or PositionAggregation()
    inside = positions or part != "semantic"
    by_head = gather.per_head and inside
    found = propagate(
        subject, rules, level=level, start=start, positions=inside, by_head=by_head, keep_sums=sums and subject.details
    )
    options: dict[str, Any] = {"rules": found.rules, "level": level, "start": start, "clamp": clamp}
    common: dict[str, Any] = {"options": options, "details": _details(subject, found)}
    checks = found.checks(part)
    if level == "pixel":
        assert found.pixels is not None
        pixels = torch.zeros_like(found.pixels) if part == "position" else found.pixels
        if part != "semantic":
            pixels = pixels + spread(found.position[:, found.prefix :].sum(-1), subject)
        return Result(pixels=pixels.clamp(min=0) if clamp else pixels, checks=checks, **common)
    whole = found.semantic + found.position if text else found.entering
    scores = reduced({"all": whole, "semantic": found.semantic, "position": found.position}[part], reduction)
    if part != "semantic" and found.by_layer() is not None:
        scores, lost = add_positional_relevance(scores, found.inner, gather, subject.mask)
        checks["leak_aggregation"] = lost
        checks["relevance"] = checks["relevance"] - lost
    return Result(scores.clamp(min=0) if clamp else scores, checks=checks, **common)


def _of_streams(
    subject: StreamSubject,
    rules: Rules,
    level: str | None,
    part: str,
    reduction: str,
    start: str | None,
    clamp: bool | None,
    *,
    sums: bool = False,
) -> Result:
    """Relevance of all streams of a model that is not declared: it ends where input enters."""
    _one_of("level", level or "token", ("token",))
    _one_of("part", part, ("semantic",))
    _one_of("reduction", reduction, ("sum", "l2"))
    start = start or "score"
    _one_of("start", start, ("score", "one"))
    found = propagate_to_streams(subject, rules, start, keep_sums=sums and subject.details)
    subject.relevance.append(found)
    options = {"rules": found.rules, "start": start, "clamp": bool(clamp)}
    result = stream_result(subject, found.leaves, size=reduction == "l2", options=options, checks=found.checks())
    result = replace(result, details={**result.details, **_of_sums(found.sums)})
    if clamp:
        result = replace(result, streams={name: R.clamp(min=0) for name, R in (result.streams or {}).items()})
    return result


@method(
    paper="Achtibat et al. 2024",
    summary="AttnLRP: relevance through attention by half and by Taylor expansion",
    any_model=True,
)
def attn_lrp(
    subject: Subject | StreamSubject, *, level: str = "token", part: str = "semantic", reduction: str = "sum"
) -> Result:
    """AttnLRP with `ε → 0`: gradient × input of a model whose norms are fixed and whose products are halved.

    One forward and one backward pass. `lrp(rules="gamma")` is the paper's composite for ViT. Options as in `lrp`.
    """
    return _lrp(subject, "attn_lrp", level, part, reduction)


@method(paper="Ali et al. 2022", summary="CP-LRP: relevance through the values, attention held fixed", any_model=True)
def cp_lrp(
    subject: Subject | StreamSubject, *, level: str = "token", part: str = "semantic", reduction: str = "sum"
) -> Result:
    """Conservative propagation: attention weights, gates and standard deviations count as constants. As `lrp`."""
    return _lrp(subject, "cp_lrp", level, part, reduction)


@method(
    paper="Berend et al. 2026",
    summary="ResLRP: at residual sums what has the sum's sign counts more",
    any_model=True,
)
def res_lrp(
    subject: Subject | StreamSubject,
    *,
    base: str = "attn_lrp",
    gamma: float = 1.0,
    stream: str | None = None,
    level: str = "token",
    part: str = "semantic",
    reduction: str = "sum",
) -> Result:
    """The rules of `base` ("attn_lrp", "cp_lrp"), and at every sum `c = x + f(x)` the γ rule (eq. 3):
    `R_x = w(x) x R_c / (w(x) x + w(f) f)`, `w(z) = 1 + γ [sign z = sign c]`. `γ = 0` is `base`.

    One forward and one backward pass. Which sums are residual is seen in the pass, of any model. `stream`, of models
    of several inputs: only those on this one, as the paper takes γ for the tower of pictures alone. Other options as
    in `lrp`. `details`, (batch, sum) from input to output, over entries that relevance passes: `cancellation`
    `C = Σ(|x| + |f|) / Σ|c|`, `amplification` `A = Σ(|R_x| + |R_f|) / Σ|R_c|`.
    """
    _one_of("base", base, ("attn_lrp", "cp_lrp"))
    rule = ResidualGamma(validate_float("gamma", gamma, 0))
    key = "add:residual" if stream is None else f"add:residual@{stream}"
    rules: RuleSet = {**rule_set(base)[1], key: rule}
    name, _ = rule_set(rules)
    return _lrp(subject, name if name in RULE_SETS else rules, level, part, reduction, sums=True)


@method(paper="Bakish et al. 2025", summary="PA-LRP: relevance with the positional encodings' share")
def pa_lrp(
    subject: Subject,
    *,
    rules: Rules | None = None,
    level: str | None = None,
    part: str = "all",
    reduction: str = "sum",
    aggregate: str | None = None,
    abs: bool | None = None,
    clamp: bool | None = None,
    per_part_norm: bool = False,
    per_table_norm: bool = False,
    per_head: bool = False,
    gamma_linear: float | None = None,
    gamma_conv: float | None = None,
    variant: str = "paper",
) -> Result:
    """Relevance that enters the first sum, `z = E + P`, is split: `R_P = P R_z / (P + E)` (eq. 5), and both count.

    Rotary tables get half of every product they are a factor of (eq. 7-10), biases of attention (ALiBi) their share of
    the sum; `part="position"` or `"semantic"` gives one of them. At the level of pixels a patch's positional share is
    spread evenly over its pixels. The default is the paper's method done right: AttnLRP's rules, nothing halved, a
    position for each example, relevance conserved.

    How the relevance `r` of rotary tables (cosines and sines of each block) becomes one number per token: `aggregate`
    "positive" adds up positive entries (eq. 11); "sum" all entries of a table, with `abs` their absolute sums, as
    released; "outer" the rows of `|r| |table|ᵀ` (released as `--reform`; without `abs` signs are kept). `clamp` cuts
    negative totals (with "outer" also negative factors); at pixels negative values. `per_table_norm` divides each
    table's numbers by their largest, `per_part_norm` those of words and of positions before they are added (released
    without `--single-norm`). `per_head` takes heads one by one before the absolute value.

    `gamma_linear`, `gamma_conv`: as in `lrp`. `variant="pa_lrp"`, images: the configuration that the released code
    compares (`rules="pa_lrp_gamma"`, pixels, negative values cut). Texts: `aggregate="sum", abs=True`, and with
    `per_head` the first head alone.
    """
    released = is_released(variant, "pa_lrp")
    if not subject.bound.is_text:
        rules = rules or ("pa_lrp_gamma" if released else "attn_lrp")
        return _lrp(subject, rules, level, part, reduction, clamp=clamp, gammas=(gamma_linear, gamma_conv))
    aggregate = aggregate or ("sum" if released else "positive")
    _one_of("aggregate", aggregate, ("positive", "sum", "outer"))
    gather = PositionAggregation(
        aggregate,
        abs=released and aggregate == "sum" if abs is None else abs,
        clamp=bool(clamp),
        per_part_norm=per_part_norm,
        per_table_norm=per_table_norm,
        per_head=per_head,
        first_head=released,
    )
    gammas = gamma_linear, gamma_conv
    found = _lrp(subject, rules or "attn_lrp", level, part, reduction, positions=True, gather=gather, gammas=gammas)
    return replace(found, options={**found.options, "aggregate": aggregate, "abs": gather.abs, "clamp": gather.clamp})


@method(paper="Voita et al. 2019; Chefer et al. 2021a", summary="relevance of the last block's attention", by_mass=True)
def partial_lrp(
    subject: Subject | StreamSubject,
    *,
    rules: Rules | None = None,
    times_gradient: bool = False,
    variant: str = "paper",
) -> Result:
    """`mean_h max(R(A_h), 0)` at the readout of the last block, `R(A) = A ⊙ (S Vᵀ)`.

    `times_gradient` multiplies by `∂s/∂A` first (a released ablation). `variant="chefer"` uses the rules of the
    released code, which double relevance at every linear layer; its `rules` are "chefer" otherwise.

    Models that are not declared: of the last attention that token mass comes to.
    """
    if isinstance(subject, StreamSubject):
        refuse_variant(variant)
        return relevance_method(subject, rules or "chefer", times_gradient=times_gradient, last=True)
    rules = rules or ("chefer_original" if is_released(variant, "chefer") else "chefer")
    found = propagate(subject, rules, start="one", keep_attention=True)
    last = subject.last
    trace = subject.run([last], leaf=(last, "o") if times_gradient else None)
    read = trace.read()
    cam = trace[last].probabilities(read.rows) * trace[last].attention_gradient(_of(found, last), read.rows)
    if times_gradient:
        g_o = trace.gradients([(last, "o")])[last, "o"]
        cam = cam * trace[last].attention_gradient(g_o, read.rows)
    scores = read.mean(cam.clamp(min=0).mean(1))
    options = {"rules": found.rules}
    return Result(trace.over_tokens(scores, last), options=options, checks=found.checks("semantic"))


@method(
    paper="Chefer et al. 2021a, eq. 13-14", summary="relevance of attention times its gradient, through the blocks",
    by_mass=True,
)  # fmt: skip
def transformer_attribution(
    subject: Subject | StreamSubject,
    *,
    start_layer: int | None = None,
    rules: Rules | None = None,
    times_gradient: bool = True,
    variant: str = "paper",
) -> Result:
    """`C_l = mean_h max(∂s/∂A_l ⊙ R(A_l), 0)`; `scores = readout · ∏ (I + C_l)`, rows not normalised.

    Texts start at the last block by default, as released. `times_gradient=False` leaves out the gradient ("LRP
    rollout"). `variant="chefer"`: quirks of released code for heads that average tokens or interleave features; of
    texts, rows are normalised. `variant="beyond_intuition"`: the same, with the rules that their code uses for BERT,
    under which relevance doubles at every linear layer. `variant="pa_lrp"`: its `attribution_with_detach`, where the
    deviation of every norm is held fixed, in the relevance and in the gradient.

    Models that are not declared: a product over all paths through attention, cross attention too, from the first on;
    rules have no places there.
    """
    if isinstance(subject, StreamSubject):
        refuse_variant(variant)
        return relevance_method(subject, rules or "chefer", times_gradient=times_gradient, start_layer=start_layer)
    layers = subject.layers_from(start_layer, 0, text=subject.depth - 1)
    released = is_released(variant, "chefer", "beyond_intuition", "pa_lrp")
    fixed_std, normalize = variant == "pa_lrp", released and subject.bound.is_text
    names = {"chefer": "chefer_released", "pa_lrp": "chefer_fixed_std", "beyond_intuition": "chefer_original"}
    rules = rules or names.get(variant, "chefer")
    found = propagate(subject, rules, start="one", keep_attention=True)
    gradients: dict[int, Tensor] = {}
    if times_gradient and fixed_std:
        gradients = dict(propagate(subject, "fixed_std", keep_attention=True).attention)
        trace = subject.run(layers)
    else:
        trace = subject.run(layers, leaf=(layers[0], "o") if times_gradient else None)
        if times_gradient:
            gradients = {k: v for (k, _), v in trace.gradients((layer, "o") for layer in layers).items()}

    def relevant(A: Attn, S: Attn, *G: Attn) -> Tensor:
        cam = A * S
        return (G[0] * cam if G else cam).clamp(min=0).mean(1)

    r = trace.start()
    for layer in reversed(layers):
        gradient = (_of(found, layer), *([gradients[layer]] if times_gradient else []))
        r = trace.chain(r, layer, relevant, gradient=gradient, normalize=normalize)
    options = {"start_layer": layers[0], "rules": found.rules}
    return Result(r.squeeze(1), options=options, checks=found.checks("semantic"))


def spread(patches: Tensor, subject: Subject) -> Tensor:
    """One number per patch, (batch, patch), evenly over the patch's pixels: (batch, height, width)."""
    (rows, columns), (height, width) = subject.grid(), subject.x.shape[-2:]
    down, across = height // rows, width // columns
    maps = patches.view(-1, rows, columns) / (down * across)
    grown = maps.repeat_interleave(down, 1).repeat_interleave(across, 2)
    missing = (0, width - grown.shape[2], 0, height - grown.shape[1])
    return torch.nn.functional.pad(grown, missing)


def _of(found: Relevance, layer: int) -> Tensor:
    if layer not in found.attention:
        raise OptionError(
            f"these rules give the attention of block {layer} no relevance",
            expected="rules that let relevance through the softmax's product",
            got=found.rules,
        )
    return found.attention[layer]


def _details(subject: Subject, found: Relevance) -> dict[str, Tensor]:
    if not subject.details:
        return {}
    parts = {"semantic": found.semantic, "position": found.position, "entering": found.entering}
    sums = {name: reduced(v, "sum") for name, v in parts.items()}
    by_layer = found.by_layer()
    inner = {} if by_layer is None else {"position_by_layer": by_layer}
    sizes = {f"{name}_l2": at_least_float32(v).norm(dim=-1) for name, v in parts.items()}
    return {**sums, **sizes, **inner, **_of_sums(found.sums)}


def _of_sums(found: ResidualSums | None) -> dict[str, Tensor]:
    return {} if found is None else {"cancellation": found.cancellation, "amplification": found.amplification}


def _one_of(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise OptionError(f"unknown {name}", expected=" or ".join(choices), got=short_repr(value))

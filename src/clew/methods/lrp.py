"""Layer-wise relevance propagation: relevance by a rule set, and methods made of the relevance of attention."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ..relevance import Relevance, propagate, reduced
from ..rule_sets import DEFAULTS
from ..shapes import Attn, OptionError, at_least_float32
from ..subject import Subject
from ..trace import Result
from . import is_released, method

Rules = str | Mapping[str, Any]


@method(paper="Bach et al. 2015", summary="relevance by any rule set")
def lrp(
    subject: Subject,
    *,
    rules: Rules = "epsilon",
    level: str | None = None,
    part: str = "semantic",
    reduction: str = "sum",
    start: str | None = None,
    clamp: bool | None = None,
) -> Result:
    """Relevance `R` of the score, handed back through the model by `rules` until the patches.

    `rules`: a name in `clew.RULE_SETS`, or a dict of operations and rules. `level`: end at the embedded "token" or go
    on to the "pixel". `part`: what the content got ("semantic"), the positional encoding ("position"), or "all".
    `reduction` over features: "sum", which conserves, or "l2" (tokens only). `start`: relevance at the output is the
    "score" or "one". `clamp`: negative scores become 0. Options left out are "token", "score" and False, but for the
    named sets of released code what that code does.

    `checks`: the account of conservation (`explained`, `relevance`, `leak_…` by cause, `unexplained`), relevance by
    stage. `details`: `semantic`, `position`, `entering` (batch, token) and their `…_l2`.
    Raises `OptionError` where an operation has no rule.
    """
    defaults = DEFAULTS.get(rules, {}) if isinstance(rules, str) else {}
    level = level or str(defaults.get("level", "token"))
    start = start or str(defaults.get("start", "score"))
    clamp = defaults.get("clamp", False) and level == "pixel" if clamp is None else clamp
    _one_of("level", level, ("token", "pixel"))
    _one_of("part", part, ("all", "semantic", "position"))
    _one_of("reduction", reduction, ("sum", "l2") if level == "token" else ("sum",))
    _one_of("start", start, ("score", "one"))
    found = propagate(subject, rules, level=level, start=start)
    options = {"rules": found.rules, "level": level, "start": start, "clamp": clamp}
    common: dict[str, Any] = {"options": options, "checks": found.checks(part), "details": _details(subject, found)}
    if level == "token":
        vectors = {"all": found.entering, "semantic": found.semantic, "position": found.position}[part]
        scores = reduced(vectors, reduction)
        return Result(scores.clamp(min=0) if clamp else scores, **common)
    assert found.pixels is not None
    pixels = torch.zeros_like(found.pixels) if part == "position" else found.pixels
    if part != "semantic":
        pixels = pixels + spread(found.position[:, found.prefix :].sum(-1), subject)
    return Result(pixels=pixels.clamp(min=0) if clamp else pixels, **common)


@method(paper="Achtibat et al. 2024", summary="AttnLRP: relevance through attention by half and by Taylor expansion")
def attn_lrp(subject: Subject, *, level: str = "token", part: str = "semantic", reduction: str = "sum") -> Result:
    """AttnLRP with `ε → 0`: gradient × input of a model whose norms are fixed and whose products are halved.

    One forward and one backward pass. `lrp(rules="gamma")` is the paper's composite for ViT. Options as in `lrp`.
    """
    return lrp(subject, rules="attn_lrp", level=level, part=part, reduction=reduction)


@method(paper="Ali et al. 2022", summary="CP-LRP: relevance through the values, attention held fixed")
def cp_lrp(subject: Subject, *, level: str = "token", part: str = "semantic", reduction: str = "sum") -> Result:
    """Conservative propagation: attention weights, gates and standard deviations count as constants. As `lrp`."""
    return lrp(subject, rules="cp_lrp", level=level, part=part, reduction=reduction)


@method(paper="Bakish et al. 2025", summary="PA-LRP: relevance with the positional encodings' share")
def pa_lrp(
    subject: Subject,
    *,
    rules: Rules | None = None,
    level: str | None = None,
    part: str = "all",
    reduction: str = "sum",
    variant: str = "paper",
) -> Result:
    """Relevance that enters the first sum, `z = E + P`, is split: `R_P = P R_z / (P + E)` (eq. 5), and both count.

    `part="position"` or `"semantic"` gives one of them. At the level of pixels a patch's positional share is spread
    evenly over its pixels. The default is the paper's method done right: AttnLRP's rules, nothing halved, a position
    for each example, relevance conserved. `variant="pa_lrp"` is the configuration that the released code compares
    (`rules="pa_lrp_gamma"`, pixels, negative values cut).
    """
    rules = rules or ("pa_lrp_gamma" if is_released(variant, "pa_lrp") else "attn_lrp")
    return lrp(subject, rules=rules, level=level, part=part, reduction=reduction)


@method(paper="Voita et al. 2019; Chefer et al. 2021a", summary="relevance of the last block's attention")
def partial_lrp(
    subject: Subject, *, rules: Rules | None = None, times_gradient: bool = False, variant: str = "paper"
) -> Result:
    """`mean_h max(R(A_h), 0)` at the readout of the last block, `R(A) = A ⊙ (S Vᵀ)`.

    `times_gradient` multiplies by `∂s/∂A` first (a released ablation). `variant="chefer"` uses the rules of the
    released code, which double relevance at every linear layer; its `rules` are "chefer" otherwise.
    """
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


@method(paper="Chefer et al. 2021a, eq. 13-14", summary="relevance of attention times its gradient, through the blocks")
def transformer_attribution(
    subject: Subject,
    *,
    start_layer: int | None = None,
    rules: Rules | None = None,
    times_gradient: bool = True,
    variant: str = "paper",
) -> Result:
    """`C_l = mean_h max(∂s/∂A_l ⊙ R(A_l), 0)`; `scores = readout · ∏ (I + C_l)`, rows not normalised.

    `times_gradient=False` leaves out the gradient ("LRP rollout"). `variant="chefer"`: quirks of released code for
    heads that average tokens or interleave features. `variant="pa_lrp"`: its `attribution_with_detach`, where the
    deviation of every norm is held fixed, in the relevance and in the gradient.
    """
    layers = subject.layers_from(start_layer, 0)
    fixed_std = is_released(variant, "chefer", "pa_lrp") and variant == "pa_lrp"
    rules = rules or {"chefer": "chefer_released", "pa_lrp": "chefer_fixed_std"}.get(variant, "chefer")
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
        r = trace.chain(r, layer, relevant, gradient=gradient)
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
    return {**sums, **{f"{name}_l2": at_least_float32(v).norm(dim=-1) for name, v in parts.items()}}


def _one_of(name: str, value: Any, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise OptionError(f"unknown {name}", expected=" or ".join(choices), got=repr(value))

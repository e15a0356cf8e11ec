"""Named rule sets: which rule each operation gets, by its role.

A rule set is a dict. Keys are operations, `"linear"`, or operations at a place, `"linear:attention"`, which go before:

- of models of which nothing is declared, operations on one stream alone, `"linear@pixel_values"`, or `"linear@image"`:
  what is made of the picture and of no other input, its tower, say;
- operations: linear, conv, norm, activation, softmax, matmul, product, add, fork, mean, stack; any other torch function
  by its name (`"exp"`), for which `PlainGradient()` may be allowed;
- places: embedding, patch_embedding, attention (query, key, value and output projections too), mlp, residual, head;
- "add:residual" is for sums `x + f(x)`, which are seen in the pass itself, of any model;
  "add:residual@pixel_values" for those on one stream.

A set of one's own is a dict of the same form: `lrp(rules={**ATTN_LRP, "conv": Flat()})`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..errors import OptionError, close_matches
from ..validation import validate_float
from . import (
    AlphaBeta,
    AsConcatenated,
    ByAbsoluteSum,
    CopyToAll,
    Epsilon,
    FixedStd,
    Gamma,
    Half,
    Identity,
    PlainGradient,
    ResidualGamma,
    Rule,
    StabilisedFork,
    Stop,
    StopGate,
    Taylor,
    Uniform,
    WholeToEach,
    ZBox,
    fits,
)

RuleSet = Mapping[str, Rule]

PLACES = ("embedding", "patch_embedding", "attention", "mlp", "residual", "head")

# AttnLRP (Achtibat et al. 2024) with ε → 0, as gradient × input (Arras et al. 2025).
ATTN_LRP: RuleSet = {
    "linear": Epsilon(),
    "conv": Epsilon(),
    "norm": FixedStd(),
    "activation": Identity(),
    "softmax": Taylor(),
    "matmul": Half(),
    "product": Uniform(),
    "add": Epsilon(),
}

# CP-LRP (Ali et al. 2022): attention weights and gates are fixed.
CP_LRP: RuleSet = {**ATTN_LRP, "softmax": Stop(), "product": StopGate()}

# ResLRP (Berend et al. 2026), γ = 1, on either.
RES_LRP: RuleSet = {**ATTN_LRP, "add:residual": ResidualGamma()}
RES_CP_LRP: RuleSet = {**CP_LRP, "add:residual": ResidualGamma()}
# LibraGrad (Mehri et al. 2025): attention, deviations and gates are fixed; factors of a gated product get half each.
LIBRA: RuleSet = {**CP_LRP, "product": Uniform()}

# Stabilised everywhere but at the scores of attention, where fused kernels add masks themselves.
EPSILON: RuleSet = {
    **ATTN_LRP,
    "linear": Epsilon(1e-6),
    "conv": Epsilon(1e-6),
    "add": Epsilon(1e-6),
    "add:attention": Epsilon(),
}

# The composite of the AttnLRP paper for ViT (appendix B.4, table 4).
GAMMA: RuleSet = {**ATTN_LRP, "conv": Gamma(0.25), "linear": Gamma(0.05), "linear:attention": Epsilon()}

# Chat models with pictures: the tower that reads the picture has a γ rule, as docs/rules-for-chats.md has measured.
CHAT: RuleSet = {**ATTN_LRP, "linear@image": Gamma(1.0)}

Z_PLUS: RuleSet = {**ATTN_LRP, "linear": AlphaBeta(), "conv": AlphaBeta()}

# Chefer et al. 2021a, "Transformer Interpretability Beyond Attention Visualization".
CHEFER: RuleSet = {
    "linear": AlphaBeta(),
    "conv": ZBox(),
    "norm": Identity(),
    "activation": Identity(),
    "softmax": Identity(),
    "matmul": Half(1e-9, signed=False),
    "product": Uniform(),
    "add": ByAbsoluteSum(),
    "fork": StabilisedFork(),
}

# What their code does for models that average tokens, and, as others extended it, for DINO's linear head.
CHEFER_RELEASED: RuleSet = {**CHEFER, "mean": CopyToAll(), "stack": AsConcatenated()}

# Their earlier code ("layers_lrp"), for BERT: relevance doubles at every linear layer. The mask is added to the scores
# of attention, also where it is zero, by a sum that is stabilised: `x / (x + 1e-9)` of it is handed on.
CHEFER_ORIGINAL: RuleSet = {
    **CHEFER,
    "softmax": Identity(1e-9),
    "linear": AlphaBeta(separate=True),
    "conv": ZBox(),
    "add": Epsilon(1e-9, signed=False),
}

# `attribution_with_detach` of the released PA-LRP code: its gradient is that of `FIXED_STD`.
CHEFER_FIXED_STD: RuleSet = {**CHEFER, "norm": FixedStd(own_epsilon=True)}


def pa_lrp_released(mode: str, conv: str = "gamma") -> RuleSet:
    """What the code released with PA-LRP computes: values only, and half of what they should get.

    `mode`: "alpha", "gamma", "semi" or "epsilon"; `conv`: "gamma" (γ = 100) or "alpha" (z-box).
    """
    exact = mode in ("alpha", "semi")
    linear = {"alpha": AlphaBeta(), "epsilon": Epsilon(1e-8, signed=False)}.get(mode, Gamma(0.05))
    return {
        "linear": linear,
        "linear:attention": linear if mode == "alpha" else Epsilon(1e-8, signed=False),
        "conv": Gamma(100.0) if conv == "gamma" else ZBox(),
        "norm": FixedStd(own_epsilon=True),
        "activation": Identity(),
        "softmax": Stop(),
        # 2R / (2 AV + 1e-6)
        "matmul": Half(1e-9 if exact else 5e-7, signed=False, halve_stopped=True),
        "product": Uniform(),
        "add": ByAbsoluteSum() if exact else Epsilon(1e-6, signed=False),
    }


# No LRP: the model's gradient, with the deviation of every norm held fixed.
FIXED_STD: RuleSet = {
    **ATTN_LRP,
    "activation": PlainGradient(),
    "matmul": WholeToEach(),
    "product": PlainGradient(),
}

# No LRP: the model's gradient.
GRADIENT: RuleSet = {**FIXED_STD, "norm": PlainGradient(), "softmax": PlainGradient()}

RULE_SETS: dict[str, RuleSet] = {
    "attn_lrp": ATTN_LRP,
    "cp_lrp": CP_LRP,
    "res_lrp": RES_LRP,
    "res_cp_lrp": RES_CP_LRP,
    "libra": LIBRA,
    "gradient": GRADIENT,
    "epsilon": EPSILON,
    "gamma": GAMMA,
    "chat": CHAT,
    "z_plus": Z_PLUS,
    "fixed_std": FIXED_STD,
    "chefer": CHEFER,
    "chefer_fixed_std": CHEFER_FIXED_STD,
    "chefer_released": CHEFER_RELEASED,
    "chefer_original": CHEFER_ORIGINAL,
    **{f"pa_lrp_{mode}": pa_lrp_released(mode) for mode in ("alpha", "gamma", "semi", "epsilon")},
    **{f"pa_lrp_{mode}_alpha_conv": pa_lrp_released(mode, "alpha") for mode in ("alpha", "gamma", "semi", "epsilon")},
}
"""Named rule sets: a dict from operations, or operations at a place, to rules."""

# How the released code of a set goes on: relevance starts from 1 instead of the score, ends at pixels, loses its sign.
DEFAULTS: dict[str, dict[str, Any]] = {
    **{name: {"start": "one"} for name in RULE_SETS if name.startswith("chefer")},
    **{name: {"start": "one", "level": "pixel", "clamp": True} for name in RULE_SETS if name.startswith("pa_lrp_")},
}


def rule_set(rules: str | Mapping[str, Any]) -> tuple[str, RuleSet]:
    """A rule set by name, or a user's own, with the name it goes by.

    Raises `OptionError` for an unknown name or place, and for a rule that does not fit its operation.
    """
    if isinstance(rules, str):
        if rules not in RULE_SETS:
            raise OptionError(f"no rule set {rules!r}", got=rules, todo=close_matches(rules, RULE_SETS))
        return rules, RULE_SETS[rules]
    if not isinstance(rules, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise OptionError(
            "rules are a name or a dict", expected=f"{', '.join(RULE_SETS)}; or a dict", got=type(rules).__name__
        )
    for key, rule in rules.items():
        operation, _, place = str(key).partition("@")[0].partition(":")
        if place and place not in (("residual",) if "@" in str(key) else PLACES):
            raise OptionError(f"no place {place!r}", got=key, todo=close_matches(place, PLACES))
        fits(rule, operation)
    known = next((name for name, one in RULE_SETS.items() if dict(one) == dict(rules)), None)
    return known or ", ".join(f"{key}={rule}" for key, rule in rules.items()), rules


def with_gamma(rules: RuleSet, linear: float | None, conv: float | None) -> RuleSet:
    """The set with other γ in its gamma rules of linear layers and of convolutions.

    Raises `OptionError` where γ is negative, or the set has no such rule.
    """
    found = dict(rules)
    for operation, value in (("linear", linear), ("conv", conv)):
        if value is None:
            continue
        there = {k: r for k, r in rules.items() if _operation(k) == operation and isinstance(r, Gamma)}
        value = validate_float(f"gamma_{operation}", value, 0)
        if not there:
            expected = "γ ≥ 0 and a set with a gamma rule there, such as 'gamma' or 'pa_lrp_gamma'"
            raise OptionError(
                f"γ of {operation} layers cannot be set", expected=expected, got=f"gamma_{operation}={value}"
            )
        found |= {key: replace(rule, gamma=value) for key, rule in there.items()}
    return found


def rule_for(rules: RuleSet, operation: str, place: str) -> Rule | None:
    """The rule of an operation at a place, or on a stream, "@" before its name; at "residual@stream" of the sums there
    on that stream, on any, of the stream, or of all; or None."""
    place, at, stream = place.partition("@")
    keys = [f"{operation}:{place}{at}{stream}", f"{operation}:{place}"] if place else []
    keys += [f"{operation}@{stream}"] if at else []
    return next((rules[key] for key in (*keys, operation) if key in rules), None)


def streams_in(rules: RuleSet) -> set[str]:
    """The streams that have rules of their own."""
    return {key.partition("@")[2] for key in rules if "@" in key}


def with_streams(
    rules: RuleSet, known: Collection[str], aliases: Mapping[str, Sequence[str]], *, named: bool
) -> RuleSet:
    """The set with the streams that a model has: `aliases` are other names of streams, those that people use first.

    Of a `named` set rules of streams that there are not are left out. Raises `OptionError` for others.
    """
    found: dict[str, Rule] = {}
    for key, rule in rules.items():
        operation, at, stream = key.partition("@")
        real = stream if stream in known else next((one for one in aliases.get(stream, ()) if one in known), None)
        if not at or real is not None:
            found[f"{operation}@{real}" if at else key] = rule
        elif not named:
            raise OptionError(
                f"no stream {stream!r}", got=f"rules of {stream!r}", todo=close_matches(stream, sorted(known))
            )
    return found


def _operation(key: str) -> str:
    return key.partition("@")[0].partition(":")[0]

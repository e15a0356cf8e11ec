"""AttnLRP, written once more: each rule is an expression of the same value some of whose parts are held fixed, and its
relevance is input times gradient, by plain autograd.

    norm: (x - mean) / σ.detach()    f(x), f(0) = 0: x · (f(x)/x).detach()    a b: (a · b.detach() + a.detach() · b) / 2

What scales something else is a *gate*: held fixed in a product with what is none, its own gradient elsewhere.
"""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from support.plain_calls import PlainCall
from support.recurrent_twin import RECURRENT
from support.zoo_common import Specimen
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from clew.seam import DoublePrecision

Function = Callable[..., Any]


def named(*names: str) -> set[Any]:
    """torch's functions of these names, wherever they are."""
    homes = (torch, F, Tensor, torch.linalg, torch.special)
    return {found for name in names for home in homes if (found := getattr(home, name, None)) is not None}


def tracked(*values: Any) -> bool:
    """Whether all of these depend on the input."""
    return all(isinstance(v, Tensor) and v.requires_grad for v in values)


def fixed(x: Any) -> Any:
    return x.detach().clone() if isinstance(x, Tensor) else x


def along(x: Tensor, y: Tensor) -> Tensor:
    """`y`, linear in `x`: x times their fixed ratio."""
    return x * torch.where(x == 0, 0.0, y / x).detach()


def shared(f: Function, values: Sequence[Any], which: Sequence[int]) -> Tensor:
    """`f(values)`, linear in each of `which` by itself: an equal part for each."""
    if len(which) == 1:
        return f(*[v if i == which[0] else fixed(v) for i, v in enumerate(values)])
    return sum(f(*[v if i == j else fixed(v) for i, v in enumerate(values)]) for j in which) / len(which)


ACTIVATIONS = named(
    "gelu", "silu", "relu", "relu6", "leaky_relu", "elu", "celu", "selu", "mish", "hardswish", "tanh", "prelu",
    "softsign", "tanhshrink", "softshrink", "hardshrink", "threshold", "hardtanh", "erf", "abs", "square", "sqrt",
    "expm1", "log1p", "asinh", "atan", "sinh", "tan", "asin",
)  # fmt: skip
GATES = named(
    "sigmoid", "hardsigmoid", "exp", "exp2", "softplus", "logsigmoid", "log", "log2", "log10", "cos", "cosh", "sin",
    "reciprocal", "var", "std", "cumprod", "prod", "logit", "norm", "vector_norm", "hypot", "cdist", "expit",
)  # fmt: skip
STEPS = named("floor", "ceil", "round", "trunc", "sign", "rsqrt")
# Of a gate these make a gate.
MOVES = named(
    "reshape", "view", "flatten", "unflatten", "permute", "transpose", "t", "movedim", "squeeze", "unsqueeze",
    "expand", "expand_as", "broadcast_to", "repeat", "repeat_interleave", "tile", "contiguous", "clone", "chunk",
    "split", "unbind", "select", "narrow", "index_select", "gather", "masked_select", "roll", "flip", "to", "type_as",
    "double", "view_as", "reshape_as", "__getitem__", "sum", "cumsum", "neg", "__neg__", "amax", "amin", "sort",
    "nan_to_num", "float", "tril", "triu", "diff",
)  # fmt: skip
MULTILINEAR = named("einsum", "dot", "inner", "outer", "mv", "tensordot", "kron", "cross", "bilinear")
IN_PLACE = {
    changing: function
    for names, function in (
        (("add_", "__iadd__"), torch.add), (("sub_", "__isub__"), torch.sub), (("mul_", "__imul__"), torch.mul),
        (("div_", "__itruediv__"), torch.div), (("clamp_",), torch.clamp), (("relu_",), torch.relu),
        (("tanh_",), torch.tanh), (("sqrt_",), torch.sqrt), (("pow_", "__ipow__"), torch.pow),
    )
    for changing in named(*names)
}  # fmt: skip


class AttnLRP(TorchFunctionMode):
    """Around a call of a model whose weights ask for no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.gates: dict[int, Tensor] = {}  # kept alive, so that no id is used again

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not torch.is_grad_enabled() or getattr(func, "__name__", "") in ("__get__", "__set__"):
            return func(*args, **kwargs)
        if func in MOVES:
            return self.as_gates(func(*args, **kwargs), args[0])
        inside = [v for a in (*args, *kwargs.values()) for v in (a if isinstance(a, (list, tuple)) else [a])]
        if not any(tracked(v) for v in inside):
            return func(*args, **kwargs)
        for kinds, rule in RULES:
            if func in kinds:
                return rule(self, func, args, kwargs)
        return func(*args, **kwargs)

    def gate(self, y: Any) -> Any:
        self.gates |= {id(one): one for one in (y if isinstance(y, (list, tuple)) else [y]) if isinstance(one, Tensor)}
        return y

    def is_gate(self, x: Any) -> bool:
        return id(x) in self.gates

    def as_gates(self, y: Any, *xs: Any) -> Any:
        """`y`, a gate where all of these are that depend on the input."""
        made_of = [x for x in xs if tracked(x)]
        return self.gate(y) if made_of and all(map(self.is_gate, made_of)) else y

    def product(self, f: Function, *factors: Any) -> Any:
        """A product of any number: gates are fixed beside what is none; equal parts for the others."""
        moving = [i for i, x in enumerate(factors) if tracked(x)]
        others = [i for i in moving if not self.is_gate(factors[i])]
        return self.as_gates(shared(f, factors, others or moving), *factors)


Rule = Callable[[AttnLRP, Any, tuple[Any, ...], dict[str, Any]], Any]


def _activation(mode: AttnLRP, func: Any, args: Any, kwargs: Any) -> Any:
    x, given = args[0].clone(), fixed(args[0])
    y = along(x, func(given, *args[1:], **kwargs).clone())
    if given._version:  # asked for in place, by keyword or not
        return args[0].copy_(y)
    return mode.as_gates(y, args[0])


def _power(mode: AttnLRP, func: Any, args: Any, kwargs: Any) -> Any:
    base, exponent = (*args, *kwargs.values())[:2]
    if isinstance(exponent, Tensor) and not tracked(exponent) and exponent.numel() == 1:
        exponent = float(exponent)
    if not isinstance(exponent, (int, float)) or func in named("__rpow__"):
        return mode.gate(func(*args, **kwargs))
    if exponent <= 0:  # a length that something is divided by
        return torch.pow(base, exponent).detach()
    return mode.as_gates(along(base, torch.pow(fixed(base), exponent)), base)


def _add(mode: AttnLRP, func: Any, args: Any, kwargs: Any) -> Any:
    y = func(*args, **kwargs)
    return y if tracked(*args[:2]) else mode.as_gates(y, *args[:2])


def _multiply(mode: AttnLRP, func: Any, args: Any, kwargs: Any) -> Any:
    return mode.product(torch.mul, *args[:2])


def _divide(mode: AttnLRP, func: Any, args: Any, kwargs: Any) -> Any:
    a, b = args[:2]
    if func in named("__rtruediv__", "__rdiv__"):
        a, b = b, a
    if kwargs.get("rounding_mode"):
        return torch.div(a, b, **kwargs).detach()
    if not tracked(a):
        return mode.gate(torch.div(a, b))
    return mode.as_gates(torch.div(a, fixed(b)), a)


def _matmul(mode: AttnLRP, func: Any, args: Any, kwargs: Any) -> Any:
    return _ungated(mode, torch.matmul, *(*args, *kwargs.values())[:2])


def _ungated(mode: AttnLRP, f: Function, *factors: Any) -> Any:
    """A product that is no gate itself."""
    moving = [i for i, x in enumerate(factors) if tracked(x)]
    return shared(f, factors, [i for i in moving if not mode.is_gate(factors[i])] or moving)


def _multilinear(mode: AttnLRP, func: Any, args: Any, kwargs: Any) -> Any:
    values = [v for a in args for v in (a if isinstance(a, (list, tuple)) else [a])]
    return mode.product(lambda *vs: func(*vs, **kwargs), *values)


def _linear(mode: AttnLRP, func: Any, args: Any, kwargs: Any) -> Any:
    x, W, b = _given(args, kwargs, "input", "weight", "bias")
    if not tracked(W):
        return F.linear(x, W, b)
    y = _ungated(mode, lambda x, W: x @ W.mT, x, W)
    return y if b is None else y + b


def _convolution(mode: AttnLRP, func: Any, args: Any, kwargs: Any) -> Any:
    x, W = _given(args, kwargs, "input", "weight")
    more = {k: v for k, v in kwargs.items() if k not in ("input", "weight")}
    return func(x, W.detach() if tracked(x) else W, *args[2:], **more)


def _given(args: Any, kwargs: Any, *names: str) -> list[Any]:
    return [args[i] if i < len(args) else kwargs.get(name) for i, name in enumerate(names)]


def _normalised(x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    centred = x - x.mean(axes, keepdim=True)
    return centred / (centred.square().mean(axes, keepdim=True) + eps).sqrt().detach()


def _layer_norm(mode: AttnLRP, func: Any, args: Any, kwargs: Any) -> Any:
    x, shape, w, b, eps = _given(args, kwargs, "input", "normalized_shape", "weight", "bias", "eps")
    y = _normalised(x, tuple(range(-len(shape), 0)), 1e-5 if eps is None else eps)
    y = y if w is None else y * w
    return (y if b is None else y + b).contiguous()


def _rms_norm(mode: AttnLRP, func: Any, args: Any, kwargs: Any) -> Any:
    x, shape, w, eps = _given(args, kwargs, "input", "normalized_shape", "weight", "eps")
    axes = tuple(range(-len(shape), 0))
    size = (x.square().mean(axes, keepdim=True) + (torch.finfo(x.dtype).eps if eps is None else eps)).sqrt()
    return x / size.detach() if w is None else x / size.detach() * w


def _group_norm(mode: AttnLRP, func: Any, args: Any, kwargs: Any) -> Any:
    if func in named("instance_norm"):
        names = ("input", "running_mean", "running_var", "weight", "bias", "use_input_stats", "momentum", "eps")
        x, mean, _, w, b, of_input, _, eps = _given(args, kwargs, *names)
        if mean is not None and of_input is False:
            return func(*args, **kwargs)
        groups = x.shape[1]
    else:
        x, groups, w, b, eps = _given(args, kwargs, "input", "num_groups", "weight", "bias", "eps")
    y = _normalised(x.reshape(len(x), groups, -1), (-1,), 1e-5 if eps is None else eps).reshape(x.shape)
    channels = (1, -1, *[1] * (x.ndim - 2))
    y = y if w is None else y * w.view(channels)
    return y if b is None else y + b.view(channels)


def _normalize(mode: AttnLRP, func: Any, args: Any, kwargs: Any) -> Any:
    x, p, dim, eps = _given(args, kwargs, "input", "p", "dim", "eps")
    length = torch.linalg.vector_norm(x.detach(), 2.0 if p is None else p, 1 if dim is None else dim, keepdim=True)
    return x / length.clamp(min=1e-12 if eps is None else eps)


def _cosine(mode: AttnLRP, func: Any, args: Any, kwargs: Any) -> Any:
    *vectors, dim, eps = _given(args, kwargs, "x1", "x2", "dim", "eps")
    dim = 1 if dim is None else dim
    a, b = (_normalize(mode, func, (x, 2.0, dim, 1e-8 if eps is None else eps), {}) for x in vectors)
    return _ungated(mode, torch.mul, a, b).sum(dim)


def _attention(mode: AttnLRP, func: Any, args: Any, kwargs: Any) -> Any:
    names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal", "scale", "enable_gqa")
    q, k, v, mask, _, causal, scale, grouped = _given(args, kwargs, *names)
    if grouped:
        k, v = (t.repeat_interleave(q.shape[1] // t.shape[1], 1) for t in (k, v))
    scores = _ungated(mode, lambda q, k: q @ k.mT, q, k) if tracked(q) or tracked(k) else q @ k.mT
    scores = scores * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)
    if causal:
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool).tril()
    if mask is not None and mask.dtype == torch.bool:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    elif mask is not None:
        scores = scores + mask
    weights = scores.softmax(-1)
    return _ungated(mode, torch.matmul, weights, v) if tracked(weights) or tracked(v) else weights @ v


def _heads(mode: AttnLRP, func: Any, args: Any, kwargs: Any) -> Any:
    """`nn.MultiheadAttention` of inputs (token, batch, width) with packed or separate weights."""
    names = ("query", "key", "value", "embed_dim_to_check", "num_heads", "in_proj_weight", "in_proj_bias")
    q, k, v, _, heads, W, b = _given(args, kwargs, *names)
    weights = [kwargs[f"{n}_proj_weight"] for n in "qkv"] if kwargs.get("use_separate_proj_weight") else W.chunk(3)
    biases = [None] * 3 if b is None else b.chunk(3)
    split = [
        F.linear(x, w, c).unflatten(-1, (heads, -1)).permute(1, 2, 0, 3)
        for x, w, c in zip((q, k, v), weights, biases, strict=True)
    ]
    mask, padding = kwargs.get("attn_mask"), kwargs.get("key_padding_mask")
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=q.dtype).masked_fill(mask, -math.inf)
    mask = mask.unflatten(0, (q.shape[1], -1)) if mask is not None and mask.ndim == 3 else mask
    if padding is not None:
        unseen = padding if padding.dtype != torch.bool else torch.zeros(padding.shape).masked_fill(padding, -math.inf)
        mask = unseen[:, None, None] if mask is None else mask + unseen[:, None, None]
    joined = _attention(mode, func, (*split, mask), {}).permute(2, 0, 1, 3).flatten(2)
    return F.linear(joined, args[11], args[12]), None


def _glu(mode: AttnLRP, func: Any, args: Any, kwargs: Any) -> Any:
    x, dim = _given(args, kwargs, "input", "dim")
    a, b = x.chunk(2, -1 if dim is None else dim)
    return a * torch.sigmoid(b).detach()


def _added_product(mode: AttnLRP, func: Any, args: Any, kwargs: Any) -> Any:
    """`addmm`, `baddbmm` and `addcmul`."""
    c, a, b = args[:3]
    f = torch.mul if func in named("addcmul") else torch.matmul
    y = _ungated(mode, f, a, b) if tracked(a) or tracked(b) else f(a, b)
    beta = kwargs.get("beta", 1)
    return y * kwargs.get("alpha", kwargs.get("value", 1)) + (0 if beta == 0 else c * beta)


def _grid_sample(mode: AttnLRP, func: Any, args: Any, kwargs: Any) -> Any:
    if "grid" in kwargs:
        return func(*args, **{**kwargs, "grid": kwargs["grid"].detach()})
    return func(args[0], args[1].detach(), *args[2:], **kwargs)


def _solve(mode: AttnLRP, func: Any, args: Any, kwargs: Any) -> Any:
    return func(args[0].detach(), *args[1:], **kwargs)


def _extreme(mode: AttnLRP, func: Any, args: Any, kwargs: Any) -> Any:
    values = [*args, *kwargs.values()]
    if len(values) < 2 or not isinstance(values[1], Tensor):
        return func(*args, **kwargs)
    a, b = values
    return torch.where(a >= b if "max" in func.__name__ else a <= b, a, b)


def _composed(mode: AttnLRP, func: Any, args: Any, kwargs: Any) -> Any:
    with mode:
        return RECURRENT[func.__name__](*args)


def _change(mode: AttnLRP, func: Any, args: Any, kwargs: Any) -> Any:
    x, old = args[0], args[0].clone()
    if mode.is_gate(x):
        mode.gate(old)
        del mode.gates[id(x)]
    with mode:
        y = IN_PLACE[func](old, *args[1:], **kwargs)
        is_gate = mode.is_gate(y)
    x.copy_(y)
    return mode.gate(x) if is_gate else x


RULES: list[tuple[Any, Rule]] = [
    (ACTIVATIONS, _activation),
    (named("pow", "__pow__", "__rpow__", "float_power"), _power),
    (GATES, lambda mode, func, args, kwargs: mode.gate(func(*args, **kwargs))),
    (named("clamp", "clip", "clamp_min", "clamp_max"), lambda m, f, a, k: m.as_gates(f(*a, **k), a[0])),
    (named("topk"), lambda mode, func, args, kwargs: (lambda y: (mode.gate(y[0]), y)[1])(func(*args, **kwargs))),
    (STEPS, lambda mode, func, args, kwargs: func(*args, **kwargs).detach()),
    (named("add", "__add__", "__radd__", "sub", "__sub__", "subtract", "__rsub__", "rsub"), _add),
    (named("mul", "__mul__", "__rmul__", "multiply"), _multiply),
    (named("div", "__truediv__", "true_divide", "divide", "__rtruediv__", "__rdiv__"), _divide),
    (named("matmul", "bmm", "mm", "__matmul__"), _matmul),
    (MULTILINEAR, _multilinear),
    (named("linear"), _linear),
    (named("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d"), _convolution),
    (named("layer_norm"), _layer_norm),
    (named("rms_norm"), _rms_norm),
    (named("group_norm", "instance_norm"), _group_norm),
    (named("normalize"), _normalize),
    (named("cosine_similarity"), _cosine),
    (named("scaled_dot_product_attention"), _attention),
    (named("multi_head_attention_forward"), _heads),
    (named("glu"), _glu),
    (named("addmm", "baddbmm", "addcmul"), _added_product),
    (named("grid_sample"), _grid_sample),
    (named("solve_triangular"), _solve),
    (named("maximum", "minimum", "max", "min"), _extreme),
    (set(IN_PLACE), _change),
    (named("lstm", "gru"), _composed),
]

_ACTIVATION = re.compile(r"gelu|silu|swish|relu|mish|tanh|activation", re.IGNORECASE)


def _as_one_function(model: nn.Module, stack: ExitStack) -> None:
    """Activations that are modules of their own, which may make several calls, are one function."""
    for module in model.modules():
        kind = type(module)
        own = not kind.__module__.startswith("torch.nn") and _ACTIVATION.search(kind.__name__)
        if own and not list(module.children()) and not list(module.parameters()):
            kept: list[Tensor] = []

            def before(module: nn.Module, args: Any, kept: list[Tensor] = kept) -> Any:
                kept.append(args[0])
                return (fixed(args[0]), *args[1:])

            def after(module: nn.Module, args: Any, output: Tensor, kept: list[Tensor] = kept) -> Tensor:
                return along(kept.pop(), output)

            stack.callback(module.register_forward_pre_hook(before).remove)
            stack.callback(module.register_forward_hook(after).remove)


def twin_relevance(specimen: Specimen) -> tuple[dict[str, Tensor], Tensor]:
    """Relevance of each score alone, (batch, *axes), by stream; and the scores."""
    model = copy.deepcopy(specimen.model).requires_grad_(False)
    specimen = replace(specimen, model=model)
    with ExitStack() as stack, PlainCall(specimen) as plain:
        _as_one_function(model, stack)
        with DoublePrecision(model), AttnLRP():
            score = specimen.score(plain.call())
    return plain.times_gradient(score), score.detach()

"""Sums, products, and what joins or averages tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ...rules import (
    AsConcatenated,
    ByAbsoluteSum,
    CopyToAll,
    Epsilon,
    ResidualGamma,
    StopGate,
    Uniform,
    as_gradient,
    share,
)
from ...seam import torch_functions
from ..residual import is_residual
from ..tape import Tape
from . import Args, Call, Kwargs, handles, in_place, plain
from .moves import joined
from .products import div

# Sums and products


@handles("add", "__add__", "__radd__")
def add(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    a, b, alpha = args[0], args[1], kwargs.get("alpha", 1)
    return _sum(tape, a, b * alpha if alpha != 1 else b)


def _sum(tape: Tape, a: Any, b: Any, *, difference: bool = False) -> Any:
    tracked = [isinstance(t, Tensor) and t.requires_grad for t in (a, b)]
    residual = all(tracked) and not difference and tape.residual_rules and is_residual(a, b)
    stream = tape.place if tape.place.startswith("@") else ""
    rule = tape.rule("add", f"residual{stream}" if residual else None)
    if isinstance(rule, ResidualGamma) and all(tracked):
        return _by_sign(tape, a, b, rule)
    rule = Epsilon() if isinstance(rule, ResidualGamma) else rule  # what a constant gets leaves the model
    if not isinstance(rule, (Epsilon, ByAbsoluteSum)):
        return plain(tape, "add", rule, torch.add, (a, b), {})
    if all(tracked):
        return _add_two(tape, a, b, rule)
    x, c = (a, b) if tracked[0] else (b, a)
    return tape.gate_as(_add_constant(tape, x, c, rule), x)


def _add_two(tape: Tape, a: Tensor, b: Tensor, rule: Epsilon | ByAbsoluteSum) -> Tensor:
    page = tape.page("add")
    if isinstance(rule, Epsilon):
        y = torch.add(a, b)
        if not rule.epsilon:
            return y

        def stabilised(g: Tensor, y: Tensor | None) -> Tensor:
            assert y is not None
            return share(y * g, y, rule.epsilon, rule.signed, page)

        tape.used(a, b)
        return tape.forks(tape.hook_backward(y, stabilised, keep=True))

    def back(g: Tensor, inputs: tuple[Tensor, ...] | None, y: Tensor | None) -> tuple[Tensor, ...]:
        assert inputs is not None and y is not None
        S = share(y * g, y, rule.epsilon, False, page)
        first, second = (S * f for f in _by_absolute_sum(tape, [x * S for x in inputs], y * g, rule.epsilon))
        lost = tape.per_example(y * g) - tape.per_example(inputs[0] * first) - tape.per_example(inputs[1] * second)
        page.leak("stabiliser", lost - tape.per_example(y * (g - S)))
        return first, second

    tape.used(a, b)
    return tape.forks(tape.ruled(torch.add, back, rule.saves, *torch.broadcast_tensors(a, b)))


def _by_sign(tape: Tape, a: Tensor, b: Tensor, rule: ResidualGamma) -> Tensor:
    """`g_z = w(z) c g_c / (w(a) a + w(b) b)`."""
    if not rule.gamma and not tape.keeps_sums:
        return torch.add(a, b)
    noted, more = tape.residual_sum(), rule.gamma / (1 + rule.gamma)

    def back(g: Tensor, inputs: tuple[Tensor, ...] | None, c: Tensor | None) -> tuple[Tensor, ...]:
        assert inputs is not None and c is not None
        found = (g, g)
        if more:
            # (w(a) a + w(b) b) / c = 1 + γ max(1, a/c, b/c); all is divided by 1 + γ. In place, and as late as can be:
            # passes over memory, and memory that is new, are what this costs.
            shares = [x / c for x in inputs]
            size = torch.maximum(*shares).nan_to_num_(1.0, torch.inf, -torch.inf).clamp_(min=1)  # 0 + 0: halves
            S = g / size.mul_(more).add_(1 - more)
            first, second = (share.le_(0) for share in shares)
            found = torch.addcmul(S, S, first, value=-more), S.addcmul_(S, second, value=-more)
        if noted is not None:
            noted.note(inputs[0], inputs[1], found, g, tape.per_example)
        return found

    tape.used(a, b)
    return tape.forks(tape.ruled(torch.add, back, ("x", "y"), *torch.broadcast_tensors(a, b)))


def _by_absolute_sum(tape: Tape, parts: list[Tensor], R: Tensor, epsilon: float) -> list[Tensor]:
    """What each part is multiplied by so that the parts sum to `Σ R` in the ratio of their absolute sums."""
    sums = [tape.per_example(part) for part in parts]
    size, total = sum(s.abs() for s in sums), tape.per_example(R)
    assert isinstance(size, Tensor)
    wanted = [torch.where(size == 0, 0.0, s.abs() / (size + epsilon)) * total for s in sums]
    factors = [torch.where(s == 0, 0.0, w / (s + epsilon)) for s, w in zip(sums, wanted, strict=True)]
    each = R.shape[0] // tape.batch  # heads may be on the axis of examples
    return [f.to(R.dtype).repeat_interleave(each).view(-1, *[1] * (R.ndim - 1)) for f in factors]


def _add_constant(tape: Tape, x: Tensor, c: Tensor | float, rule: Epsilon | ByAbsoluteSum) -> Tensor:
    """`x + c`: what `c` gets leaves the model here; it is the positional part, where tokens are embedded."""
    page, place, layer = tape.page("add"), tape.place, tape.block
    positional = place == "embedding" and x.ndim == 3 and isinstance(c, Tensor) and c.ndim >= 2
    if tape.is_text:
        positional = positional and tape.positional.is_learned(c)
    scores = id(x) in tape.logits
    cause = "attention_bias" if place == "attention" or scores else "constant"
    biases = cause == "attention_bias" and tape.is_text and tape.positional.wanted and layer is not None
    # Scores of attention are masked by a sum or by a kernel: a stabiliser would see the difference.
    epsilon = rule.epsilon if cause == "constant" else 0.0

    def back(g: Tensor, y: Tensor | None) -> Tensor:
        per_unit = share(y * g, y, epsilon, getattr(rule, "signed", False), page) if epsilon and y is not None else g
        own, kept = c * per_unit, 1.0
        own = torch.where(per_unit == 0, 0.0, own)  # a mask of minus infinity
        if isinstance(rule, ByAbsoluteSum) and cause == "constant":
            assert y is not None
            rest = (y - c) * per_unit
            kept, factor = _by_absolute_sum(tape, [rest, own], y * g, epsilon)
            lost = tape.per_example(y * per_unit) - tape.per_example(rest * kept) - tape.per_example(own * factor)
            page.leak("stabiliser", lost)
            own = own * factor
        if positional:
            assert y is not None
            tape.positions.append(own.expand_as(y))
            if tape.entering is None:
                tape.entering = y * g
        elif biases and layer is not None and isinstance(c, Tensor):
            page.leak(cause, tape.positional.add_bias(layer, c, per_unit, tape.batch))
        else:
            page.leak(cause, own.expand_as(g))
        return per_unit * kept

    tape.used(x)
    y = tape.hook_backward(torch.add(x, c), back, keep=positional or bool(epsilon))
    if scores:
        tape.logits[id(y)] = y
    return y


@handles("sub", "__sub__", "__rsub__", "subtract", "rsub")
def sub(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    a, b = args[:2]
    if func in torch_functions(["__rsub__", "rsub"]):
        a, b = b, a
    b, alpha = tape.moved(b, -b) if isinstance(b, Tensor) else -b, kwargs.get("alpha", 1)
    return _sum(tape, a, b * alpha if alpha != 1 else b, difference=True)


@handles("mul", "__mul__", "__rmul__", "multiply")
def mul(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    a, b = args[:2]
    if not all(isinstance(t, Tensor) and t.requires_grad for t in (a, b)):
        if tape.mixture:
            return _weighted(tape, a, b)
        y = torch.mul(a, b)
        if tape.in_attention and isinstance(b, (int, float)):
            tape.scaled_by(y, a, float(b))
            if id(a) in tape.logits:
                tape.logits[id(y)] = y
        return tape.gate_as(y, a, b)
    rule = tape.rule("product")
    if tape.positional.separate and isinstance(rule, (Uniform, StopGate)):
        key = tape.positional.key_of(a) or tape.positional.key_of(b)
        if key is not None:
            return _rotated(tape, a, b, key)
    if isinstance(rule, StopGate):
        gates = [id(t) in tape.activated for t in (a, b)]
        if any(gates):
            return torch.mul(a.detach() if gates[0] else a, b.detach() if gates[1] and not gates[0] else b)
    if isinstance(rule, (Uniform, StopGate)):
        first, second = tape.held_fixed(a, b)
        if not (first.requires_grad and second.requires_grad):
            return torch.mul(first, second)
        return tape.gate_as(torch.mul(tape.scaled(a, 0.5), tape.scaled(b, 0.5)), a, b)
    return plain(tape, "product", rule, torch.mul, (a, b), {})


def _weighted(tape: Tape, a: Any, b: Any) -> Any:
    """What an expert says times the router's weight, a constant: that gets its half all the same, and keeps it."""
    y = torch.mul(a, b)
    weighted = all(isinstance(t, Tensor) for t in (a, b)) and b.shape[-1:] == (1,) and a.ndim == b.ndim == 2
    if not (weighted and isinstance(tape.rule("product"), Uniform)):
        return y
    page = tape.page("product")

    def back(g: Tensor, y: Tensor | None) -> Tensor:
        assert y is not None
        page.leak("stopped", 0.5 * y * g)
        return 0.5 * g

    return tape.hook_backward(y, back, keep=True)


def _rotated(tape: Tape, a: Tensor, b: Tensor, key: tuple[int, str]) -> Tensor:
    """A product with a rotary table, whose relevance is kept for each head."""
    uses = tape.positional.by_head.setdefault(key, [])
    place = len(uses)
    uses.append(torch.empty(0))

    def back(g: Tensor, y: Tensor | None) -> None:
        assert y is not None
        uses[place] = y * g / 2

    return tape.hook_backward(torch.mul(tape.scaled(a, 0.5), tape.scaled(b, 0.5)), back, keep=True)


# Tokens


@handles("cat", "concat", "concatenate")
def cat(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    y = func(*args, **kwargs)
    whole: list[Tensor] = list(args[0] if args else kwargs["tensors"])
    parts = [t for t in whole if t.shape != (0,)]  # an empty cache of any shape
    axis = (args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis", 0))) % y.ndim
    if all(t.requires_grad for t in parts):
        return y
    page, prefix = tape.page("cat"), tape.place == "embedding" and y.ndim == 3 and axis == 1
    order = len(tape.prefix)
    if prefix:
        tape.prefix[order] = torch.empty(0)

    def back(g: Tensor, _: Tensor | None) -> None:
        slices = g.split([t.shape[axis] for t in parts], axis)
        lost = [t.detach() * s for t, s in zip(parts, slices, strict=True) if not t.requires_grad]
        if prefix:
            tape.prefix[order] = torch.cat(lost, 1)
        else:
            for R in lost:
                page.leak("constant", R)

    return tape.hook_backward(y, back)


@handles("stack")
def stack(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    y = joined(tape, func, args, kwargs)
    if not isinstance(tape.rules.get("stack"), AsConcatenated):
        return y
    tape.rule("stack")

    def back(g: Tensor, y: Tensor | None) -> Tensor:
        assert y is not None
        R = (y * g).flatten(1)
        halves = torch.stack(R.chunk(y.shape[-1], 1), -1)
        return as_gradient(halves.view_as(y), y, page)

    page = tape.page("stack")
    return tape.hook_backward(y, back, keep=True)


@handles("mean")
def mean(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    x = args[0]
    y = func(*args, **kwargs)
    if not isinstance(tape.rules.get("mean"), CopyToAll) or x.ndim != 3 or y.numel() * x.shape[1] != x.numel():
        return y
    tape.rule("mean")
    page = tape.page("mean")

    def back(g: Tensor, inputs: tuple[Tensor, ...] | None, y: Tensor | None) -> tuple[Tensor]:
        assert inputs is not None and y is not None
        R = (y * g).view(x.shape[0], 1, -1).expand_as(x)
        page.leak("copies", R[:, 1:] * -1.0)
        return (as_gradient(R, inputs[0], page),)

    return tape.ruled(lambda x: func(x, *args[1:], **kwargs), back, ("x", "y"), x)


for _name, _handler in (("add", add), ("sub", sub), ("mul", mul), ("div", div), ("true_divide", div)):
    in_place(_name, _handler)

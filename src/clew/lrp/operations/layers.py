"""Linear layers, and what they share with convolutions: `y = Wx + b` under its rule."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...rules import (
    Affine,
    AffineRule,
    as_gradient,
)
from ...seam import input_gradient, linear_of, rows_read
from ..tape import Tape
from . import Args, Call, Kwargs, handles, plain


@handles("linear")
def linear(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    def call(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
        if weight.requires_grad:  # made of the input: a product of two tensors that depend on it
            product = tape.seen(torch.matmul, (input, weight.mT), {}) if weight.ndim > 1 else input @ weight
            return product if bias is None else tape.seen(torch.add, (product, bias), {})
        x = tape.mark(input, "classifier") if tape.place == "head" else tape.used_by_linear(input)
        rows = rows_read(x, tape.batch, x.shape[1], tape.reads) if tape.read and x.ndim == 3 else None

        def apply(x: Tensor, W: Tensor, b: Tensor | None = None) -> Tensor:
            return linear_of(x, W, b, rows)

        return affine(tape, "linear", x, weight, bias, apply, lambda S, W: input_gradient(S, W, rows))

    return call(*args, **kwargs)


@handles("addmm")
def addmm(tape: Tape, func: Call, args: Args, kwargs: Kwargs) -> Any:
    """`b + x W`, as GPT-2 writes its linear layers."""
    b, x, W = args[:3]
    if kwargs or W.requires_grad or b.requires_grad:
        product = tape.seen(torch.matmul, (x, W), {})
        alpha, beta = kwargs.get("alpha", 1), kwargs.get("beta", 1)
        return tape.seen(torch.add, (product if alpha == 1 else product * alpha, b if beta == 1 else b * beta), {})

    def apply(x: Tensor, W: Tensor, b: Tensor | None = None) -> Tensor:
        return F.linear(x, W, b)

    return affine(tape, "linear", x, W.mT, b, apply, lambda S, W: S @ W)


def affine(tape: Tape, operation: str, x: Tensor, W: Tensor, b: Tensor | None, apply: Call, pull: Call) -> Any:
    """`y = apply(x, W, b)` under its rule. Weights that depend on the input are held fixed where `x` does, too."""
    if not x.requires_grad:
        return _of_weights(tape, x, W, b, apply)
    if b is not None and b.requires_grad:
        shape = (-1, *[1] * (W.ndim - 2))
        return tape.seen(torch.add, (affine(tape, operation, x, W, None, apply, pull), b.view(shape)), {})
    rule = tape.rule(operation)
    if not isinstance(rule, AffineRule):
        return plain(tape, operation, rule, apply, (x, W, b), {})
    weight, bias = W.detach(), None if b is None else b.detach()
    page, at_pixels, leaf = tape.page(operation), x is tape.leaf, tape.leaf_of.get(id(x))

    def back(g: Tensor, inputs: tuple[Tensor, ...] | None, y: Tensor | None) -> tuple[Tensor]:
        op = Affine(inputs[0] if inputs else None, y, weight, bias, apply, pull)
        handed = rule.affine(op, g, page)
        if rule.currency == "gradient":
            return (handed,)
        if at_pixels:
            tape.pixels = handed
            return (torch.zeros_like(handed),)
        if leaf is not None:
            tape.handed[leaf[0]] = tape.handed.get(leaf[0], 0) + handed
            return (torch.zeros_like(handed),)
        return (as_gradient(handed, op.input, page),)

    return tape.ruled(lambda x: apply(x, weight, bias), back, rule.saves, x)


def _of_weights(tape: Tape, x: Tensor, W: Tensor, b: Tensor | None, apply: Call) -> Any:
    """`apply(x, W, b)` of a constant `x`: linear in the weights, which something made of the input."""
    y = apply(x, W)
    if b is None:
        return y
    shape = (-1, *[1] * (W.ndim - 2))
    return tape.seen(torch.add, (y, b.view(shape)), {})

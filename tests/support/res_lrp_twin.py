"""ResLRP of a timm ViT, written from its equations: relevance itself is handed back, block by block.

At each residual sum `c = x + u`, entry by entry: `w(z) = 1 + γ [sign z = sign c]`, `R_x = Φ(x, u) R_c`,
`R_u = Φ(u, x) R_c`, `Φ(x, u) = w(x) x / (w(x) x + w(u) u)`.

Inside `u = f(x)` AttnLRP: `x` gets `x ∂/∂x (f · R_u / f)` of `f` with the deviation of the norm and the gate of the
activation held fixed, and half of each product of two tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def phi(a: Tensor, b: Tensor, gamma: float) -> Tensor:
    """The share of `a` in `a + b`."""
    c = a + b
    w_a, w_b = (1 + gamma * (z.sign() == c.sign()).to(z) for z in (a, b))
    return w_a * a / (w_a * a + w_b * b)


def _norm(norm: Any, x: Tensor) -> Tensor:
    deviation = (x.var(-1, unbiased=False, keepdim=True) + norm.eps).sqrt().detach()
    return (x - x.mean(-1, keepdim=True)) / deviation * norm.weight + norm.bias


def _product(a: Tensor, b: Tensor) -> Tensor:
    return (a @ b.detach() + a.detach() @ b) / 2


def _attention(block: Any, x: Tensor, *, fixed: bool) -> Tensor:
    layer, tokens = block.attn, len(x)
    qkv = layer.qkv(_norm(block.norm1, x)).view(tokens, 3, layer.num_heads, -1)
    q, k, v = (part.transpose(0, 1) for part in qkv.unbind(1))
    A = (_product(q, k.mT) * layer.scale).softmax(-1)
    out = A.detach() @ v if fixed else _product(A, v)
    return block.ls1(layer.proj(out.transpose(0, 1).reshape(tokens, -1)))


def _mlp(block: Any, m: Tensor) -> Tensor:
    h = block.mlp.fc1(_norm(block.norm2, m))
    return block.ls2(block.mlp.fc2(h * (torch.nn.functional.gelu(h) / h).detach()))


def _back(f: Callable[[Tensor], Tensor], x: Tensor, R: Tensor) -> Tensor:
    x = x.detach().requires_grad_()
    y = f(x)
    return x.detach() * torch.autograd.grad(y, x, R / y.detach())[0]


def res_lrp(
    model: Any, image: Tensor, target: int, *, gamma: float = 1.0, fixed: bool = False
) -> tuple[Tensor, list[float], list[float]]:
    """Relevance of all tokens with their positions (token,), and `C` and `A` of each sum; `fixed`: attention is."""
    x = model._pos_embed(model.patch_embed(image[None]))[0].detach()
    steps: list[tuple[Callable[[Tensor], Tensor], Tensor, Tensor]] = []
    for block in model.blocks:
        for f in (lambda x, b=block: _attention(b, x, fixed=fixed), lambda m, b=block: _mlp(b, m)):
            u = f(x).detach()
            steps.append((f, x, u))
            x = x + u

    def head(x: Tensor) -> Tensor:
        return model.head.weight[target] * _norm(model.norm, x)[0]

    R = _back(head, x, head(x).detach())
    C, A = [], []
    for f, x, u in reversed(steps):
        R_x, R_u = phi(x, u, gamma) * R, phi(u, x, gamma) * R
        passes = R != 0
        C.append(float(((x.abs() + u.abs()) * passes).sum() / ((x + u).abs() * passes).sum()))
        A.append(float((R_x.abs() + R_u.abs()).sum() / R.abs().sum()))
        R = R_x + _back(f, x, R_u)
    return R.sum(-1), C[::-1], A[::-1]

"""Slow, literal twins of the LRP rules, written from their equations with every contribution in full."""

from __future__ import annotations

import torch
from torch import Tensor


def sign(z: Tensor) -> Tensor:
    return torch.where(z < 0, -1.0, 1.0).to(z.dtype)


def epsilon(x, W, b, R, *, eps=0.0, signed=True):
    """`R_i = Σ_j x_i W_ji R_j / (y_j + ε sign y_j)`; x: (in,), W: (out, in)."""
    y = W @ x + b
    den = y + eps * (sign(y) if signed else 1.0)
    return (x[None] * W / den[:, None] * R[:, None]).sum(0)


def gamma(x, W, b, R, *, gamma, eps=1e-6):
    """Zennit's generalised gamma rule: four products of split inputs and split weights."""
    y = W @ x + b
    Wp, Wn, bp, bn = W + gamma * W.clamp(min=0), W + gamma * W.clamp(max=0), b + gamma * b.clamp(min=0), 0
    bn = b + gamma * b.clamp(max=0)
    xp, xn = x.clamp(min=0), x.clamp(max=0)
    out = torch.zeros_like(x)
    for j in range(len(y)):
        if y[j] == 0:
            continue
        parts = xp * Wp[j] + xn * Wn[j] if y[j] > 0 else xp * Wn[j] + xn * Wp[j]
        den = parts.sum() + (bp[j] if y[j] > 0 else bn[j])
        out += parts / (den + eps * sign(den)) * R[j]
    return out


def alpha_beta(x, W, b, R, *, alpha=1.0, eps=1e-9):
    """Positive and negative contributions by themselves, biases left aside."""
    z = x[None] * W
    out = torch.zeros_like(x)
    for j in range(len(z)):
        positive, negative = z[j].clamp(min=0), z[j].clamp(max=0)
        if positive.sum() != 0:
            out += alpha * positive / (positive.sum() + eps) * R[j]
        if alpha != 1 and negative.sum() != 0:
            out -= (alpha - 1) * negative / (negative.sum() - eps) * R[j]
    return out


def separate(x, W, b, R, *, eps=1e-9):
    """Chefer's first release: inputs of each sign divide by their own sum, and each gets everything."""
    out = torch.zeros_like(x)
    for side in (1, -1):
        z = (side * x).clamp(min=0)[None] * (side * W).clamp(min=0)
        S = torch.where(z.sum(1) == 0, 0.0, R / (z.sum(1) + eps))
        out += (z * S[:, None]).sum(0)
    return out


def z_box(x, W, b, R, *, low, high, eps=1e-9):
    """`R_i = Σ_j (x_i W_ji - l_i W⁺_ji - h_i W⁻_ji) / Σ_i (…) R_j`."""
    z = x[None] * W - low * W.clamp(min=0) - high * W.clamp(max=0)
    return (z / (z.sum(1, keepdim=True) + eps) * R[:, None]).sum(0)


def flat(x, W, b, R):
    """Evenly over the inputs that an output sees."""
    seen = W.ne(0).to(x.dtype)
    return (seen / seen.sum(1, keepdim=True) * R[:, None]).sum(0)


def w_square(x, W, b, R):
    """By squared weights."""
    return (W**2 / (W**2).sum(1, keepdim=True) * R[:, None]).sum(0)


def layer_norm(x, w, b, eps, R):
    """Epsilon rule (ε = 0) on `y_i = Σ_k x_k (δ_ik - 1/n) w_i / σ + b_i`, with σ held fixed."""
    n = len(x)
    sigma = (x.var(unbiased=False) + eps).sqrt()
    M = (torch.eye(n, dtype=x.dtype) - 1 / n) * w[:, None] / sigma
    return epsilon(x, M, b, R)


def softmax(x, R):
    """`R_x = x ⊙ (R_s - s Σ R_s)`."""
    return x * (R - x.softmax(-1) * R.sum(-1, keepdim=True))


def matmul(A, V, R, *, eps=0.0):
    """Each factor of each term `A_ik V_kj` gets half of the term's share of `O_ij`."""
    O = A @ V
    R_A, R_V = torch.zeros_like(A), torch.zeros_like(V)
    for i in range(A.shape[0]):
        for j in range(V.shape[1]):
            for k in range(A.shape[1]):
                share = A[i, k] * V[k, j] / (O[i, j] + eps) * R[i, j] / 2
                R_A[i, k] += share
                R_V[k, j] += share
    return R_A, R_V


def attention(q, k, v, scale, R):
    """AttnLRP through `softmax(q kᵀ · scale) v`, with all scores in full: relevance of q, k, v."""
    x = q @ k.mT * scale
    R_A, R_v = matmul(x.softmax(-1), v, R)
    R_x = softmax(x, R_A)
    R_q, R_k = matmul(q, k.mT, R_x)
    return R_q, R_k.mT, R_v, R_A.sum() - R_x.sum()


def by_absolute_sum(a, b, R, *, eps=1e-9):
    """Proportional shares, rescaled so that totals are in the ratio of their absolute sums; one example."""
    S = torch.where(a + b == 0, 0.0, R / (a + b + eps))
    ra, rb = a * S, b * S
    size = ra.sum().abs() + rb.sum().abs()
    fa, fb = (r.sum().abs() / (size + eps) * R.sum() for r in (ra, rb))
    return ra * fa / (ra.sum() + eps), rb * fb / (rb.sum() + eps)


def residual_gamma(a: float, b: float, R: float, *, gamma: float) -> tuple[float, float]:
    """ResLRP, eq. 3, of one entry of `c = a + b`: `w(z) = 1 + γ [sign z = sign c]`, shares of `w(a) a + w(b) b`."""

    def sign(z: float) -> int:
        return (z > 0) - (z < 0)

    c = a + b
    w_a, w_b = (1 + gamma * (sign(z) == sign(c)) for z in (a, b))
    return w_a * a / (w_a * a + w_b * b) * R, w_b * b / (w_a * a + w_b * b) * R

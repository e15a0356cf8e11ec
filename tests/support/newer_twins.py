"""The newer methods once more, slowly and literally: one image, whole attention maps, the equations as they stand.

Of a plain timm ViT: `states` writes its blocks out, so that every state is a node of the graph.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor


@dataclass
class States:
    x: list[Tensor]  # (token, width): what enters each block, and what leaves the last
    A: list[Tensor]  # (head, query, key)
    q: list[Tensor]  # (head, token, dim), and so k, v and o
    k: list[Tensor]
    v: list[Tensor]
    o: list[Tensor]
    mid: list[Tensor]  # (token, width), between attention and MLP


def states(model: VisionTransformer, image: Tensor, *, fixed: bool = False, to_image: bool = False) -> States:
    """With `fixed`, attention is not made of queries and keys any more: a leaf of its own; `to_image`: the graph begins
    at the image, not at the tokens."""
    x = model._pos_embed(model.patch_embed(image[None]))[0]
    x = x if to_image else x.detach().requires_grad_()
    found = States([x], [], [], [], [], [], [])
    for block in model.blocks:
        heads, d = block.attn.num_heads, block.attn.head_dim
        q, k, v = (block.norm1(x) @ block.attn.qkv.weight.T + block.attn.qkv.bias).chunk(3, dim=1)
        q, k, v = (torch.stack([t[:, h * d : (h + 1) * d] for h in range(heads)]) for t in (q, k, v))
        A = torch.stack([torch.softmax(q[h] @ k[h].T / d**0.5, dim=-1) for h in range(heads)])
        A = A.detach().requires_grad_() if fixed else A
        o = torch.stack([A[h] @ v[h] for h in range(heads)])
        u = torch.cat(list(o), dim=1) @ block.attn.proj.weight.T + block.attn.proj.bias
        mid = x + block.ls1(u)
        x = mid + block.ls2(block.mlp(block.norm2(mid)))
        for name, value in {"x": x, "A": A, "q": q, "k": k, "v": v, "o": o, "mid": mid}.items():
            getattr(found, name).append(value)
    return found


def head(model: VisionTransformer, tokens: Tensor) -> Tensor:
    return model.forward_head(model.norm(tokens)[None])[0]


def score(model: VisionTransformer, image: Tensor, target: int) -> tuple[States, Tensor]:
    found = states(model, image)
    return found, head(model, found.x[-1])[target]


def att_cat(model, image, target, start=0, inputs=False):
    found, s = score(model, image, target)
    g, total = torch.autograd.grad(s, found.x), 0
    for block in range(start, len(found.A)):
        at = block if inputs else block + 1
        total = total + found.A[block].mean((0, 1)) * (found.x[at] * g[at]).sum(1)
    return total


def le_grad(model, image, target, start=0, added=False):
    found, maps = states(model, image), []
    for block in range(start, len(found.A)):
        mean = sum(found.x[block + 1]) / len(found.x[0])
        s = head(model, torch.stack([mean] * len(found.x[0])))[target]
        G = torch.autograd.grad(s, found.A[block], retain_graph=True)[0]
        maps.append(G.clamp(min=0).mean((0, 1)))
    return sum(maps) if added else sum(maps) / len(maps)


def le_grad_of_pool(model, image, target, start=0, released=False):
    """By the gradient of the attention pool, with what leaves each block in place of what leaves the last."""
    found, pool, maps = states(model, image), model.attn_pool, []
    d = pool.head_dim
    for block in range(start, len(found.A)):
        x = found.x[block + 1] if released else model.norm(found.x[block + 1])
        q = pool.q(pool.latent[0])
        k, v = pool.kv(x).chunk(2, dim=1)
        parts = [slice(h * d, (h + 1) * d) for h in range(pool.num_heads)]
        A = [torch.softmax(q[:, part] @ k[:, part].T / d**0.5, -1) for part in parts]
        o = torch.cat([A[h] @ v[:, h * d : (h + 1) * d] for h in range(len(A))], dim=1)
        y = pool.proj(o)
        y = y + pool.mlp(pool.norm(y))
        G = torch.autograd.grad(model.head(model.fc_norm(y[0]))[target], A)
        maps.append(torch.stack(G).clamp(min=0).mean((0, 1)))
    return sum(maps) if released else sum(maps) / len(maps)


def grad_eclip(model, image, target, start=3, cosines=True):
    """Of a head that reads some rows; every sum written out."""
    found, s = score(model, image, target)
    tokens, prefix = len(found.x[0]), model.num_prefix_tokens
    rows = [0] if model.global_pool == "token" else range(prefix, tokens)
    total = torch.zeros(tokens, dtype=image.dtype)
    for block in range(start, len(found.A)):
        g = torch.autograd.grad(s, found.o[block], retain_graph=True)[0]
        q, k, v, w = (torch.cat(list(t), dim=1) for t in (found.q[block], found.k[block], found.v[block], g))
        here = torch.zeros(tokens, dtype=image.dtype)
        for r in rows:
            near = [torch.cosine_similarity(q[r], k[i], dim=0) for i in range(prefix, tokens)]
            low, high = min(near), max(near)
            for i in range(prefix, tokens):
                weight = (near[i - prefix] - low) / (high - low) if cosines else 1
                here[i] = here[i] + (weight * (w[r] * v[i]).sum()).detach()
        total = total + here.clamp(min=0)
    return total


def changed(before, after):
    pairs = list(zip(before, after, strict=True))
    near = torch.softmax(torch.stack([torch.cosine_similarity(a, b, dim=0) for a, b in pairs]), 0)
    return torch.diag(torch.stack([b.norm() / (a.norm() + 1e-8) for a, b in pairs]) * near)


def token_tm(model, image, target, start=0, fixed=False):
    found, G = with_gradients(model, image, target, fixed)
    C, eye = torch.diag(found.x[start].norm(dim=1)), torch.eye(len(found.x[0]), dtype=image.dtype)
    for block in range(start, len(found.A)):
        A, mid = found.A[block].mean(0), found.mid[block]
        attention = eye + (A @ changed(found.x[block], mid)) * G[block].clamp(min=0).mean(0)
        C = (eye + changed(mid, found.x[block + 1])) @ attention @ C
    return read(model, C)


def read(model, maps):
    rows = [0] if model.global_pool == "token" else list(range(model.num_prefix_tokens, len(maps)))
    return maps[rows].mean(0)


def generic_attribution(model, image, target, start=0, fixed=False):
    found, G = with_gradients(model, image, target, fixed)
    R = torch.eye(len(found.x[0]), dtype=image.dtype)
    for block in range(start, len(found.A)):
        R = R + (found.A[block] * G[block]).clamp(min=0).mean(0) @ R
    return read(model, R)


def gradient_attention_rollout(model, image, target, start=0, fixed=False):
    found, G = with_gradients(model, image, target, fixed)
    R = eye = torch.eye(len(found.x[0]), dtype=image.dtype)
    for block in range(start, len(found.A)):
        C = eye + (found.A[block] * G[block]).clamp(min=0).mean(0)
        R = C / C.sum(1, keepdim=True) @ R
    return read(model, R)


def attention_gradcam(model, image, target, fixed=False):
    found, G = with_gradients(model, image, target, fixed)
    A, first = found.A[-1], model.num_prefix_tokens
    w = torch.stack([read(model, G[-1][head])[first:].mean() for head in range(len(A))])
    return read(model, sum(w[head] * A[head] for head in range(len(A))) / len(A)).clamp(min=0)


def with_gradients(model, image, target, fixed):
    """States, and the gradient of attention: of the model, or of Libra's."""
    if not fixed:
        found, s = score(model, image, target)
        return found, torch.autograd.grad(s, found.A)
    changed = libra_model(model)
    found = states(changed, image, fixed=True)
    return found, torch.autograd.grad(head(changed, found.x[-1])[target], found.A)


def in_flow(model, image, target, start=0, gradient=True, mlp=True):
    found, s = score(model, image, target)

    def own(left):
        mean = model.norm(left).mean(0)
        return model.forward_head(torch.stack([mean] * len(left))[None])[0, target]

    P = flow(found, s, own, start, gradient, mlp)
    rows = [0] if model.global_pool == "token" else list(range(model.num_prefix_tokens, len(P)))
    return P[rows].mean(0)


def flow(found, s, own, start=0, gradient=True, mlp=True):
    """The product over blocks; `own` is the score of what leaves one. Attention may have an axis of one example."""

    def gradients(of, *tensors):
        return [g.view(g.shape[-3:]) for g in torch.autograd.grad(of, tensors, retain_graph=True)]

    G = gradients(s, *found.A)
    P = torch.eye(len(found.x[0]), dtype=s.dtype)
    for block in range(start, len(found.A)):
        x, mid, left = found.x[block], found.mid[block], found.x[block + 1]
        A = found.A[block].view(found.A[block].shape[-3:])
        I = torch.stack([(A[h].T @ G[block][h]).abs().mean() for h in range(len(A))])
        M = (I / I.sum())[:, None, None].mul(A).amax(0)
        if gradient:
            M = (gradients(own(left), found.A[block])[0].mean(0) * M).clamp(min=0)
        a_x, a_u = x.norm(dim=1), (mid - x).norm(dim=1)
        b_m, b_f = mid.norm(dim=1), (left - mid).norm(dim=1)
        a_x, a_u, b_m, b_f = a_x / (a_x + a_u), a_u / (a_x + a_u), b_m / (b_m + b_f), b_f / (b_m + b_f)
        q = (b_f / b_m) / sum(b_f / b_m)
        R = M @ torch.diag(a_u) + torch.diag(a_x)
        R = R @ torch.diag(q * b_f + b_m) if mlp else R
        P = R / R.sum(1, keepdim=True) @ P
    return P


class Fixed(torch.nn.Module):
    """A layer norm whose deviation is a constant, or GELU whose gate is one."""

    def __init__(self, norm=None):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        if self.norm is None:
            return x * (torch.special.ndtr(x)).detach()
        mean = x.mean(-1, keepdim=True)
        deviation = (((x - mean) ** 2).mean(-1, keepdim=True) + self.norm.eps).sqrt().detach()
        return (x - mean) / deviation * self.norm.weight + self.norm.bias


def libra_model(model: VisionTransformer) -> VisionTransformer:
    """A model whose gradient is Libra's, where attention is a leaf."""
    changed = copy.deepcopy(model).requires_grad_(False)
    for block in changed.blocks:
        block.norm1, block.norm2, block.mlp.act = Fixed(block.norm1), Fixed(block.norm2), Fixed()
    for name in ("norm", "fc_norm"):
        if isinstance(getattr(changed, name), torch.nn.LayerNorm):
            setattr(changed, name, Fixed(getattr(changed, name)))
    return changed


def libra(model: VisionTransformer, image: Tensor, target: int):
    """Tokens that enter each block, their Libra gradients, and attention."""
    changed = libra_model(model)
    found = states(changed, image, fixed=True)
    s = head(changed, found.x[-1])[target]
    return found, torch.autograd.grad(s, found.x)


def libra_score(model: VisionTransformer, image: Tensor, target: int) -> Tensor:
    """The score in the graph of the image, whose gradient is Libra's."""
    changed = libra_model(model)
    found = states(changed, image, fixed=True, to_image=True)
    return head(changed, found.x[-1])[target]


def score_of_some(model: VisionTransformer, image: Tensor, target: int, kept, probability=False) -> Tensor:
    """The score of a model that gets some tokens alone."""
    x = model._pos_embed(model.patch_embed(image[None]))[:, kept]
    for block in model.blocks:
        x = block(x)
    logits = head(model, x[0])
    return (logits.softmax(0) if probability else logits)[target].detach()


def tis(model, image, target, masks, ratios=(0.5,), probability=False):
    prefix, patches = model.num_prefix_tokens, masks.shape[1]
    total, kept = torch.zeros(2, patches, dtype=image.dtype)
    for mask in masks:
        for ratio in ratios:
            best = sorted(range(patches), key=lambda i, m=mask: -float(m[i]))[: int(ratio * patches)]
            tokens = [*range(prefix), *(prefix + i for i in best)]
            s = score_of_some(model, image, target, tokens, probability)
            for i in best:
                total[i], kept[i] = total[i] + s, kept[i] + 1
    return torch.stack([t / n if n else t for t, n in zip(total, kept, strict=True)])


def libra_input_x_gradient(model, image, target):
    found, g = libra(model, image, target)
    return (found.x[0] * g[0]).sum(1)


def libra_full_grad_plus(model, image, target, start=0):
    """Without biases."""
    found, g = libra(model, image, target)
    return sum((found.x[block] * g[block]).sum(1) for block in range(start, len(found.A)))


def libra_x_grad_cam_plus(model, image, target, start=0, weighted=True):
    (found, g), total = libra(model, image, target), 0
    for block in range(start, len(found.A)):
        x = found.x[block]
        size = x.abs() if weighted else torch.ones_like(x)
        w = (g[block] * size).sum(0) / (size.sum(0) + (1e-7 if weighted else 0))
        total = total + (x * w).sum(1)
    return total


def libra_att_cat(model, image, target, start=0):
    found, g = libra(model, image, target)
    layers = range(start, len(found.A) - 1)
    return sum(found.A[k].mean((0, 1)) * (found.x[k + 1] * g[k + 1]).sum(1) for k in layers)

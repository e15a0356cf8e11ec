"""The newer methods once more, slowly and literally: one image, whole attention maps, the equations as they stand.

Of a plain timm ViT: `states` writes its blocks out, so that every state is a node of the graph.
"""

from __future__ import annotations

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


def states(model: VisionTransformer, image: Tensor) -> States:
    x = model._pos_embed(model.patch_embed(image[None]))[0].detach().requires_grad_()
    found = States([x], [], [], [], [], [], [])
    for block in model.blocks:
        heads, d = block.attn.num_heads, block.attn.head_dim
        q, k, v = (block.norm1(x) @ block.attn.qkv.weight.T + block.attn.qkv.bias).chunk(3, dim=1)
        q, k, v = (torch.stack([t[:, h * d : (h + 1) * d] for h in range(heads)]) for t in (q, k, v))
        A = torch.stack([torch.softmax(q[h] @ k[h].T / d**0.5, dim=-1) for h in range(heads)])
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

"""Every method once more, slowly and literally: one image, whole attention maps, loops, the equations as they stand."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from transformers import BertForSequenceClassification


@dataclass
class Block:
    A: Tensor  # (head, query, key)
    V: Tensor  # (head, token, dim)
    x: Tensor  # (token, width), the block's input
    output: Tensor  # the output projection's weight
    scale: Tensor | float  # LayerScale


def bert(model: BertForSequenceClassification, x: Tensor) -> tuple[Tensor, list[Block]]:
    """Logits (class,) and all attention of a BERT for one text, from what enters its first block (token, width)."""
    blocks = []
    for layer in model.bert.encoder.layer:
        own = layer.attention.self
        width, heads = own.attention_head_size, own.num_attention_heads
        q, k, v = (F.linear(x, part.weight, part.bias) for part in (own.query, own.key, own.value))
        maps, values = [], []
        for h in range(heads):
            part = slice(h * width, (h + 1) * width)
            maps.append(torch.softmax(q[:, part] @ k[:, part].T / width**0.5, dim=-1))
            values.append(v[:, part])
        A = torch.stack(maps)
        o = torch.cat([A[h] @ values[h] for h in range(heads)], dim=1)
        out, norm = layer.attention.output.dense, layer.attention.output.LayerNorm
        blocks.append(Block(A, torch.stack(values), x, out.weight, 1.0))
        x = norm(o @ out.weight.T + out.bias + x)
        x = layer.output.LayerNorm(layer.output.dense(F.gelu(layer.intermediate.dense(x))) + x)
    return model.classifier(torch.tanh(model.bert.pooler.dense(x[0]))), blocks


def forward(model: VisionTransformer, image: Tensor) -> tuple[Tensor, list[Block]]:
    """Logits (class,) and all attention of a plain timm ViT for one image (channel, height, width)."""
    if isinstance(model, BertForSequenceClassification):
        return bert(model, image)
    x = model._pos_embed(model.patch_embed(image[None]))[0]
    blocks = []
    for block in model.blocks:
        attn, normed = block.attn, block.norm1(x)
        width, heads = attn.head_dim, attn.num_heads
        W, b = attn.qkv.weight, attn.qkv.bias
        q, k, v = (normed @ W[i * heads * width : (i + 1) * heads * width].T for i in range(3))
        q, k, v = (t + b[i * heads * width : (i + 1) * heads * width] for i, t in enumerate((q, k, v)))
        maps, values, outputs = [], [], []
        for h in range(heads):
            part = slice(h * width, (h + 1) * width)
            A = torch.softmax(q[:, part] @ k[:, part].T / width**0.5, dim=-1)
            maps.append(A)
            values.append(v[:, part])
        A = torch.stack(maps)
        outputs = torch.cat([A[h] @ values[h] for h in range(heads)], dim=1)
        scale = getattr(block.ls1, "gamma", 1.0)
        blocks.append(Block(A, torch.stack(values), x, attn.proj.weight, scale))
        x = x + (outputs @ attn.proj.weight.T + attn.proj.bias) * scale
        x = x + block.ls2(block.mlp(block.norm2(x)))
    return model.forward_head(model.norm(x)[None])[0], blocks


def gradients(model: VisionTransformer, image: Tensor, target: int) -> tuple[list[Block], list[Tensor]]:
    logits, blocks = forward(model, image)
    return blocks, list(torch.autograd.grad(logits[target], [b.A for b in blocks]))


def rows_of(model: VisionTransformer, tokens: int) -> list[int]:
    """The rows whose mean the head reads."""
    if isinstance(model, BertForSequenceClassification):
        return [0]
    return [0] if model.global_pool == "token" else list(range(model.num_prefix_tokens, tokens))


def read(model: VisionTransformer, M: Tensor) -> Tensor:
    return torch.stack([M[i] for i in rows_of(model, len(M))]).mean(0)


def raw_attention(model, image, target):
    return read(model, forward(model, image)[1][-1].A.mean(0))


def attention_rollout(model, image, target, start=0):
    blocks = forward(model, image)[1]
    J = torch.eye(blocks[0].A.shape[-1], dtype=image.dtype)
    for block in blocks[start:]:
        M = block.A.mean(0) + torch.eye(len(J), dtype=image.dtype)
        J = (M / M.sum(-1, keepdim=True)) @ J
    return read(model, J)


def attention_gradcam(model, image, target):
    blocks, G = gradients(model, image, target)
    A, dA, total = blocks[-1].A, G[-1], 0
    rows, prefix = rows_of(model, A.shape[-1]), model.num_prefix_tokens
    for h in range(len(A)):
        weight = torch.stack([dA[h, i, prefix:].mean() for i in rows]).mean()
        total = total + weight * torch.stack([A[h, i] for i in rows]).mean(0) / len(A)
    return total.clamp(min=0)


def generic_attribution(model, image, target, start=0):
    blocks, G = gradients(model, image, target)
    R = torch.eye(blocks[0].A.shape[-1], dtype=image.dtype)
    for block, dA in list(zip(blocks, G, strict=True))[start:]:
        R = R + (dA * block.A).clamp(min=0).mean(0) @ R
    return read(model, R)


def gradient_attention_rollout(model, image, target, start=0):
    blocks, G = gradients(model, image, target)
    J = torch.eye(blocks[0].A.shape[-1], dtype=image.dtype)
    for block, dA in list(zip(blocks, G, strict=True))[start:]:
        M = (block.A * dA).clamp(min=0).mean(0) + torch.eye(len(J), dtype=image.dtype)
        J = (M / M.sum(-1, keepdim=True)) @ J
    return read(model, J)


def feedback(model, image, target, points, weights, baseline=0.0):
    total = 0
    for point, weight in zip(points, weights, strict=True):
        total = total + weight * gradients(model, baseline + point * (image - baseline), target)[1][-1]
    return total.clamp(min=0).mean(0)


def beyond_intuition_head(model, image, target, points, weights, start=0, with_feedback=True, baseline=0.0):
    blocks, G = gradients(model, image, target)
    P = torch.eye(blocks[0].A.shape[-1], dtype=image.dtype)
    for block, dA in list(zip(blocks, G, strict=True))[start:]:
        importance = torch.stack([(block.A[h].T @ dA[h]).abs().mean() for h in range(len(dA))])
        importance = importance / importance.sum()
        Abar = sum(importance[h] * block.A[h] for h in range(len(dA)))
        P = (torch.eye(len(P), dtype=image.dtype) + Abar) @ P
    W = feedback(model, image, target, points, weights, baseline) if with_feedback else 1.0
    return read(model, W * P)


def beyond_intuition_token(model, image, target, points, weights, start=0, with_feedback=True, baseline=0.0):
    blocks = forward(model, image)[1]
    P = torch.eye(blocks[0].A.shape[-1], dtype=image.dtype)
    for block in blocks[start:]:
        ratio = []
        for j in range(len(P)):
            value = torch.cat([block.V[h, j] for h in range(len(block.V))])
            ratio.append(((block.output @ value) * block.scale).norm() / block.x[j].norm())
        P = (torch.eye(len(P), dtype=image.dtype) + block.A.mean(0) @ torch.diag(torch.stack(ratio))) @ P
    W = feedback(model, image, target, points, weights, baseline) if with_feedback else 1.0
    return read(model, W * P)


def input_gradient(model, image, target):
    image = image.clone().requires_grad_()
    return torch.autograd.grad(forward(model, image)[0][target], image)[0]


def patch_sums(pixels, patch):
    height, width = pixels.shape
    return torch.stack(
        [pixels[i : i + patch, j : j + patch].sum() for i in range(0, height, patch) for j in range(0, width, patch)]
    )

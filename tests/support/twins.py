"""Every method once more, slowly and literally: one image, whole attention maps, loops, the equations as they stand."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from transformers import BertForSequenceClassification, CLIPModel


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
    if isinstance(model, Clip):
        return clip(model, image)
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
    if isinstance(model, Clip):
        return [model.end or 0]
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


# CLIP, one tower at a time


@dataclass
class Clip:
    """A tower of a CLIP as a classifier of one image, or of the sequence that enters the first block of one text.

    `features` (class, width) of the other side; `end` is the token of a text that is read. With `rules`, gradients are
    those of AttnLRP: lengths, deviations and gates are constants, and each factor of a product gets half.
    """

    model: CLIPModel
    features: Tensor
    end: int | None = None
    rules: bool = False
    num_prefix_tokens: int = 1


def half(x: Tensor, rules: bool) -> Tensor:
    return (x + x.detach()) / 2 if rules else x


def layer_norm(module, x, rules):
    mean = x.mean(-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(-1, keepdim=True)
    deviation = (variance + module.eps).sqrt()
    return (x - mean) / (deviation.detach() if rules else deviation) * module.weight + module.bias


def quick_gelu(x, rules):
    gate = 1 / (1 + torch.exp(-1.702 * x))
    return x * (gate.detach() if rules else gate)


def clip_patches(twin: Clip, image: Tensor) -> Tensor:
    """What the patches of an image (channel, height, width) are before positions are added, (patch, width)."""
    W = twin.model.vision_model.embeddings.patch_embedding.weight
    size = W.shape[-1]
    rows = range(0, image.shape[1], size), range(0, image.shape[2], size)
    return torch.stack([(W * image[:, i : i + size, j : j + size]).sum((1, 2, 3)) for i in rows[0] for j in rows[1]])


def clip(twin: Clip, x: Tensor) -> tuple[Tensor, list[Block]]:
    image, rules = twin.end is None, twin.rules
    tower = twin.model.vision_model if image else twin.model.text_model
    if image:
        patches = clip_patches(twin, x) if x.ndim == 3 else x
        x = torch.cat([tower.embeddings.class_embedding[None], patches]) + tower.embeddings.position_embedding.weight
        x = layer_norm(tower.pre_layrnorm, x, rules)
    blocks = []
    for layer in tower.encoder.layers:
        own, normed = layer.self_attn, layer_norm(layer.layer_norm1, x, rules)
        q, k, v = (normed @ part.weight.T + part.bias for part in (own.q_proj, own.k_proj, own.v_proj))
        width, maps, values, outputs = own.head_dim, [], [], []
        for h in range(own.num_heads):
            part = slice(h * width, (h + 1) * width)
            logits = half(q[:, part], rules) @ half(k[:, part], rules).T / width**0.5
            if not image:
                logits = logits.masked_fill(torch.ones_like(logits).triu(1) > 0, -torch.inf)
            maps.append(torch.softmax(logits, dim=-1))
            values.append(v[:, part])
        A = torch.stack(maps)
        for h in range(own.num_heads):
            outputs.append(half(A[h], rules) @ half(values[h], rules))
        blocks.append(Block(A, torch.stack(values), x, own.out_proj.weight, 1.0))
        x = x + torch.cat(outputs, 1) @ own.out_proj.weight.T + own.out_proj.bias
        inner = quick_gelu(layer.mlp.fc1(layer_norm(layer.layer_norm2, x, rules)), rules)
        x = x + inner @ layer.mlp.fc2.weight.T + layer.mlp.fc2.bias
    if image:
        read, projection = layer_norm(tower.post_layernorm, x[0], rules), twin.model.visual_projection
    else:
        read, projection = layer_norm(tower.final_layer_norm, x[twin.end], rules), twin.model.text_projection
    features = projection.weight @ read
    length = (features**2).sum().sqrt()
    features = features / (length.detach() if rules else length)
    others = twin.features / (twin.features**2).sum(1, keepdim=True).sqrt()
    return torch.exp(twin.model.logit_scale) * (others @ features), blocks


def attn_lrp(twin: Clip, image: Tensor, target: int) -> Tensor:
    """Relevance of the patches, `Σ x · g` of what they are before positions are added."""
    patches = clip_patches(twin, image).detach().requires_grad_()
    score = clip(twin, patches)[0][target]
    return (patches * torch.autograd.grad(score, patches)[0]).sum(1)

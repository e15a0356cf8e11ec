"""Information flow routes once more, slowly and literally: of a Llama by its weights, of a plain timm ViT, one input.

The norm before attention is written out; of Gemma and OLMo 2 there is one behind it, with fixed root mean squares.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from support import newer_twins
from torch import Tensor, nn


@dataclass
class Flow:
    """Of each block `x` and `mid` (token, width), `A` (head, query, key), and `f(h, i, j)`, what head h brings to token
    i from token j."""

    x: list[Tensor]
    mid: list[Tensor]
    A: list[Tensor]
    brought: list[Tensor]  # (head, query, key, width)


class Norm(nn.Module):
    """A root mean square norm in the precision of its input."""

    def __init__(self, weight, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(weight), eps

    def forward(self, x):
        return x / (x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt() * self.weight


def with_double_norms(model):
    """The model with norms that do not cast to single precision."""
    for module in list(model.modules()):
        for name, child in module.named_children():
            if "RMSNorm" in type(child).__name__:
                plus = 1.0 if "Gemma" in type(child).__name__ else 0.0
                eps = getattr(child, "variance_epsilon", None) or child.eps
                setattr(module, name, Norm((child.weight + plus).detach(), eps))
    return model.eval()


def normed(norm, x):
    """What a norm of root mean squares makes of a token, written out."""
    eps = norm.eps if isinstance(norm, Norm) else norm.variance_epsilon
    return x / ((x**2).mean() + eps).sqrt() * norm.weight


@torch.no_grad()
def of_llama(model, ids: Tensor) -> Flow:
    """Of a model with eager attention; `ids` (token,)."""
    found, behind, hooks = Flow([], [], [], []), [], []
    for block in model.model.layers:
        before_mlp = [getattr(block, n, None) for n in ("pre_feedforward_layernorm", "post_attention_layernorm")]
        after = next(filter(None, before_mlp)) if hasattr(block, "input_layernorm") else block.mlp
        hooks.append(block.register_forward_pre_hook(lambda _, args: found.x.append(args[0][0])))
        hooks.append(after.register_forward_pre_hook(lambda _, args: found.mid.append(args[0][0])))
        hooks.append(block.self_attn.o_proj.register_forward_hook(lambda _, args, out: behind.append(out[0])))
    found.A += [A[0].double() for A in model(ids[None], output_attentions=True).attentions]
    for hook in hooks:
        hook.remove()
    for block, x, u, A in zip(model.model.layers, found.x, behind, found.A, strict=True):
        attention, d = block.self_attn, block.self_attn.head_dim
        first, sandwich = hasattr(block, "input_layernorm"), hasattr(block, "post_feedforward_layernorm")
        brought = torch.zeros(*A.shape, x.shape[1], dtype=x.dtype)
        for h in range(len(A)):
            group = h // attention.num_key_value_groups
            V = attention.v_proj.weight[group * d : (group + 1) * d]
            W = attention.o_proj.weight[:, h * d : (h + 1) * d]
            for j in range(len(x)):
                P = W @ (V @ (normed(block.input_layernorm, x[j]) if first else x[j]))
                for i in range(len(x)):
                    brought[h, i, j] = A[h, i, j] * P
                    if sandwich:
                        behind_it = block.post_attention_layernorm
                        brought[h, i, j] *= behind_it.weight / ((u[i] ** 2).mean() + behind_it.eps).sqrt()
        found.brought.append(brought)
    return found


@torch.no_grad()
def of_vit(model, image: Tensor) -> Flow:
    seen = newer_twins.states(model, image)
    found = Flow(seen.x[:-1], seen.mid, seen.A, [])
    for block, A, v in zip(model.blocks, seen.A, seen.v, strict=True):
        heads, d = block.attn.num_heads, block.attn.head_dim
        bias = block.attn.qkv.bias.chunk(3)[2]
        brought = []
        for h in range(heads):
            part = slice(h * d, (h + 1) * d)
            P = block.ls1((v[h] - bias[part]) @ block.attn.proj.weight[:, part].T)
            brought.append(A[h][:, :, None] * P[None])
        found.brought.append(torch.stack(brought))
    return found


def prox(z: Tensor, x: Tensor) -> Tensor:
    return max(torch.zeros(()).to(x), x.abs().sum() - (z - x).abs().sum())


@torch.no_grad()
def ifr(flow: Flow, weights: dict[int, float], start: int = 0, threshold: float = 0.0) -> Tensor:
    """Of a span: weights by token."""
    total = torch.zeros(len(flow.x[0]), dtype=flow.x[0].dtype)
    for block in range(start, len(flow.x)):
        m = sum(w * flow.mid[block][i] for i, w in weights.items())
        r = sum(w * flow.x[block][i] for i, w in weights.items())
        near = torch.zeros_like(total)
        for h in range(len(flow.A[block])):
            for j in range(len(total)):
                part = prox(sum(w * flow.brought[block][h, i, j] for i, w in weights.items()), m)
                near[j] += part if part >= threshold else 0.0
        total = total + near / (near.sum() + prox(r, m) + 1e-12)
    return total


def flash_trace(
    flow: Flow, rows: list[int], reasoning: range, hops: int, kept: list[int]
) -> tuple[Tensor, list[float]]:
    """Scores, and the shares that the reasoning got."""
    e = ifr(flow, dict.fromkeys(rows, 1.0))
    total, share, shares = e.clone(), 1.0, []
    for _ in range(hops):
        share = share * float(e[list(reasoning)].sum() / e.sum())
        shares.append(share)
        got = {j: float(e[j]) for j in reasoning}
        e = ifr(flow, {j: w / sum(got.values()) for j, w in got.items()})
        total = total + share * e
    shares.append(share * float(e[list(reasoning)].sum() / e.sum()))
    return torch.stack([total[j] if j in kept else torch.zeros(()).to(total) for j in range(len(total))]), shares

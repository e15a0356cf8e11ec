"""What token mass costs on ViT-S/16 and a Llama of 8 blocks, in plain passes forward and back, beside the fast form.

    python measurements/speed_mass.py [--rounds 7]

Each ratio is the median over rounds in which plain passes and the method are timed one after the other.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import Any

import timm
import torch
import transformers
from report import when_and_where
from speed import ratio
from torch import nn

import clew
from clew.explainers import find_method
from clew.explaining.any_model import AnyModel, subject_of_any

METHODS = ("attention_rollout", "generic_attribution")


def by_mass(model: nn.Module, inputs: Any, target: Any, method: str) -> Callable[[], object]:
    """A method as for a model of which nothing is declared, checks included."""

    def call() -> object:
        ready = AnyModel.of(model, model, inputs, None)
        return find_method(method)(subject_of_any(ready, target, verify=True))

    return call


def models() -> dict[str, tuple[nn.Module, Any, Callable[[Any], torch.Tensor]]]:
    torch.manual_seed(0)
    vit = timm.create_model("vit_small_patch16_224", pretrained=False).eval()
    sizes = {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 8, "num_attention_heads": 8}
    llama = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=4000, **sizes)).eval()
    return {
        "ViT-S/16, 1 image": (vit, torch.randn(1, 3, 224, 224), lambda output: output[:, 3]),
        "Llama of 8 blocks, 256 tokens": (
            llama,
            {"input_ids": torch.randint(5, 4000, (1, 256))},
            lambda output: output.logits[:, -1, 3],
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    print(f"In plain forward and backward passes of the same input ({when_and_where()}):")
    for name, (model, inputs, score) in models().items():

        def plain(model: nn.Module = model, inputs: Any = inputs, score: Any = score) -> None:
            given = {"x": inputs} if isinstance(inputs, torch.Tensor) else inputs
            leaf = []

            def enter(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
                leaf.append(output.detach().requires_grad_())
                return leaf[-1]

            embedding = model.get_input_embeddings() if hasattr(model, "get_input_embeddings") else None
            if embedding is None:
                leaf.append(given["x"].clone().requires_grad_())
                torch.autograd.grad(score(model(leaf[-1])).sum(), leaf)
                return
            hook = embedding.register_forward_hook(enter)
            try:
                torch.autograd.grad(score(model(**given)).sum(), leaf)
            finally:
                hook.remove()

        for p in model.parameters():
            p.requires_grad_(False)
        for method in METHODS:
            call = by_mass(model, inputs, score, method)
            target = 3 if isinstance(inputs, torch.Tensor) else None

            def fast(model: Any = model, inputs: Any = inputs, method: str = method, target: Any = target) -> object:
                return clew.explain(model, inputs, method=method, target=target)

            call(), fast()  # warm, and what is looked at once was looked at
            found = ratio(call, plain, rounds), ratio(fast, plain, rounds)
            print(f"{name}: {method} by mass {found[0]:.2f}, by blocks {found[1]:.2f}", flush=True)


if __name__ == "__main__":
    main()

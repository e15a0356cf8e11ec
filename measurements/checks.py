"""What verifying a result costs: time with default checks less time without, in forward passes of the same batch.

Measured in one process, on inputs that are new each time but of a shape that is known, as a service has them: the
median over rounds in which a forward pass, a call without and a call with checks follow each other. `make bench` runs
this and writes the table into docs/checks.md.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import timm
import torch
from report import ROOT, when_and_where

import clew

METHODS = [
    "raw_attention", "attention_rollout", "generic_attribution", "beyond_intuition_head", "beyond_intuition_token",
    "input_x_gradient", "attn_lrp",
]  # fmt: skip


def pictures(name: str, batch: int) -> tuple[torch.nn.Module, Callable[[], torch.Tensor]]:
    return timm.create_model(name, pretrained=False).eval(), lambda: torch.randn(batch, 3, 224, 224)


SETTINGS = {
    "ViT-S/16, 1 picture": lambda: pictures("vit_small_patch16_224", 1),
    "ViT-S/16, 8 pictures": lambda: pictures("vit_small_patch16_224", 8),
    "ViT-B/16, 1 picture": lambda: pictures("vit_base_patch16_224", 1),
}


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def cost(model: torch.nn.Module, draw: Callable[[], torch.Tensor], method: str, rounds: int) -> tuple[float, float]:
    """What checks cost, and what the method costs with them, in forward passes."""
    clew.explain(model, draw(), method=method, target=1)
    more, whole = list[float](), list[float]()
    for turn in range(rounds):
        x = draw()
        with torch.no_grad():
            plain = seconds(lambda x=x: model(x))
        order = ("off", "default") if turn % 2 else ("default", "off")
        taken = {
            checks: seconds(lambda x=x, c=checks: clew.explain(model, x, method=method, target=1, checks=c))
            for checks in order
        }
        more.append((taken["default"] - taken["off"]) / plain)
        whole.append(taken["default"] / plain)
    return statistics.median(more), statistics.median(whole)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--only", default="", help="part of a setting's name")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    lines = [f"Median of {arguments.rounds} rounds ({when_and_where()}):", ""]
    lines += ["| | " + " | ".join(METHODS) + " |", "|---" * (len(METHODS) + 1) + "|"]
    for name, make in SETTINGS.items():
        if arguments.only not in name:
            continue
        model, draw = make()
        found = [cost(model, draw, method, arguments.rounds) for method in METHODS]
        cells = [f"{100 * more:+.1f} % of {whole:.2f}" for more, whole in found]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
        print(lines[-1], flush=True)
    if not arguments.only:
        page = ROOT / "docs" / "checks.md"
        before, rest = page.read_text(encoding="utf-8").split("<!-- cost:begin -->")
        after = rest.split("<!-- cost:end -->")[1]
        page.write_text(
            "\n".join([before + "<!-- cost:begin -->", *lines, "<!-- cost:end -->" + after]), encoding="utf-8"
        )


if __name__ == "__main__":
    main()

"""Speed and memory on ViT-S/16 and ViT-B/16: ratios to a plain forward pass, measured in one process.

`make bench` runs this and writes the tables into docs/benchmarks.md. Times on shared machines are noisy, so each ratio
is the median over rounds in which the plain forward and the method are timed one after the other.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from report import when_and_where, write_table
from torch import nn

import clew

LRP: dict[str, dict[str, object]] = {
    "attn_lrp": {},
    "cp_lrp": {},
    "res_lrp": {},
    "pa_lrp": {},
    "pa_lrp, gamma, pixels": {"rules": "gamma", "level": "pixel"},
    "lrp, z_plus": {"rules": "z_plus"},
    "lrp, z_plus, pixels": {"rules": "z_plus", "level": "pixel"},
    "transformer_attribution": {},
    "libra_input_x_gradient": {},
    "libra_full_grad_plus": {},
    "libra_x_grad_cam_plus": {},
    "libra_att_cat": {},
    "generic_attribution, libra": {"rules": "libra"},
    "token_tm, libra": {"rules": "libra"},
    "le_grad": {},
    "att_cat": {},
    "grad_eclip": {},
    "token_tm": {},
}
MODELS = {"ViT-S/16": "vit_small_patch16_224", "ViT-B/16": "vit_base_patch16_224"}
PAPER = {"quadrature": "uniform", "n_steps": 20}


def seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def ratio(call: Callable[[], object], plain: Callable[[], object], rounds: int) -> float:
    """Median over rounds of the time of `call` over the mean of the plain passes just before and after it.

    At least `rounds` rounds and ten seconds: short calls are noisy.
    """
    found: list[float] = []
    began = time.perf_counter()
    while len(found) < rounds or time.perf_counter() - began < 10:
        before = seconds(plain)
        taken = seconds(call)
        found.append(taken / ((before + seconds(plain)) / 2))
    return statistics.median(found)


def released(model: nn.Module, image: torch.Tensor) -> None:
    """The released procedure's cost for one image: eager attention kept for all blocks, parameter gradients, and a
    full forward and backward pass at each of 20 steps, after one for the perception."""
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    try:
        target = None
        for alpha in [1.0, *torch.linspace(0, 1, 20).tolist()]:
            logits = model(image * alpha)
            target = int(logits.argmax()) if target is None else target
            model.zero_grad()
            logits[0, target].backward(retain_graph=True)
    finally:
        model.zero_grad(set_to_none=True)
        for module in model.modules():
            if hasattr(module, "fused_attn"):
                module.fused_attn = True


def measure(name: str, batch: int, rounds: int) -> dict[str, float]:
    torch.manual_seed(0)
    model = timm.create_model(MODELS[name], pretrained=False).eval()
    x = torch.randn(batch, 3, 224, 224)

    def plain() -> None:
        with torch.no_grad():
            model(x)

    seconds(lambda: clew.explain(model, x, method="raw_attention"))  # warm, and the once-only check is made

    def explain(method: str, **options: object) -> Callable[[], object]:
        return lambda: clew.explain(model, x, method=method, **options)

    found = {
        "inside the seam": ratio(seam(model, x), plain, 2 * rounds),
        "raw_attention": ratio(explain("raw_attention"), plain, rounds),
        "attention_rollout": ratio(explain("attention_rollout"), plain, rounds),
        "generic_attribution": ratio(explain("generic_attribution"), plain, rounds),
        "beyond_intuition_token": ratio(explain("beyond_intuition_token"), plain, rounds),
        "beyond_intuition_head": ratio(explain("beyond_intuition_head"), plain, rounds),
        "beyond_intuition_token, 20 uniform": ratio(explain("beyond_intuition_token", **PAPER), plain, rounds),
        "beyond_intuition_head, 20 uniform": ratio(explain("beyond_intuition_head", **PAPER), plain, rounds),
    }
    # One image after another: the ratio for one image, in units of this batch's passes.
    found["released procedure"] = batch * ratio(lambda: released(model, x[:1]), plain, 2 if batch > 1 else rounds)
    return found


def measure_lrp(name: str, batch: int, rounds: int) -> dict[str, float]:
    torch.manual_seed(0)
    model = timm.create_model(MODELS[name], pretrained=False).eval()
    x = torch.randn(batch, 3, 224, 224)

    def plain() -> None:
        with torch.no_grad():
            model(x)

    found = {"forward and backward": ratio(lambda: backward(model, x), plain, rounds)}
    for row, options in LRP.items():
        method = row.split(",")[0]

        def call(method: str = method, options: dict[str, object] = options) -> None:
            clew.explain(model, x, method=method, **options)

        call()  # warm, and the once-only check is made
        found[row] = ratio(call, plain, rounds)
    return found


def backward(model: nn.Module, x: torch.Tensor) -> None:
    """A forward pass and the gradient of the input alone, without clew."""
    needed = [p.requires_grad_(False) for p in model.parameters() if p.requires_grad]
    x = x.clone().requires_grad_()
    torch.autograd.grad(model(x).amax(1).sum(), x)
    for p in needed:
        p.requires_grad_(True)


def seam(model: nn.Module, x: torch.Tensor) -> Callable[[], object]:
    """A forward pass that captures attention and input of every block, as methods run it."""
    from clew.models.architectures import find_architecture
    from clew.subject.subject import Subject
    from clew.targets.outputs import logits_of

    bound = find_architecture(model).bind(model)
    subject = Subject(model, bound, {"": x}, lambda output: lambda output, rows: logits_of(output)[:, 0])
    every = range(subject.last + 1)
    return lambda: subject.run(every, hidden=every)


def growth() -> float:
    """Megabytes of resident memory gained between call 200 and call 1,000 on the bundled model."""
    model, images = clew.load("mini:digits"), clew.scenes().images[:2]
    before = 0.0
    for call in range(1, 1001):
        clew.explain(model, images, method=("beyond_intuition_head", "generic_attribution")[call % 2], checks="default")
        if call == 200:
            before = resident()
    return resident() - before


def resident() -> float:
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def table(columns: dict[str, dict[str, float]], words: list[str]) -> str:
    lines = [
        f"Cost in plain forward passes of the same batch, default checks on ({when_and_where()}):",
        "",
        "| | " + " | ".join(columns) + " |",
        "|---|" + "---|" * len(columns),
    ]
    for row in next(iter(columns.values())):
        lines.append(f"| {row} | " + " | ".join(f"{c[row]:.2f}" for c in columns.values()) + " |")
    return "\n".join([*lines, "", *words])


PATH_WORDS = [
    "*Inside the seam*: a forward pass that captures every block. *Released procedure*: what the papers' code does",
    "for one image after another: eager attention, parameter gradients, a full backward pass at each of 20 steps,",
    "here without its bookkeeping. A pass along a path can cost less than a plain one, as paths run in chunks that",
    "fit the caches. Resident memory from call 200 to call 1,000 of a loop: {grown:+.1f} MB.",
]
LRP_WORDS = [
    "*Forward and backward*: the gradient of the pixels, without clew. Where nothing else is said relevance ends at",
    "the tokens, behind the patch embedding, whose backward is then not needed.",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", default="1,16", help="of the table of path methods; LRP's has 1 and 8")
    parser.add_argument("--only", choices=["paths", "lrp"], help="one of the two tables")
    parser.add_argument("--dry", action="store_true", help="print the tables, leave the page alone")
    args = parser.parse_args()
    if args.only != "lrp":
        words = [line.format(grown=growth()) if "{grown" in line else line for line in PATH_WORDS]
        run("benchmark", measure, [int(b) for b in args.batches.split(",")], words, args.rounds, args.dry)
    if args.only != "paths":
        run("benchmark-lrp", measure_lrp, [1, 8], LRP_WORDS, args.rounds, args.dry)


def run(
    mark: str,
    measured: Callable[[str, int, int], dict[str, float]],
    batches: list[int],
    words: list[str],
    rounds: int,
    dry: bool,
) -> None:
    columns: dict[str, dict[str, float]] = {}
    for batch in batches:
        for name in MODELS:
            column = f"{name}, batch {batch}"
            columns[column] = measured(name, batch, rounds)
            print(f"{column}: {columns[column]}", flush=True)
            if not dry:
                write_table(mark, table(columns, words))
    print(table(columns, words))


if __name__ == "__main__":
    main()

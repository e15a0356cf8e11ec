"""Speed and memory on a GPU: a ViT-B/16, and a Llama of a billion weights with long inputs and with 4-bit weights.

    python measurements/speed_gpu.py [--commit NAME] [--to FILE.json]   # measure, on the machine with the GPU
    python measurements/speed_gpu.py --table FILE.json                  # write the table into docs/benchmarks.md

Each ratio is the median over rounds in which the plain pass and the method take turns; the device is waited for. Memory
is the peak of what torch allocated, above what there was before.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from report import git, write_table

import clew

PICTURES = {
    "raw_attention": {}, "attention_rollout": {}, "generic_attribution": {}, "beyond_intuition_token": {},
    "beyond_intuition_head": {}, "integrated_gradients": {"n_steps": 20}, "attn_lrp": {}, "pa_lrp": {}, "res_lrp": {},
    "libra_input_x_gradient": {}, "le_grad": {}, "token_tm": {},
}  # fmt: skip
WORDS = ["raw_attention", "generic_attribution", "beyond_intuition_head", "attn_lrp", "cp_lrp", "pa_lrp"]


def seconds(call: Callable[[], object]) -> float:
    torch.cuda.synchronize()
    began = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - began


def ratio(call: Callable[[], object], plain: Callable[[], object], least: float = 0.7) -> float:
    """Of the time of `call` to a plain pass, over at least two rounds and `least` seconds."""
    call()
    found = list[float]()
    began = time.perf_counter()
    while len(found) < 2 or time.perf_counter() - began < least:
        before = seconds(plain)
        taken = seconds(call)
        found.append(taken / ((before + seconds(plain)) / 2))
    return statistics.median(found)


def peak(call: Callable[[], object]) -> float:
    """Megabytes at the highest above what there was."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    call()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


def column(
    plain: Callable[[], object], backward: Callable[[], object], calls: dict[str, Callable[[], object]]
) -> dict[str, Any]:
    """What one column of a table says: milliseconds of a plain pass, ratios to it, memory."""
    for _ in range(3):
        plain()
    backward()
    found: dict[str, Any] = {"plain": 1e3 * statistics.median(seconds(plain) for _ in range(10))}
    rows = {"forward and backward": backward, **calls}
    found["ratio"], found["memory"] = {}, {}
    for name, call in rows.items():
        try:
            found["memory"][name] = peak(call)
            found["ratio"][name] = ratio(call, plain)
        except (torch.OutOfMemoryError, clew.ClewError) as error:
            print(f"  {name}: {str(error).splitlines()[0]}", flush=True)
        print(f"  {name}: {found['ratio'].get(name, 0):.2f}, {found['memory'].get(name, 0):,.0f} MB", flush=True)
    return found


def pictures(batch: int, dtype: torch.dtype) -> dict[str, Any]:
    import timm

    torch.manual_seed(0)
    model = timm.create_model("vit_base_patch16_224", pretrained=False).eval().requires_grad_(False).to("cuda", dtype)
    x = torch.randn(batch, 3, 224, 224, device="cuda", dtype=dtype)

    @torch.no_grad()
    def plain() -> None:
        model(x)

    def backward() -> None:
        leaf = x.clone().requires_grad_()
        torch.autograd.grad(model(leaf).amax(1).sum(), leaf)

    def explain(method: str, options: dict[str, Any]) -> Callable[[], object]:
        return lambda: clew.explain(model, x, method=method, **options)

    return column(plain, backward, {name: explain(name, options) for name, options in PICTURES.items()})


def llama() -> Any:
    """Of the sizes of Llama 3.2 1B, random."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32000, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, head_dim=64, max_position_embeddings=65536,
    )  # fmt: skip
    with torch.device("cuda"):
        return LlamaForCausalLM(config).eval().requires_grad_(False).bfloat16()


def in_4bit(model: Any) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return clew.load(folder, quantize="4bit", dtype=torch.bfloat16, device_map={"": 0}).model


def words(model: Any, length: int, methods: list[str]) -> dict[str, Any]:
    ids = torch.randint(5, 32000, (1, length), generator=torch.Generator().manual_seed(1)).to("cuda")

    @torch.no_grad()
    def plain() -> None:
        model(ids, use_cache=False, logits_to_keep=1)

    def backward() -> None:
        x = model.get_input_embeddings()(ids).requires_grad_()
        output = model(inputs_embeds=x, use_cache=False, logits_to_keep=1)
        torch.autograd.grad(output.logits[:, -1].amax(1).sum(), x)

    def explain(method: str) -> Callable[[], object]:
        return lambda: clew.explain(model, ids, method=method, target=7)

    return column(plain, backward, {name: explain(name) for name in methods})


def measure() -> dict[str, Any]:
    found: dict[str, Any] = {"pictures": {}, "words": {}}
    for title, batch, dtype in (
        ("batch 1, float32", 1, torch.float32),
        ("batch 64, float32", 64, torch.float32),
        ("batch 64, bfloat16", 64, torch.bfloat16),
    ):
        print(title, flush=True)
        found["pictures"][title] = pictures(batch, dtype)
    model = llama()
    for title, length in (("2,048 tokens", 2048), ("16,384 tokens", 16384)):
        print(title, flush=True)
        found["words"][title] = words(model, length, WORDS)
    print("4 bits", flush=True)
    found["words"]["2,048 tokens, 4 bits"] = words(in_4bit(model), 2048, WORDS)
    return found


def table(columns: dict[str, dict[str, Any]], memory: bool) -> list[str]:
    plain = [f"{title} ({found['plain']:.1f} ms)" for title, found in columns.items()]
    lines = ["| in plain passes | " + " | ".join(plain) + " |", "|---|" + "---|" * len(plain)]
    first = next(iter(columns.values()))

    def cell(found: dict[str, Any], row: str) -> str:
        if row not in found["ratio"]:
            return "–"
        return f"{found['ratio'][row]:.2f}" + (f", {found['memory'][row] / 1024:.1f} GB" if memory else "")

    return [*lines, *(f"| {row} | {' | '.join(cell(c, row) for c in columns.values())} |" for row in first["memory"])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=Path("gpu.json"))
    parser.add_argument("--commit", default=git("rev-parse", "--short", "HEAD"))
    parser.add_argument("--table", type=Path, help="what was measured before")
    args = parser.parse_args()
    if args.table is None:
        about = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
        found = {"made": f"commit {args.commit}, {datetime.date.today()}, {about}", **measure()}
        args.to.write_text(json.dumps(found, indent=1))
        return
    found = json.loads(args.table.read_text())
    lines = [
        f"Default checks on ({found['made']}). A ViT-B/16:",
        "",
        *table(found["pictures"], memory=False),
        "",
        "A random Llama of the sizes of Llama 3.2 1B in bfloat16, batch 1, with the memory at its highest above the",
        "loaded model; *4 bits*: its weights by bitsandbytes, which the plain pass multiplies by its own kernel:",
        "",
        *table(found["words"], memory=True),
    ]
    write_table("benchmark-gpu", "\n".join(lines))


if __name__ == "__main__":
    main()

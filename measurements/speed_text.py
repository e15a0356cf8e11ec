"""Speed and memory on a Llama of 8 blocks, 512 wide: ratios to a plain forward pass, and peak memory at 4,096 tokens.

`make bench` runs this too and writes the tables into docs/benchmarks.md. Memory is measured in processes of their own,
as the peak of resident memory above what the loaded model takes.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

import torch
from report import when_and_where, write_table
from speed import ratio
from transformers import LlamaConfig, LlamaForCausalLM

import clew

LRP = ["attn_lrp", "cp_lrp", "pa_lrp"]
READOUT = ["raw_attention", "beyond_intuition_head", "beyond_intuition_token", "generic_attribution"]
LONG = 4096


def build(kernel: str = "sdpa") -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=1000, hidden_size=512, intermediate_size=1376, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=8, max_position_embeddings=LONG, attn_implementation=kernel,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def tokens(batch: int, length: int) -> torch.Tensor:
    return torch.randint(5, 1000, (batch, length), generator=torch.Generator().manual_seed(1))


def backward(model: LlamaForCausalLM, ids: torch.Tensor) -> None:
    """A forward pass and the gradient of the embeddings, without clew."""
    x = model.get_input_embeddings()(ids).requires_grad_()
    torch.autograd.grad(model(inputs_embeds=x, use_cache=False).logits[:, -1].amax(1).sum(), x)


def eager(model: LlamaForCausalLM, ids: torch.Tensor) -> None:
    """The peers' way: every attention map written out and kept, and the gradient of each of them."""
    x = model.get_input_embeddings()(ids).requires_grad_()
    output = model(inputs_embeds=x, use_cache=False, output_attentions=True)
    torch.autograd.grad(output.logits[:, -1].amax(1).sum(), output.attentions)


def speed(batch: int, rounds: int) -> dict[str, float]:
    model, ids = build(), tokens(batch, 512)

    def plain() -> None:
        with torch.no_grad():
            model(ids, use_cache=False)

    found = {"forward and backward": ratio(lambda: backward(model, ids), plain, rounds)}
    for method in [*LRP, *READOUT]:
        clew.explain(model, ids, method=method)  # warm, and the once-only check is made
        found[method] = ratio(lambda name=method: clew.explain(model, ids, method=name), plain, rounds)
    return found


def peak(what: str, length: int) -> int:
    """Kilobytes above the loaded model at the highest; run in a process of its own."""
    # Large blocks go back to the system at once, so that the resident peak is that of live tensors.
    exact = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    command = [sys.executable, __file__, "--peak", what, "--length", str(length)]
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **exact})
    return int(run.stdout) if run.returncode == 0 else -1


def kilobytes(name: str) -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name))


def one_peak(what: str, length: int) -> None:
    model, short = build("eager" if what == "eager" else "sdpa"), tokens(1, 64)
    clew.explain(model, short, method="attn_lrp")
    ids = tokens(1, length)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # forget the peak so far
    before = kilobytes("VmRSS")
    if what == "plain":
        backward(model, ids)
    elif what == "eager":
        eager(model, ids)
    else:
        clew.explain(model, ids, method=what, target=7, checks="off")
    print(kilobytes("VmHWM") - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peak", help="measure this one in this process")
    parser.add_argument("--length", type=int, default=LONG)
    args = parser.parse_args()
    if args.peak:
        one_peak(args.peak, args.length)
        return
    memory = {name: peak(name, LONG) for name in ["plain", *LRP, *READOUT, "eager"]}
    print(memory)
    columns = {f"512 tokens, batch {batch}": speed(batch, args.rounds) for batch in (1, 4)}
    print(columns)
    names = {"plain": "forward and backward", "eager": "eager, all maps and their gradients"}
    first = next(iter(columns.values()))
    lines = [
        "A random Llama of 8 blocks, 512 wide: time in plain forward passes of the same batch, default checks on, and",
        "memory at its highest above the loaded model, 4,096 tokens, batch 1",
        f"({when_and_where()}):",
        "",
        "| | " + " | ".join(columns) + " | memory, MB | of forward and backward |",
        "|---|" + "---|" * (len(columns) + 2),
    ]
    for key, kilo in memory.items():
        name = names.get(key, key)
        times = [f"{c[name]:.2f}" if name in first else "–" for c in columns.values()]
        share = kilo / memory["plain"]
        lines.append(f"| {name} | {' | '.join(times)} | {kilo / 1024:,.0f} | {share:.2f} |")
    lines += [
        "",
        "*Eager*: attention maps of all blocks written out and kept, with the gradient of each, as other libraries",
        "read them; a map of 4,096 × 4,096 in 8 heads is 512 MB.",
    ]
    write_table("benchmark-text", "\n".join(lines))


if __name__ == "__main__":
    main()

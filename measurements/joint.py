"""`clew bench joint` on real models and data, and on the bundled ones: reports in results/joint.

python measurements/joint.py DATA [NAME …] [--out results/joint]

DATA holds the folders vit_s14_cifar10, davis16_val_small, minilm_sentiment, eraser_movies, sst2 and stories260k (see
results/README.md). A run that was stopped goes on where it was. How many examples: as many as two busy cores explain by
all methods in some minutes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import clew
from clew.evaluation.report.groups import build_group

DEFAULT = "beyond_intuition_token"
STEPS = (0.1, 0.3, 0.5, 0.7, 0.9)
METHODS = [
    "all", "integrated_gradients(n_steps=8)", "smoothgrad(n_samples=5)", "tis(n_masks=64)", "dave(n_samples=8)",
]  # fmt: skip
FEW: dict[str, Any] = {"methods": METHODS, "fractions": STEPS, "batch_size": 4, "show_progress": False}


def photographs(out: Path) -> clew.Run:
    """CIFAR-10 test photographs and a ViT-S/14: patches replaced by the mean colour."""
    options = {"sample": 24}
    model = clew.load("vit_s14_cifar10")
    return clew.evaluate(
        "joint", model, "vit_s14_cifar10/test_images", out=out, data_options=options, choose=False, **FEW
    )


def davis(out: Path) -> clew.Run:
    """Crops of DAVIS and the same ViT: masks of the object, options chosen on one half."""
    options = {"crops": "davis_crops.tsv", "sample": 32}
    model = clew.load("vit_s14_cifar10")
    return clew.evaluate("joint", model, "davis16_val_small", out=out, parts="mask", data_options=options, **FEW)


def sst2(out: Path) -> clew.Run:
    """SST-2 sentences and a MiniLM: words taken away, left alone, masked both ways."""
    file = out.parent / "sst2.jsonl"
    lines = [line.rsplit("\t", 1) for line in Path("sst2/dev.tsv").read_text().splitlines()]
    rows = [{"id": str(i), "text": text, "label": int(label)} for i, (text, label) in enumerate(lines)]
    file.write_text("".join(json.dumps(row) + "\n" for row in random.Random(0).sample(rows, 60)))
    return clew.evaluate("joint", clew.load("minilm_sentiment"), file, out=out, choose=False, **FEW)


def eraser(out: Path) -> clew.Run:
    """ERASER's film reviews and the same MiniLM: what humans marked, among the first 128 tokens."""
    options = {"split": "test", "sample": 60}
    model = clew.load("minilm_sentiment")
    return clew.evaluate(
        "joint", model, "eraser_movies", out=out, parts="rationale", max_length=128, choose=False,
        data_options=options, **FEW,
    )  # fmt: skip


def stories(out: Path) -> clew.Run:
    """Stories that a small Llama wrote itself: its next token."""
    model = clew.load("stories260k/hf")
    file = out.parent / "stories.jsonl"
    if not file.exists():
        torch.manual_seed(0)
        start = torch.full((60, 1), model.tokenizer.bos_token_id)
        written = model.model.generate(start, do_sample=True, max_new_tokens=120, top_k=0, pad_token_id=0)
        texts = [model.tokenizer.decode(row, skip_special_tokens=True) for row in written]
        file.write_text("".join(json.dumps({"id": str(i), "text": text}) + "\n" for i, text in enumerate(texts)))
    return clew.evaluate("joint", model, file, out=out, max_length=100, choose=False, **FEW)


def mini(name: str, limit: int, **options: Any) -> Callable[[Path], clew.Run]:
    """A bundled model and its data, of which it is known what decides."""

    def run(out: Path) -> clew.Run:
        return clew.evaluate("joint", clew.load(f"mini:{name}"), out=out, limit=limit, **{**FEW, **options})

    return run


RUNS: dict[str, Callable[[Path], clew.Run]] = {
    "digits": mini("digits", 48, choose=False),
    "reverse": mini("reverse", 40, choose=False),
    "digits-chat": mini("digits-chat", 40, choose=False),
    "reviews-bert": mini("reviews-bert", 32, choose=False),
    "sst2": sst2,
    "photographs": photographs,
    "davis": davis,
    "stories": stories,
    "eraser": eraser,
}


def against_default(runs: dict[str, clew.Run]) -> str:
    """Of each run and tested number what is better than the default method beyond the interval of the difference."""
    lines = [
        f"# What is better than `{DEFAULT}`, the default of `clew.explain`",
        "",
        "Of each tested number the default's value, and the methods whose paired 95 % bootstrap interval of the",
        "difference to it is above 0 (turned, where lower is better), the first six: difference, interval, p of the",
        "paired permutation test with Holm's correction for all pairs. Made by `python measurements/joint.py`.",
        "",
        "| run | number | n | default | better |",
        "|---|---|---|---|---|",
    ]
    for name, run in runs.items():
        for column in build_group([run], examples=0, curves=False).columns:
            mine = next((label for label in column.ranked if own(label)), None)
            if not column.metric.headline or mine is None:
                continue
            sign = 1 if column.metric.higher else -1
            better: list[tuple[float, str]] = []
            for one in column.comparisons:
                if mine in (one.a, one.b):
                    turned = sign if one.b == mine else -sign
                    low, high = sorted((turned * one.low, turned * one.high))
                    other = one.a if one.b == mine else one.b
                    words = f"`{other}` +{turned * one.difference:.2g} [{low:.2g}, {high:.2g}] p {one.corrected:.2g}"
                    better += [(turned * one.difference, words)] if low > 1e-9 else []
            said = "<br>".join(words for _, words in sorted(better, reverse=True)[:6]) or "none"
            value = column.numbers[mine]
            shown = f"{value.value:.3g} [{value.low:.3g}, {value.high:.3g}]"
            lines.append(f"| {name} | {column.metric.name} | {column.n} | {shown} | {said} |")
    return "\n".join(lines) + "\n"


def own(label: str) -> bool:
    """Whether this is the default method with its own options."""
    return label in (DEFAULT, f"{DEFAULT}(start_layer=None)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("names", nargs="*", choices=[*RUNS, []], default=[])
    parser.add_argument("--out", type=Path, default=Path("results/joint"))
    parser.add_argument("--runs", type=Path, default=Path("clew-runs/joint"), help="Where runs are kept.")
    given = parser.parse_args()
    home, data = Path.cwd(), given.data.resolve()
    given.runs.mkdir(parents=True, exist_ok=True)
    for name in given.names or RUNS:
        os.chdir(data)  # names of models and data in the reports are relative
        try:
            RUNS[name]((home / given.runs / name).resolve())
        finally:
            os.chdir(home)
        run = clew.Run(given.runs / name)
        run.report(given.out / name / "report.html", examples=1)
        if run.manifest["grid"]:
            clew.chosen(run).report(given.out / name / "chosen.html", examples=1)
        shutil.copy(run.path / "manifest.json", given.out / name / "manifest.json")
        print(run, flush=True)
    done = {name: clew.Run(given.runs / name) for name in RUNS if (given.runs / name / "manifest.json").exists()}
    (given.out / "default.md").write_text(against_default(done))


if __name__ == "__main__":
    main()

"""Runs whose reports are in results/: every protocol on real models and data.

python measurements/evaluation.py DATA [NAME …] [--out results]

DATA holds the folders vit_s14_cifar10, davis16_val_small, minilm_sentiment, eraser_movies and stories260k (see
results/README.md). A run that was stopped goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch

import clew

TEXT = [
    "random", "raw_attention", "attention_rollout", "attention_gradcam", "generic_attribution", "beyond_intuition_head",
    "beyond_intuition_token", "saliency", "input_x_gradient", "attn_lrp", "cp_lrp", "pa_lrp",
]  # fmt: skip
FEW = ["random", "raw_attention", "beyond_intuition_head", "beyond_intuition_token", "saliency", "attn_lrp"]
CAUSAL = [*TEXT[:4], "saliency", "input_x_gradient", "attn_lrp", "cp_lrp", "pa_lrp", "pa_lrp(variant='pa_lrp')"]


def images(methods: list[str] | None = None) -> list[str]:
    left_out = {"smoothgrad", "integrated_gradients"}
    names = methods or [name for name in clew.methods() if name not in left_out]
    return [*names, "integrated_gradients(n_steps=20)", "smoothgrad(n_samples=10)", "centred_gaussian"]


def segmentation(out: Path) -> clew.Run:
    """111 crops of DAVIS, the given class explained."""
    return clew.evaluate(
        "segmentation", clew.load("vit_s14_cifar10"), "davis16_val_small", methods=images(), out=out, explain="given",
        threshold=("mean", "otsu"), data_options={"crops": "davis_crops.tsv"},
    )  # fmt: skip


def perturbation(out: Path) -> clew.Run:
    """100 CIFAR-10 photographs, the predicted class."""
    return clew.evaluate(
        "perturbation", clew.load("vit_s14_cifar10"), "vit_s14_cifar10/test_images", methods=images(), out=out,
        data_options={"sample": 100},
    )  # fmt: skip


def rationale(out: Path) -> clew.Run:
    """The first 100 test documents of ERASER's film reviews, the given class."""
    model = clew.load("minilm_sentiment")
    options = {"split": "test"}
    return clew.evaluate(
        "rationale", model, "eraser_movies", methods=TEXT, out=out, limit=100, batch_size=4, data_options=options
    )


def flipping_movies(out: Path) -> clew.Run:
    """The same documents, their first 128 tokens, tokens masked."""
    return clew.evaluate(
        "flipping", clew.load("minilm_sentiment"), "eraser_movies", methods=FEW, out=out, limit=100, batch_size=4,
        protocol="movies", max_length=128, data_options={"split": "test"},
    )  # fmt: skip


def flipping_stories(out: Path) -> clew.Run:
    """100 stories that the model wrote itself, the next token."""
    model = clew.load("stories260k/hf")
    file = out.parent / "stories.jsonl"
    if not file.exists():
        torch.manual_seed(0)
        start = torch.full((100, 1), model.tokenizer.bos_token_id)
        written = model.model.generate(start, do_sample=True, max_new_tokens=120, top_k=0, pad_token_id=0)
        texts = [model.tokenizer.decode(row, skip_special_tokens=True) for row in written]
        file.write_text("".join(json.dumps({"id": str(i), "text": text}) + "\n" for i, text in enumerate(texts)))
    return clew.evaluate("flipping", model, file, methods=CAUSAL, out=out, protocol="wikipedia", max_length=100)


def sanity(out: Path) -> clew.Run:
    """The bundled scenes and their ViT."""
    return clew.evaluate("sanity", clew.load("mini:digits"), "mini:digits", methods=images(), out=out)


def gamma(out: Path) -> clew.Run:
    """γ of linear layers and of the patch convolution: chosen on half of the crops."""
    return clew.evaluate(
        "segmentation", clew.load("vit_s14_cifar10"), "davis16_val_small", methods=["lrp(rules='gamma')", "attn_lrp"],
        grid={"gamma_linear": (0.01, 0.05, 0.25), "gamma_conv": (0.25, 100.0)}, out=out, explain="given",
        data_options={"crops": "davis_crops.tsv"},
    )  # fmt: skip


RUNS: dict[str, Callable[[Path], clew.Run]] = {
    one.__name__: one
    for one in (segmentation, sanity, flipping_stories, gamma, perturbation, rationale, flipping_movies)
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("names", nargs="*", choices=[*RUNS, []], default=list(RUNS))
    parser.add_argument("--out", type=Path, default=Path("results"))
    parser.add_argument("--runs", type=Path, default=Path("clew-runs"), help="Where runs are kept.")
    given = parser.parse_args()
    home, data = Path.cwd(), given.data.resolve()
    given.runs.mkdir(parents=True, exist_ok=True)
    for name in given.names:
        os.chdir(data)  # names of models and data in the reports are relative
        try:
            RUNS[name]((home / given.runs / name).resolve())
        finally:
            os.chdir(home)
        run = clew.Run(given.runs / name)
        run.report(given.out / name / "report.html")
        if run.manifest["grid"]:
            clew.chosen(run).report(given.out / name / "chosen.html")
        shutil.copy(run.path / "manifest.json", given.out / name / "manifest.json")
        print(run)


if __name__ == "__main__":
    main()

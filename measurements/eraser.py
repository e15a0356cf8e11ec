"""Do the words that a method ranks first belong to the rationales that humans marked? ERASER Movie Reviews.

    python measurements/eraser.py MODEL_FOLDER ERASER_FOLDER [--rows 100]

ERASER_FOLDER holds `docs.zip` (or `docs/`) and `test.jsonl`. Writes docs/eraser.md.
"""

from __future__ import annotations

import argparse
import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from report import interval, write_page
from sklearn.metrics import average_precision_score
from tqdm import tqdm

import clew
from clew.explainers import parse_method

TOP = 40
METHODS = [
    "random", "attention_rollout", "attention_gradcam", "saliency", "input_x_gradient", "generic_attribution",
    "gradient_attention_rollout", "raw_attention", "beyond_intuition_head", "beyond_intuition_token",
    "attn_lrp", "cp_lrp", "pa_lrp", "pa_lrp(part='position')",
    "partial_lrp", "transformer_attribution", "integrated_gradients(n_steps=8)",
]  # fmt: skip


def read(folder: Path, rows: int) -> tuple[list[str], list[set[int]], list[int]]:
    """Documents as words with one space between, the numbers of the words in a rationale, and the labels."""
    with (folder / "test.jsonl").open() as file:
        records = [json.loads(line) for line, _ in zip(file, range(rows), strict=False)]
    names = [r["annotation_id"] for r in records]
    if (folder / "docs").is_dir():
        documents = [(folder / "docs" / name).read_text() for name in names]
    else:
        with zipfile.ZipFile(folder / "docs.zip") as archive:
            paths = {Path(path).name: path for path in archive.namelist()}
            documents = [archive.read(paths[name]).decode() for name in names]
    texts = [" ".join(document.split()) for document in documents]
    rationales = [
        {w for group in r["evidences"] for e in group for w in range(e["start_token"], e["end_token"])} for r in records
    ]
    return texts, rationales, [["NEG", "POS"].index(r["classification"]) for r in records]


def word_scores(model: Any, texts: list[str], labels: list[int], method: str, batch: int) -> list[np.ndarray]:
    """Scores of the words of each document, as far as the model reads it: the largest of a word's tokens."""
    name, options = parse_method(method)
    found: list[np.ndarray] = []
    for i in tqdm(range(0, len(texts), batch), desc=method, leave=False):
        part = clew.explain(
            model, texts[i : i + batch], method=name, target=labels[i : i + batch], truncate=True, checks="off",
            **options,
        )  # fmt: skip
        found += [np.array([w.score for w in words]) for words in part.words("max")]
    return found


def f1_of_top(truth: np.ndarray, scores: np.ndarray) -> float:
    top = np.argsort(-scores, kind="stable")[:TOP]
    return 2 * float(truth[top].sum()) / (len(top) + int(truth.sum()))


def with_interval(values: np.ndarray) -> str:
    low, high = interval(values)
    return f"{values.mean():+.3f} [{low:+.3f}, {high:+.3f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("eraser", type=Path)
    parser.add_argument("--rows", type=int, default=100, help="how many rows of test.jsonl, from the first")
    parser.add_argument("--batch", type=int, default=5)
    parser.add_argument("--method", action="append", help="only these (prints, writes nothing)")
    args = parser.parse_args()
    model = clew.load(args.model)
    texts, rationales, labels = read(args.eraser, args.rows)
    scores: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for method in args.method or METHODS:
        ranked = word_scores(model, texts, labels, method, args.batch)
        truth = [np.array([w in r for w in range(len(s))]) for s, r in zip(ranked, rationales, strict=True)]
        seen = [i for i, t in enumerate(truth) if t.any()]
        scores[method] = (
            np.array([average_precision_score(truth[i], ranked[i]) for i in seen]),
            np.array([f1_of_top(truth[i], ranked[i]) for i in seen]),
        )
        print(f"{method:35} {scores[method][0].mean():.3f} {scores[method][1].mean():.3f}  ({len(seen)} documents)")
    if args.method:
        return
    lines = [
        "# Which method finds the words that humans marked?",
        "",
        f"The first {args.rows} documents of the test split of ERASER Movie Reviews (DeYoung et al. 2020; Zaidan and",
        "Eisner 2008), read by a MiniLM-L6 fine-tuned for sentiment; the gold label is explained. Words are what",
        "stands between white space, as far as the 512 tokens reach; the score of a word is the largest of its tokens.",
        f"All words are ranked. {len(scores['random'][0])} documents have a rationale before the cut. *Average",
        f"precision* and *F1 of the top {TOP} words* against the human rationales; the last column is the mean",
        "difference in average precision to random scores, with its paired bootstrap interval (95 %, 9,999 resamples).",
        "Made by `measurements/eraser.py`.",
        "",
        f"| method | average precision | F1 of the top {TOP} | against random |",
        "|---|---|---|---|",
    ]
    for method, (precision, f1) in scores.items():
        difference = "–" if method == "random" else with_interval(precision - scores["random"][0])
        lines.append(f"| {method} | {precision.mean():.3f} | {f1.mean():.3f} | {difference} |")
    write_page("eraser.md", lines)


if __name__ == "__main__":
    main()

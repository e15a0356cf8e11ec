"""Small labelled data to learn from: tables of texts, film reviews as ERASER has them, folders of pictures."""

from __future__ import annotations

import numpy as np
from PIL import Image
from support.text_data import evidence, lines, separated


def reviews(count, classes=("bad", "good"), start=0):
    return [(f"review number {start + i} of them", classes[i % len(classes)]) for i in range(count)]


def table(path, rows):
    return separated(path, [("text", "label"), *rows])


def film_folder(folder, **splits):
    """ERASER's files; each split is a list of documents, called after their class."""
    (folder / "docs").mkdir(parents=True)
    for split, names in splits.items():
        rows = [
            {
                "annotation_id": name,
                "classification": name[:3].upper(),
                "evidences": [[evidence(name, 0, 1)]],
            }
            for name in names
        ]
        lines(folder / f"{split}.jsonl", rows)
        for name in names:
            (folder / "docs" / name).write_text(f"what {name} says", "utf-8")
    return folder


def picture_folder(folder, each, classes=("cat", "dog"), seed=0):
    draw = np.random.default_rng(seed)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(each):
            Image.fromarray(draw.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(folder / name / f"{i}.png")
    return folder

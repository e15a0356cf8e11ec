"""What the slow twins of benchmarks share."""

from __future__ import annotations

import torch

import clew
from clew.datasets import Dataset
from clew.errors import InputError
from clew.explainers import find_method


class Given(Dataset):
    """Examples as they are."""

    def __init__(self, examples, classes=None):
        self.name, self.classes, self.examples = "given", classes, examples
        self.ids = [e.id for e in examples]

    def read(self, index):
        if self.examples[index].id == "torn":
            raise InputError("torn.png is broken", got="half a file")
        return self.examples[index]


def flat(subject):
    """A map that says nothing."""
    return torch.zeros_like(find_method("raw_attention")(subject).scores)


def evaluated(benchmark, model, examples, methods, **options):
    """Rows by example and method, and the summary's values by metric and method."""
    run = clew.evaluate(benchmark, model, Given(examples), methods=methods, show_progress=False, **options)
    rows = {(row["example"], row["method"]): row for row in run.table.to_pylist()}
    numbers = {(row["metric"], row["method"]): row["value"] for row in run.summary()}
    return rows, numbers

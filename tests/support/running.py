"""Runs for tests: small, quiet, and what stays the same of them."""

from __future__ import annotations

import json
from pathlib import Path

import torch

import clew

QUIET = {"show_progress": False, "batch_size": 2, "shard_size": 4}
METHODS = ["random", "raw_attention"]


def run(model, out=None, methods=METHODS, data="mini:digits", benchmark="segmentation", limit=9, **options):
    return clew.evaluate(benchmark, model, data, methods=methods, out=out, limit=limit, **{**QUIET, **options})


def files(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(path.glob("*.parquet"))}


def lasting(path: Path) -> dict:
    """The manifest without what a machine's speed decides."""
    found = json.loads((path / "manifest.json").read_text())
    for shard in found["shards"].values():
        del shard["seconds"], shard["measuring"]
        shard.pop("cost", None)
    return found


def counting():
    """A method, and the sizes of the batches that it was called with."""
    calls = []

    def counted(subject: clew.Subject, *, start: int = 0) -> torch.Tensor:
        """Counts its calls."""
        calls.append(subject.batch)
        return torch.arange(float(subject.run([subject.last]).tokens)).expand(subject.batch, -1)

    return counted, calls

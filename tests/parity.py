"""Compare clew's public API with golden arrays: `python tests/parity.py DIR [--through N] [--only GLOB,…] [--list]`.

Each golden case becomes one call of the public API: the printed mapping is a dictionary between the papers' words and
ours. Nothing is computed here but the difference. Exit status 1 if a case failed.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

# Families with a mapping; the folder that holds them tells which is which. Later issues add modules here.
# A folder of newer methods (its manifest has a dict of cases) has its mapping in `support/parity_FOLDER.py`, if built.
MAPPED = {
    "vit": "parity_vit", "bert": "parity_text", "llama/seqcls": "parity_text", "llama/causal": "parity_text",
    "qwen2": "parity_text", "gpt2": "parity_text", "clip": "parity_clip",
    "metrics": "parity_metrics", "flip": "parity_flip", "bert_pert": "parity_bert_pert", "eraser": "parity_eraser",
}  # fmt: skip

FAMILIES = {
    "vit": "vit", "clip": "clip", "metrics": "metrics", "bert": "bert", "bert_pert": "bert_pert",
    "seqcls": "llama/seqcls", "causal": "llama/causal", "qwen2": "qwen2", "gpt2": "gpt2", "flip": "flip",
    "eraser": "eraser",
}  # fmt: skip
ISSUES = {"vit": 2, "clip": 4, "metrics": 5, "flip": 5, "eraser": 5, "bert_pert": 5}  # others: 3
NEWER = 24  # the issue of the newer methods
FIRST = ("logits", "target_", "raw_attention", "attn_", "rollout", "generic_attribution", "ours", "sub_", "ig")

SKIPPED = {
    "*POS_GRAD_ENC*": "identical to the variant without position",
    "*_rule_matmul*": "a building block of the released code, not a result",
    "*quirk_noncausal*": "released behaviour to avoid: no causal mask",
    "*aux_branch_sums*": "sums inside the released modules",
    "*aux_block0*": "sums inside the released modules",
    "*lrp_block0_img0*": "sums inside the released modules",
    "*/raw_*@f32": "a float32 copy",
    "*@f32": "a float32 copy",
    "*lrp_second_layer*": "an unused released variant",
    "*lrp_full*_orig*": "released rules that double relevance at each linear layer",
    "*lrp_sums_orig*": "released rules that double relevance at each linear layer",
    "*lrp_*_tokens_orig*": "released rules that double relevance at each linear layer",
    "*lrp_rollout_orig*": "released rules that double relevance at each linear layer",
    "*transformer_attribution_orig*": "released rules that double relevance at each linear layer",
}


def arrays_in(file: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file, which is closed again."""
    with np.load(file) as stored:
        return dict(stored)


@dataclass(frozen=True)
class Case:
    """One golden array: its family, name, what the manifest says of it, and the folder it lies in."""

    family: str
    name: str
    entry: dict[str, Any]
    folder: Path
    newer: bool = False

    @property
    def full_name(self) -> str:
        return f"{self.family}/{self.name}"

    @property
    def issue(self) -> int:
        """The issue by which the case must pass."""
        if self.newer:
            return NEWER
        if self.family == "vit":
            released, _, word = self.name.partition("__")
            mapped = released == "r1" and word.startswith(FIRST) and "lrpmodel" not in word
            return 1 if mapped else ISSUES["vit"]
        return ISSUES.get(self.family, 3)

    @property
    def module(self) -> str:
        """The module of `support` that holds the mapping."""
        return f"parity_{self.family}" if self.newer else MAPPED[self.family]

    def skipped(self) -> str | None:
        """Why the case is not compared, if it is not."""
        reasons = SKIPPED
        if self.newer:
            if importlib.util.find_spec(f"support.{self.module}") is None:
                return f"not compared by this script: {self.entry.get('method', self.family)}"
            reasons = getattr(importlib.import_module(f"support.{self.module}"), "SKIPPED", {})
        return next((why for glob, why in reasons.items() if fnmatchcase(self.name, glob)), None)


@dataclass(frozen=True)
class Outcome:
    """What a mapping returns for a case: the array found, and the call that found it, in words."""

    found: np.ndarray
    call: str


def collect(root: Path) -> Iterator[Case]:
    """Every case of every manifest below a folder."""
    for manifest in sorted(root.rglob("manifest*.json")):
        folder = manifest.parent
        content = json.loads(manifest.read_text())
        if isinstance(content, dict) and isinstance(content.get("cases"), dict):
            yield from (Case(folder.name, name, entry, folder, newer=True) for name, entry in content["cases"].items())
            continue
        family = FAMILIES.get(folder.name)
        if family is None:
            continue
        suffix = manifest.stem.removeprefix("manifest").removeprefix("_")
        entries = content if isinstance(content, list) else content.get("cases", [])
        if family == "eraser":
            entries = [{"name": name} for name in json.loads((folder / "expected.json").read_text())]
        for entry in entries:
            name = entry.get("case") if isinstance(content, list) else entry["name"]
            yield Case(family, f"{suffix}/{name}" if suffix in ("eps0", "quirk_noncausal") else name, entry, folder)


def compare(expected: np.ndarray, found: np.ndarray) -> float:
    """`max|a - b| / max|expected|` in float64; NaN in the reference counts as 0."""
    if expected.shape != found.shape:
        return float("inf")
    a, b = np.nan_to_num(expected.astype(np.float64)), found.astype(np.float64)
    largest = float(np.abs(a).max())
    difference = float(np.abs(a - b).max())
    return difference / largest if largest > 0 else difference


def run(root: Path, through: int, only: list[str], listing: bool) -> int:
    cases = [c for c in collect(root) if not only or any(fnmatchcase(c.full_name, glob) for glob in only)]
    if not cases:
        print(f"no golden cases below {root}" + (f" match {','.join(only)}" if only else ""))
        return 1
    if listing:
        for case in cases:
            print(f"{case.full_name}  (issue {case.issue})")
        return 0
    counts = dict.fromkeys(("passed", "failed", "skipped", "todo"), 0)
    families: dict[tuple[str, Path], Any] = {}
    for case in cases:
        reason = case.skipped()
        if reason is not None:
            counts["skipped"] += 1
            print(f"skip {case.full_name}: {reason}")
            continue
        if case.issue > through:
            counts["todo"] += 1
            print(f"todo {case.full_name} (issue {case.issue})")
            continue
        key = (case.family, case.folder)
        if key not in families:
            families[key] = importlib.import_module(f"support.{case.module}").Family(case.folder)
        ok, line = _try(families[key], case)
        counts["passed" if ok else "failed"] += 1
        print(line)
    print(", ".join(f"{n} {word}" for word, n in counts.items()))
    return 1 if counts["failed"] else 0


def _try(family: Any, case: Case) -> tuple[bool, str]:
    try:
        outcome: Outcome = family.run(case)
        expected, tolerance = family.expected(case), family.tolerance(case)
    except Exception as error:  # a case that cannot be called has failed; the rest go on
        return False, f"FAIL {case.full_name}  {type(error).__name__}: {error}"
    error = compare(expected, outcome.found)
    ok = error <= tolerance
    return ok, f"{'ok  ' if ok else 'FAIL'} {case.full_name}  {error:.1e} (tolerance {tolerance:.0e})  {outcome.call}"


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, help="a folder of golden arrays, or one below it")
    parser.add_argument("--through", type=int, default=NEWER, help=f"run the cases of issues 1 to N (default {NEWER})")
    parser.add_argument("--only", default="", help="shell globs over FAMILY/case, comma-separated")
    parser.add_argument("--list", action="store_true", help="list the cases and run none")
    args = parser.parse_args(arguments)
    return run(args.directory, args.through, [g for g in args.only.split(",") if g], args.list)


Mapping = Callable[[Case], Outcome]

if __name__ == "__main__":
    # Families import this module's classes: make sure there is one copy of them.
    sys.modules["parity"] = sys.modules[__name__]
    sys.exit(main())

"""What methods cost, in forward passes of the model alone: src/clew/explainers/costs.json, from results/joint.

    python measurements/method_costs.py

The median over the runs on models that were not made for tests: on those, of a few thousand parameters, Python takes
longer than the model. A method that was run with other options than its own is listed with these.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from statistics import median

import clew

ROOT = Path(__file__).parent.parent
RUNS = ("photographs", "davis", "sst2", "eraser", "stories")
FILE = ROOT / "src" / "clew" / "explainers" / "costs.json"


def costs() -> dict[str, dict[str, float | str]]:
    """By method its passes, and the options that it had where these were not its own."""
    found: dict[str, list[float]] = {}
    for run in RUNS:
        with (ROOT / "results" / "joint" / run / "report.csv").open(encoding="utf-8", newline="") as file:
            each = {row["method"]: float(row["cost"]) for row in csv.DictReader(file) if row["cost"]}
        for label, cost in each.items():
            found.setdefault(label, []).append(cost)
    named: dict[str, dict[str, float | str]] = {}
    for label in sorted(found, key=lambda label: (label.partition("(")[0], "(" in label)):
        name, _, options = label.partition("(")
        if name in clew.methods():  # the controls are none
            named.setdefault(name, {"passes": round(median(found[label]), 1), "options": options.rstrip(")")})
    return named


def main() -> None:
    FILE.write_text(json.dumps(costs(), indent=1) + "\n", encoding="utf-8")
    print(FILE.read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()

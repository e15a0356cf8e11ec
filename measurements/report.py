"""What the measurements share: intervals, and pages in docs/ that say when and with what they were made."""

from __future__ import annotations

import datetime
import platform
import subprocess
from pathlib import Path

import numpy as np
import torch
from scipy.stats import bootstrap

ROOT = Path(__file__).parent.parent


def interval(values: np.ndarray) -> tuple[float, float]:
    """The 95 % bootstrap interval of the mean, by 9,999 resamples; of equal values there is none to draw."""
    if not values.std():
        return values.mean(), values.mean()
    found = bootstrap((values,), np.mean, rng=np.random.default_rng(0)).confidence_interval
    return found.low, found.high


def git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True).stdout.strip()


def when() -> str:
    changed = " with local changes" if git("status", "--porcelain", "src") else ""
    return f"commit {git('rev-parse', '--short', 'HEAD')}{changed}, {datetime.date.today()}"


def when_and_where() -> str:
    return f"{when()}, {platform.machine()} CPU, {torch.get_num_threads()} threads, torch {torch.__version__}"


def write_page(name: str, lines: list[str]) -> None:
    """Write docs/NAME, with the commit, the date and torch's release at its end."""
    made = f"Made at {when()}, torch {torch.__version__}, on a CPU."
    (ROOT / "docs" / name).write_text("\n".join([*lines, "", made]) + "\n")


def write_table(mark: str, text: str, page: str = "docs/benchmarks.md") -> None:
    """Put a table between its marks in a page."""
    path, begin, end = ROOT / page, f"<!-- {mark}:begin -->", f"<!-- {mark}:end -->"
    before, _, rest = path.read_text().partition(begin)
    after = rest.partition(end)[2]
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}")

"""How long it takes until something happens: `clew --help`, `import clew`, `clew explain` on a picture, `clew ui`.

    python measurements/startup.py [--rounds 10]

Each command is a process of its own; they take turns, so that what else the machine does falls on all of them alike.
Ratios are of medians: to a bare interpreter, to `import torch`, and, for `clew explain`, to a script that imports torch
and loads the same model by hand. `clew ui` is timed until its page answers; what it needs beside its imports is the
difference to a process that imports gradio and torch alone.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

from report import when_and_where, write_table

import clew

BY_HAND = """
import torch
from transformers import AutoModelForImageClassification
AutoModelForImageClassification.from_pretrained({!r})
"""
BARE, TORCH, HAND = "`python -c pass`", '`python -c "import torch"`', "torch and the model, by hand"
IMPORTS, PAGE = "`import gradio, torch`", "`clew ui`, until its page answers"
ALL = "[getattr(clew, name) for name in clew.__all__]"


def commands(folder: Path) -> dict[str, list[str]]:
    """Arguments of Python by what they are called in the table."""
    clew.scenes().images[0].save(folder / "scene.png")
    digits = Path(clew.__file__).parent / "minis" / "digits"
    explained = ["explain", str(folder / "scene.png"), "-m", "mini:digits", "-o", str(folder / "page.html")]
    return {
        BARE: ["-c", "pass"],
        "`clew --version`": ["-m", "clew", "--version"],
        "`clew --help`": ["-m", "clew", "--help"],
        "`clew methods`": ["-m", "clew", "methods"],
        "`import clew`": ["-c", "import clew"],
        TORCH: ["-c", "import torch"],
        "`import clew`, and all that it exports": ["-c", f"import clew; {ALL}"],
        HAND: ["-c", BY_HAND.format(str(digits))],
        "`clew explain PICTURE -m mini:digits`": ["-m", "clew", *explained],
        IMPORTS: ["-c", "import gradio, torch"],
        PAGE: ["-m", "clew", "ui", "--port"],
    }


def seconds(words: list[str]) -> float:
    if words[-1] == "--port":
        return seconds_until_it_answers(words)
    began = time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, capture_output=True)
    return time.perf_counter() - began


def seconds_until_it_answers(words: list[str]) -> float:
    """Of a server, on a port that is free."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = str(one.getsockname()[1])
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, *words, port], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            while server.poll() is None:
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=5).close()
                    return time.perf_counter() - began
                except OSError:
                    time.sleep(0.02)
            raise RuntimeError(f"clew ui ended with status {server.returncode}")
        finally:
            server.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        timed = commands(Path(folder))
        for words in timed.values():
            seconds(words)  # files are read once before
        taken = {name: list[float]() for name in timed}
        for turn in range(rounds):
            for name in list(timed)[:: -1 if turn % 2 else 1]:
                taken[name].append(seconds(timed[name]))
    found = {name: statistics.median(times) for name, times in taken.items()}
    lines = ["| | seconds | × a bare interpreter | × `import torch` | × by hand |", "|---|---|---|---|---|"]
    for name, value in found.items():
        ratios = [f"{value / found[other]:.2f}" for other in (BARE, TORCH, HAND)]
        lines.append(f"| {name} | {value:.2f} | {' | '.join(ratios)} |")
    more, ratio = found[PAGE] - found[IMPORTS], found[PAGE] / found[IMPORTS]
    lines += ["", f"`clew ui` takes {more:.2f} s beside the imports of gradio and torch, {ratio:.2f} × these in all."]
    lines += ["", f"Medians of {rounds} processes that took turns. {when_and_where()}."]
    print("\n".join(lines))
    write_table("startup", "\n".join(lines), "docs/startup.md")


if __name__ == "__main__":
    main()

"""Pages that are made while the site is built: notebooks that were run, the methods, the commands."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

import clew
from clew.cli.main import COMMANDS
from clew.cli.methods import entries

_ran: dict[Path, tuple[float, tuple[str, dict[str, bytes]]]] = {}  # `mkdocs serve` builds again and again


def public_names() -> dict[str, str]:
    """What `clew` exports, and what its public rooms do; with the names that these have where they are written."""
    rooms = [name for name in clew.__all__ if hasattr(getattr(clew, name), "__path__")]
    found = {f"clew.{name}": getattr(clew, name) for name in clew.__all__}
    found |= {
        f"clew.{room}.{name}": getattr(getattr(clew, room), name)
        for room in rooms
        for name in getattr(clew, room).__all__
    }
    return {name: f"{getattr(one, '__module__', '')}.{getattr(one, '__qualname__', '')}" for name, one in found.items()}


def notebook(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown with what it shows when it is run now, and its pictures by name."""
    changed = path.stat().st_mtime
    if path not in _ran or _ran[path][0] != changed:
        _ran[path] = changed, _run(path)
    return _ran[path][1]


def _run(path: Path) -> tuple[str, dict[str, bytes]]:
    cells, pictures = nbformat.read(path, as_version=4), dict[str, bytes]()
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(cells, timeout=600, startup_timeout=120, resources={"metadata": {"path": folder}}).execute()
    parts = []
    for cell in cells.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source)
            continue
        parts.append(f"```python\n{cell.source}\n```")
        for output in cell.outputs:
            data = output.get("data", {})
            if "image/png" in data:
                name = f"{path.stem}-{len(pictures) + 1}.png"
                pictures[name] = base64.b64decode(data["image/png"])
                parts.append(f"![What the cell above shows]({name})")
            elif "text/html" in data:
                parts.append(f'<div class="output">{data["text/html"]}</div>')
            elif output.get("name") != "stderr":
                parts.append(f"```text\n{(output.get('text') or data['text/plain']).rstrip()}\n```")
    return "\n\n".join(parts), pictures


def methods() -> str:
    """The reference of methods: what `clew methods NAME` prints, of each."""
    parts = list[str]()
    for name, entry in entries().items():
        options = ", ".join(f"{option}={default}" for option, default in entry.options.items())
        parts += [f"## {name}", f"*{entry.paper}*: {entry.summary}.", entry.doc]
        parts += [f"```python\n{name}({options})\n```"] if options else []
    return "\n\n".join(parts)


def commands() -> str:
    """The reference of commands: what `--help` prints."""
    parts = list[str]()
    for name in COMMANDS:
        words = [sys.executable, "-m", "clew", name, "--help"]
        environment = {**os.environ, "COLUMNS": "96", "NO_COLOR": "1", "TERM": "dumb"}
        said = subprocess.run(words, capture_output=True, text=True, env=environment, check=True).stdout
        parts += [
            f"## clew {name}",
            "```text",
            "\n".join(line.rstrip() for line in said.splitlines()).strip("\n"),
            "```",
        ]
    return "\n\n".join(parts)


MADE = {"methods": methods, "commands": commands}

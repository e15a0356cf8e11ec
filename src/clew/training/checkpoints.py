"""Checkpoints of a training: sealed when all of it is written, and passed over where something is missing or cut."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from pathlib import Path

from ..files import parsed, write

logger = logging.getLogger("clew")
_SEAL = "whole.json"
_STATE = "trainer_state.json"


def seal(folder: Path) -> None:
    """Write down what a checkpoint is made of, last. Raises `WriteError`."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    sums = {file.relative_to(folder).as_posix(): _sum(file) for file in files}
    write(folder / _SEAL, {".json": lambda: json.dumps(sums, indent=1) + "\n"})


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that is whole, and whose best weights, which the training ends with, are there too.

    Newer ones are removed, and the log says why.
    """
    for path in sorted(folder.glob("checkpoint-*"), key=_step, reverse=True):
        fault = _fault(path) or _fault_of_best(path)
        if fault is None:
            return path
        logger.warning("%s is passed over, and removed: %s", path, fault)
        shutil.rmtree(path, ignore_errors=True)
    return None


def _step(path: Path) -> int:
    number = path.name.rpartition("-")[2]
    return int(number) if number.isdecimal() else -1


def _fault(path: Path, suffixes: tuple[str, ...] = ("",)) -> str | None:
    """What is wrong with a checkpoint, or with its files of some suffixes."""
    try:
        sums: dict[str, str] = parsed((path / _SEAL).read_bytes())
        for name, expected in sums.items():
            if name.endswith(suffixes):
                if not (path / name).is_file():
                    return f"{name} is gone"
                if _sum(path / name) != expected:
                    return f"{name} is torn"
        if "" not in suffixes:
            return None
        if _STATE not in sums:
            return f"{_STATE} is gone"
        step = parsed((path / _STATE).read_bytes())["global_step"]
        return None if step == _step(path) else f"it is of step {step}"
    except FileNotFoundError:
        return "it was not finished" if path.is_dir() else "it is gone"
    except (OSError, ValueError, AttributeError, TypeError, KeyError) as error:
        return f"it cannot be read: {error}"


def _fault_of_best(path: Path) -> str | None:
    """What is wrong with the weights that were best when a whole checkpoint was written."""
    step = parsed((path / _STATE).read_bytes()).get("best_global_step")
    best = path.with_name(f"checkpoint-{step}")
    fault = None if step is None or best == path else _fault(best, (".safetensors", ".bin", "adapter_config.json"))
    return None if fault is None else f"the best weights are those of {best.name}, and {fault}"


def _sum(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()

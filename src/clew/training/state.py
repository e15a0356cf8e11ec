"""What a folder of a training holds: what was asked for, and how far it came."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from ..errors import ClewError, InputError
from ..files import ANY, Number, mismatch, read_object, write
from .recipes import Recipe

STATE = "finetune.json"
_SHARE, _COUNT = Number(0, 1), Number(0, 2**53, whole=True)
_SCORES = {
    "accuracy": _SHARE, "low": _SHARE, "high": _SHARE, "f1": _SHARE, "examples": _COUNT,
    "classes": {str: {"precision": _SHARE, "recall": _SHARE, "f1": _SHARE, "examples": _COUNT}},
}  # fmt: skip
_RESULTS = {
    "kind": str, "test": _SCORES, "evaluations": [{"epoch": Number(), "loss": Number(), "accuracy": _SHARE}],
    "epochs": (None, Number()), "max_length": (None, _COUNT),
}  # fmt: skip
_FACTS = {
    "format": Number(1, 1, whole=True), "asked": {str: ANY}, "before?": (None, _SCORES), "results?": (None, _RESULTS),
    "notes?": [str], "command?": str, "versions?": {str: str}, "files?": [str],
}  # fmt: skip
T = TypeVar("T")


def on_cpu(device: str | None) -> bool:
    """Whether a CPU trains: because that was asked for, or because there is nothing else."""
    return device == "cpu" or not torch.accelerator.is_available()


def processes(device: str | None) -> PartialState:
    """The processes that train together; every process asks for them first, and all later questions get the same."""
    return PartialState(cpu=on_cpu(device))


def from_main(make: Callable[[], T]) -> T:
    """What the main process makes, in every process; an error of ours is raised in each."""
    state = PartialState()
    if state.num_processes == 1:
        return make()
    box: list[Any] = [None, None]
    if state.is_main_process:
        try:
            box[0] = make()
        except Exception as error:  # or the others would wait for ever
            box[1] = error if isinstance(error, ClewError) else ClewError(f"the main process failed: {error!r}")
    broadcast_object_list(box)
    if box[1] is not None:
        raise box[1]
    return box[0]


def open_training(folder: Path, asked: dict[str, Any], overwrite: bool) -> dict[str, Any]:
    """What was done in a folder before, or the beginning of a new training, which is written there.

    Raises `InputError` where the folder holds something else, unless it is to be overwritten.
    """
    path = folder / STATE
    new: dict[str, Any] = {"format": 1, "asked": json.loads(json.dumps(asked))}
    if not path.is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise InputError(
                f"{folder} holds something else",
                expected="an empty or new folder, or a training to go on with",
                got=", ".join(sorted(p.name for p in folder.iterdir())[:5]),
                todo="choose another folder: out=…, --out",
            )
        save(folder, new)
        return new
    facts = _facts(path)
    there: dict[str, Any] = facts["asked"]
    wanted: dict[str, Any] = new["asked"]
    begun = facts.get("results") is not None or any((folder / "checkpoints").glob("checkpoint-*"))
    if overwrite or (there != wanted and not begun):
        for made in facts.get("files", ()):
            if (folder / made).is_file():
                (folder / made).unlink()
        for made in ("checkpoints", "adapter"):
            shutil.rmtree(folder / made, ignore_errors=True)
        save(folder, new)
        return new
    if there == wanted:
        return facts
    flat = [{**one, **_inner(one, "recipe"), **_inner(one, "more")} for one in (there, wanted)]
    names = [k for k in {**flat[0], **flat[1]} if k not in ("recipe", "more") and flat[0].get(k) != flat[1].get(k)]
    raise InputError(
        f"{folder} holds another training",
        expected="; ".join(f"{k}={flat[0].get(k)}" for k in names),
        got="; ".join(f"{k}={flat[1].get(k)}" for k in names),
        todo="ask for the same again to go on, choose another folder, or begin anew: overwrite=True, --overwrite",
    )


def _facts(path: Path) -> dict[str, Any]:
    """What a training wrote, which somebody may have edited since: files are removed by the names in it.

    Raises `InputError` for what no training writes.
    """
    todo = "choose another folder: out=…, --out; or put back the file as it was"
    facts = read_object(path, expected="what clew finetune wrote", todo=todo, error=InputError)
    if (wrong := mismatch(facts, _FACTS)) is not None:
        place, expected, got = wrong
        raise InputError(f"{path} cannot be read", expected=f"{place}: {expected}", got=got, todo=todo)
    if strange := [name for name in facts.get("files", ()) if name != Path(name).name or name in ("", "..", STATE)]:
        expected = "files: names of files in the folder"
        raise InputError(f"{path} cannot be read", expected=expected, got=strange[0][:80], todo=todo)
    return facts


def _inner(asked: Mapping[str, Any], name: str) -> dict[str, Any]:
    found: Any = asked.get(name)
    return cast("dict[str, Any]", found) if isinstance(found, dict) else {}


def save(folder: Path, facts: Mapping[str, Any]) -> None:
    """Write what is known so far."""
    write(folder / STATE, {".json": lambda: json.dumps(facts, indent=2) + "\n"}, then="run the same again: it goes on")


def command(task: str, given: Mapping[str, Any], recipe: Recipe, usual: Recipe) -> str:
    """The command that does the same: what was `given`, and hyper-parameters that differ from the task's."""
    words = ["clew", "finetune", task]
    changed = {k: v for k, v in asdict(recipe).items() if v != getattr(usual, k)}
    for name, value in {**given, **changed}.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, Mapping):
            for key, one in cast("Mapping[str, Any]", value).items():
                words += [flag, f"{key}={','.join(map(str, one)) if isinstance(one, (list, tuple)) else one}"]
        elif value is True:
            words.append(flag)
        elif value is not None and value is not False:
            words += [flag, str(value)]
    return shlex.join(words)

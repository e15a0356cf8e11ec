"""The manifest of a run: its settings and its shards. An edited or damaged manifest is refused with the reason."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias, cast

from ..errors import InputError
from ..files import ANY, Number, is_valid_filename, mismatch, parsed

FORMAT = 1
MANIFEST = "manifest.json"
# What a run that is to go on must share with the one that began.
IDENTITY = (
    "format", "benchmark", "version", "protocol", "model", "data", "methods", "method_hashes", "seed", "batch_size",
    "shard_size", "threads", "versions",
)  # fmt: skip


# Its schema. Numbers are finite, which JSON does not require.
_COUNT, _AT_LEAST_1 = Number(0, sys.maxsize, whole=True), Number(1, sys.maxsize, whole=True)
_SECONDS = Number(0, sys.float_info.max)
_SHAPE = {
    "format": _COUNT,
    "benchmark": str,
    "version": _COUNT,
    "protocol": {str: ANY},
    "model": {str: (str, None)},
    "data": {"name": str, "hash": str, "examples": _AT_LEAST_1},
    "methods": [str],
    "asked?": [str],
    "method_hashes?": {str: str},
    "grid?": (None, {str: {"base": str, "values": {str: str}}}),
    "undefined?": {str: str},
    "seed": Number(whole=True),
    "batch_size": _AT_LEAST_1,
    "shard_size": _AT_LEAST_1,
    "threads?": _AT_LEAST_1,
    "versions": {str: str},
    "shards": {
        str: {
            "sha256": str,
            "rows": _COUNT,
            "without numbers": _COUNT,
            "seconds": {str: _SECONDS},
            "forwards": {str: _COUNT},
            "cost?": {str: _SECONDS},
            "measuring": _SECONDS,
            "notes": {str: _COUNT},
        }
    },
    "complete": bool,
}

Wrong: TypeAlias = tuple[str, str, object]  # where, what was expected, what is there


def _inconsistent(manifest: Mapping[str, Any]) -> Iterator[Wrong]:
    """Of fields of the right kinds what contradicts other fields."""
    methods, shards = manifest["methods"], manifest["shards"]
    for name in ("name", "hash"):
        if not isinstance(manifest["model"].get(name), str):
            yield f"model.{name}", "a text", "nothing"
    if twice := [name for name, count in Counter(methods).items() if count > 1] or not methods:
        yield "methods", "one or several, each once", f"twice: {twice}" if methods else "none"
    if manifest.get("grid") is not None and set(manifest["grid"]) != set(methods):
        yield "grid", f"the methods {methods}", list(manifest["grid"])
    sizes = sizes_of(manifest)
    places = {shard_name(k): k for k in range(len(sizes))}
    for name, entry in shards.items():
        if name not in places:
            yield "shards", f"names from {shard_name(0)} to {shard_name(len(sizes) - 1)}", name
            continue
        rows = sizes[places[name]] * len(methods)
        if entry["rows"] != rows:
            yield f"shards.{name}.rows", f"{rows}: a row for each example and method", entry["rows"]
        if strange := [method for method in entry.get("cost", {}) if method not in methods]:
            yield f"shards.{name}.cost", f"numbers of {methods}", strange
        if entry["without numbers"] > entry["rows"]:
            yield f"shards.{name}.without numbers", f"at most {rows}", entry["without numbers"]
        for kind in ("seconds", "forwards"):
            if set(entry[kind]) != set(methods):
                yield f"shards.{name}.{kind}", f"a number for each of {methods}", list(entry[kind])
    if manifest["complete"] and (missing := [name for name in places if name not in shards]):
        yield "shards", f"all {len(places)}, as the run is complete", f"{len(missing)} are missing: {missing[:3]}"


def shard_name(index: int) -> str:
    """The file of a shard."""
    return f"part-{index:05d}.parquet"


def sizes_of(manifest: Mapping[str, Any]) -> list[int]:
    """How many examples each shard of the complete run has."""
    count, size = manifest["data"]["examples"], manifest["shard_size"]
    return [min(size, count - start) for start in range(0, count, size)]


# Reading it


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a run. Raises `InputError` where there is none, or none that clew wrote and nobody changed."""
    file = path / MANIFEST
    if not is_valid_filename(file):
        raise InputError("no folder has such a name", expected="a folder of clew bench", got=ascii(str(path)[:60]))
    if not file.is_file():
        got = "no such folder" if not path.is_dir() else ", ".join(sorted(p.name for p in path.iterdir())[:5])
        todo = "pass the folder that clew bench wrote to"
        raise InputError(f"{path} holds no run", expected=MANIFEST, got=got or "an empty folder", todo=todo)
    todo = "put back the file that clew wrote, or run again into another folder: out=…"
    try:
        found = parsed(file.read_text("utf-8"), once=True)
    except (ValueError, OSError) as error:
        raise InputError(f"{file} cannot be read", expected="JSON that clew wrote", got=error, todo=todo) from error
    if not isinstance(found, dict) or cast("dict[str, Any]", found).get("format") != FORMAT:
        got = str(cast("Any", found))[:60]
        raise InputError(f"{file} is no manifest of this clew", expected=f"format {FORMAT}", got=got)
    manifest = cast("dict[str, Any]", found)
    wrong = mismatch(manifest, _SHAPE) or next(_inconsistent(manifest), None)
    if wrong is not None:
        where, expected, got = wrong
        raise InputError(
            f"{file} is not what this clew writes: {where}".rstrip(": "), expected=expected, got=got, todo=todo
        )
    return manifest


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """What differs between two manifests, a line each."""

    def flat(value: Any, name: str) -> dict[str, str]:
        if isinstance(value, Mapping):
            found: dict[str, str] = {}
            for key, inner in cast("Mapping[str, Any]", value).items():
                found |= flat(inner, f"{name}.{key}" if name else key)
            return found
        return {name: json.dumps(value)}

    a, b = (flat({k: m.get(k) for k in IDENTITY}, "") for m in (one, other))
    names = [name for name in dict.fromkeys([*a, *b]) if a.get(name) != b.get(name)]
    # Of a method that only one of them has, `methods` says it.
    names = [name for name in names if not name.startswith("method_hashes.") or (name in a and name in b)]
    return [f"{name}: there {_brief(a.get(name))}, asked for {_brief(b.get(name))}" for name in names]


def _brief(value: str | None) -> str:
    """A value as JSON; of a hash its beginning."""
    return "nothing" if value is None else re.sub(r'"([0-9a-f]{8})[0-9a-f]{56}"', r"\1…", value)

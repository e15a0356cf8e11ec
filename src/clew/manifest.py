"""The manifest of a run: what was asked for, and which shards there are; what a person or a disk changed is told."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast

from .files import may_be
from .shapes import InputError

FORMAT = 1
MANIFEST = "manifest.json"
# What a run that is to go on must share with the one that began.
IDENTITY = (
    "format", "benchmark", "version", "protocol", "model", "data", "methods", "method_hashes", "seed", "batch_size",
    "shard_size", "threads", "versions",
)  # fmt: skip


# What stands in it


@dataclass(frozen=True)
class Kind:
    """Values of one kind: in words, and whether one is."""

    words: str
    holds: Callable[[Any], bool]


@dataclass(frozen=True)
class Each:
    """An object whose values, under any names, are of a kind."""

    of: Spec


@dataclass(frozen=True)
class Several:
    """A list of values of a kind."""

    of: Spec


@dataclass(frozen=True)
class Maybe:
    """A value of a kind, null, or nothing."""

    of: Spec


Spec: TypeAlias = "Kind | Each | Several | Maybe | Mapping[str, Spec]"


def _whole(least: int) -> Kind:
    return Kind(f"a whole number, {least} or more", lambda v: type(v) is int and v >= least)


_ANY = Kind("anything", lambda v: True)
_TEXT = Kind("a text", lambda v: isinstance(v, str))
_TRUTH = Kind("true or false", lambda v: isinstance(v, bool))
_NUMBER = Kind("a number, 0 or more", lambda v: type(v) in (int, float) and math.isfinite(v) and v >= 0)
_SUM = Kind(
    "64 hexadecimal digits", lambda v: isinstance(v, str) and len(v) == 64 and set(v) <= set("0123456789abcdef")
)

_SHARD: Mapping[str, Spec] = {
    "sha256": _SUM,
    "rows": _whole(0),
    "without numbers": _whole(0),
    "seconds": Each(_NUMBER),
    "forwards": Each(_whole(0)),
    "measuring": _NUMBER,
    "notes": Each(_whole(0)),
}
_MANIFEST: Mapping[str, Spec] = {
    "format": _whole(1),
    "benchmark": _TEXT,
    "version": _whole(0),
    "protocol": Each(_ANY),
    "model": {"name": _TEXT, "hash": _TEXT},
    "data": {"name": _TEXT, "hash": _TEXT, "examples": _whole(1)},
    "methods": Several(_TEXT),
    "asked": Maybe(Several(_TEXT)),
    "method_hashes": Each(_TEXT),
    "grid": Maybe(Each({"base": _TEXT, "values": Each(_TEXT)})),
    "seed": Kind("a whole number", lambda v: type(v) is int),
    "batch_size": _whole(1),
    "shard_size": _whole(1),
    "threads": Maybe(_whole(1)),
    "versions": Each(_TEXT),
    "shards": Each(_SHARD),
    "complete": _TRUTH,
}

Wrong: TypeAlias = tuple[str, str, object]  # where, what was expected, what is there


def _differing(value: Any, spec: Spec, where: str) -> Iterator[Wrong]:
    if isinstance(spec, Kind):
        if not spec.holds(value):
            yield where, spec.words, value
    elif isinstance(spec, Maybe):
        if value is not None:
            yield from _differing(value, spec.of, where)
    elif isinstance(spec, Several):
        if not isinstance(value, list):
            yield where, "a list", value
        else:
            for i, one in enumerate(cast("list[Any]", value)):
                yield from _differing(one, spec.of, f"{where}[{i}]")
    elif not isinstance(value, dict):
        yield where, "an object", value
    elif isinstance(spec, Each):
        for name, one in cast("dict[str, Any]", value).items():
            yield from _differing(one, spec.of, f"{where}.{name}" if where else name)
    else:
        given = cast("dict[str, Any]", value)
        for name, inner in spec.items():
            at = f"{where}.{name}" if where else name
            if name in given:
                yield from _differing(given[name], inner, at)
            elif not isinstance(inner, Maybe):
                yield at, "to be there", "nothing"


def _inconsistent(manifest: Mapping[str, Any]) -> Iterator[Wrong]:
    """Of fields of the right kinds what contradicts other fields."""
    methods, shards = manifest["methods"], manifest["shards"]
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
    if not may_be(file):
        raise InputError("no folder has such a name", expected="a folder of clew bench", got=ascii(str(path)[:60]))
    if not file.is_file():
        got = "no such folder" if not path.is_dir() else ", ".join(sorted(p.name for p in path.iterdir())[:5])
        todo = "pass the folder that clew bench wrote to"
        raise InputError(f"{path} holds no run", expected=MANIFEST, got=got or "an empty folder", todo=todo)
    todo = "put back the file that clew wrote, or run again into another folder: out=…"
    try:
        found = json.loads(file.read_text("utf-8"), object_pairs_hook=_once)
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(f"{file} cannot be read", expected="JSON that clew wrote", got=error, todo=todo) from error
    if not isinstance(found, dict) or cast("dict[str, Any]", found).get("format") != FORMAT:
        got = str(cast("Any", found))[:60]
        raise InputError(f"{file} is no manifest of this clew", expected=f"format {FORMAT}", got=got)
    manifest = cast("dict[str, Any]", found)
    for wrong in (_differing(manifest, _MANIFEST, ""), _inconsistent(manifest)):
        if (first := next(wrong, None)) is not None:
            where, expected, got = first
            raise InputError(f"{file} was changed: {where}", expected=expected, got=_short(got), todo=todo)
    return manifest


def _once(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """An object, whose names are there once: of several `json` would keep the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"{twice!r} is there twice")
    return found


def _short(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}…"


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
    return [f"{name}: there {a.get(name, 'nothing')}, asked for {b.get(name, 'nothing')}" for name in names]

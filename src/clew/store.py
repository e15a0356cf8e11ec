"""A run in a folder: rows as Parquet shards, what they belong to as a JSON manifest; whole at any moment."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from .files import write
from .shapes import ClewError, InputError, optional_import
from .work import Shard

FORMAT = 1
MANIFEST = "manifest.json"
# What a run that is to go on must share with the one that began.
IDENTITY = (
    "format", "benchmark", "version", "protocol", "model", "data", "methods", "method_hashes", "seed", "batch_size",
    "shard_size", "versions",
)  # fmt: skip

_FIXED = {"example": "string", "method": "string", "error": "string", "target": "string", "checks": "string"}


class Store:
    """The folder of one run, open for writing by one process at a time."""

    def __init__(self, path: Path, manifest: Mapping[str, Any]) -> None:
        """Begin a run, or go on with it.

        Raises `InputError` for a folder with another run, with what differs, and where one is writing just now.
        """
        self.path = path
        self._lock: Any = None
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ClewError(f"cannot write to {path}", got=error, todo="choose another folder: out=…") from error
        strangers = [p.name for p in path.iterdir() if not p.name.startswith(".")]
        if strangers and MANIFEST not in strangers:
            got = ", ".join(sorted(strangers)[:5])
            raise InputError(f"{path} is in use", expected="an empty folder, or one with a run", got=got)
        self.lock()
        wanted: dict[str, Any] = json.loads(json.dumps(manifest))
        if (path / MANIFEST).exists():
            self.manifest: dict[str, Any] = read_manifest(path)
            different = differences(self.manifest, wanted)
            if different:
                self.close()
                raise InputError(
                    f"{path} holds another run" + "".join(f"\n    {line}" for line in different),
                    expected="the run that began there",
                    todo="choose another folder: out=…; or ask for the same",
                )
        else:
            self.manifest = {**wanted, "shards": {}, "complete": False}
            self._save()

    def lock(self) -> None:
        """Raises `InputError` where another process has it."""
        try:
            import fcntl
        except ImportError:  # Windows
            return
        self._lock = open(self.path / ".lock", "w")  # noqa: SIM115
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.close()
            raise InputError(
                f"another process is writing to {self.path}", expected="one at a time", todo="wait for it, or stop it"
            ) from error

    def close(self) -> None:
        """Let others write."""
        if self._lock is not None:
            self._lock.close()

    def done(self) -> set[int]:
        """Shards that are there, whole; one that is torn or gone counts as not done."""
        found: set[int] = set()
        for name, entry in self.manifest["shards"].items():
            file = self.path / name
            if file.is_file() and digest(file) == entry["sha256"]:
                found.add(_index(name))
        return found

    def add(self, index: int, shard: Shard, columns: Sequence[str], more: Sequence[str]) -> None:
        """Write one shard, then the manifest that names it.

        Raises `ClewError` where the disk is full; what was written before is kept.
        """
        name = shard_name(index)
        table = table_of(shard.rows, columns, more)
        try:
            write(self.path / name, {".parquet": lambda: parquet(table)})
            self.manifest["shards"][name] = {
                "sha256": digest(self.path / name),
                "rows": len(shard.rows),
                "without numbers": sum(row["error"] is not None for row in shard.rows),
                "seconds": {k: round(v, 4) for k, v in shard.seconds.items()},
                "forwards": shard.forwards,
                "measuring": round(shard.measuring, 4),
                "notes": shard.notes,
            }
            self.manifest["shards"] = dict(sorted(self.manifest["shards"].items()))
            self._save()
        except OSError as error:
            raise self._full(name, error) from error

    def finish(self) -> None:
        """All shards are there."""
        if not self.manifest["complete"]:
            self.manifest["complete"] = True
            self._save()

    def _save(self) -> None:
        text = json.dumps(self.manifest, indent=1, ensure_ascii=False) + "\n"
        try:
            write(self.path / MANIFEST, {".json": lambda: text})
        except OSError as error:
            raise self._full(MANIFEST, error) from error

    def _full(self, name: str, error: OSError) -> ClewError:
        todo = "make room, and run the same again: it goes on from here"
        return ClewError(f"cannot write {self.path / name}", got=error, todo=todo)


def shard_name(index: int) -> str:
    """The file of a shard."""
    return f"part-{index:05d}.parquet"


def _index(name: str) -> int:
    found = re.fullmatch(r"part-(\d+)\.parquet", name)
    return int(found.group(1)) if found else -1


def digest(file: Path) -> str:
    """SHA-256 of a file."""
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def read_manifest(path: Path) -> dict[str, Any]:
    """The manifest of a run. Raises `InputError` where there is none, or none that can be read."""
    file = path / MANIFEST
    if not file.is_file():
        got = "no such folder" if not path.is_dir() else ", ".join(sorted(p.name for p in path.iterdir())[:5])
        todo = "pass the folder that clew bench wrote to"
        raise InputError(f"{path} holds no run", expected=MANIFEST, got=got or "an empty folder", todo=todo)
    try:
        found = json.loads(file.read_text())
    except (ValueError, OSError) as error:
        raise InputError(f"{file} cannot be read", expected="JSON that clew wrote", got=error) from error
    if not isinstance(found, dict) or cast("dict[str, Any]", found).get("format") != FORMAT:
        got = str(cast("Any", found))[:60]
        raise InputError(f"{file} is no manifest of this clew", expected=f"format {FORMAT}", got=got)
    return cast("dict[str, Any]", found)


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


def table_of(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], more: Sequence[str]) -> Any:
    """Rows as a table whose columns depend on the protocol alone; `more` names further explained targets."""
    arrow: Any = optional_import("pyarrow", extra="bench", purpose="store results")
    types: dict[str, Any] = {name: arrow.string() for name in _FIXED}
    types["scores"] = arrow.list_(arrow.float32())
    for what in more:
        types |= {f"target ({what})": arrow.string(), f"scores ({what})": arrow.list_(arrow.float32())}
    for column in columns:
        some = next((row[column] for row in rows if row.get(column) is not None), None)
        # Where all failed the kind of a column is not known, and nulls go with either.
        number = arrow.null() if some is None else arrow.float64()
        types[column] = arrow.list_(number) if isinstance(some, list) else number
    data = {name: arrow.array([row.get(name) for row in rows], type=kind) for name, kind in types.items()}
    return arrow.table(data)


def parquet(table: Any) -> bytes:
    """The bytes of a file; the same table gives the same bytes."""
    arrow: Any = optional_import("pyarrow", extra="bench", purpose="store results")
    kept: Any = optional_import("pyarrow.parquet", extra="bench", purpose="store results")
    sink = arrow.BufferOutputStream()
    kept.write_table(table, sink, compression="zstd")
    return sink.getvalue().to_pybytes()


def read_table(path: Path, shards: Mapping[str, Any]) -> Any:
    """All rows, in the order of the data. Raises `InputError` for a shard that is gone or torn."""
    arrow: Any = optional_import("pyarrow", extra="bench", purpose="read results")
    kept: Any = optional_import("pyarrow.parquet", extra="bench", purpose="read results")
    tables: list[Any] = []
    for name in shards:
        file = path / name
        if not file.is_file() or digest(file) != shards[name]["sha256"]:
            raise InputError(
                f"{file} is {'torn' if file.is_file() else 'gone'}",
                expected="the file that the manifest names",
                todo="run the same again: what is missing is computed",
            )
        tables.append(kept.read_table(file, partitioning=None))
    if not tables:
        raise InputError(f"{path} has no rows yet", expected="at least one shard", todo="run it again: it goes on")
    return arrow.concat_tables(tables, promote_options="permissive")

"""A run in a folder: rows as Parquet shards, what they belong to as a JSON manifest; whole at any moment."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError, optional_import
from ..files import write, write_errors
from .manifest import MANIFEST, differences, read_manifest, shard_name, sizes_of
from .shard import Shard

_FIXED = {"example": "string", "method": "string", "error": "string", "target": "string", "checks": "string"}
_ON = "run the same again: it goes on from here"


class Store:
    """The folder of one run, open for writing by one process at a time."""

    def __init__(self, path: Path, manifest: Mapping[str, Any]) -> None:
        """Begin a run, or go on with it.

        Raises `InputError` for a folder with another run, with what differs, for one that was changed, and where
        another process is writing; `WriteError` for a folder that cannot be written to.
        """
        self.path = path
        self._lock: Any = None
        with write_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            strangers = [p.name for p in path.iterdir() if not p.name.startswith(".")]
        if strangers and MANIFEST not in strangers:
            got = ", ".join(sorted(strangers)[:5])
            raise InputError(f"{path} is in use", expected="an empty folder, or one with a run", got=got)
        self.lock()
        try:
            self.manifest: dict[str, Any] = self._begun(json.loads(json.dumps(manifest)))
        except BaseException:
            self.close()
            raise

    def _begun(self, wanted: dict[str, Any]) -> dict[str, Any]:
        """The manifest that is there, of the run that is wanted, or its beginning."""
        if not (self.path / MANIFEST).exists():
            self.manifest = {**wanted, "shards": {}, "complete": False}
            self._save()
            return self.manifest
        found = read_manifest(self.path)
        if different := differences(found, wanted):
            todo = "choose another folder: out=…, in the shell --out …; or ask for the same"
            more = [name for name in wanted["methods"] if name not in found["methods"]]
            if more and all(line.startswith("methods: ") for line in different):
                todo = (
                    f"run {', '.join(more)} alone into another folder: out=…, in the shell --out …; both share a page "
                )
                todo += (
                    f"and are compared by clew.report(RUN, RUN, out=…), in the shell: clew report {self.path} FOLDER"
                )
            raise InputError(
                f"{self.path} holds another run" + "".join(f"\n    {line}" for line in different),
                expected="the run that began there",
                todo=todo,
            )
        return found

    def lock(self) -> None:
        """Raises `InputError` where another process has it."""
        try:
            import fcntl
        except ImportError:  # Windows
            return
        with write_errors(self.path / ".lock"):
            self._lock = open(self.path / ".lock", "a")  # noqa: SIM115
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                self._lock.close()
                todo = "wait for it, or stop it"
                raise InputError(
                    f"another process is writing to {self.path}", expected="one at a time", todo=todo
                ) from error

    def close(self) -> None:
        """Let others write."""
        if self._lock is not None:
            self._lock.close()

    def done(self, ids: Sequence[str]) -> set[int]:
        """Shards that are there, whole; one that is torn or gone counts as not done.

        `ids` are those of all examples. Raises `InputError` for a shard that holds other rows than the run has there.
        """
        found: set[int] = set()
        start = 0
        for k, size in enumerate(sizes_of(self.manifest)):
            name = shard_name(k)
            entry = self.manifest["shards"].get(name)
            if entry is not None and is_whole(self.path / name, entry):
                rows = read_shard(self.path / name, self.manifest["methods"], size)
                got = rows.column("example").to_pylist()[:: len(self.manifest["methods"])]
                if got != list(ids[start : start + size]):
                    i = next(i for i, one in enumerate(got) if one != ids[start + i])
                    raise _others(
                        self.path / name,
                        f"example {ids[start + i]!r} in row {i * len(self.manifest['methods'])}",
                        repr(got[i]),
                    )
                found.add(k)
            start += size
        return found

    def add(self, index: int, shard: Shard, columns: Sequence[str], more: Sequence[str]) -> None:
        """Write one shard, then the manifest that names it.

        Raises `WriteError` where the disk is full; what was written before is kept.
        """
        name = shard_name(index)
        content = parquet(table_of(shard.rows, columns, more))
        write(self.path / name, {".parquet": lambda: content}, then=_ON)
        self.manifest["shards"][name] = {
            "sha256": hashlib.sha256(content).hexdigest(),
            "rows": len(shard.rows),
            "without numbers": sum(row["error"] is not None for row in shard.rows),
            "seconds": {k: round(v, 4) for k, v in shard.seconds.items()},
            "forwards": shard.forwards,
            **({"cost": {k: round(v, 3) for k, v in shard.cost.items()}} if shard.cost else {}),
            "measuring": round(shard.measuring, 4),
            "notes": shard.notes,
        }
        self.manifest["shards"] = dict(sorted(self.manifest["shards"].items()))
        self._save()

    def finish(self) -> None:
        """All shards are there."""
        if not self.manifest["complete"]:
            self.manifest["complete"] = True
            self._save()

    def _save(self) -> None:
        text = json.dumps(self.manifest, indent=1, ensure_ascii=False) + "\n"
        write(self.path / MANIFEST, {".json": lambda: text}, then=_ON)


def is_whole(file: Path, entry: Mapping[str, Any]) -> bool:
    """Whether a shard is there as its manifest names it. Raises `InputError` for a link out of the folder."""
    if file.is_symlink() and file.resolve().parent != file.parent.resolve():
        todo = "put the file itself there, or remove the link and run the same again"
        raise InputError(
            f"{file} leads out of the folder", expected="a file", got=f"a link to {file.resolve()}", todo=todo
        )
    if not file.is_file():
        return False
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest() == entry["sha256"]


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


def read_shard(file: Path, methods: Sequence[str], examples: int) -> Any:
    """The rows of a shard, method by method for each of so many examples. Raises `InputError` for others."""
    arrow: Any = optional_import("pyarrow", extra="bench", purpose="read results")
    kept: Any = optional_import("pyarrow.parquet", extra="bench", purpose="read results")
    try:
        table = kept.read_table(file, partitioning=None)
    except (arrow.ArrowException, OSError) as error:
        raise _others(file, "a Parquet file that clew wrote", error) from error
    kinds = {name: _kind(table, name) for name in (*_FIXED, "scores")}
    if wrong := {name: kind for name, kind in kinds.items() if kind != _FIXED.get(name, "float")}:
        raise _others(file, f"columns of texts ({', '.join(_FIXED)}), and scores", wrong)
    if table.column("method").to_pylist() != list(methods) * examples:
        raise _others(file, f"rows of {examples} examples by {', '.join(methods)}", f"{table.num_rows} others")
    names = table.column("example").to_pylist()
    if any(name != names[i - i % len(methods)] for i, name in enumerate(names)):
        raise _others(file, "the methods of one example after the other", "examples mixed up")
    return table


def _kind(table: Any, name: str) -> str:
    """What a column, or the lists in it, hold."""
    kind = table.schema.field(name).type if name in table.column_names else "nothing"
    return str(getattr(kind, "value_type", kind))


def _others(file: Path, expected: str, got: object) -> InputError:
    todo = "remove that file, and run the same again: it is computed anew"
    return InputError(f"{file} holds other rows than its run", expected=expected, got=got, todo=todo)


def read_table(path: Path, manifest: Mapping[str, Any], columns: Sequence[str]) -> Any:
    """All rows, in the order of the data, of a protocol that has those `columns`.

    Raises `InputError` for a shard that is gone, torn, or of other rows than the run's.
    """
    arrow: Any = optional_import("pyarrow", extra="bench", purpose="read results")
    tables: list[Any] = []
    for name, size in zip(map(shard_name, range(len(sizes_of(manifest)))), sizes_of(manifest), strict=True):
        file = path / name
        if name not in manifest["shards"]:
            continue
        if not is_whole(file, manifest["shards"][name]):
            raise InputError(
                f"{file} is {'torn' if file.is_file() else 'gone'}",
                expected="the file that the manifest names",
                todo="run the same again: what is missing is computed",
            )
        tables.append(read_shard(file, manifest["methods"], size))
    if not tables:
        raise InputError(f"{path} has no rows yet", expected="at least one shard", todo="run it again: it goes on")
    try:
        table = arrow.concat_tables(tables, promote_options="permissive")
    except arrow.ArrowException as error:
        raise _others(path, "the same columns in every shard", error) from error
    names = table.column("example").to_pylist()[:: len(manifest["methods"])]
    if len(set(names)) < len(names):
        twice = next(name for i, name in enumerate(names) if name in names[:i])
        raise _others(path, "each example once", f"{twice!r} twice")
    if wrong := {name: kind for name in columns if (kind := _kind(table, name)) not in ("double", "null")}:
        raise _others(path, "columns of numbers", wrong)
    return table

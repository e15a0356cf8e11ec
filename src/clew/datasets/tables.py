"""Tables: csv, tsv, jsonl, json and Parquet as rows of named values."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Sequence
from typing import Any, cast

from ..errors import InputError, NoSplit, OptionError, optional_import
from ..files import parsed
from .places import Files

Row = dict[str, Any]
SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
_ROWS_PER_BYTE = 8
_PIECE = re.compile(r"-(\d+)-of-(\d+)(-[0-9a-f]{16})?(?=\.)")  # the Hub once wrote a checksum behind it


def table_names(files: Files, suffixes: Sequence[str] = SUFFIXES) -> list[str]:
    """The names of tables among some files."""
    return files.ending(*suffixes)


def split_names(files: Files, split: str | None, suffixes: Sequence[str] = SUFFIXES) -> list[str]:
    """The tables of a split ("test"), or of several ("train+test"): those that have its name in theirs.

    A split may lie in pieces (`test-00000-of-00002.parquet`). Without a split there must be one table. Raises
    `OptionError` where there is none, or several that are no pieces of one; `InputError` where pieces are missing.
    """
    tables = table_names(files, suffixes)
    if split is None:
        return _one(files, tables, "")
    found: list[str] = []
    for part in split.split("+"):
        named = re.compile(rf"(?<![a-z]){re.escape(part.strip().lower())}(?![a-z])")
        found += _one(files, [t for t in tables if named.search(t.rpartition("/")[2].lower())], f" for split {part!r}")
    return found


def _one(files: Files, names: list[str], what: str) -> list[str]:
    if len({_PIECE.sub(r"-of-\2", name) for name in names}) == 1:
        piece = _PIECE.search(names[0])
        if piece and len(names) < int(piece[2]) and files.path.name != names[0]:  # but a piece may be asked for by path
            raise InputError(
                f"{files.path} lacks pieces of a table{what}",
                expected=f"{int(piece[2])} pieces",
                got=", ".join(names[:8]),
                todo="fetch the others, or pass the path of one of them",
            )
        return names
    shown = ", ".join((names or table_names(files))[:8]) or "none at all"
    raise (NoSplit if what and not names else OptionError)(
        f"{files.path} has {'several tables' if names else 'no table'}{what}",
        expected="one table (csv, tsv, jsonl, json or parquet)",
        got=shown,
        todo="pass the path of one of them, or split=…",
    )


def read_rows(
    files: Files,
    name: str,
    *,
    encoding: str = "utf-8",
    columns: Sequence[str] | None = None,
    longest: int | None = None,
) -> list[Row]:
    """The rows of a table, or the `longest` first of them. `columns` names those of a csv or tsv without a header.

    A csv quotes as spreadsheets do; a tsv does not quote at all. Raises `InputError`, with the line, for what cannot be
    read.
    """
    suffix = "." + name.lower().rpartition(".")[2]
    if suffix == ".parquet":
        return _parquet(files, name, longest)
    text = files.text(name, encoding)
    if suffix == ".json":
        rows = _json(text, files.where(name))
        if not isinstance(rows, list):
            raise InputError(
                f"{files.where(name)} is no table",
                expected="a list of objects",
                got=type(rows).__name__,
                todo="write it as [{…}, {…}], or as jsonl with an object on each line",
            )
        return _filled([_object(row, files.where(name), i) for i, row in enumerate(cast("list[Any]", rows)[:longest])])
    if suffix == ".jsonl":
        # Not `splitlines`: a JSON string may hold U+2028, which it takes for the end of a line.
        lines = [(i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip()][:longest]
        where = files.where(name)
        return _filled([_object(_json(line, f"{where}, line {i}"), where, i) for i, line in lines])
    return _separated(text, files.where(name), suffix, columns, longest)


def columns_of(files: Files, name: str) -> set[str]:
    """The names of a table's columns, from its first row; empty where it cannot be read."""
    try:
        return {column for row in read_rows(files, name, longest=1) for column in row}
    except InputError:
        return set()


def column(rows: Sequence[Row], wanted: str | None, usual: Sequence[str], what: str, where: str) -> str | None:
    """A column: the one that is `wanted`, else the first `usual` one that there is.

    Raises `OptionError` where the wanted one is not there.
    """
    have = list(rows[0]) if rows else []
    if wanted is not None and wanted not in have:
        raise OptionError(
            f"{where} has no column {wanted!r}",
            expected=f"a column for {what}",
            got=", ".join(map(str, have)) or "no rows",
            todo="name one that is there",
        )
    return wanted if wanted is not None else next((name for name in usual if name in have), None)


def _separated(text: str, where: str, suffix: str, columns: Sequence[str] | None, longest: int | None) -> list[Row]:
    style: dict[str, Any] = (
        {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if suffix == ".tsv" else {"delimiter": ",", "strict": True}
    )
    table = csv.DictReader(io.StringIO(text, newline=""), fieldnames=columns, **style)
    rows: list[Row] = []
    old = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # whole articles are longer than the usual limit
    try:
        for row in table:
            if None in row or None in row.values():
                raise InputError(
                    f"{where}, line {table.line_num}: a row of another length",
                    expected=f"columns {', '.join(table.fieldnames or ())}",
                    got=[v for v in row.values() if v is not None],
                    todo="name the columns, if there is no header: columns=…",
                )
            rows.append(cast(Row, row))
            if longest is not None and len(rows) >= longest:
                break
    except csv.Error as error:
        raise InputError(
            f"{where}, line {table.reader.line_num}: this cannot be read",
            expected=f"a {suffix[1:]} table",
            got=error,
            todo="mend its quotes, or fetch it again",
        ) from error
    finally:
        csv.field_size_limit(old)
    return rows


def _parquet(files: Files, name: str, longest: int | None) -> list[Row]:
    arrow = optional_import("pyarrow", extra="bench", purpose="read Parquet")
    parquet = optional_import("pyarrow.parquet", extra="bench", purpose="read Parquet")
    try:
        data = files.read(name)
        table = parquet.ParquetFile(arrow.BufferReader(data))
        rows = table.metadata.num_rows
        if rows > _ROWS_PER_BYTE * len(data):  # one value, said a billion times
            raise InputError(
                f"{files.where(name)} unfolds to far more rows than it can hold texts or pictures",
                expected=f"at most {_ROWS_PER_BYTE} rows for each byte",
                got=f"{rows:,} rows in {len(data):,} bytes",
                todo="fetch the file again, from a source that you trust",
            )
        if longest is None:
            return table.read().to_pylist()
        return next((batch.to_pylist() for batch in table.iter_batches(batch_size=longest)), [])
    except (arrow.ArrowException, OSError, ValueError, MemoryError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{files.where(name)} cannot be read", expected="a Parquet file", got=error, todo="fetch the file again"
        ) from error


def _json(text: str, where: str) -> Any:
    try:
        return parsed(text)
    except ValueError as error:
        raise InputError(f"{where} is no JSON", expected="JSON", got=error, todo="fetch the file again") from error


def _filled(rows: list[Row]) -> list[Row]:
    """Objects with the columns of all of them; what an object does not have is None."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    return [row if len(row) == len(names) else {name: row.get(name) for name in names} for row in rows]


def _object(row: Any, where: str, number: int) -> Row:
    if not isinstance(row, dict):
        raise InputError(
            f"{where}, row {number} is no object",
            expected='{"column": value, …}',
            got=type(row).__name__,
            todo="write each row with the names of its columns",
        )
    return cast(Row, row)

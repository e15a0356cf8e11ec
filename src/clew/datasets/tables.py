"""Tables: csv, tsv, jsonl, json and Parquet as rows of named values."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, cast

from ..errors import InputError, NoSplit, OptionError, optional_import
from ..files import parsed
from .places import Files, reading, some

Row = dict[str, Any]
SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
_PIECE = re.compile(r"-(\d+)-of-(\d+)(-[0-9a-f]{16})?(?=\.)")  # the Hub once wrote a checksum behind it


def split_names(files: Files, split: str | None, suffixes: Sequence[str] = SUFFIXES) -> list[str]:
    """The tables of a split ("test"), or of several ("train+test"): those that have its name in theirs.

    A split may lie in pieces (`test-00000-of-00002.parquet`). Without a split there must be one table. Raises
    `OptionError` where there is none, or several that are no pieces of one; `InputError` where pieces are missing.
    """
    tables, found = files.ending(*suffixes), list[str]()
    for part in [None] if split is None else split.split("+"):
        what = "" if part is None else f" for split {part!r}"
        named = re.compile("" if part is None else rf"(?<![a-z]){re.escape(part.strip().lower())}(?![a-z])")
        names = [name for name in tables if named.search(name.rpartition("/")[2].lower())]
        if len({_PIECE.sub(r"-of-\2", name) for name in names}) != 1:
            kind = NoSplit if what and not names else OptionError
            got, todo = some(names or files.ending(*SUFFIXES), 8, "none"), "pass the path of one, or split=…"
            what = f"{files.path} has {'several tables' if names else 'no table'}{what}"
            raise kind(what, expected="one table (csv, tsv, jsonl, json or parquet)", got=got, todo=todo)
        piece = _PIECE.search(names[0])
        if piece and len(names) < int(piece[2]) and files.path.name != names[0]:  # but a piece may be asked for by path
            what, todo = f"{files.path} lacks pieces of a table{what}", "fetch them, or pass the path of one of them"
            raise InputError(what, expected=f"{int(piece[2])} pieces", got=some(names, 8), todo=todo)
        found += names
    return found


def read_rows(files: Files, name: str, *, encoding: str = "utf-8", columns: Sequence[str] | None = None) -> list[Row]:
    """The rows of a table. `columns` names those of a csv or tsv without a header.

    Objects get the columns of all of them: what one does not have is None. A csv quotes as spreadsheets do; a tsv does
    not quote at all. Raises `InputError`, with the line, for what cannot be read.
    """
    found = list(_rows(files, name, encoding, columns))
    names = list(dict.fromkeys(name for row in found for name in row))
    return [row if len(row) == len(names) else {name: row.get(name) for name in names} for row in found]


def columns_of(files: Files, name: str) -> set[str]:
    """The names of a table's columns, from its first row; empty where it cannot be read."""
    try:
        return set(next(_rows(files, name), ()))
    except InputError:
        return set()


def columns(rows: Sequence[Row]) -> list[str]:
    """The names of the columns of rows that all have the same."""
    return list(rows[0]) if rows else []


def column(have: Iterable[str], usual: Sequence[str], where: str, option: str = "", wanted: str | None = None) -> Any:
    """The column that is `wanted`, where it is there, else the first `usual` one or None."""
    names = list(have)
    if wanted is not None and wanted not in names:
        what, got = f"{where} has no column {wanted!r}", f"{option}={wanted!r}"
        raise OptionError(what, expected=some(names, 100, "rows"), got=got, todo="name one that is there")
    return wanted if wanted is not None else next((name for name in usual if name in names), None)


def _rows(files: Files, name: str, encoding: str = "utf-8", columns: Sequence[str] | None = None) -> Iterator[Row]:
    suffix, where = name.lower().rpartition(".")[2], files.where(name)
    if suffix == "parquet":
        return _parquet(files.read(name), where)
    text = files.text(name, encoding)
    return _objects(text, where, suffix) if suffix in ("json", "jsonl") else _separated(text, where, suffix, columns)


def _separated(text: str, where: str, suffix: str, columns: Sequence[str] | None) -> Iterator[Row]:
    style: Any = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if suffix == "tsv" else {"strict": True}
    table = csv.DictReader(io.StringIO(text, newline=""), fieldnames=columns, **style)
    old = csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # whole articles are longer than the usual limit
    try:
        for row in table:
            if None in row or None in row.values():
                what, expected = f"{where}, line {table.line_num}: a row of another length", table.fieldnames or ()
                got = [value for value in row.values() if value is not None]
                todo = "name the columns, if there is no header: columns=…"
                raise InputError(what, expected=f"columns {', '.join(expected)}", got=got, todo=todo)
            yield cast(Row, row)
    except csv.Error as error:
        what, todo = f"{where}, line {table.reader.line_num}: this cannot be read", "mend its quotes, or fetch it again"
        raise InputError(what, expected=f"a {suffix} table", got=error, todo=todo) from error
    finally:
        csv.field_size_limit(old)


def _objects(text: str, where: str, suffix: str) -> Iterator[Row]:
    """The objects in a list or, of a jsonl, one in each line."""
    # Not `splitlines`: a JSON string may hold U+2028, which it takes for the end of a line.
    lines = enumerate(text.split("\n"), 1) if suffix == "jsonl" else [(0, text)]
    for number, line in lines:
        if number and not line.strip():
            continue
        with reading(f"{where}, line {number}" if number else where, "JSON", ValueError, said="is no JSON"):
            value = parsed(line)
        if not number and not isinstance(value, list):
            expected, todo = "a list of objects", "write [{…}, {…}], or as jsonl an object on each line"
            raise InputError(f"{where} is no table", expected=expected, got=type(value).__name__, todo=todo)
        for i, row in [(number, value)] if number else enumerate(value):
            if not isinstance(row, dict):
                what, got = f"{where}, row {i} is no object", type(row).__name__
                todo = "write each row with the names of its columns"
                raise InputError(what, expected='{"column": value, …}', got=got, todo=todo)
            yield cast(Row, row)


def _parquet(data: bytes, where: str) -> Iterator[Row]:
    arrow = optional_import("pyarrow", extra="bench", purpose="read Parquet")
    parquet = optional_import("pyarrow.parquet", extra="bench", purpose="read Parquet")
    with reading(where, "a Parquet file", (arrow.ArrowException, OSError, ValueError, MemoryError)):
        table = parquet.ParquetFile(arrow.BufferReader(data))
        rows = table.metadata.num_rows
        if rows > 8 * len(data):  # one value, said a billion times
            what, todo = (
                f"{where} unfolds to more rows than it can hold",
                "fetch it again, from a source that you trust",
            )
            got = f"{rows:,} rows in {len(data):,} bytes"
            raise InputError(what, expected="at most 8 rows for each byte", got=got, todo=todo)
        for batch in table.iter_batches(batch_size=2**12):
            yield from batch.to_pylist()

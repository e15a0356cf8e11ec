"""Tables of scores, and what files of them hold: CSV, data frames, arrays and JSON. Knows columns, no results."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from typing import Any, cast

import numpy as np
from torch import Tensor

from ..errors import optional_import
from ..files import parsed, without_halves

Columns = dict[str, list[Any]]  # of equal lengths, by name

JSON_FORMAT, JSON_VERSION = "clew-attribution", 1


def numbers(values: Tensor) -> list[Any]:
    """The entries of a tensor in a row, as Python's own numbers, to the last bit."""
    flat = values.detach().cpu().flatten()
    return (flat.double() if flat.is_floating_point() else flat).tolist()


def stacked(parts: Iterable[tuple[Mapping[str, Any], Columns]]) -> Columns:
    """Tables one below the other, each behind columns that say the same in all its rows; `score` comes last.

    Where a table lacks a column of the others it has None.
    """
    several = [(dict(same), columns, len(next(iter(columns.values()), []))) for same, columns in parts]
    names = dict.fromkeys(name for same, columns, _ in several for name in (*same, *columns))
    names = [*(name for name in names if name != "score"), "score"]
    found: Columns = {name: [] for name in names}
    for same, columns, count in several:
        for name in names:
            found[name] += columns[name] if name in columns else [same.get(name)] * count
    return found


def csv_of(table: Columns) -> str:
    """CSV with a line of names; numbers to the last bit, nothing where a row has no value."""
    lines = io.StringIO(newline="")
    writer = csv.writer(lines, lineterminator="\n")
    writer.writerow(table)
    writer.writerows(zip(*table.values(), strict=True))
    return lines.getvalue()


def data_frame(table: Columns) -> Any:
    """A data frame of pandas. Raises `MissingDependency` without it."""
    pandas = optional_import("pandas", extra="tables", purpose="make a data frame")
    # Whole numbers and words stay what they are where some rows have none.
    return pandas.DataFrame({k: pandas.array(v) if None in v else v for k, v in table.items()})


def npy_of(values: np.ndarray) -> bytes:
    """An array as the bytes of an `.npy` file."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    return buffer.getvalue()


# JSON


def plain(value: Any) -> Any:
    """What JSON can say of a value: numbers that are not finite are null, what has no counterpart its `repr`."""
    if isinstance(value, (Tensor, np.ndarray, np.generic)):
        return plain(cast("Any", value).tolist())
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, str):
        return without_halves(value)
    if isinstance(value, Mapping):
        return {without_halves(str(k)): plain(v) for k, v in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in cast("Sequence[Any]", value)]
    return repr(value)


def json_of(document: Mapping[str, Any], *, ascii_only: bool = False) -> str:
    """One line of JSON. `ascii_only` escapes all other letters, for streams whose encoding is not known."""
    return json.dumps(plain(document), ensure_ascii=ascii_only, allow_nan=False) + "\n"


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of what `to_json` writes."""
    return parsed(resources.files(__package__ or "").joinpath("attribution.schema.json").read_text("utf-8"))

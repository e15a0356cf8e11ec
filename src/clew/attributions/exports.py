"""What other programs read of a result: arrays, data frames, CSV and JSON."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from ..errors import OptionError
from ..version import __version__
from . import tables


class Exports(ABC):
    """A result whose scores are told to other programs. What it needs of the result is in `Attribution`."""

    kind: ClassVar[str]
    method: str
    options: Mapping[str, Any]
    score: Tensor
    checks: Mapping[str, Any]
    provenance: Mapping[str, Any]

    @abstractmethod
    def __len__(self) -> int: ...

    @property
    @abstractmethod
    def streams(self) -> Mapping[str, Exports]:
        """The result of each input, by its name."""

    @abstractmethod
    def scored(self, example: int) -> tables.Columns:
        """What one example's scores are of, and last the `score`s themselves: lists of one length, by name."""

    @abstractmethod
    def shares(self) -> Mapping[str, Tensor]:
        """What each stream got of the score."""

    @abstractmethod
    def name_of_target(self, example: int) -> str:
        """What was explained of one example."""

    @abstractmethod
    def to_numpy(self) -> np.ndarray:
        """`scores` as a NumPy array."""

    def table(self, *, inputs: Sequence[str] = ()) -> tables.Columns:
        """All scores of all streams, a row each, as lists by name; `inputs` are names of the examples."""
        streams, named = self.streams, self._named(inputs)
        totals = tables.numbers(self.score)
        rows = [(i, name, part) for i in range(len(self)) for name, part in streams.items()]
        return tables.stacked(
            (
                {"example": i, **named[i], "target": self.name_of_target(i), "target_score": totals[i]}
                | ({"stream": name} if len(streams) > 1 else {}),
                part.scored(i),
            )
            for i, name, part in rows
        )

    def to_dataframe(self, *, inputs: Sequence[str] = ()) -> Any:
        """`table` as a data frame of pandas. Raises `MissingDependency` where pandas is not installed."""
        return tables.data_frame(self.table(inputs=inputs))

    def to_csv(self, *, inputs: Sequence[str] = ()) -> str:
        """`table` as CSV."""
        return tables.csv_of(self.table(inputs=inputs))

    def to_npy(self) -> bytes:
        """`scores` as the bytes of an `.npy` file."""
        return tables.npy_of(self.to_numpy())

    def to_json(self, *, inputs: Sequence[str] = (), ascii_only: bool = False) -> str:
        """Scores, targets and checks as one line of JSON, by `json_schema`; `inputs` are names of the examples.

        `ascii_only` escapes all other letters.
        """
        return tables.json_of(self._document(inputs), ascii_only=ascii_only)

    @staticmethod
    def json_schema() -> dict[str, Any]:
        """The JSON Schema of what `to_json` gives."""
        return tables.json_schema()

    def _document(self, inputs: Sequence[str]) -> dict[str, Any]:
        shares, streams, named = self.shares(), self.streams, self._named(inputs)
        common, each = self._checks()
        examples: list[dict[str, Any]] = []
        for i in range(len(self)):
            found: dict[str, Any] = {**named[i], "target": self.name_of_target(i), "score": self.score[i]}
            found |= {"checks": each[i], "streams": {}}
            for name, part in streams.items():
                own = part._checks() if part.checks is not self.checks else (common, each)
                more = {k: v for k, v in (own[0] | own[1][i]).items() if v != (common | each[i]).get(k)}
                one = {"kind": part.kind, "share": shares[name][i], "columns": part.scored(i)}
                found["streams"][name] = one | ({"checks": more} if more else {})
            examples.append(found)
        return {
            "format": tables.JSON_FORMAT,
            "version": tables.JSON_VERSION,
            "clew": __version__,
            "kind": self.kind,
            "method": self.method,
            "options": self.plain_options(),
            "checks": common,
            "provenance": self.provenance,
            "examples": examples,
        }

    def _named(self, inputs: Sequence[str]) -> list[dict[str, str]]:
        """What each example's input is called, where that is told."""
        if inputs and len(inputs) != len(self):
            raise OptionError("inputs are names of the examples", expected=f"{len(self)} names", got=f"{len(inputs)}")
        return [{"input": name} for name in inputs] or [{}] * len(self)

    def _checks(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """What was verified about all examples, and about each."""
        own = {k for k, v in self.checks.items() if isinstance(v, Tensor) and v.ndim and len(v) == len(self)}
        each = {k: tables.plain(self.checks[k]) for k in own}
        common = {k: tables.plain(v) for k, v in self.checks.items() if k not in own}
        return common, [{k: each[k][i] for k in self.checks if k in own} for i in range(len(self))]

    def plain_options(self) -> dict[str, Any]:
        """Options of the method; what files cannot say as it looks."""
        return {k: v if _is_plain(v) else repr(v) for k, v in self.options.items()}

    def writers(self) -> dict[str, Any]:
        """What makes the content of a file, by suffix."""
        return {".csv": self.to_csv, ".json": self.to_json, ".npy": self.to_npy}

    def named_writers(self, inputs: Sequence[str]) -> dict[str, Any]:
        """`writers` that tell what the examples' inputs are called, where the file has a place for it."""
        named = {".csv": partial(self.to_csv, inputs=inputs), ".json": partial(self.to_json, inputs=inputs)}
        return {**self.writers(), **named}


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))

"""The files of the ERASER benchmark: predictions, annotations and documents are read and checked; rankings written."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO, TextIOWrapper
from itertools import pairwise
from numbers import Integral
from pathlib import Path
from typing import Any, TypeAlias, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import InputError, OptionError, close_matches
from ..files import BROKEN_ZIP, parsed, read_zip_entry, write_all

Row: TypeAlias = Mapping[str, Any]
Rows: TypeAlias = str | Path | Sequence[Row]
Documents: TypeAlias = str | Path | Mapping[str, Sequence[str]]
Key: TypeAlias = tuple[str, str]
Span: TypeAlias = tuple[int, int]

# What the positions of a document are.
VARIANTS = {
    "paper": "tokens, which stand between spaces",
    "beyond_intuition": "characters of the raw text, as in its released code, which reads documents as one string",
}


@dataclass(frozen=True)
class Corpus:
    """What there is to compare, by (annotation, document): spans [start, end) and scores of positions.

    `predicted` and `soft` are None where no prediction has any; `rows` are the predictions, by annotation.
    """

    annotations: dict[str, Row]
    rows: dict[str, Row]
    truth: dict[Key, list[Span]]
    predicted: dict[Key, list[Span]] | None
    soft: dict[Key, NDArray[np.float64]] | None
    lengths: dict[str, int]


def read_corpus(predictions: Rows, annotations: Rows, documents: Documents, variant: str) -> Corpus:
    """Read and check all of it. Raises `InputError` naming what does not fit, `OptionError` for an unknown variant."""
    if variant not in VARIANTS:
        raise OptionError("unknown variant", got=variant, todo=close_matches(variant, VARIANTS))
    annotated = _by_id(read_rows(annotations, "the annotations"), "annotations")
    rows = _by_id(read_rows(predictions, "the predictions"), "predictions")
    if not rows:
        raise InputError("there are no predictions to score", expected="at least one", got=0)
    strangers = [name for name in rows if name not in annotated]
    if strangers:
        raise InputError(
            f"{len(strangers)} of {len(rows)} predictions are of examples that are not annotated",
            got=", ".join(map(repr, strangers[:3])),
            todo="score them against the annotations of the same split; " + close_matches(strangers[0], annotated),
        )
    evidence = [
        (name, piece)
        for name, row in annotated.items()
        for group in cast("list[list[Row]]", row.get("evidences") or [])
        for piece in group
    ]
    marked = [(name, part) for name, row in rows.items() for part in cast("list[Row]", row.get("rationales") or [])]
    keys = [(name, _text(part, "docid", f"the prediction {name!r}")) for name, part in marked]
    for (name, docid), number in Counter(keys).items():
        if number > 1:
            raise InputError(
                f"the prediction {name!r} has {number} entries for {docid!r}", expected="one for a document"
            )
    named = [_text(piece, "docid", f"the annotation {name!r}") for name, piece in evidence] + [key[1] for key in keys]
    lengths = _lengths(documents, dict.fromkeys(named), variant)
    truth: dict[Key, list[Span]] = {}
    for name, piece in evidence:
        span = _span(piece, f"the annotation {name!r}", lengths[piece["docid"]], variant)
        truth.setdefault((name, piece["docid"]), []).append(span)
    parts = [part for _, part in marked]
    hard, soft = (everywhere(parts, f"{kind}_rationale_predictions") for kind in ("hard", "soft"))
    each = [(key, part, lengths[key[1]]) for key, part in zip(keys, parts, strict=True)]
    predicted = {key: _hard(part, key, length, variant) for key, part, length in each} if hard else None
    scores = {key: _soft(part, key, length, variant) for key, part, length in each} if soft else None
    return Corpus(annotated, rows, truth, predicted, scores, lengths)


def everywhere(rows: Sequence[Row], name: str) -> bool:
    """Whether the rows have a field. Raises `InputError` where some have it and others do not."""
    number = sum(row.get(name) is not None for row in rows)
    if 0 < number < len(rows):
        raise InputError(
            f"some predictions have {name!r} and others do not",
            expected="all of them, or none",
            got=f"{number} of {len(rows)}",
            todo="give an empty list where nothing is marked" if name.startswith("hard") else "leave it out of all",
        )
    return number > 0


def _hard(part: Row, key: Key, length: int, variant: str) -> list[Span]:
    where = f"the prediction {key[0]!r} of {key[1]!r}"
    spans = [_span(piece, where, length, variant) for piece in part["hard_rationale_predictions"]]
    ordered = sorted(set(spans))
    empty = [span for span in ordered if span[0] == span[1]]
    crossed = [pair for pair in pairwise(ordered) if pair[1][0] < pair[0][1]]
    if empty or crossed:
        raise InputError(
            f"{where} has spans that " + ("are empty" if empty else "overlap"),
            expected="start_token below end_token" if empty else "spans that are equal or have nothing in common",
            got=empty[0] if empty else " and ".join(map(str, crossed[0])),
        )
    return spans


def _soft(part: Row, key: Key, length: int, variant: str) -> NDArray[np.float64]:
    scores = numbers(part["soft_rationale_predictions"])
    if scores.shape != (length,) or not np.isfinite(scores).all():
        raise InputError(
            f"the soft scores of the prediction {key[0]!r} do not fit the document {key[1]!r}",
            expected=f"{length} finite numbers, one for each of its {VARIANTS[variant]}",
            got=f"shape {scores.shape}, {int((~np.isfinite(scores)).sum())} not finite",
        )
    return scores


def _span(piece: Any, where: str, length: int, variant: str) -> Span:
    names = ("start_token", "end_token")
    start, end = (piece.get(name) if isinstance(piece, Mapping) else None for name in names)
    if not (isinstance(start, Integral) and isinstance(end, Integral) and 0 <= int(start) <= int(end) <= length):
        raise InputError(
            f"{where} has a span outside its document",
            expected=f"0 <= start_token <= end_token <= {length}, counting {VARIANTS[variant]}",
            got=f"start_token={start!r}, end_token={end!r}" if isinstance(piece, Mapping) else repr(piece)[:80],
        )
    return int(start), int(end)


def numbers(values: ArrayLike) -> NDArray[np.float64]:
    """An array of numbers. Raises `InputError` for anything else."""
    try:
        return np.asarray(values, dtype=float)
    except (TypeError, ValueError) as error:
        raise InputError("these are no numbers", expected="an array of them", got=error) from error


def _by_id(rows: Sequence[Row], what: str) -> dict[str, Row]:
    found: dict[str, Row] = {}
    for number, row in enumerate(rows, 1):
        name = _text(row, "annotation_id", f"row {number} of the {what}")
        if name in found:
            raise InputError(f"two {what} have the same annotation_id", expected="one for each", got=repr(name))
        found[name] = row
    return found


def _text(row: Any, name: str, where: str) -> str:
    value = row.get(name) if isinstance(row, Mapping) else None
    if not isinstance(value, str):
        raise InputError(f"{where} lacks {name!r}", expected="a string", got=repr(value)[:80])
    return value


# Reading


def read_rows(source: Rows, what: str) -> list[Row]:
    """Objects from a file with one JSON object per line, or as given. Raises `InputError` naming file and line."""
    if not isinstance(source, (str, Path)):
        return list(source)
    try:
        lines = Path(source).read_text("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        todo = "pass a file with one JSON object per line, or the objects themselves"
        raise InputError(f"{what} cannot be read", expected=str(source), got=error, todo=todo) from error
    found: list[Row] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = parsed(line)
        except ValueError as error:
            raise InputError(f"line {number} of {source} is no JSON", got=error) from error
        if not isinstance(row, dict):
            raise InputError(f"line {number} of {source} is no JSON object", got=line[:80])
        found.append(cast(Row, row))
    return found


def read_documents(source: str | Path, docids: Iterable[str]) -> dict[str, str]:
    """The raw text of documents: from a folder with a file for each, a zip file of such a folder, or a `docs.jsonl`.

    A folder that holds `docs.jsonl`, `docs/` or `docs.zip` stands for it. Raises `InputError` for what is missing.
    """
    path, wanted = Path(source), list(docids)
    try:
        if path.is_dir():
            inner = [path / name for name in ("docs.jsonl", "docs", "docs.zip") if (path / name).exists()]
            if inner:
                return read_documents(inner[0], wanted)
            files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if file.is_file()}
            _all_there(wanted, files, path)
            return {name: files[name].read_text("utf-8") for name in wanted}
        if path.suffix == ".jsonl":
            texts = {row["docid"]: str(row["document"]) for row in read_rows(path, "the documents")}
            _all_there(wanted, texts, path)
            return {name: texts[name] for name in wanted}
        with zipfile.ZipFile(path) as archive:
            members = {name.rpartition("docs/")[2]: name for name in archive.namelist() if not name.endswith("/")}
            _all_there(wanted, members, path)
            found = {name: read_zip_entry(archive, members[name], f"{path}/{name}") for name in wanted}
            return {name: TextIOWrapper(BytesIO(data), "utf-8").read() for name, data in found.items()}
    except (*BROKEN_ZIP, KeyError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            "the documents cannot be read",
            expected="a folder with a file for each, a zip file of it, or lines of JSON with docid and document",
            got=f"{path}: {type(error).__name__}: {error}",
        ) from error


def tokens_of(text: str) -> list[str]:
    """ERASER's tokens of a document: what stands between spaces and the ends of lines."""
    return [token for line in text.split("\n") for token in line.strip().split(" ") if token]


def _lengths(documents: Documents, docids: Iterable[str], variant: str) -> dict[str, int]:
    wanted = list(docids)
    if isinstance(documents, (str, Path)):
        found: Mapping[str, Sequence[str]] = read_documents(documents, wanted)
    else:
        found = documents
        _all_there(wanted, found, "the documents given")
    if variant == "paper":
        return {name: len(tokens_of(d) if isinstance(d := found[name], str) else d) for name in wanted}
    listed = next((name for name in wanted if not isinstance(found[name], str)), None)
    if listed is not None:
        todo = "pass documents as strings, or where their files lie"
        raise OptionError(
            f"variant={variant!r} counts characters", expected="raw text", got="a list of tokens", todo=todo
        )
    return {name: len(found[name]) for name in wanted}


def _all_there(wanted: Sequence[str], known: Iterable[str], place: object) -> None:
    names = set(known)
    missing = [name for name in wanted if name not in names]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(wanted)} documents are missing",
            expected=f"in {place}",
            got=", ".join(map(repr, missing[:3])),
            todo=close_matches(missing[0], names) if names else "there are no documents there at all",
        )


# Writing


def ranking(scores: ArrayLike) -> NDArray[np.intp]:
    """Positions from the largest score to the smallest; of equal scores the earlier comes first.

    Raises `InputError` for scores that are no row of numbers, or NaN.
    """
    values = numbers(scores)
    if values.ndim != 1 or np.isnan(values).any():
        got = f"shape {values.shape}, {int(np.isnan(values).sum())} NaN"
        raise InputError("these scores cannot be ranked", expected="one number for each word", got=got)
    return np.argsort(-values, kind="stable")


def top_k_predictions(
    docid: str, word_scores: ArrayLike, k: int, *, after: Sequence[int] = (), annotation_id: str | None = None
) -> dict[str, Any]:
    """A prediction in ERASER's format: the `k` words with the largest scores (all, if fewer), each a span of one word.

    `after` puts the top words for other numbers before them, as the released code of Beyond Intuition does with each
    smaller one: the same words several times. `annotation_id` is by default the `docid`, as for film reviews.
    Raises `InputError` for scores that are no row of numbers (word,), `OptionError` for a k below 1.
    """
    order = ranking(word_scores).tolist()
    words = [word for number in (*after, k) for word in order[: _at_least_one(number)]]
    spans = [{"start_token": word, "end_token": word + 1} for word in words]
    part = {"docid": docid, "hard_rationale_predictions": spans}
    return {"annotation_id": docid if annotation_id is None else annotation_id, "rationales": [part]}


def write_top_k(
    folder: str | Path,
    word_scores: Mapping[str, ArrayLike],
    ks: Sequence[int] = range(5, 81, 5),
    *,
    variant: str = "paper",
) -> list[Path]:
    """Write `identifier_results_{k}.json` for each k, a line for each document; `word_scores` (word,) are by docid.

    With `variant="beyond_intuition"` the file of a k also has the words of the smaller ones before it. Gives the files,
    in the order of `ks`. Raises what `top_k_predictions` does, `OptionError` for an unknown variant, and `WriteError`
    where a file cannot be written.
    """
    if variant not in VARIANTS:
        raise OptionError("unknown variant", got=variant, todo=close_matches(variant, VARIANTS))
    target, texts = Path(folder), dict[Path, str | bytes]()
    for number, k in enumerate(ks):
        after = ks[:number] if variant == "beyond_intuition" else ()
        lines = [json.dumps(top_k_predictions(name, one, k, after=after)) for name, one in word_scores.items()]
        texts[target / f"identifier_results_{k}.json"] = "".join(f"{line}\n" for line in lines)
    return write_all(texts)


def _at_least_one(k: int) -> int:
    if k < 1:
        raise OptionError("no number of words", expected="at least 1", got=k)
    return k

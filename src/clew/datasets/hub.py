"""Data sets of the Hugging Face Hub, and those that `datasets` saved to a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError, NoSplit, OptionError, optional_import
from . import Dataset, reader
from .choices import COLUMNS, LETTERS, choice_rows
from .labels import Classes, Label, indexed, row_ids
from .pictures import Ignore
from .places import Files
from .rows import ID, LABEL, TEXT, Rows, TextOf


@dataclass(frozen=True)
class _Columns:
    """What a row's columns mean; pictures are bytes, or a path to them."""

    text: str | None
    image: str | None
    mask: str | None
    ignore: Ignore

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = {} if self.text is None else TextOf(self.text)(row)
        for field, column in (("image", self.image), ("mask", self.mask)):
            if column is not None:
                found[field] = _bytes(row[column], column)
        return found if self.mask is None else {**found, "ignore": self.ignore}


def _bytes(value: Any, column: str) -> bytes:
    stored: Any = value if isinstance(value, Mapping) else {}
    if stored.get("bytes"):
        return stored["bytes"]
    try:
        return Path(stored["path"]).read_bytes()
    except (KeyError, TypeError, OSError) as error:
        raise InputError(
            f"the column {column!r} holds no picture",
            expected="its bytes, or a path",
            got=error,
            todo="name the column of the pictures",
        ) from error


@reader(
    "hub",
    what="a data set of the Hugging Face Hub: hf:ORG/NAME",
    get="write hf:ORG/NAME; offline, it must be in the cache of Hugging Face `datasets`",
    prefix="hf:",
)
def hub(
    name: str,
    *,
    config: str | None = None,
    split: str | None = None,
    revision: str | None = None,
    take: int | None = None,
    text: str | None = None,
    label: str | None = None,
    image: str | None = None,
    mask: str | None = None,
    id: str | None = None,
    classes: Classes | None = None,
    ignore: Ignore = "auto",
    keep: Sequence[str] = LETTERS,
) -> Dataset:
    """A data set that Hugging Face `datasets` can load: ORG/NAME, or a folder of data files.

    `config`, `split` ("test", "train+test", "train[:1%]") and `revision` as `datasets.load_dataset` has them. `take`:
    stream the first so many rows instead of downloading everything.
    `text`, `label`, `image`, `mask`, `id`: the columns; by default the first of text, sentence, review, content,
    document; of label, labels, sentiment, class; the first column of pictures; no mask; of id, idx, uid.
    `classes`: names in the order of the model's classes; by default the data set's own. `ignore`: how to read masks, as
    for kind "masks". `keep`: of data with the columns question, choices and answerKey, which become prompts as for
    kind "arc", the right answers of the questions that are kept.

    Needs `datasets`. Raises `InputError` where the data cannot be had, `OptionError` for columns and splits that are
    not there.
    """
    datasets = optional_import("datasets", extra="bench", purpose="load data sets of the Hugging Face Hub")
    try:
        if take is None:
            found = datasets.load_dataset(name, config, split=split, revision=revision, trust_remote_code=False)
        else:
            found = datasets.load_dataset(
                name, config, split=split, revision=revision, streaming=True, trust_remote_code=False
            )
    except Exception as error:  # of many kinds: no network, no such name, no such split, a broken file
        said = str(error).strip().splitlines() or [""]
        raise (NoSplit if "Unknown split" in said[0] else InputError)(
            f"hf:{name} could not be loaded",
            expected="a data set of the Hub, reachable or in the cache, with that config and split",
            got=f"{type(error).__name__}: {said[0]}",
            todo="check name, config and split; offline, pass a folder that save_to_disk wrote elsewhere",
        ) from error
    found = _one_split(found, split, f"hf:{name}")
    if take is not None:
        found = datasets.Dataset.from_list(list(_undecoded(found).take(take)), features=_undecoded(found).features)
    return _examples(f"hf:{name}", found, _Columns(text, image, mask, ignore), label, id, classes, keep)


def _sees(files: Files) -> bool:
    return "dataset_dict.json" in files.names or {"dataset_info.json", "state.json"} <= set(files.names)


@reader(
    "saved",
    what="a folder that Hugging Face `datasets` wrote with save_to_disk",
    get="pass the folder that save_to_disk wrote",
    sees=_sees,
)
def saved(
    files: Files,
    *,
    split: str | None = None,
    text: str | None = None,
    label: str | None = None,
    image: str | None = None,
    mask: str | None = None,
    id: str | None = None,
    classes: Classes | None = None,
    ignore: Ignore = "auto",
    keep: Sequence[str] = LETTERS,
) -> Dataset:
    """A data set that was saved with `save_to_disk`; options as for kind "hub", `split` where several were saved."""
    datasets = optional_import("datasets", extra="bench", purpose="read a folder that it saved")
    try:
        found = datasets.load_from_disk(str(files.path))
    except Exception as error:  # of many kinds, as above
        raise InputError(
            f"{files.path} cannot be read",
            expected="what save_to_disk wrote",
            got=f"{type(error).__name__}: {error}",
            todo="write the folder anew",
        ) from error
    found = _one_split(found, split, str(files.path))
    return _examples(files.path.name, found, _Columns(text, image, mask, ignore), label, id, classes, keep)


def _one_split(found: Any, split: str | None, where: str) -> Any:
    """The table itself: of several splits the one that is asked for, or the only one."""
    if not isinstance(found, Mapping):
        return found
    splits: list[Any] = list(found)
    wanted = split if split is not None else splits[0] if len(splits) == 1 else None
    if wanted not in splits:
        raise NoSplit(
            f"{where} has several splits" if split is None else f"{where} has no split {split!r}",
            expected=", ".join(map(str, splits)),
            got=split or "no split",
            todo="say which: split=…",
        )
    return found[wanted]


def _undecoded(table: Any) -> Any:
    """A table whose pictures stay bytes: they are decoded as all others are, when they are read."""
    datasets = optional_import("datasets", extra="bench", purpose="read pictures from a table")
    for column, feature in (table.features or {}).items():
        if isinstance(feature, datasets.Image):
            table = table.cast_column(column, datasets.Image(decode=False))
    return table


def _examples(
    name: str,
    table: Any,
    asked: _Columns,
    label: str | None,
    id: str | None,
    classes: Classes | None,
    keep: Sequence[str],
) -> Dataset:
    datasets = optional_import("datasets", extra="bench", purpose="read its tables")
    features: Mapping[str, Any] = table.features
    if set(features) >= COLUMNS and asked.text is asked.image is None:
        return choice_rows(name, table, keep)

    def pick(wanted: str | None, usual: Sequence[str], option: str) -> str | None:
        if wanted is not None and wanted not in features:
            raise OptionError(
                f"{name} has no column {wanted!r}",
                expected=", ".join(features),
                got=f"{option}={wanted!r}",
                todo="name one of them",
            )
        return wanted if wanted is not None else next((column for column in usual if column in features), None)

    pictures = [column for column, feature in features.items() if isinstance(feature, datasets.Image)]
    of_image = pick(asked.image, [column for column in pictures if column != asked.mask], "image")
    of_text, of_mask = pick(asked.text, () if of_image else TEXT, "text"), pick(asked.mask, (), "mask")
    of_label, of_id = pick(label, LABEL, "label"), pick(id, ID, "id")
    if of_image is None and of_text is None:
        raise OptionError(
            f"{name} has no column for the text or the image",
            expected=" or ".join(TEXT),
            got=", ".join(features),
            todo="say which: text=… or image=…",
        )
    labels, names = (None, None) if of_label is None else _labels(table, of_label, classes, name)
    ids = None if of_id is None else row_ids(list(table[of_id]))
    made = _Columns(of_text, of_image, of_mask, asked.ignore)
    return Rows(name, _undecoded(table), made, ids=ids, labels=labels, classes=names)


def _labels(table: Any, column: str, classes: Classes | None, name: str) -> tuple[list[Label], Sequence[str] | None]:
    """A column's labels; where it names its classes, by those names. -1 there means that there is no label."""
    values: list[Any] = list(table[column])
    own: Sequence[str] | None = getattr(table.features[column], "names", None)
    if own is None:
        return indexed(values, classes, name)
    named = [own[v] if isinstance(v, int) and v >= 0 else None for v in values]
    return indexed(named, classes if classes is not None else own, name, positions=False)

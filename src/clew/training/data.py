"""Data with labels, divided into what is learned from, what decides when to stop, and what measures the result."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..datasets import Dataset, open_dataset, reader_of
from ..errors import InputError, NoSplit, OptionError, optional_import
from ..validation import validate_float
from .recipes import Task

_NAMES = {"train": ("train", "training"), "validation": ("validation", "val", "dev", "valid"), "test": ("test",)}


@dataclass(frozen=True)
class LabelledSplit:
    """Labelled examples, in order."""

    data: Dataset
    labels: Sequence[int]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class DataSplits:
    """The three parts, the names of the classes, and in words what was held out and left out.

    `content` is a hash of all examples and labels. Where examples have a picture, it is the picture that is classified.
    """

    train: LabelledSplit
    validation: LabelledSplit
    test: LabelledSplit
    classes: tuple[str, ...]
    notes: tuple[str, ...]
    content: str
    is_text: bool


def split_data(
    task: Task,
    source: str | Path | Dataset,
    *,
    validation: str | Path | Dataset | float | None = None,
    test: str | Path | Dataset | float | None = None,
    limit: int | None = None,
    options: Mapping[str, Any] | None = None,
) -> DataSplits:
    """Open data and divide it.

    Parts that the data has of its own are taken: splits of its reader, or folders `train`, `val`, `test`. Those that
    it does not have are held out of the training part. `validation` and `test` are other data, or shares to hold out
    (0 to 1). Examples of the training part that are in the other parts, too, are taken out of it, as those of the
    validation part are that are in the test part; examples without a label are left out.

    Raises `InputError` for data without labels, with one class, or too small to be divided.
    """
    asked = dict(options or {})
    notes: list[str] = []
    whole, own = _own_parts(task, source, asked)
    if whole.classes is not None and not isinstance(source, Dataset):
        asked.setdefault("classes", list(whole.classes))
    shares = {"test": task.test, "validation": task.validation}
    for name, given in (("validation", validation), ("test", test)):
        if isinstance(given, (int, float)):  # held out, whatever the data has of its own
            shares[name] = validate_float(f"the share that is held out for {name}", given)
            own.pop(name, None)
        elif given is not None:
            own[name] = _opened(task, given, asked)
    labelled = {name: _labelled(data, name, notes) for name, data in {"train": whole, **own}.items()}
    labelled = {name: part for name, part in labelled.items() if len(part)}  # labels of test parts may be secret
    labelled, classes = _classes(labelled)
    train = labelled["train"]
    for name, share in shares.items():
        if name == "validation" and limit is not None and limit < len(train):
            notes.append(f"the first {limit} of {len(train)} examples are used for training")
            train = _some(train, range(limit))
        if name not in labelled:
            train, labelled[name] = _held_out(train, share, task, name, len(classes))
            notes.append(f"{name}: {len(labelled[name])} examples ({share:.0%}) are held out of the training part")
    is_text = train.data.read(0).image is None
    parts, content = _disjoint({**labelled, "train": train}, is_text, notes)
    _several_classes(parts["train"], classes)
    return DataSplits(parts["train"], parts["validation"], parts["test"], classes, tuple(notes), content, is_text)


def _opened(task: Task, source: str | Path | Dataset, options: Mapping[str, Any]) -> Dataset:
    if isinstance(source, Dataset):
        return source
    given = dict(options)
    return open_dataset(source, given.pop("kind", task.kind), **given)


def _own_parts(
    task: Task, source: str | Path | Dataset, options: Mapping[str, Any]
) -> tuple[Dataset, dict[str, Dataset]]:
    """The training part, or all there is, and other parts that the data brings."""
    if isinstance(source, Dataset) or "split" in options:
        return _opened(task, source, options), {}
    folders = {name: _folder(source, names) for name, names in _NAMES.items()}
    if folders["train"] is not None:
        train = _opened(task, folders["train"], options)
        named = options if train.classes is None else {"classes": train.classes, **options}
        other = {k: _opened(task, v, named) for k, v in folders.items() if v is not None and k != "train"}
        return train, other
    try:
        train = _split(task, source, options, "train")
    except NoSplit:
        reader, _ = reader_of(str(source), options.get("kind", task.kind))
        if reader.options.get("split") is not None:  # it would open another part, to test with
            raise
        return _opened(task, source, options), {}
    if train.classes is not None:
        options = {"classes": list(train.classes), **options}
    found: dict[str, Dataset] = {}
    for name in ("validation", "test"):
        with suppress(NoSplit):
            found[name] = _split(task, source, options, name)
    return train, found


def _folder(source: str | Path, names: Sequence[str]) -> Path | None:
    return next((p for name in names if (p := Path(source).expanduser() / name).is_dir()), None)


def _split(task: Task, source: str | Path, options: Mapping[str, Any], name: str) -> Dataset:
    """A split by one of its names. Raises `NoSplit` where the data has none, and as `open_dataset` does."""
    reader, _ = reader_of(str(source), options.get("kind", task.kind))
    given = {k: v for k, v in options.items() if k != "classes" or "classes" in reader.options}
    words = _NAMES[name]
    for word in words:
        try:
            return _opened(task, source, {**given, "split": word})
        except NoSplit:
            if word == words[-1]:
                raise
    raise AssertionError("a part has a name")


def _labelled(data: Dataset, name: str, notes: list[str]) -> LabelledSplit:
    """The examples that have a label, by position."""
    places: list[int] = []
    labels: list[int] = []
    for i in range(len(data)):
        label = _label_of(data, i)
        if isinstance(label, int) and label >= 0:
            places.append(i)
            labels.append(label)
    if len(places) < len(data):
        notes.append(f"{name}: {len(data) - len(places)} examples without a label are left out")
    if not places and name == "train":
        raise InputError(
            f"{data.name} has no labels",
            expected="a label for each example: a column, or a folder for each class",
            got="none",
            todo="name the column: data_options={'label': …}, --data-option label=…",
        )
    return LabelledSplit(data.subset(places), labels)


def _label_of(data: Dataset, index: int) -> Any:
    """A label without decoding a picture, where the data can do so."""
    stored = getattr(data, "stored", None)
    return stored(index).get("label") if stored is not None else data.read(index).label


def _classes(parts: Mapping[str, LabelledSplit]) -> tuple[dict[str, LabelledSplit], tuple[str, ...]]:
    """Parts whose labels count the same classes, and their names: those of the training part.

    Numbers without names that do not begin at 0 (1 to 5 stars) become classes in their order.
    """
    own = parts["train"].data.classes
    if own is None:
        numbers = sorted({label for part in parts.values() for label in part.labels})
        at = {number: i for i, number in enumerate(numbers)}
        found = {name: LabelledSplit(part.data, [at[label] for label in part.labels]) for name, part in parts.items()}
        names = tuple(map(str, numbers))
    else:
        names = tuple(own)
        found = {name: _named_as(part, names, name) for name, part in parts.items()}
    _several_classes(found["train"], names)
    return found, names


def _named_as(part: LabelledSplit, names: tuple[str, ...], what: str) -> LabelledSplit:
    """A part with its labels as numbers in `names`."""
    theirs = tuple(part.data.classes) if part.data.classes is not None else names
    strange = sorted({theirs[label] if label < len(theirs) else str(label) for label in part.labels} - set(names))
    if strange:
        raise InputError(
            f"the {what} part has classes that the training part does not have",
            expected=", ".join(names),
            got=", ".join(strange[:5]),
            todo="give all classes by name: data_options={'classes': […]}",
        )
    return part if theirs == names else LabelledSplit(part.data, [names.index(theirs[label]) for label in part.labels])


def _several_classes(train: LabelledSplit, names: Sequence[str]) -> None:
    if len(found := set(train.labels)) < 2:
        raise InputError(
            f"the training part of {train.data.name} has one class only, so there is nothing to learn",
            expected="two classes or more",
            got=", ".join(names[label] for label in found) or "none",
        )


def _key(data: Dataset, index: int, is_text: bool) -> bytes:
    """What makes two examples the same: the words of a text, or the picture file and its label."""
    if not is_text:
        return hashlib.sha256(data.content(index)).digest()
    return hashlib.sha256(" ".join((data.read(index).text or "").split()).encode("utf-8", "surrogatepass")).digest()


def _disjoint(
    parts: Mapping[str, LabelledSplit], is_text: bool, notes: list[str]
) -> tuple[dict[str, LabelledSplit], str]:
    """Parts that share no example: of two the test part keeps it, then the validation part; and a hash of them all."""
    taken: dict[bytes, str] = {}
    found: dict[str, LabelledSplit] = {}
    content = hashlib.sha256()
    for name in ("test", "validation", "train"):
        part = parts[name]
        keys = [_key(part.data, i, is_text) for i in range(len(part))]
        content.update(name.encode() + b"".join(keys) + repr(list(part.labels)).encode())
        kept = [i for i, key in enumerate(keys) if key not in taken]
        for other, count in Counter(taken[key] for key in keys if key in taken).items():
            notes.append(f"{name}: {count} examples are left out that are in the {other} part, too")
        found[name] = _some(part, kept) if len(kept) < len(part) else part
        taken |= {key: name for key in keys if key not in taken}
        if not kept:
            raise InputError(
                f"all examples of the {name} part are in another part, too",
                expected="parts that differ",
                got="none left",
            )
    return found, content.hexdigest()[:16]


def _some(part: LabelledSplit, places: Sequence[int]) -> LabelledSplit:
    return LabelledSplit(part.data.subset(places), [part.labels[i] for i in places])


def _held_out(
    part: LabelledSplit, share: float, task: Task, name: str, classes: int
) -> tuple[LabelledSplit, LabelledSplit]:
    """What is left and what is held out, drawn by scikit-learn."""
    if not 0 < share < 1:
        raise OptionError(f"a share of the data is held out for {name}", expected="above 0, below 1", got=share)
    selection = optional_import("sklearn.model_selection", extra="train", purpose="divide the data")
    counts = Counter(part.labels)
    few = min(counts.values()) < 2 or min(share, 1 - share) * len(part) < classes
    stratify = part.labels if task.stratified and not few else None
    try:
        kept, held = selection.train_test_split(
            range(len(part)), test_size=share, random_state=task.split_seed, stratify=stratify
        )
    except ValueError as error:
        raise InputError(
            f"too few examples to hold some out for {name}", expected="more labelled examples", got=len(part)
        ) from error
    if name == "test":  # the rest stays in its order
        kept = sorted(kept)
    return _some(part, kept), _some(part, held)

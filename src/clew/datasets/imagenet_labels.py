"""The labels of ImageNet's validation pictures, in the forms in which they are passed around."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError, optional_import
from ..files import BROKEN_TAR, SMALL
from ..validation import parse_integer
from .places import FolderFiles, open_files
from .tables import column, read_rows

_TRUTH, _META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
_USUAL = (
    "ILSVRC2012_devkit_t12.tar.gz", "ILSVRC2012_devkit_t12", _TRUTH, "val_map.txt", "LOC_val_solution.csv",
)  # fmt: skip

ByName = dict[str, str | int]


def find_labels(folder: Path) -> Path | None:
    """A file of labels in a folder, by its usual names."""
    return next((folder / name for name in _USUAL if (folder / name).exists()), None)


def validation_labels(source: Path, meta: Path | None) -> tuple[ByName, Sequence[str] | None]:
    """Labels, WordNet ids or indices from 0, by the names of pictures without suffix, in capitals.

    With the devkit, also all WordNet ids in sorted order. Raises `InputError` for a missing file, and for the devkit's
    numbers without its meta.mat.
    """
    if not source.exists():
        raise InputError(f"no labels {source}", expected="a file or the devkit's folder", got="nothing there")
    if source.is_dir() or source.name.lower().endswith(".tar.gz"):
        read = _folder(source) if source.is_dir() else _archive(source)
        return _devkit(read(_TRUTH).decode("utf-8", "replace"), read(_META), source)
    if source.name.startswith(_TRUTH.removesuffix(".txt")):
        meta = meta if meta is not None else source.parent / _META
        if not meta.is_file():
            raise InputError(
                f"{source} numbers classes in the devkit's own way, which is not the order of models",
                expected=f"the devkit's {_META}, which says what the numbers mean",
                got=f"no {meta}",
                todo="pass meta=…, or the whole devkit as labels=…, or a file of WordNet ids or indices from 0",
            )
        return _devkit(_text(source), meta.read_bytes(), source)
    if source.suffix.lower() == ".txt":
        return _lines(source), None
    return _table(source), None


def _devkit(truth: str, meta: bytes, source: Path) -> tuple[ByName, Sequence[str]]:
    """The devkit's numbers, 1 to 1,000, to WordNet ids: meta.mat tells; numbers above are groups of classes."""
    scipy_io = optional_import("scipy.io", extra="bench", purpose="read the ImageNet devkit")
    try:
        synsets: Any = scipy_io.loadmat(io.BytesIO(meta), squeeze_me=True)["synsets"]
        numbers, wnids = synsets["ILSVRC2012_ID"].tolist(), synsets["WNID"].tolist()
        leaves = [children == 0 for children in synsets["num_children"].tolist()]
        of_number = {int(n): str(w) for n, w, leaf in zip(numbers, wnids, leaves, strict=True) if leaf}
    except Exception as error:  # its reader says this and that of what is broken
        raise InputError(f"{_META} of {source} cannot be read", expected="the devkit's meta.mat", got=error) from error
    written = truth.split()
    strange = sorted({n for n in written if parse_integer(n) not in of_number})
    if strange:
        raise InputError(f"{source} has numbers that {_META} does not know", got=", ".join(strange[:5]))
    return _by_number([of_number[int(n)] for n in written]), sorted(of_number.values())


def _lines(source: Path) -> ByName:
    lines = [line.split() for line in _text(source).splitlines() if line.strip()]
    if all(len(line) == 2 for line in lines):
        return {_stem(name): _checked(label, source) for name, label in lines}
    if not all(len(line) == 1 for line in lines):
        raise InputError(
            f"{source} is no list of labels", expected="LABEL, or PICTURE LABEL, on each line", got=" ".join(lines[0])
        )
    return _by_number([_checked(line[0], source) for line in lines])


def _table(source: Path) -> ByName:
    rows = read_rows(open_files(source), source.name)
    of_picture = column(
        rows, None, ("ImageId", "image", "picture", "file", "filename", "id"), "the picture", str(source)
    )
    of_label = column(
        rows, None, ("PredictionString", "wnid", "class_index", "label", "class"), "the class", str(source)
    )
    if of_picture is None or of_label is None:
        raise InputError(
            f"{source} lacks columns",
            expected="ImageId and PredictionString; or image, and wnid or class_index",
            got=", ".join(rows[0]) if rows else "no rows",
        )
    # What follows the class in a PredictionString are boxes.
    first = {str(row[of_picture]): [*str(row[of_label]).split(), ""][0] for row in rows}
    return {_stem(name): _checked(label, source) for name, label in first.items()}


def _by_number(labels: Sequence[str | int]) -> ByName:
    return {f"ILSVRC2012_VAL_{i:08d}": label for i, label in enumerate(labels, 1)}


def _checked(written: str, source: Path) -> str | int:
    if re.fullmatch(r"n\d{8}", written):
        return written
    number = parse_integer(written)
    if number is not None and 0 <= number < 1000:
        return number
    raise InputError(
        f"{source} has a label that is no class",
        expected="a WordNet id (n01440764) or an index from 0 to 999",
        got=written[:40] or "nothing",
        todo="if these are the devkit's numbers, 1 to 1000, pass the devkit itself as labels=…",
    )


def _stem(name: str) -> str:
    return Path(name).stem.upper()


def _text(file: Path) -> str:
    return FolderFiles(file.parent, file.name).text(file.name)


def _small(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """What lies in an archive that is compressed is unpacked even to pass over it."""
    if member.size > SMALL:
        raise ValueError(f"{member.name} of {member.size:,} bytes, where the devkit has none above {SMALL:,}")
    return member


def _folder(folder: Path) -> Callable[[str], bytes]:
    def read(name: str) -> bytes:
        found = [path for path in (folder / name, folder / "data" / name) if path.is_file()]
        if not found:
            raise InputError(
                f"no {name} in {folder}", expected="the folder of the ImageNet devkit", got="nothing there"
            )
        return found[0].read_bytes()

    return read


def _archive(path: Path) -> Callable[[str], bytes]:
    def read(name: str) -> bytes:
        try:
            with tarfile.open(path) as tar:
                member = next((m for m in map(_small, tar) if m.isreg() and m.name.rpartition("/")[2] == name), None)
                stream = tar.extractfile(member) if member is not None else None
                if stream is not None:
                    return stream.read()
        except BROKEN_TAR as error:
            raise InputError(f"{path} cannot be read", expected="the ImageNet devkit", got=error) from error
        raise InputError(f"no {name} in {path}", expected="the ImageNet devkit", got="another archive")

    return read

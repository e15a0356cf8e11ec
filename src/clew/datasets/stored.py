"""Data sets whose pictures and texts stay in their files until they are read."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from . import Dataset, Example
from .content import joined
from .labels import Label
from .pictures import Ignore, object_mask, picture
from .places import Files

Box = tuple[int, int, int, int]


class Stored(Dataset):
    """Examples as stored: their content is that of the files, and pictures are decoded when they are read."""

    @abstractmethod
    def stored(self, index: int) -> dict[str, Any]:
        """Fields of `Example`. `image` and `mask` are bytes of picture files; with a mask may go `ignore`, how to read
        it, and with both `box`, the part (left, top, right, bottom) that the example is."""

    def where(self, index: int) -> str:
        """What an example's picture is called in messages."""
        return f"{self.name}: {self.ids[index]}"

    def content(self, index: int) -> bytes:
        return joined(self.stored(index))

    def read(self, index: int) -> Example:
        fields, where = self.stored(index), self.where(index)
        ignore, box = fields.pop("ignore", "auto"), fields.pop("box", None)
        if fields.get("image") is not None:
            image = fields["image"] = picture(fields["image"], where)
            if fields.get("mask") is not None:
                mask = fields["mask"] = object_mask(fields["mask"], f"the mask of {where}", ignore)
                if mask.shape != (image.height, image.width):
                    raise InputError(
                        f"the mask of {where} has another size than the picture",
                        expected=f"{image.width} x {image.height} pixels",
                        got=f"{mask.shape[1]} x {mask.shape[0]}",
                    )
            if box is not None:
                fields |= _part(fields, box, where)
        return Example(id=self.ids[index], **fields)


def _part(fields: dict[str, Any], box: Box, where: str) -> dict[str, Any]:
    image, (left, top, right, bottom) = fields["image"], box
    if not (0 <= left < right <= image.width and 0 <= top < bottom <= image.height):
        raise InputError(
            f"this crop does not lie in {where}", expected=f"within {image.width} x {image.height} pixels", got=box
        )
    mask = fields.get("mask")
    return {"image": image.crop(box), "mask": None if mask is None else mask[top:bottom, left:right]}


@dataclass(frozen=True)
class Entry:
    """One example in files: their names, the part of the picture that it is, and its label."""

    id: str
    image: str | None = None
    mask: str | None = None
    text: str | None = None
    label: Label = None
    box: Box | None = None


class Entries(Stored):
    """Examples of which each has files of its own. `ignore` says how to read masks, `encoding` how to read texts."""

    def __init__(
        self,
        files: Files,
        entries: Sequence[Entry],
        classes: Sequence[str] | None = None,
        *,
        ignore: Ignore = "auto",
        encoding: str = "utf-8",
    ) -> None:
        self.name, self.classes = files.path.name, classes
        self.ids = [entry.id for entry in entries]
        self._files, self._entries, self._ignore, self._encoding = files, entries, ignore, encoding

    def where(self, index: int) -> str:
        return self._files.where(self._entries[index].image or self.ids[index])

    def stored(self, index: int) -> dict[str, Any]:
        entry = self._entries[index]
        found: dict[str, Any] = {"label": entry.label}
        if entry.text is not None:
            found["text"] = self._files.text(entry.text, self._encoding)
        if entry.image is not None:
            found["image"] = self._files.read(entry.image)
        if entry.mask is not None:
            found |= {"mask": self._files.read(entry.mask), "ignore": self._ignore}
        if entry.box is not None:
            found["box"] = entry.box
        return found

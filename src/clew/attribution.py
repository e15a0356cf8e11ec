"""The result: scores, what was verified about them, and ways to look at and keep them."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as save_tensors
from torch import Tensor

from .page import Cell, page
from .plots import Bars, Panel, Picture, grid
from .shapes import ClewError, LoadError, Pixels, Scores

FORMAT = "clew-attribution-1"


@dataclass(frozen=True)
class Attribution:
    """Scores of one method for a batch of images.

    `all_scores` (batch, token) are signed and never normalised unless asked for; prefix tokens (CLS, registers) come
    first. `patch_grid` is (down, across). `pixels` (batch, height, width) where the method gives pixels; then scores
    are its sums over each patch. `target` names what was explained, `score` is its value, `checks` says what was
    verified about this very result, `options` and `provenance` say how it was made.
    """

    all_scores: Scores
    prefix: int
    patch_grid: tuple[int, int]
    patch_size: tuple[int, int]
    input_size: tuple[int, int]
    method: str
    options: Mapping[str, Any]
    target: Sequence[str]
    score: Tensor
    logits: Tensor | None = None
    pixels: Pixels | None = None
    labels: Sequence[str] | None = None
    checks: Mapping[str, Any] = field(default_factory=dict[str, Any])
    details: Mapping[str, Tensor] = field(default_factory=dict[str, Tensor])
    pictures: Sequence[Picture] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def scores(self) -> Scores:
        """(batch, patch): the scores without prefix tokens, row by row of the patch grid."""
        return self.all_scores[:, self.prefix :]

    def __len__(self) -> int:
        return len(self.all_scores)

    def __getitem__(self, index: int | slice) -> Attribution:
        """One example, or some, as an attribution of its own."""
        chosen = slice(index, index + 1 or None) if isinstance(index, int) else index
        batch = len(self)
        if isinstance(index, int) and not -batch <= index < batch:
            raise IndexError(f"example {index} of {batch}")

        def take(value: Any) -> Any:
            return value[chosen] if isinstance(value, Tensor) and value.ndim and len(value) == batch else value

        return replace(
            self,
            all_scores=self.all_scores[chosen],
            target=self.target[chosen] if len(self.target) == batch else self.target,
            score=take(self.score),
            logits=take(self.logits),
            pixels=take(self.pixels),
            checks={k: take(v) for k, v in self.checks.items()},
            details={k: take(v) for k, v in self.details.items()},
            pictures=self.pictures[chosen],
        )

    @staticmethod
    def concatenate(parts: Sequence[Attribution]) -> Attribution:
        """Results of one method for several batches as one. Raises `ClewError` where the batches do not match."""
        first = parts[0]
        same = ("method", "prefix", "patch_grid", "input_size")
        if any(getattr(p, name) != getattr(first, name) for p in parts for name in same):
            raise ClewError("these results cannot be joined", expected="one method, one input size", got=list(parts))

        def join(values: Sequence[Any], sizes: Sequence[int]) -> Any:
            per_example = all(
                isinstance(v, Tensor) and v.ndim and len(v) == n for v, n in zip(values, sizes, strict=True)
            )
            return torch.cat(list(values)) if per_example else values[0]

        sizes = [len(p) for p in parts]
        return replace(
            first,
            **{k: join([getattr(p, k) for p in parts], sizes) for k in ("all_scores", "score", "logits", "pixels")},
            target=[name for p in parts for name in (p.target if len(p.target) == len(p) else [p.target[0]] * len(p))],
            checks={  # a word of advice may be in some parts only
                k: join([p.checks[k] for p in parts], sizes) if all(k in p.checks for p in parts) else value
                for p in reversed(parts)
                for k, value in p.checks.items()
            },
            details={k: join([p.details[k] for p in parts], sizes) for k in first.details},
            pictures=[picture for p in parts for picture in p.pictures],
        )

    def heatmap(self) -> Pixels:
        """(batch, height, width) in the frame of the model's input: pixels as they are, tokens bilinear."""
        return self.pixels if self.pixels is not None else self._bilinear(self.scores)

    def _bilinear(self, patches: Scores) -> Pixels:
        (rows, columns), (down, across) = self.patch_grid, self.patch_size
        maps = patches.reshape(-1, 1, rows, columns)
        covered = F.interpolate(maps, size=(rows * down, columns * across), mode="bilinear", align_corners=False)
        # A convolution drops what does not fill a patch, and padding adds: keep the frame of the input.
        height, width = self.input_size
        missing = (0, max(0, width - columns * across), 0, max(0, height - rows * down))
        return F.pad(covered, missing, mode="replicate")[:, 0, :height, :width]

    def to_numpy(self) -> np.ndarray:
        """`scores` as a NumPy array."""
        return self.scores.detach().cpu().numpy()

    # Looking

    def panels(self) -> list[Panel]:
        """One overlay per example, for `plots.grid`."""
        heats = _arrays(self.heatmap())
        return [Panel(p, h, self._title(i)) for i, (p, h) in enumerate(zip(self._pictures(), heats, strict=True))]

    def parts(self) -> dict[str, Pixels]:
        """Heatmaps of what the content of the patches got and of what their positions got, (batch, height, width).

        Of LRP methods, with `details=True`; empty otherwise.
        """
        names = [name for name in ("semantic", "position") if name in self.details]
        return {name: self._bilinear(self.details[name][:, self.prefix :]) for name in names}

    def flow(self) -> list[Bars]:
        """Relevance at each stage, from the input to the output, one chart per example; of LRP methods only."""
        if "relevance_by_stage" not in self.checks:
            return []
        names = self.checks["stages"].split(", ")
        return [Bars(names, values, "relevance by stage") for values in self.checks["relevance_by_stage"].tolist()]

    def to_png(self) -> bytes:
        """The overlays of all examples as one PNG; with parts and the flow of relevance where there are any."""
        rows: list[list[Panel | Bars]] = [[panel] for panel in self.panels()]
        for name, heats in self.parts().items():
            for row, picture, heat in zip(rows, self._pictures(), _arrays(heats), strict=True):
                row.append(Panel(picture, heat, f"{name} part"))
        for row, bars in zip(rows, self.flow(), strict=False):
            row.append(bars)
        return grid(rows)

    def to_html(self) -> str:
        """One self-contained HTML page."""
        rows = [[cell] for cell in self.cells()]
        for name, heats in self.parts().items():
            values = self.details[name][:, self.prefix :].tolist()
            for row, heat, scores in zip(rows, _arrays(heats), values, strict=True):
                row.append(replace(row[0], heat=heat, title=f"{name} part", scores=scores, facts={}))
        for row, bars in zip(rows, self.flow(), strict=False):
            row[0] = replace(row[0], chart=bars)
        return page(f"clew: {self.method}", rows)

    def cells(self) -> list[Cell]:
        """One cell per example, for `page.page`."""
        scores = self.scores.detach().float().cpu().tolist()
        return [
            Cell(panel.picture, panel.heat, self.method, self._target(i), scores[i], self.patch_grid, self.facts(i))
            for i, panel in enumerate(self.panels())
        ]

    def facts(self, example: int) -> dict[str, str]:
        """What was explained, verified and chosen, in plain words."""
        facts = {"explained": f"{self._target(example)}, score {float(self.score[example]):.4g}"}
        for name, value in self.checks.items():
            shown = value[example] if isinstance(value, Tensor) and value.ndim else value
            facts[name.replace("_", " ")] = _in_words(shown)
        facts["options"] = ", ".join(f"{k}={v}" for k, v in self.options.items()) or "none"
        return facts | {k: str(v) for k, v in self.provenance.items()}

    def _target(self, example: int) -> str:
        return self.target[example] if len(self.target) == len(self) else self.target[0]

    def _title(self, example: int) -> str:
        return f"{self.method}\n{self._target(example)}"

    def _pictures(self) -> Sequence[Picture]:
        if self.pictures:
            return self.pictures
        height, width = self.input_size
        blank = Picture(np.full((height, width, 3), 128, np.uint8), (0.0, 0.0, float(width), float(height)))
        return [blank] * len(self)

    def _repr_png_(self) -> bytes:
        return self.to_png()

    def __repr__(self) -> str:
        names = ", ".join(self.target[:3]) + (", …" if len(self.target) > 3 else "")
        return f"Attribution({self.method}, {len(self)} examples, {self.scores.shape[1]} patches, target {names})"

    # Keeping

    def save(self, path: str | Path) -> Path:
        """Write `.png`, `.html` or `.safetensors` (read again by `Attribution.load`), whole or not at all."""
        writers = {".png": self.to_png, ".html": self.to_html, ".safetensors": self._to_safetensors}
        return write(path, writers)

    def _to_safetensors(self) -> bytes:
        tensors = {"all_scores": self.all_scores, "score": self.score}
        tensors |= {k: v for k in ("logits", "pixels") if (v := getattr(self, k)) is not None}
        tensors |= {f"details.{k}": v for k, v in self.details.items()}
        tensors |= {f"checks.{k}": v for k, v in self.checks.items() if isinstance(v, Tensor)}
        tensors |= {f"picture.{i}": torch.from_numpy(p.pixels.copy()) for i, p in enumerate(self.pictures)}
        meta = {
            "prefix": self.prefix,
            "patch_grid": self.patch_grid,
            "patch_size": self.patch_size,
            "input_size": self.input_size,
            "method": self.method,
            "options": {k: v if _is_plain(v) else repr(v) for k, v in self.options.items()},
            "target": list(self.target),
            "labels": list(self.labels) if self.labels else None,
            "checks": {k: v for k, v in self.checks.items() if not isinstance(v, Tensor)},
            "boxes": [list(p.box) for p in self.pictures],
            "provenance": dict(self.provenance),
        }
        on_disk = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
        return save_tensors(on_disk, {"format": FORMAT, "attribution": json.dumps(meta)})

    @staticmethod
    def load(path: str | Path) -> Attribution:
        """Read what `save("….safetensors")` wrote. Raises `LoadError` for anything else."""
        try:
            with safe_open(str(path), "pt") as file:  # pyright: ignore[reportUnknownVariableType]
                header: dict[str, str] = file.metadata() or {}
                if header.get("format") != FORMAT:
                    raise LoadError(f"{path} is no attribution", expected=FORMAT, got=header.get("format"))
                tensors: dict[str, Tensor] = {k: file.get_tensor(k) for k in file.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            if isinstance(error, ClewError):
                raise
            raise LoadError(f"{path} cannot be read", expected="a .safetensors file of clew", got=error) from error
        meta = json.loads(header["attribution"])
        boxes = meta.pop("boxes")
        pictures = [Picture(tensors.pop(f"picture.{i}").numpy(), tuple(box)) for i, box in enumerate(boxes)]
        for name in ("patch_grid", "patch_size", "input_size"):
            meta[name] = tuple(meta[name])
        meta["checks"] |= {k[7:]: tensors.pop(k) for k in list(tensors) if k.startswith("checks.")}
        details = {k[8:]: tensors.pop(k) for k in list(tensors) if k.startswith("details.")}
        values: dict[str, Any] = {**meta, **tensors}
        return Attribution(**values, details=details, pictures=pictures)


def compare(attributions: Sequence[Attribution], path: str | Path, *, title: str = "clew") -> Path:
    """Several results for the same inputs side by side, a column each: `.png`, or `.html` with a slider and numbers.

    Raises `ClewError` where they do not hold the same number of examples.
    """
    sizes = {len(a) for a in attributions}
    if len(sizes) != 1:
        raise ClewError(
            "results to compare must hold the same examples", expected="equal batch sizes", got=sorted(sizes)
        )

    def as_png() -> bytes:
        return grid(list(zip(*(a.panels() for a in attributions), strict=True)))

    def as_html() -> str:
        return page(title, list(zip(*(a.cells() for a in attributions), strict=True)))

    return write(path, {".png": as_png, ".html": as_html})


def write(path: str | Path, writers: Mapping[str, Any]) -> Path:
    """Write a file by its suffix, into a neighbour first, so that it is whole or not there."""
    path = Path(path)
    writer = writers.get(path.suffix.lower())
    if writer is None:
        raise ClewError(f"cannot save as {path.name!r}", expected=" or ".join(writers), got=path.suffix or "no suffix")
    content = writer()
    data = content.encode() if isinstance(content, str) else content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise ClewError(f"cannot write {path}", got=error, todo="choose a folder that you may write to") from error
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _arrays(maps: Pixels) -> np.ndarray:
    return maps.detach().float().cpu().numpy()


def _in_words(value: Any) -> str:
    if isinstance(value, Tensor) and value.ndim:
        return ", ".join(f"{v:.3g}" for v in value.flatten().tolist())
    return f"{float(value):.3g}" if isinstance(value, (Tensor, float)) else str(value)


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str))

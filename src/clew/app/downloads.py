"""Files of results: buttons that download them, one file for a result and a zip for several."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..attributions import Attribution, compare
from ..errors import ClewError, WriteError
from ..files import write_all
from .folders import Folders

# What is downloaded, by the end of its button's id: the suffix and what the button says.
_KINDS = {
    "html": ("html", "Page (HTML)"),
    "png": ("png", "Picture (PNG)"),
    "csv": ("csv", "Table (CSV)"),
    "json": ("json", "Data (JSON)"),
    "npy": ("npy", "Scores (NPY)"),
    "numbers": ("safetensors", "Everything (safetensors)"),
}


def kept_results(gr: Any, prefix: str = "") -> tuple[list[Any], Any]:
    """Buttons that download a result, and the Python that makes it; names of elements begin with `prefix`."""
    with gr.Row():
        downloads = [
            gr.DownloadButton(label, interactive=False, size="sm", min_width=110, elem_id=f"{prefix}download-{name}")
            for name, (_, label) in _KINDS.items()
        ]
    with gr.Accordion("Python that does the same", open=False, elem_id=f"{prefix}code"):
        code = gr.Code("", language="python", elem_id=f"{prefix}snippet", interactive=False, show_label=False)
    return downloads, code


def nothing_kept(gr: Any) -> list[Any]:
    """The buttons with nothing behind them."""
    return [gr.update(interactive=False, value=None)] * len(_KINDS)


def written(gr: Any, found: Sequence[Attribution], folders: Folders) -> list[Any]:
    """The buttons with files behind them, in a folder of their own, of which Gradio keeps and serves copies.

    A page and a picture show all results side by side. Of other files there is one for each, in a zip where there are
    several. What a kind of result cannot be written as has no file. Raises `WriteError`.
    """
    if not found:
        return nothing_kept(gr)
    folder = folders.new()
    paths = [_file(found, folder, suffix) for suffix, _ in _KINDS.values()]
    return [gr.update(interactive=p is not None, value=None if p is None else str(p)) for p in paths]


def side_by_side(found: Sequence[Attribution]) -> bool:
    """Whether results can stand in one picture: those of several inputs, tensors and answers are each for itself."""
    return all(one.kind in ("image", "pair", "text") for one in found)


def _file(found: Sequence[Attribution], folder: Path, suffix: str) -> Path | None:
    path = folder / f"clew.{suffix}"
    if suffix in ("html", "png") and side_by_side(found):
        return _if_any(lambda: compare(found, path))
    if len(found) == 1:
        return _if_any(lambda: found[0].save(path))
    each = [(f"{i + 1}-{one.method}.{suffix}", one) for i, one in enumerate(found)]
    return _if_any(lambda: _zipped([one.save(folder / name) for name, one in each], folder / f"clew-{suffix}.zip"))


def _if_any(write: Callable[[], Path]) -> Path | None:
    try:
        return write()
    except WriteError:
        raise
    except ClewError:
        return None


def _zipped(files: Sequence[Path], path: Path) -> Path:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in files:
            archive.writestr(file.name, file.read_bytes())
    return write_all({path: content.getvalue()})[0]

"""The notebooks run from the top, offline, in a folder of their own, and are stored without what they showed."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[2] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
PREFIXES = {"mini", "timm", "hf", "open_clip"}

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


@pytest.fixture
def kernel(tmp_path, monkeypatch):
    """The name of a kernel that runs in this very environment, whatever kernels are installed."""
    folder = tmp_path / "jupyter" / "kernels" / "clew-tests"
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec = {"argv": command, "display_name": "clew", "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    for name in ("config", "runtime", "data"):
        monkeypatch.setenv(f"JUPYTER_{name.upper()}_DIR", str(tmp_path / name))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return folder.name


def read(path):
    return nbformat.read(path, as_version=4)


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_all_are_there():
    assert [path.stem for path in NOTEBOOKS] == ["bert", "clip", "llama", "vit"]


@pytest.mark.sampled(0.5)
@each
def test_it_runs(path, kernel, tmp_path):
    cwd = tmp_path / "work"
    cwd.mkdir()
    notebook = read(path)
    notebook.cells.append(nbformat.v4.new_code_cell("import sys; print(sys.executable)"))
    resources = {"metadata": {"path": str(cwd)}}
    NotebookClient(notebook, timeout=300, startup_timeout=120, kernel_name=kernel, resources=resources).execute()
    *cells, last = code(notebook)
    assert last.outputs[0].text.strip() == sys.executable
    assert not [out for cell in cells for out in cell.outputs if out.output_type == "error"]
    kinds = [{kind for out in cell.outputs for kind in out.get("data", {})} for cell in cells]
    assert sum(bool(found & {"image/png", "text/html"}) for found in kinds) >= 2
    # The last cell looks at what was verified.
    assert cells[-1].source.endswith(".checks") and "non_finite" in cells[-1].outputs[0].data["text/plain"]


@each
def test_it_is_stored_without_outputs(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    ids = [cell.id for cell in notebook.cells]
    assert len(set(ids)) == len(ids)
    for cell in code(notebook):
        assert cell.outputs == [] and cell.execution_count is None and not cell.metadata


@each
def test_it_names_a_bundled_model_and_others_that_can_be_loaded(path):
    first = code(read(path))[0].source
    assert re.search(r'^MODEL\b.*= "mini:', first, re.M)
    comments = " ".join(line.partition("#")[2] for line in first.splitlines())
    named = re.findall(r'"([a-z_]+):[\w./-]+"', comments)
    assert named and set(named) <= PREFIXES

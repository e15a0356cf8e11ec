"""The files that the page gives away: of one result each of them, of several a zip."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import clew
from clew.app.downloads import nothing_kept, written
from clew.app.folders import Folders

gr = SimpleNamespace(update=lambda **more: more)  # gradio itself leaves an event loop behind
ENDS = [".html", ".png", ".csv", ".json", ".npy", ".safetensors"]
INPUTS = {
    "mini:digits": (clew.scenes().images[0], {}),
    "mini:reviews-bert": ("a dull film", {}),
    "mini:digits-clip": (clew.captioned_scenes().images[0], {"target": clew.Similarity(["a two"]), "side": "both"}),
}


def paths_of(updates):
    return [None if one["value"] is None else Path(one["value"]) for one in updates]


@pytest.mark.parametrize("name", list(INPUTS))
def test_of_one_result_there_is_each_file(name, tmp_path):
    given, more = INPUTS[name]
    result = clew.explain(clew.load(name), given, method="raw_attention", **more)
    updates = written(gr, [result], Folders(tmp_path))
    found = paths_of(updates)
    assert [one["interactive"] for one in updates] == [one is not None for one in found]
    assert [f and f.suffix for f in found] == ENDS
    with Image.open(found[1]) as picture:
        assert picture.width > 100
    assert found[2].read_text().count("\n") > 3
    assert json.loads(found[3].read_text())["method"] == "raw_attention"
    assert np.array_equal(clew.Attribution.load(found[5]).all_scores, result.all_scores)
    assert np.array_equal(np.load(found[4]), result.scores)


def test_of_several_results_there_is_a_zip(tmp_path):
    model, text = clew.load("mini:reviews-bert"), "a dull film"
    results = [clew.explain(model, text, method=method) for method in ("raw_attention", "attn_lrp", "attn_lrp")]
    found = paths_of(written(gr, results, Folders(tmp_path)))
    assert [f.suffix for f in found] == [".html", ".png", *[".zip"] * 4]
    for path, end in zip(found[2:], ENDS[2:], strict=True):
        with zipfile.ZipFile(path) as archive:
            assert archive.namelist() == [f"1-raw_attention{end}", f"2-attn_lrp{end}", f"3-attn_lrp{end}"]
            kept = archive.read(f"2-attn_lrp{end}")
        if end == ".npy":
            assert np.array_equal(np.load(io.BytesIO(kept)), results[1].scores)


def test_of_an_answer_there_are_the_same_files(tmp_path):
    source = clew.reversals(1)[0].source
    g = clew.explain_generation(clew.load("mini:reverse"), {"source": source}, max_new_tokens=2)
    assert [f and f.suffix for f in paths_of(written(gr, [g], Folders(tmp_path)))][:4] == ENDS[:4]


def test_without_a_result_there_is_none(tmp_path):
    assert written(gr, [], Folders(tmp_path)) == nothing_kept(gr) and len(nothing_kept(gr)) == len(ENDS)

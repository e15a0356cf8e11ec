"""Results and a run that clew wrote before its files were put into rooms: they open, and say what they said then.

They were written at commit fb7d9c4 from the bundled models and, for `generation`, a tiny random Llama.
"""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import clew

STORED = Path(__file__).parent / "stored"


@pytest.mark.parametrize(
    ("name", "kind", "shape", "total", "method"),
    [
        ("image", "ImageAttribution", (1, 64), 0.6497771111316979, "beyond_intuition_token"),
        ("text", "TextAttribution", (1, 42), 0.21404393651755527, "attn_lrp"),
        ("pair", "PairAttribution", (1, 100), 0.9869522391818464, "raw_attention"),
        ("generation", "GenerationAttribution", (3, 12), 8.756171107757837, "attn_lrp"),
    ],
)
def test_a_result_of_before_opens(name, kind, shape, total, method):
    file = STORED / f"{name}.safetensors"
    script = f"import clew; print(clew.Attribution.load({str(file)!r}).method)"  # all kinds are known from the start
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == method
    result = clew.Attribution.load(file)
    assert (type(result).__name__, tuple(result.scores.shape), result.method) == (kind, shape, method)
    assert float(result.scores.double().sum()) == pytest.approx(total, rel=1e-9)
    assert result.checks["forward_difference"] is not None
    assert result.to_html()


@pytest.mark.parametrize("name", ["image", "text", "pair", "generation"])
def test_a_result_that_was_pickled_before_opens(name):
    """In a process of its own, which has imported no file of clew's: a pickle names them."""
    script = f"import pickle, sys; print(pickle.load(open({str(STORED / name)!r} + '.pickle', 'rb')).method)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    with (STORED / f"{name}.pickle").open("rb") as file:
        found = pickle.load(file)
    saved = clew.Attribution.load(STORED / f"{name}.safetensors")
    assert run.stdout.strip() == found.method == saved.method
    assert type(found) is type(saved) and torch.equal(found.scores, saved.scores)
    assert pickle.loads(pickle.dumps(found)).method == found.method


def test_a_run_of_before_opens_and_reports(tmp_path):
    run = clew.Run(STORED / "run")
    found = {(row["method"], row["metric"]): row["value"] for row in run.summary()}
    assert found["raw_attention", "map"] == pytest.approx(0.9078929987235816)
    assert found["attn_lrp", "miou"] == pytest.approx(0.6772962111628644)
    assert run.report(tmp_path / "report.html")


def test_a_run_of_before_can_be_gone_on_with(tmp_path):
    """What tells its methods apart is what it was then: names of modules may not enter, for they move."""
    run = json.loads((STORED / "run" / "manifest.json").read_text())
    out = tmp_path / "run"
    now = clew.evaluate(
        "segmentation", clew.load("mini:digits"), "mini:digits", methods=["raw_attention", "attn_lrp"], limit=6,
        shard_size=3, out=out, show_progress=False,
    )  # fmt: skip
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["method_hashes"] == run["method_hashes"]
    assert {k: manifest[k] for k in ("benchmark", "version", "protocol", "data", "methods", "shard_size")} == {
        k: run[k] for k in ("benchmark", "version", "protocol", "data", "methods", "shard_size")
    }
    assert now.table.num_rows == 12

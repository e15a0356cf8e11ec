"""LoRA: what was learned beside frozen weights is added to them; all else stays as it was."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from support.labelled_data import table
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import clew
import clew.training.session
from clew.errors import OptionError
from clew.training.data import split_data
from clew.training.finetune import finetune
from clew.training.recipes import TASKS


def quick(source, out, model="mini:reviews-bert", **options):
    """A training of a few steps."""
    usual = {"epochs": 2.0, "batch_size": 8, "before": False, "show_progress": False, "lr": 1e-3}
    return finetune(str(source), model, out=out, **{**usual, **options})


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """Reviews whose classes are a matter of chance."""
    rows = [(r.text, ("good", "bad")[(7 * i) % 10 < 5]) for i, r in enumerate(clew.reviews(40))]
    return table(tmp_path_factory.mktemp("data") / "reviews.csv", rows)


def low_rank(new, old, rank):
    values = torch.linalg.svdvals((new - old).double())
    assert values[0] > 1e-4 and (values[rank:] < 1e-5 * max(1, values[0] * 10)).all(), values[: rank + 2]


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # PEFT asks for it
@pytest.mark.parametrize(
    ("model", "quantize"), [("reviews-llama", None), ("reviews-bert", None), ("reviews-llama", "4bit")]
)
def test_lora_ends_as_a_plain_folder_whose_other_weights_are_as_they_were(
    source, tmp_path, monkeypatch, model, quantize
):
    seen = []
    measure = clew.training.session.Session._measure

    def seeing(self, *asked):
        found = measure(self, *asked)
        seen.append(found[1])
        return found

    monkeypatch.setattr(clew.training.session.Session, "_measure", seeing)
    done = quick(source, tmp_path, f"mini:{model}", lora=2, quantize=quantize, lr=1e-2)
    old = load_file(str(Path(clew.__file__).parent / "minis" / model / "model.safetensors"))
    new = load_file(str(tmp_path / "model.safetensors"))
    assert new.keys() == old.keys()
    linear = {k for k, v in old.items() if v.ndim == 2 and re.search(r"layers?\.\d|pooler", k)}
    head = {k for k in old if re.match("classifier|score", k)}
    for name, value in old.items():
        if name in linear:
            low_rank(new[name], value.float(), 2)
        else:
            assert torch.equal(new[name], value.float()) == (name not in head), name
    parts = split_data(TASKS["text"], source)
    loaded, tokenizer = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval(), AutoTokenizer
    tokens = tokenizer.from_pretrained(tmp_path)
    far = []
    for i, logits in enumerate(seen[-1]):
        with torch.no_grad():
            found = loaded(**tokens(parts.test.data.read(i).text, return_tensors="pt")).logits[0].numpy()
        np.testing.assert_allclose(found, logits, atol=1e-4 if quantize is None else 0.5)
        far.append(np.abs(found - logits).max())
    assert (max(far) > 1e-3) == (quantize is not None)  # weights were packed meanwhile
    assert "peft" in done.facts["versions"] and "| lora | 2 |" in (tmp_path / "README.md").read_text()
    clew.explain(clew.load(tmp_path), "a quiet film")
    assert (tmp_path / "adapter" / "adapter_config.json").is_file()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_what_lora_does_not_go_with(source, tmp_path):
    for options, said in (
        ({"quantize": "4bit"}, "lora=16 beside quantize="), ({"lora": 2, "train": "head"}, "LoRA"),
        ({"lora": 2, "reinit": 1}, "LoRA"), ({"lora": 0}, "1 to 1,024"),
        ({"lora": 2, "quantize": "3bit"}, "4bit or 8bit"),
    ):  # fmt: skip
        with pytest.raises(OptionError, match=said):
            quick(source, tmp_path / f"{len(str(options))}", **options)

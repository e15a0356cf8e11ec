"""Files that are hostile, or broken: a clear error of clew's, in bounded memory; and no code from them runs."""

from __future__ import annotations

import builtins
import json
import os
import shutil
import sys
from pathlib import Path

import pytest
import torch
from support import hostile, tiny_text
from support.bounds import refused
from support.bounds import room as room

import clew
from clew.errors import LoadError
from clew.files.json_files import read_object
from clew.models.model_files import StoredSize, limit_size, stored_size

pytestmark = [pytest.mark.filterwarnings("default"), pytest.mark.usefixtures("untyped")]


@pytest.mark.sampled(0.4)
@pytest.mark.parametrize("name", hostile.MODELS)
def test_configurations(name, tmp_path, room):
    refused(hostile.MODELS[name](tmp_path), fine=name in hostile.FINE)


@pytest.mark.parametrize("name", hostile.WEIGHTS)
def test_weights_and_folders(name, tmp_path, room, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(hostile.WEIGHTS[name](tmp_path), fine=name in hostile.FINE)
    assert not Path("evil-ran").exists()


@pytest.mark.parametrize("name", hostile.OTHERS)
def test_folders_of_timm_and_open_clip(name, tmp_path, room):
    refused(hostile.OTHERS[name](tmp_path), fine=name in hostile.FINE)


def test_what_is_no_plain_object_says_what_it_is(tmp_path):
    (tmp_path / "a.json").write_text("[1]")
    with pytest.raises(LoadError, match="JSON of the kind list"):
        read_object(tmp_path / "a.json")
    with pytest.raises(LoadError, match="no plain file"):
        read_object(tmp_path / "b.json")
    (tmp_path / "c.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    with pytest.raises(LoadError, match="BOM"):
        read_object(tmp_path / "c.json")


# Sizes


def test_a_model_is_stopped_as_soon_as_it_is_larger_than_its_weights():
    made = []

    def layers():
        for _ in range(10_000):
            made.append(torch.nn.Linear(4, 4, device="meta"))

    with pytest.raises(LoadError, match="larger model than its weights"), limit_size(StoredSize(40, 2), "x"):
        layers()
    assert len(made) < 1000
    with pytest.raises(LoadError, match="larger model"), limit_size(StoredSize(40, 2), "x"):
        torch.nn.Linear(10**5, 10**5, device="meta")
    with limit_size(StoredSize(40, 2), "x"):
        torch.nn.Linear(4, 4)
    torch.nn.Linear(10**5, 10**5, device="meta")  # no longer counted


@pytest.mark.parametrize("name", ["bert", "llama", "gpt2", "deberta_v2"])
def test_honest_models_are_not_larger_than_their_weights(name, tmp_path):
    model = tiny_text.build_text(name)
    model.save_pretrained(tmp_path)
    found = stored_size(tmp_path)
    assert found is not None and found.numbers >= sum(p.numel() for p in model.parameters()) / 2


def test_packed_weights_may_hold_more_numbers_than_bytes(tmp_path):
    from safetensors.torch import save_file

    save_file({"a": torch.zeros(8, dtype=torch.uint8), "b": torch.zeros(8)}, tmp_path / "model.safetensors")
    assert stored_size(tmp_path) == StoredSize(64 + 8, 2)


# Code

CODE = "import pathlib\npathlib.Path({mark!r}).write_text('ran')\n"


def with_code(folder: Path, mark: Path, base: str = "reviews-bert", **changes) -> Path:
    """A model whose files name classes in a Python file beside them."""
    hostile.folder_of(base, folder)
    (folder / "evil.py").write_text(CODE.format(mark=str(mark)) + "class Evil:\n    pass\n")
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            said = json.loads((folder / name).read_text())
            kinds = ("AutoConfig", "AutoModelForSequenceClassification", "AutoModelForImageClassification", "AutoModel")
            said["auto_map"] = dict.fromkeys((*kinds, "AutoImageProcessor", "AutoProcessor"), "evil.Evil")
            said["auto_map"]["AutoTokenizer"] = ["evil.Evil", "evil.Evil"]
            (folder / name).write_text(json.dumps(hostile.edited(said, changes.get(name.partition(".")[0], {}))))
    return folder


@pytest.fixture
def nobody(monkeypatch):
    """Nobody answers: to be asked anything is an error that no loader would catch."""

    def asked(*said):
        pytest.exit(f"asked: {said}")

    monkeypatch.setattr(builtins, "input", asked)
    with open(os.devnull) as closed:
        monkeypatch.setattr(sys, "stdin", closed)


NO_CODE = "clew runs no code from model folders"
UNKNOWN = {"config": {"model_type": "evil"}}


def test_no_code_from_folders_runs_and_nothing_is_asked(tmp_path, nobody, caplog):
    mark = tmp_path / "ran"
    known = with_code(tmp_path / "known", mark)
    assert type(clew.load(known).model).__module__.startswith("transformers.")
    pictures = with_code(tmp_path / "pictures", mark, "digits")
    assert clew.load(pictures).preprocess is not None
    unknown = with_code(tmp_path / "unknown", mark, **UNKNOWN)
    for more in ({}, {"trust_remote_code": True}):
        with pytest.raises(LoadError, match=NO_CODE):
            clew.load(unknown, **more)
    for name in (known, "timm:vit_tiny_patch16_224", "open_clip:ViT-B-32/openai", "mini:digits"):
        with pytest.raises(LoadError, match=f"{NO_CODE}|does not take trust"):
            clew.load(name, trust_remote_code=True)
    tokens = with_code(tmp_path / "tokens", mark, **UNKNOWN)
    shutil.copy(hostile.mini("reviews-bert") / "config.json", tokens)
    shutil.copy(hostile.mini("reviews-bert") / "tokenizer_config.json", tokens)
    said = json.loads((tokens / "tokenizer_config.json").read_text())
    said |= {"auto_map": {"AutoTokenizer": ["evil.Evil", None]}, "tokenizer_class": "EvilTokenizer"}
    (tokens / "tokenizer_config.json").write_text(json.dumps(said))
    clew.load(tokens)
    assert not mark.exists()


@pytest.mark.parametrize(("base", "is_text"), [("reviews-bert", True), ("digits", False)])
def test_no_code_runs_where_models_are_trained(base, is_text, tmp_path, nobody):
    from clew.training.models import trainable

    mark = tmp_path / "ran"
    made = trainable(with_code(tmp_path / "known", mark, base), ["a", "b"], is_text=is_text, seed=0)
    assert type(made.model).__module__.startswith("transformers.")
    with pytest.raises(LoadError, match=NO_CODE):
        trainable(with_code(tmp_path / "unknown", mark, base, **UNKNOWN), ["a", "b"], is_text=is_text, seed=0)
    assert not mark.exists()


def test_no_code_runs_for_open_clip(tmp_path, nobody):
    mark = tmp_path / "ran"
    unknown = with_code(tmp_path / "unknown", mark, **UNKNOWN)
    folder = hostile.open_clip_folder(tmp_path / "texts")
    text = {"model_cfg.text_cfg.hf_model_name": str(unknown), "model_cfg.custom_text": True}
    (folder / "open_clip_config.json").write_text(json.dumps(hostile.edited(hostile.OPEN_CLIP, text)))
    with pytest.raises(LoadError, match=NO_CODE):
        clew.load(f"open_clip:local-dir:{folder}")
    # Its tokenizer would be loaded with what the configuration says of trust.
    folder = with_code(hostile.open_clip_folder(tmp_path / "tokens"), mark, **UNKNOWN)
    trusting = {"hf_tokenizer_name": "x", "tokenizer_kwargs": {"trust_remote_code": True}}
    changes = {f"model_cfg.text_cfg.{key}": value for key, value in trusting.items()}
    (folder / "open_clip_config.json").write_text(json.dumps(hostile.edited(hostile.OPEN_CLIP, changes)))
    clew.load(f"open_clip:local-dir:{folder}")
    assert not mark.exists()


@pytest.mark.parametrize("base", ["reviews-bert", "digits", "timm"])
def test_a_training_begins_with_no_absurd_model(base, tmp_path, room):
    """A new head fits every size: without a limit, other sizes would be taken, too, and drawn anew."""
    from clew.training.models import trainable

    if base == "timm":
        folder, changes = hostile.timm_folder(tmp_path / "model"), {"model_args.depth": 5000}
    else:
        folder, changes = hostile.folder_of(base, tmp_path / "model"), {"hidden_size": 10**5, "num_hidden_layers": 9000}
    said = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(hostile.edited(said, changes)))
    with pytest.raises(LoadError, match="larger model than its weights"):
        trainable(folder, ["a", "b"], is_text=base == "reviews-bert", seed=0)


def test_every_loader_says_that_no_code_is_run():
    """A call of transformers that could take code from a folder has `trust_remote_code=False`."""
    import ast

    lacking = []
    for file in Path(clew.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                owner = ast.unparse(node.func.value)
                told = {k.arg: ast.unparse(k.value) for k in node.keywords}
                own = owner in ("peft.PeftModel",) or owner.startswith("transformers.PretrainedConfig")
                if (
                    node.func.attr in ("from_pretrained", "from_config")
                    and not own
                    and told.get("trust_remote_code") != "False"
                ):
                    lacking.append(f"{file.name}:{node.lineno}: {ast.unparse(node)[:80]}")
    assert not lacking


def test_a_hook_that_an_interrupt_left_counts_nothing(monkeypatch):
    """Those of registration are seen by all models of the process."""
    from torch.nn.modules import module as registry

    before = len(registry._global_parameter_registration_hooks)
    monkeypatch.setattr("torch.utils.hooks.RemovableHandle.remove", lambda self: None)
    with limit_size(StoredSize(1, 1), "a model"):
        pass
    monkeypatch.undo()
    try:
        assert len(registry._global_parameter_registration_hooks) == before + 1
        torch.nn.Linear(10**4, 10**4, device="meta")  # 10**8 numbers, more than that model could have
    finally:
        registry._global_parameter_registration_hooks.popitem()
        registry._global_buffer_registration_hooks.popitem()

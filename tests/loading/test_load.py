"""Models and weights in the formats people have; nothing from a file is run, nothing is downloaded here."""

from __future__ import annotations

import argparse
import json
import pickle

import pytest
import torch
from safetensors.torch import save_file
from support import tiny

import clew
from clew.errors import LoadError
from clew.models.checkpoints import read_weights

SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}
NAME = "timm:vit_tiny_patch16_224"


@pytest.fixture
def weights():
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(**SIZES, num_classes=7).state_dict()


def same(model, weights):
    own = model.state_dict()
    return own.keys() == weights.keys() and all(torch.equal(own[k], v) for k, v in weights.items())


@pytest.mark.parametrize("inside", [None, "model", "state_dict", "teacher", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["", "module.", "module.base_encoder.", "backbone."])
def test_checkpoints_as_training_codes_write_them(weights, tmp_path, inside, prefix):
    named = {prefix + k: v for k, v in weights.items()}
    other = {"optimizer": {"lr": 0.1}, "epoch": 3, "args": argparse.Namespace(lr=0.1, name="run")}
    torch.save({inside: named, **other} if inside else named, tmp_path / "a.pth")
    found = clew.load(NAME, checkpoint=tmp_path / "a.pth", **SIZES)
    assert same(found.model, weights)
    assert not found.model.training


def test_moco_keeps_two_encoders_and_the_base_one_counts(weights, tmp_path):
    named = {f"module.momentum_encoder.{k}": v + 1 for k, v in weights.items()}
    named |= {f"module.base_encoder.{k}": v for k, v in weights.items()}
    torch.save({"state_dict": named}, tmp_path / "a.pth")
    found = clew.load(NAME, checkpoint=tmp_path / "a.pth", **SIZES)
    assert same(found.model, weights)


def test_mean_pooling_and_classes_are_read_from_the_checkpoint(weights, tmp_path):
    mae = {f"fc_{k}" if k.startswith("norm.") else k: v for k, v in weights.items()}
    save_file(mae, tmp_path / "mae.safetensors")
    found = clew.load(NAME, checkpoint=tmp_path / "mae.safetensors", **SIZES)
    assert (found.model.global_pool, found.model.num_classes) == ("avg", 7)
    assert clew.explain(found, tiny.images((32, 32)), n_steps=2).scores.shape == (3, 16)


def test_dino_backbone_with_its_linear_head(weights, tmp_path):
    backbone = {k: v for k, v in weights.items() if not k.startswith("head.")}
    torch.save({"teacher": {f"backbone.{k}": v for k, v in backbone.items()}}, tmp_path / "dino.pth")
    head = {"linear.weight": torch.randn(5, 48), "linear.bias": torch.randn(5)}
    torch.save({"state_dict": {f"module.{k}": v for k, v in head.items()}}, tmp_path / "linear.pth")
    files = {"checkpoint": tmp_path / "dino.pth", "linear": tmp_path / "linear.pth"}
    model = clew.load(NAME, **files, **SIZES).model
    x = tiny.images((32, 32)).float()
    tokens = model.backbone.forward_features(x)
    cls, mean = tokens[:, 0], tokens[:, 1:].mean(1)
    interleaved = torch.stack([cls, mean], -1).flatten(1)
    torch.testing.assert_close(model(x), interleaved @ head["linear.weight"].T + head["linear.bias"])
    torch.save({"linear.weight": torch.randn(5, 4 * 24)}, tmp_path / "four.pth")
    with pytest.raises(LoadError, match="n_last_blocks=4"):
        clew.load(NAME, checkpoint=files["checkpoint"], linear=tmp_path / "four.pth", **SIZES)


def test_a_checkpoint_without_a_head_has_no_class_to_explain(weights, tmp_path):
    bare = {f"backbone.{k}": v for k, v in weights.items() if not k.startswith("head.")}
    bare |= {"head.weight": weights["head.weight"], "head.bias": weights["head.bias"]}
    save_file(bare, tmp_path / "a.safetensors")
    with pytest.raises(LoadError, match="no classification head"):
        clew.load(NAME, checkpoint=tmp_path / "a.safetensors", **SIZES)


def test_labels_of_the_named_model_are_not_given_to_another_head(weights, tmp_path, caplog):
    save_file(weights, tmp_path / "a.safetensors")
    found = clew.load(NAME, checkpoint=tmp_path / "a.safetensors", mean=(0.1, 0.2, 0.3), std=(1.0, 1.0, 1.0), **SIZES)
    assert found.labels is None
    assert found.preprocess.mean == (0.1, 0.2, 0.3)
    assert not caplog.records
    clew.load(NAME, checkpoint=tmp_path / "a.safetensors", **SIZES)
    assert "pass mean= and std=" in caplog.text


@pytest.mark.parametrize("arguments", [{"checkpoint": "a.pth"}, {"linear": "a.pth"}, {"img_size": 3}])
def test_arguments_that_a_model_does_not_take_are_refused(arguments):
    with pytest.raises(LoadError, match="does not take " + next(iter(arguments))):
        clew.load("mini:digits", **arguments)
    with pytest.raises(LoadError, match="cannot be held on"):
        clew.load("mini:digits", device="cuda:99")


def test_concatenated_features_on_request():
    backbone = tiny.build("timm_token")
    model = clew.DinoLinear(backbone, 5, interleaved=False).double().eval()
    x = tiny.images((32, 32))
    tokens = backbone.forward_features(x)
    both = torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], -1)
    torch.testing.assert_close(model(x), model.linear(both))


class Evil:
    def __reduce__(self):
        return (print, ("code from a checkpoint ran",))


def test_a_pickle_that_wants_to_run_code_is_refused(weights, tmp_path, capsys):
    torch.save({"model": weights, "args": Evil()}, tmp_path / "a.pth")
    with pytest.raises(LoadError, match="could run code"):
        clew.load(NAME, checkpoint=tmp_path / "a.pth", **SIZES)
    (tmp_path / "b.pth").write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(LoadError, match="a pickle that wants"):
        read_weights(tmp_path / "b.pth")
    assert "ran" not in capsys.readouterr().out


def test_a_hugging_face_folder_with_an_evil_pickle_is_refused(tmp_path, capsys):
    model = tiny.build("hf_vit")
    model.config.save_pretrained(tmp_path)
    torch.save({"a": Evil()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(LoadError, match="could run code"):
        clew.load(tmp_path)
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "cannot be read"), (b"junk junk junk", "cannot be read")],
)
def test_broken_checkpoints(tmp_path, content, message):
    (tmp_path / "a.pth").write_bytes(content)
    with pytest.raises(LoadError, match=message):
        read_weights(tmp_path / "a.pth")
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(LoadError, match="is broken"):
        read_weights(tmp_path / "a.safetensors")
    with pytest.raises(LoadError, match="nothing there"):
        read_weights(tmp_path / "none.pth")
    torch.save({"epoch": 3}, tmp_path / "b.pth")
    with pytest.raises(LoadError, match="holds no weights"):
        read_weights(tmp_path / "b.pth")


def test_weights_under_a_name_of_the_training_codes_own(weights, tmp_path):
    torch.save({"epoch": 3, "net": {f"module.{k}": v for k, v in weights.items()}}, tmp_path / "a.pth")
    found = clew.load(NAME, checkpoint=tmp_path / "a.pth", **SIZES).model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in weights.items())
    torch.save({"raw": weights, "averaged": weights}, tmp_path / "b.pth")
    with pytest.raises(LoadError, match=r"several names(\n.*)*\['raw'\], 'weights.pth'\)"):
        read_weights(tmp_path / "b.pth")


def test_a_file_of_weights_in_the_place_of_a_model():
    for name in ("mine.pth", "folder/mine.safetensors"):
        with pytest.raises(LoadError, match=f"--model timm:NAME --checkpoint {name}"):
            clew.load(name)
    with pytest.raises(LoadError, match="see `clew models`"):
        clew.load("vit")


def test_a_loaded_model_is_printed_in_a_line():
    digits, words = clew.load("mini:digits"), clew.load("mini:reviews-bert")
    many = clew.LoadedModel(digits.model, clew.Preprocess((48, 64)), [f"class {i}" for i in range(5)])
    assert repr(digits) == (
        "LoadedModel('mini:digits', ViTForImageClassification, 10 classes (zero, one, two, …), pictures of 64 × 64)"
    )
    assert (
        repr(words)
        == "LoadedModel('mini:reviews-bert', BertForSequenceClassification, 2 classes (negative, positive), texts)"
    )
    assert "5 classes (class 0, class 1, class 2, …), pictures of 48 × 64 (height × width)" in repr(many)
    assert repr(clew.load("mini:digits-clip")).startswith("LoadedPair('mini:digits-clip', CLIPModel, pictures of ")


def test_weights_that_do_not_fit_say_what_is_wrong(weights, tmp_path):
    del weights["blocks.0.attn.proj.weight"]
    weights["surprise"] = torch.zeros(1)
    weights["pos_embed"] = torch.zeros(1, 3, 24)
    save_file(weights, tmp_path / "a.safetensors")
    with pytest.raises(LoadError, match="do not fit") as caught:
        clew.load(NAME, checkpoint=tmp_path / "a.safetensors", **SIZES)
    for part in ("missing: blocks.0.attn.proj.weight", "unexpected: surprise", "another shape: pos_embed"):
        assert part in str(caught.value)


@pytest.mark.parametrize("suffix", ["model.safetensors", "pytorch_model.bin"])
def test_timm_folders(weights, tmp_path, suffix):
    config = {
        "architecture": "vit_tiny_patch16_224",
        "num_classes": 7,
        "model_args": SIZES,
        "label_names": list("abcdefg"),
        "pretrained_cfg": {"input_size": [3, 32, 32], "mean": [0.1, 0.2, 0.3], "std": [1, 1, 1], "crop_pct": 1.0},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(LoadError, match="has no weights"):
        clew.load(tmp_path)
    save_file(weights, tmp_path / suffix) if suffix.startswith("model") else torch.save(weights, tmp_path / suffix)
    found = clew.load(tmp_path)
    assert same(found.model, weights)
    assert found.labels == list("abcdefg")
    assert (found.preprocess.size, found.preprocess.mean) == ((32, 32), (0.1, 0.2, 0.3))


@pytest.mark.parametrize("kind", ["hf_vit", "hf_deit", "hf_dinov2", "hf_beit"])
def test_hugging_face_folders(tmp_path, kind):
    model = tiny.build(kind).float()
    model.config.id2label = dict(enumerate("vwxyz"))
    model.save_pretrained(tmp_path)
    found = clew.load(tmp_path)
    assert same(found.model, model.state_dict())
    assert found.labels == list("vwxyz")
    x = tiny.images((32, 32)).float()
    assert torch.equal(clew.explain(found, x, n_steps=2).scores, clew.explain(model, x, n_steps=2).scores)
    torch.save({"state_dict": model.state_dict()}, tmp_path / "mine.pth")
    again = clew.load(tmp_path, checkpoint=tmp_path / "mine.pth", labels=list("abcde"))
    assert same(again.model, model.state_dict())
    assert again.labels == list("abcde")


def test_names_that_do_not_exist(tmp_path):
    with pytest.raises(LoadError, match="vit_tiny_patch16_224"):
        clew.load("timm:vit_tinny_patch16_224")
    with pytest.raises(LoadError, match="mini:NAME, timm:NAME"):
        clew.load("resnet50")
    with pytest.raises(LoadError, match="digits"):
        clew.load("mini:digit")
    with pytest.raises(LoadError, match="readable config"):
        clew.load(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(LoadError, match="readable config"):
        clew.load(tmp_path)
    with pytest.raises(LoadError, match="arguments of timm"):
        clew.load("timm:vit_tiny_patch16_224", checkpoint=_empty(tmp_path), colour="red")


def _empty(folder):
    save_file({"head.weight": torch.zeros(2, 2)}, folder / "e.safetensors")
    return folder / "e.safetensors"


@pytest.mark.parametrize("name", ["timm:vit_tiny_patch16_224.augreg_in21k_ft_in1k", "hf:nobody/nothing"])
def test_offline_a_missing_model_is_an_error_that_says_so(name):
    with pytest.raises(LoadError, match="could not be loaded"):
        clew.load(name)


def test_a_download_is_announced(monkeypatch, caplog):
    from huggingface_hub import constants

    from clew.models.hub import announce

    announce("nobody/nothing", "config.json")
    assert not caplog.records
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    announce("nobody/nothing", "config.json")
    assert "downloading nobody/nothing" in caplog.text
    assert str(constants.HF_HUB_CACHE) in caplog.text


def test_imagenet_labels_come_from_timm(tmp_path):
    from timm import create_model

    from clew.loading.timm_models import _timm_labels

    data = __import__("timm.data").data
    model = create_model("vit_tiny_patch16_224", pretrained=False)
    labels = _timm_labels(data, model)
    assert len(labels) == 1000
    assert "goldfish" in labels[1]

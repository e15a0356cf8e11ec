"""Files as somebody hostile, or an accident, would make them: each case writes some and gives what opens them."""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import clew

Case = Callable[[Path], Callable[[], Any]]
HUGE = 10**9
DEEP = b"[" * 100_000
RAW: dict[str, bytes] = {
    "is empty": b"",
    "is null": b"null",
    "is a list": b"[]",
    "is a number": b"3",
    "is a string": b'"x"',
    "is nested deeply": DEEP + b"]" * 100_000,
    "is cut": b'{"model_type": "vi',
    "is not UTF-8": b'{"a": "\xff\xfe"}',
    "is of NULs": bytes(64),
    "has a number of 5,000 digits": b'{"num_labels": ' + b"9" * 5000 + b"}",
    "is far too large": b"{}" + b" " * 2**25,
}
LOST = object()  # a key that is taken out


def mini(name: str) -> Path:
    return Path(str(resources.files("clew").joinpath("minis", name)))


def edited(inner: Any, changes: dict[str, Any]) -> Any:
    """JSON with other values; "a.b" is the key b in a."""
    inner = json.loads(json.dumps(inner))
    for path, value in changes.items():
        *above, last = path.split(".")
        place = inner
        for key in above:
            place = place.setdefault(key, {})
        if value is LOST:
            place.pop(last, None)
        else:
            place[last] = value
    return inner


def folder_of(name: str, folder: Path) -> Path:
    """A copy of a bundled model; its weights are a link."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in mini(name).iterdir():
        if file.suffix == ".json":
            shutil.copy(file, folder / file.name)
    os.symlink(mini(name) / "model.safetensors", folder / "model.safetensors")
    return folder


def used(folder: Path) -> Any:
    """A model that is loaded, and explains something."""
    import numpy as np
    from PIL import Image

    found = clew.load(folder)
    if found.tokenizer is None and getattr(found.model.config, "vocab_size", None) is None:
        picture = Image.fromarray(np.arange(40 * 40 * 3, dtype=np.uint8).reshape(40, 40, 3))
        return clew.explain(found, picture, method="raw_attention", target=0) and found
    return clew.explain(found, ["a good film"], method="raw_attention", target=0) and found


def model(base: str, file: str = "config.json", *, raw: bytes | None = None, **changes: Any) -> Case:
    """A bundled model with one file written anew, or with other values in it."""

    def write(folder: Path) -> Callable[[], Any]:
        folder = folder_of(base, folder / "model")
        place = folder / file
        if raw is None:
            before = json.loads(place.read_text()) if place.is_file() else {}
            place.write_text(json.dumps(edited(before, changes.get("changes", changes))))
        else:
            place.unlink(missing_ok=True)
            place.write_bytes(raw)
        return lambda: clew.load(folder) if base == "digits-clip" else used(folder)

    return write


def values(base: str, some: dict[str, dict[str, Any]], file: str = "config.json") -> dict[str, Case]:
    return {f"{base}, {file}: {name}": model(base, file, changes=changes) for name, changes in some.items()}


def raws(base: str, file: str) -> dict[str, Case]:
    return {f"{base}, {file} {name}": model(base, file, raw=content) for name, content in RAW.items()}


MODELS: dict[str, Case] = {
    **raws("digits", "config.json"),
    **values(
        "digits",
        {
            "hidden size of a billion": {"hidden_size": HUGE},
            "hidden size of ten thousand": {"hidden_size": 10_000},
            "hidden size below 0": {"hidden_size": -64},
            "hidden size 0": {"hidden_size": 0},
            "hidden size is text": {"hidden_size": "64"},
            "hidden size is NaN": {"hidden_size": math.nan},
            "hidden size is null": {"hidden_size": None},
            "hidden size is a list": {"hidden_size": [64]},
            "pictures of ten million": {"image_size": 10**7},
            "pictures below 0": {"image_size": -64},
            "pictures of three sides": {"image_size": [64, 64, 64]},
            "pictures are text": {"image_size": "64"},
            "a billion labels": {"num_labels": HUGE, "id2label": LOST, "label2id": LOST},
            "labels below 0": {"num_labels": -1, "id2label": LOST, "label2id": LOST},
            "labels are text": {"num_labels": "many", "id2label": LOST, "label2id": LOST},
            "a billion layers": {"num_hidden_layers": HUGE},
            "a million layers": {"num_hidden_layers": 10**6},
            "layers are text": {"num_hidden_layers": "6"},
            "layers below 0": {"num_hidden_layers": -6},
            "no patches": {"patch_size": 0},
            "patches below 0": {"patch_size": -8},
            "patches are text": {"patch_size": "8"},
            "patches are NaN": {"patch_size": math.nan},
            "names in a list": {"id2label": ["zero", "one"]},
            "names by words": {"id2label": {"zero": 0}},
            "names are lists": {"id2label": {str(i): [i] for i in range(10)}},
            "names are text": {"id2label": "zero"},
            "a name for number a billion": {"id2label": {"0": "zero", str(HUGE): "x"}},
            "a name below 0": {"id2label": {str(i - 1): f"n{i}" for i in range(10)}},
            "numbers of names are text": {"id2label": LOST, "label2id": {"a": "x"}},
            "no kind": {"model_type": LOST, "architectures": LOST},
            "an unknown kind": {"model_type": "evil"},
            "the kind is a list": {"model_type": ["vit"]},
            "the kind is a number": {"model_type": 5},
            "the class is a number": {"architectures": [5]},
            "the class is an object": {"architectures": {"a": 1}},
            "the class is text": {"architectures": "ViTForImageClassification"},
            "no heads": {"num_attention_heads": 0},
            "heads that do not divide": {"num_attention_heads": 7},
            "heads below 0": {"num_attention_heads": -4},
            "a billion channels": {"num_channels": HUGE},
            "channels are text": {"num_channels": "3"},
            "an inner size of a billion": {"intermediate_size": HUGE},
            "eps is text": {"layer_norm_eps": "small"},
            "an unknown activation": {"hidden_act": "evil"},
            "the activation is a list": {"hidden_act": [1]},
            "an unknown type of numbers": {"dtype": "evil"},
            "the type of numbers is a list": {"dtype": [1]},
            "the problem is a list": {"problem_type": ["x"]},
            "quantised by nonsense": {"quantization_config": {"quant_method": "evil"}},
            "quantised by a number": {"quantization_config": 5},
            "attention of the Hub": {"attn_implementation": "evil/kernel"},
        },
    ),
    **values(
        "reviews-bert",
        {
            "a billion words": {"vocab_size": HUGE},
            "a billion places": {"max_position_embeddings": HUGE},
            "a billion layers": {"num_hidden_layers": HUGE},
            "words are text": {"vocab_size": "many"},
            "words below 0": {"vocab_size": -1},
            "padding beyond the words": {"pad_token_id": HUGE},
            "a task without weights": {"architectures": ["BertForQuestionAnswering"]},
        },
    ),
    **values(
        "reviews-llama",
        {
            "no heads for keys": {"num_key_value_heads": 0},
            "heads of a billion": {"head_dim": HUGE},
            "rotation is text": {"rope_theta": "x", "rope_parameters": LOST},
            "rotation is nonsense": {"rope_scaling": {"type": "evil"}, "rope_parameters": {"rope_type": "evil"}},
            "another kind with a billion layers": {"model_type": "qwen2", "num_hidden_layers": HUGE},
            "a kind with a billion experts": {"model_type": "mixtral", "num_local_experts": HUGE},
        },
    ),
    **values(
        "digits-clip",
        {
            "an image side that is a list": {"vision_config": []},
            "a text side of a billion": {"text_config.hidden_size": HUGE},
            "an image side of a billion layers": {"vision_config.num_hidden_layers": HUGE},
            "an image side of large pictures": {"vision_config.image_size": 10**7},
            "an image side without patches": {"vision_config.patch_size": 0},
            "a shared size of a billion": {"projection_dim": HUGE},
        },
    ),
    **raws("digits", "preprocessor_config.json"),
    **{k: v for k, v in raws("digits-clip", "processor_config.json").items() if "list" in k},
    **{k: v for k, v in raws("reviews-bert", "tokenizer_config.json").items() if "far" not in k},
    **{k: v for k, v in raws("reviews-bert", "special_tokens_map.json").items() if "far" not in k},
    **{k: v for k, v in raws("reviews-bert", "tokenizer.json").items() if "far" not in k},
    **values(
        "digits",
        {
            "a size that is text": {"size": "large"},
            "a size of ten million": {"size": {"height": 10**7, "width": 10**7}},
            "a size of ten thousand": {"size": {"height": 10**4, "width": 10**4}},
            "a size of 0": {"size": {"height": 0, "width": 0}},
            "a size below 0": {"size": {"height": -64, "width": -64}},
            "a size of texts": {"size": {"height": "64", "width": []}},
            "a size that is a list": {"size": [64, 64, 64]},
            "a size that is NaN": {"size": math.nan},
            "an edge of ten million": {"size": {"shortest_edge": 10**7}},
            "a cut of ten million": {"do_center_crop": True, "crop_size": {"height": 10**7, "width": 10**7}},
            "a cut that is text": {"do_center_crop": True, "crop_size": "x"},
            "a cut below 0": {"do_center_crop": True, "crop_size": -3},
            "a mean that is text": {"image_mean": "grey"},
            "a mean of texts": {"image_mean": ["a", "b", "c"]},
            "a mean of seven": {"image_mean": [0.5] * 7},
            "a mean that is NaN": {"image_mean": [math.nan] * 3},
            "no mean": {"image_mean": []},
            "deviations of 0": {"image_std": [0.0, 0.0, 0.0]},
            "a deviation that is an object": {"image_std": {"a": 1}},
            "a factor that is text": {"rescale_factor": "x"},
            "a factor of 0": {"rescale_factor": 0},
            "a factor that is NaN": {"rescale_factor": math.nan},
            "an unknown filter": {"resample": 99},
            "a filter that is text": {"resample": "bicubic"},
            "a filter that is a list": {"resample": [3]},
            "a class that is a list": {"image_processor_type": ["ViTImageProcessor"]},
            "an unknown class": {"image_processor_type": "EvilImageProcessor"},
            "another thing of transformers": {"image_processor_type": "pipeline"},
            "a border of ten million": {"do_pad": True, "pad_size": {"height": 10**7, "width": 10**7}},
        },
        "preprocessor_config.json",
    ),
    **values(
        "reviews-bert",
        {
            "a class that is a list": {"tokenizer_class": ["BertTokenizer"]},
            "an unknown class": {"tokenizer_class": "EvilTokenizer"},
            "tokens that are lists": {"pad_token": ["x"], "cls_token": 5},
            "a longest text that is text": {"model_max_length": "long"},
            "added tokens of nonsense": {"added_tokens_decoder": {"x": 5}},
        },
        "tokenizer_config.json",
    ),
}


def weights(write: Callable[[Path], Any], base: str = "digits") -> Case:
    """A bundled model with other weights."""

    def make(folder: Path) -> Callable[[], Any]:
        folder = folder_of(base, folder / "model")
        (folder / "model.safetensors").unlink()
        write(folder)
        return lambda: clew.load(folder)

    return make


def _cut(folder: Path) -> None:
    whole = (mini("digits") / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


def _header(text: bytes, length: int | None = None) -> Callable[[Path], Any]:
    data = struct.pack("<Q", len(text) if length is None else length) + text
    return lambda folder: (folder / "model.safetensors").write_bytes(data)


def _others(folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    found = load_file(mini("digits") / "model.safetensors")
    save_file({k: v[..., :1].contiguous() for k, v in found.items()}, folder / "model.safetensors", {"format": "pt"})


def _bombed(folder: Path) -> None:
    """Weights of 2 GB in a file of 2 MB, as `torch.save` never writes them."""
    import zipfile

    with zipfile.ZipFile(folder / "pytorch_model.bin", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
        with archive.open("archive/data/0", "w", force_zip64=True) as file:
            for _ in range(16):
                file.write(bytes(2**24))


class Evil:
    """Code in a pickle."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("evil-ran",)


def _pickled(folder: Path) -> None:
    import pickle

    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Evil()}))


def place(write: Callable[[Path], Any]) -> Case:
    """A path that is no plain model folder."""

    def make(folder: Path) -> Callable[[], Any]:
        target = write(folder)
        return lambda: clew.load(target)

    return make


def _a_file(folder: Path) -> Path:
    (folder / "model").write_bytes(b"x")
    return folder / "model"


def _a_loop(folder: Path) -> Path:
    os.symlink(folder / "b", folder / "a")
    os.symlink(folder / "a", folder / "b")
    return folder / "a"


def _in_it(make: Callable[[Path], Any]) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        folder = folder_of("digits", folder / "model")
        (folder / "config.json").unlink()
        make(folder / "config.json")
        return folder

    return write


WEIGHTS: dict[str, Case] = {
    "weights are missing": weights(lambda folder: None),
    "weights are empty": weights(lambda folder: (folder / "model.safetensors").touch()),
    "weights are cut": weights(_cut),
    "weights of other shapes": weights(_others),
    "weights with an absurd header": weights(_header(b"", 2**63 - 1)),
    "weights with a header of 0.5 GB": weights(_header(b"{", 2**29)),
    "weights with a header that is no JSON": weights(_header(b"nothing!")),
    "weights with a header that is nested": weights(_header(DEEP)),
    "weights that lie beyond the file": weights(
        _header(b'{"a":{"dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]}}')
    ),
    "weights with an overflowing shape": weights(
        _header(b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}}')
    ),
    "weights are a folder": weights(lambda folder: (folder / "model.safetensors").mkdir()),
    "an index of weights that is null": weights(
        lambda folder: (folder / "model.safetensors.index.json").write_bytes(b"null")
    ),
    "an index of weights that points elsewhere": weights(
        lambda folder: (folder / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {}, "weight_map": {"a": "../../etc/passwd"}})
        )
    ),
    "weights are a pickle with code": weights(_pickled),
    "weights are an empty pickle": weights(lambda folder: (folder / "pytorch_model.bin").touch()),
    "weights are a bomb": weights(_bombed),
    "the model is a file": place(_a_file),
    "the model is a loop of links": place(_a_loop),
    "the model is an empty folder": place(lambda folder: folder),
    "the model has a very long name": place(lambda folder: str(folder / ("a" * 5000))),
    "the model has a NUL in its name": place(lambda folder: str(folder) + "/a\0b"),
    "the configuration is a folder": place(_in_it(lambda file: file.mkdir())),
    "the configuration is a pipe": place(_in_it(os.mkfifo)),
    "the configuration is a loop": place(_in_it(lambda file: os.symlink(file, file))),
    "the configuration has no end": place(_in_it(lambda file: os.symlink("/dev/zero", file))),
}


def checkpoint(name: str, content: bytes) -> Case:
    """A file of weights beside a known model."""

    def make(folder: Path) -> Callable[[], Any]:
        (folder / name).write_bytes(content)
        return lambda: clew.load(
            "timm:vit_tiny_patch16_224", checkpoint=folder / name, img_size=32, embed_dim=24, depth=1, num_heads=3
        )

    return make


def _bomb_file(folder: Path) -> Callable[[], Any]:
    _bombed(folder)
    return lambda: clew.load("timm:vit_tiny_patch16_224", checkpoint=folder / "pytorch_model.bin")


WEIGHTS |= {
    f"a checkpoint {name}: {said}": checkpoint(name, content)
    for said, content in {"empty": b"", "text": b"hello", "zeros": bytes(100), "absurd": b"\xff" * 100}.items()
    for name in ("a.pth", "a.safetensors")
}
WEIGHTS["a checkpoint that is a bomb"] = _bomb_file


# timm and open_clip

TIMM = {
    "architecture": "vit_tiny_patch16_224", "num_classes": 3, "global_pool": "token",
    "model_args": {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 3},
    "label_names": ["a", "b", "c"],
    "pretrained_cfg": {
        "input_size": [3, 32, 32], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "crop_pct": 0.9,
        "interpolation": "bicubic", "crop_mode": "center",
    },
}  # fmt: skip


def timm_folder(folder: Path) -> Path:
    import timm
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    made = timm.create_model(TIMM["architecture"], num_classes=3, **TIMM["model_args"])
    save_file(made.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(TIMM))
    return folder


def timm_model(changes: dict[str, Any] | None = None, raw: bytes | None = None) -> Case:
    def make(folder: Path) -> Callable[[], Any]:
        folder = timm_folder(folder / "model")
        data = json.dumps(edited(TIMM, changes or {})).encode() if raw is None else raw
        (folder / "config.json").write_bytes(data)
        return lambda: clew.load(folder)

    return make


OPEN_CLIP = {
    "model_cfg": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    },
    "preprocess_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]},
}


def open_clip_folder(folder: Path) -> Path:
    import open_clip
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    made = open_clip.CLIP(**OPEN_CLIP["model_cfg"])
    save_file({k: v.contiguous() for k, v in made.state_dict().items()}, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps(OPEN_CLIP))
    return folder


def open_clip_model(changes: dict[str, Any] | None = None, raw: bytes | None = None) -> Case:
    def make(folder: Path) -> Callable[[], Any]:
        folder = open_clip_folder(folder / "model")
        data = json.dumps(edited(OPEN_CLIP, changes or {})).encode() if raw is None else raw
        (folder / "open_clip_config.json").write_bytes(data)
        return lambda: clew.load(f"open_clip:local-dir:{folder}")

    return make


OTHERS: dict[str, Case] = {
    f"timm: {name}": timm_model(changes)
    for name, changes in {
        "an architecture that is a number": {"architecture": 5},
        "an architecture that is a list": {"architecture": ["vit"]},
        "an unknown architecture": {"architecture": "evil"},
        "the architecture of the Hub": {"architecture": "hf-hub:evil/model"},
        "arguments in a list": {"model_args": [1]},
        "a billion blocks": {"model_args.depth": HUGE},
        "a million blocks": {"model_args.depth": 10**6},
        "a width of a billion": {"model_args.embed_dim": HUGE},
        "a width of ten thousand": {"model_args.embed_dim": 9999},
        "pictures of ten million": {"model_args.img_size": 10**7},
        "no patches": {"model_args.patch_size": 0},
        "an unknown argument": {"model_args.evil": 1},
        "a layer by name": {"model_args.norm_layer": "os.system"},
        "weights from elsewhere": {"model_args.checkpoint_path": "/etc/passwd"},
        "a billion classes": {"num_classes": HUGE},
        "classes below 0": {"num_classes": -1},
        "classes are text": {"num_classes": "three"},
        "pooling by a number": {"global_pool": 5},
        "preparation in a list": {"pretrained_cfg": []},
        "preparation of text": {"pretrained_cfg": "x"},
        "an input of ten million": {
            "model_args.img_size": LOST, "pretrained_cfg.input_size": [3, 10**7, 10**7],
        },
        "an input that is text": {"pretrained_cfg.input_size": "large"},
        "a mean of text": {"pretrained_cfg.mean": ["a"]},
        "a mean that is NaN": {"pretrained_cfg.mean": [math.nan] * 3},
        "a deviation of 0": {"pretrained_cfg.std": [0, 0, 0]},
        "a filter that is a number": {"pretrained_cfg.interpolation": 5},
        "a crop that is NaN": {"pretrained_cfg.crop_pct": math.nan},
        "a crop that is tiny": {"pretrained_cfg.crop_pct": 1e-9},
        "a crop that is text": {"pretrained_cfg.crop_pct": "x"},
        "names that are a number": {"label_names": 5},
        "names that are numbers": {"label_names": [1, 2, 3]},
    }.items()
}  # fmt: skip
OTHERS |= {f"timm: config.json {n}": timm_model(raw=RAW[n]) for n in ("is null", "is a list", "is nested deeply")}
OTHERS |= {
    f"open_clip: {name}": open_clip_model(changes)
    for name, changes in {
        "a model that is a list": {"model_cfg": []},
        "no model": {"model_cfg": LOST},
        "a shared size of a billion": {"model_cfg.embed_dim": HUGE},
        "a billion layers": {"model_cfg.vision_cfg.layers": HUGE},
        "a width of a billion": {"model_cfg.text_cfg.width": HUGE},
        "a billion words": {"model_cfg.text_cfg.vocab_size": HUGE},
        "pictures of ten million": {"model_cfg.vision_cfg.image_size": 10**7},
        "no patches": {"model_cfg.vision_cfg.patch_size": 0},
        "texts are text": {"model_cfg.text_cfg.context_length": "long"},
        "an unknown argument": {"model_cfg.evil": 1},
        "preparation in a list": {"preprocess_cfg": [1]},
        "a mean of text": {"preprocess_cfg.mean": ["a"]},
        "an input of ten million": {"preprocess_cfg.size": 10**7},
        "a filter that is a number": {"preprocess_cfg.interpolation": 5},
    }.items()
}
OTHERS |= {f"open_clip: {n}": open_clip_model(raw=RAW[n]) for n in ("is empty", "is null", "is nested deeply")}

# What is strange, and works all the same.
FINE = {
    "digits, config.json: quantised by nonsense",
    "digits-clip, processor_config.json is a list",
    "digits, preprocessor_config.json: a size that is a list",
    "digits, preprocessor_config.json: a mean of seven",
    "digits, preprocessor_config.json: a filter that is text",
    "digits, preprocessor_config.json: a class that is a list",
    "digits, preprocessor_config.json: an unknown class",
    "reviews-bert, tokenizer_config.json: an unknown class",
    "timm: an input that is text",
    "timm: names that are numbers",
    "open_clip: an input of ten million",
}

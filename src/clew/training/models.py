"""Models to be trained: with a head for the data's classes, frozen in part, and written as `load` reads them."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import LoadError, OptionError, close_matches, optional_import
from ..explaining import longest_text
from ..files import read_object
from ..inputs import Preprocess
from ..loading import (
    MINIS,
    check_size_against_weights,
    configuration,
    hf_preprocess,
    preprocessor_config,
    timm_configuration,
    timm_preprocess,
)
from ..models import block_and_head_names, download_error, dry_build, limit_size, stored_size
from ..seam import never_repacked

logger = logging.getLogger("clew")
_FOLDER = "local-dir:"
_HEADS = ("score", "classifier", "pre_classifier", "classification_head")


class TimmForTrainer(nn.Module):
    """A timm model that takes and gives what transformers' `Trainer` expects."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> dict[str, Tensor]:
        """Logits (batch, class)."""
        return {"logits": self.model(pixel_values)}


@dataclass
class Trainable:
    """A model with a head for some classes, and what belongs to it: `tokenizer`, or `preprocess` for pictures.

    `base` is the name it was made from; `kind` "text", "image" (both of transformers) or "timm".
    """

    model: nn.Module
    kind: str
    base: str
    path: str
    classes: Sequence[str]
    tokenizer: Any = None
    preprocess: Preprocess | None = None

    def longest(self, wanted: int) -> int:
        """How many tokens a text may have: what is wanted, or what the model has positions for."""
        limit = longest_text(self.model, None, self.tokenizer)
        return wanted if limit is None else min(wanted, limit)

    def write(self, folder: Path) -> None:
        """Write the model as a folder that `clew.load` and `from_pretrained` (or timm's `local-dir:`) open."""
        model: Any = self.model.model if isinstance(self.model, TimmForTrainer) else self.model
        if self.kind == "timm":
            models = optional_import("timm.models", extra="timm", purpose="write timm models")
            names = {"label_names": list(self.classes)}
            models.save_for_hf(model, str(folder), model_config=names, safe_serialization=True)
            return
        model.save_pretrained(folder)
        if self.tokenizer is not None:
            self.tokenizer.save_pretrained(folder)
        if self.kind == "image":
            settings = preprocessor_config(self.path)
            (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2) + "\n")


def trainable(
    name: str | Path,
    classes: Sequence[str],
    *,
    is_text: bool,
    seed: int,
    reinit: int = 0,
    train: str = "all",
    quantize: str | None = None,
) -> Trainable:
    """A model by its name as for `clew.load`, with a head for the classes: its own where that has as many, else new.

    `reinit`: so many last blocks, and all above them, are drawn anew (`seed`). `train`: what is not frozen.
    Raises `LoadError` for a model that cannot be had, `OptionError` where a model has fewer blocks.
    """
    torch.manual_seed(seed)
    text = str(name)
    kind, path = _where(text)
    if kind == "timm" and is_text:
        raise LoadError(f"{text} reads no texts", expected="hf:ORG/NAME, mini:NAME or a folder", got=text)
    if kind == "timm":
        if quantize is not None:
            raise OptionError("models of timm are not quantised", expected="no quantize=", got=quantize)
        made, fresh = _timm(text, path, classes)
    else:
        made, fresh = _transformers(text, path, classes, is_text=is_text, quantize=quantize)
    inner: nn.Module = made.model.model if isinstance(made.model, TimmForTrainer) else made.model
    if reinit:
        if quantize is not None:
            raise OptionError("a quantised model cannot begin anew", expected="reinit=0", got=reinit)
        torch.manual_seed(seed)
        _begin_anew(inner, fresh(), reinit)
    freeze(inner, train)
    return made


def freeze(model: nn.Module, train: str) -> None:
    """Freeze what is not trained: `train` is "all", "blocks", "head", or a number of last blocks."""
    if train == "all":
        return
    if train == "head":
        wanted = heads(model)
    else:
        blocks, above = block_and_head_names(model)
        count = len(blocks) if train == "blocks" else int(train)
        if count > len(blocks):
            raise OptionError("the model has fewer blocks", expected=f"at most {len(blocks)}", got=f"train={train}")
        wanted = [*above, *blocks[len(blocks) - count :]]
    if not any(p.requires_grad for name in wanted for p in model.get_submodule(name).parameters()):
        raise OptionError("nothing would be trained", expected="modules with parameters", got=f"train={train}")
    kept = {id(p) for name in wanted for p in model.get_submodule(name).parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(parameter.requires_grad and id(parameter) in kept)


def save_memory(model: Any) -> None:
    """Compute activations again in the backward pass instead of keeping them."""
    inner: Any = model.model if isinstance(model, TimmForTrainer) else model
    if isinstance(model, TimmForTrainer):
        inner.set_grad_checkpointing(True)
        return
    # Its name since transformers 5, and before.
    enable = getattr(inner, "activation_checkpointing_enable", None) or inner.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    if hasattr(inner, "enable_input_require_grads"):
        inner.enable_input_require_grads()  # frozen embeddings give nothing that needs a gradient


def heads(model: Any) -> list[str]:
    """The modules that make logits of features: what transformers puts on its base model, or timm's classifier."""
    if hasattr(model, "get_classifier"):
        classifier = model.get_classifier()
        found = classifier if isinstance(classifier, tuple) else (classifier,)  # distilled models have two
        return [name for name, module in model.named_modules() if any(module is head for head in found)]
    base = getattr(model, "base_model_prefix", "")
    return [name for name, module in model.named_children() if name != base and any(True for _ in module.parameters())]


def _begin_anew(model: nn.Module, fresh: nn.Module, count: int) -> None:
    blocks, above = block_and_head_names(model)
    if count > len(blocks):
        raise OptionError("the model has fewer blocks", expected=f"at most {len(blocks)}", got=f"reinit={count}")
    for name in [*above, *blocks[len(blocks) - count :]]:
        model.get_submodule(name).load_state_dict(fresh.get_submodule(name).state_dict())


def _where(name: str) -> tuple[str, str]:
    """Which library a model is of, and its name or folder there."""
    kind, _, rest = name.partition(":")
    if kind == "mini" and rest:
        if rest not in MINIS:
            raise LoadError(f"no bundled model {rest!r}", got=rest, todo=close_matches(rest, MINIS))
        return "hf", str(resources.files("clew").joinpath("minis", rest))
    if kind in ("hf", "timm") and rest:
        return kind, rest
    config = Path(name) / "config.json"
    if not config.is_file():
        raise LoadError(
            f"no model {name!r} to begin with",
            expected="hf:ORG/NAME, timm:NAME, mini:NAME, or a folder with config.json",
            got=name,
        )
    said = read_object(config, expected="a model folder, with a config.json of timm or of Hugging Face")
    if "architecture" in said:
        timm_configuration(said, config)
        return "timm", f"{_FOLDER}{name}"
    return "hf", name


def _timm(name: str, path: str, classes: Sequence[str]) -> tuple[Trainable, Any]:
    timm = optional_import("timm", extra="timm", purpose="train timm models")
    folder = path.removeprefix(_FOLDER) if path.startswith(_FOLDER) else None
    if folder is None and not timm.is_model(path):
        raise LoadError(f"timm has no model {path!r}", got=path, todo=close_matches(path, timm.list_models()))

    def made(pretrained: bool) -> nn.Module:
        return timm.create_model(path, pretrained=pretrained, num_classes=len(classes))

    try:
        most = stored_size(folder) if folder is not None else None
        dry_build(lambda: made(False), most, path)
        with limit_size(most, path):
            model: Any = made(True)
    except LoadError:
        raise
    except Exception as error:
        raise download_error(name, error) from error
    preprocess = timm_preprocess(model, model.pretrained_cfg)
    return Trainable(TimmForTrainer(model), "timm", name, path, classes, preprocess=preprocess), lambda: made(False)


def _transformers(
    name: str, path: str, classes: Sequence[str], *, is_text: bool, quantize: str | None
) -> tuple[Trainable, Any]:
    import transformers

    auto: Any = getattr(
        transformers, "AutoModelForSequenceClassification" if is_text else "AutoModelForImageClassification"
    )
    named: dict[str, Any] = {
        "num_labels": len(classes),
        "id2label": dict(enumerate(classes)),
        "label2id": {label: i for i, label in enumerate(classes)},
        "problem_type": "single_label_classification",
    }
    more = {"quantization_config": _packed(quantize), "device_map": {"": _device()}} if quantize is not None else {}
    try:
        config = configuration(path, **named)
        tokenizer = transformers.AutoTokenizer.from_pretrained(path, trust_remote_code=False) if is_text else None
        check_size_against_weights(path, auto, config)
        model = auto.from_pretrained(
            path, config=config, dtype=torch.float32, weights_only=True, ignore_mismatched_sizes=True,
            trust_remote_code=False, **more,
        )  # fmt: skip
        never_repacked(model)
    except LoadError:
        raise
    except Exception as error:
        raise download_error(name, error) from error
    if tokenizer is not None:
        _pads(tokenizer, model, name)
    made = Trainable(model, "text" if is_text else "image", name, path, classes, tokenizer)
    if not is_text:
        made.preprocess = hf_preprocess(path, model.config)
        if made.preprocess is None:
            raise LoadError(f"pictures cannot be prepared for {name}", expected="an image processor that is known")
    return made, lambda: auto.from_config(model.config, trust_remote_code=False)


def _pads(tokenizer: Any, model: Any, name: str) -> None:
    """Language models have no token for padding: their end token is taken, on the right, where causal models are blind.

    Classifiers find the last token of a text by the number that they take for padding.
    """
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise LoadError(f"{name} has no token for padding", expected="a pad or an end token", got="neither")
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    model.config.pad_token_id = tokenizer.pad_token_id
    model.config.use_cache = False


def _packed(quantize: str) -> Any:
    """How bitsandbytes holds the weights; the new head stays in floats."""
    if quantize not in ("4bit", "8bit"):
        raise OptionError("unknown quantize", expected="4bit or 8bit", got=quantize)
    optional_import("bitsandbytes", extra="quantize", purpose="train quantised models")
    from transformers import BitsAndBytesConfig

    if quantize == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_skip_modules=list(_HEADS))
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if torch.cuda.is_available() else torch.float32,
        llm_int8_skip_modules=list(_HEADS),
    )


def _device() -> Any:
    from accelerate import PartialState

    return PartialState().process_index if torch.cuda.is_available() else "cpu"

"""Models of Hugging Face: image classifiers, and models of text with their tokenizers."""

from __future__ import annotations

import copy
import logging
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import LoadError
from ..files import kind, read_object
from ..inputs import Backend, Preprocess, height_width
from ..models import (
    LoadedModel,
    StoredSize,
    Weights,
    announce,
    check_configuration,
    download_error,
    dry_build,
    find_pair,
    fit_names,
    no_foreign_code,
    pairs,
    read_weights,
    remote_code_error,
    stored_size,
    unsafe_pickle_error,
)
from ..seam import never_repacked
from ..targets import config_labels
from .any_hugging_face import named_class

logger = logging.getLogger("clew")

ANY = "any"  # what the configuration names

# What a model's class ends in, by task, and the automatic class that loads it.
TASKS = {
    "image-classification": ("ForImageClassification", "AutoModelForImageClassification"),
    "classification": ("ForSequenceClassification", "AutoModelForSequenceClassification"),
    "causal-lm": ("ForCausalLM", "AutoModelForCausalLM"),
    "token-classification": ("ForTokenClassification", "AutoModelForTokenClassification"),
    "question-answering": ("ForQuestionAnswering", "AutoModelForQuestionAnswering"),
    "image-text": ("", "AutoModel"),  # those that are declared as pairs
}


def load_hf(
    path: str,
    name: str,
    checkpoint: str | Path | None,
    model_args: dict[str, Any],
    *,
    task: str | None = None,
    dtype: torch.dtype = torch.float32,
    quiet: bool = False,
    backend: Backend | None = None,
) -> LoadedModel:
    """A model by its name on the Hub or from a folder, for the task that its configuration names, or another.

    `backend` of its image processor: default as `AutoImageProcessor` chooses it.
    """
    import transformers
    from transformers.utils import logging as hf_logging

    if not Path(path).is_dir():
        announce(path, "model.safetensors", "pytorch_model.bin")
    bar_was_shown = hf_logging.is_progress_bar_enabled()
    if quiet:
        hf_logging.disable_progress_bar()
    if checkpoint is not None and (unused := sorted({"device_map", "quantization_config"} & model_args.keys())):
        raise LoadError(
            f"{name} with a checkpoint of its own is loaded in one piece and in floats",
            expected="checkpoint= without quantize= or device_map=",
            got=", ".join(unused),
            todo="save the model with its weights as a folder (save_pretrained), and load that",
        )
    weights = read_weights(checkpoint) if checkpoint is not None else None
    try:
        if weights is not None:
            model_args = _implied_by(weights) | model_args
        model_args = no_foreign_code(name, model_args)
        own = {k: v for k, v in model_args.items() if k not in _LOADING}
        config = configuration(path, **own)
        task = _task(config, task, name, weights)
        cls: Any = named_class(config, name) if task == ANY else getattr(transformers, TASKS[task][1])
        if weights is not None:
            model = _with_weights(cls, config, weights, str(checkpoint))
        else:
            check_size_against_weights(path, cls, config)
            model, info = cls.from_pretrained(
                path, weights_only=True, dtype=dtype, output_loading_info=True, trust_remote_code=False, **model_args
            )
            _check_complete(model, info, name, task)
        never_repacked(model)
    except LoadError:
        raise
    except Exception as error:
        if "weights_only" in str(error) or any(isinstance(e, pickle.UnpicklingError) for e in _chain(error)):
            raise unsafe_pickle_error(path, error) from error
        raise download_error(name, error) from error
    finally:
        if quiet and bar_was_shown:
            hf_logging.enable_progress_bar()
    labels = config_labels(model.config)
    if task == "image-text":
        if find_pair(model) is None:
            expected = ", ".join(sorted(pairs()))
            raise LoadError(f"{name} is no image–text model that is known", expected=expected, got=type(model).__name__)
        preprocess = hf_preprocess(path, model.config.vision_config, backend)
        return LoadedModel(model, preprocess, None, name, tokenizer=_tokenizer(path))
    if task == ANY:
        return _with_what_belongs_to_it(model, path, name, backend)
    if task != "image-classification":
        return LoadedModel(model, None, labels, name, tokenizer=_tokenizer(path))
    return LoadedModel(model, hf_preprocess(path, model.config, backend), labels, name)


def configuration(path: str, **own: Any) -> Any:
    """The configuration of a model on the Hub or in a folder, as transformers makes it, with other values of one's own.

    Raises `LoadError` where it says what cannot be, before anything is made of it.
    """
    import transformers

    if os.path.isdir(path):
        said = read_object(Path(path) / "config.json", expected="a model folder, with config.json")
    else:
        said = transformers.PretrainedConfig.get_config_dict(path, **own)[0]
    check_configuration(said, f"the configuration of {path}")
    return transformers.AutoConfig.from_pretrained(path, trust_remote_code=False, **own)


def check_size_against_weights(path: str, auto: Any, config: Any) -> None:
    """Raise `LoadError` for a folder whose configuration describes a larger model than its weights are of."""
    if os.path.isdir(path):
        own = copy.deepcopy(config)
        dry_build(lambda: auto.from_config(own, trust_remote_code=False), stored_size(path), path)


def image_size(config: Any) -> tuple[int, int]:
    """Height and width of the pictures that a model takes. Raises `LoadError` for what are no two sides."""
    size: Any = getattr(config, "image_size", None)
    if size is None and hasattr(config, "num_patches"):  # any aspect ratio: a square of as many patches
        size = int(config.num_patches**0.5) * config.patch_size
    return height_width(size or 224, "image_size")


_COMPARED = 2048  # pixels: larger pictures are not prepared twice to compare them

# Arguments of from_pretrained that say how to load; others change the configuration.
_LOADING = ("device_map", "quantization_config", "attn_implementation", "max_memory", "revision", "token", "subfolder")


def _task(config: Any, task: str | None, name: str, weights: Weights | None) -> str:
    if task is not None:
        if task not in TASKS:
            raise LoadError("unknown task", expected=", ".join(TASKS), got=task)
        return task
    built: str = (getattr(config, "architectures", None) or [""])[0]
    names = [name.split(".") for pair in pairs().values() for name in pair.classes]
    own = built in {name[-1] for name in names} or not built or built.endswith("ForImageSegmentation")
    if own and getattr(config, "model_type", None) in {name[2] for name in names if name[0] == "transformers"}:
        return "image-text"
    for known, (ending, _) in TASKS.items():
        if ending and ending in built:
            return known
    if built.endswith("LMHeadModel"):
        return "causal-lm"
    if not built and hasattr(config, "image_size"):
        return "image-classification"
    if weights is not None:
        return "image-classification" if hasattr(config, "image_size") else "classification"
    if not built:
        raise LoadError(
            f"the configuration of {name} names no class, so it does not tell what its head is for",
            expected="task= with one of " + ", ".join(TASKS),
            got="no `architectures`",
        )
    return ANY


def _with_what_belongs_to_it(model: Any, path: str, name: str, backend: Backend | None) -> LoadedModel:
    """A model of any kind with its tokenizer and its preprocessing of pictures, as far as it has them."""
    tokenizer = preprocess = None
    folder = Path(path)
    local = folder.is_dir()
    if not local or any((folder / f).is_file() for f in ("tokenizer.json", "tokenizer_config.json", "vocab.txt")):
        tokenizer = _tokenizer(path)
    if hasattr(model.config, "image_size") and hasattr(model.config, "num_channels"):
        preprocess = hf_preprocess(path, model.config, backend)
    processor = None
    if not local or any((folder / f).is_file() for f in ("processor_config.json", "preprocessor_config.json")):
        processor = _whole_processor(path, backend)
    labels = config_labels(model.config)
    return LoadedModel(model, preprocess, labels, name, tokenizer=tokenizer, processor=processor)


def _whole_processor(path: str, backend: Backend | None) -> Any:
    """The processor of all inputs of a model; None where there is none of several, or of sound."""
    from transformers import AutoProcessor

    try:
        made: Any = AutoProcessor.from_pretrained(path, trust_remote_code=False)
    except Exception as error:
        logger.warning("%s has no processor that can be read (%s): pass tensors", path, _reason(path, error))
        return None
    several = getattr(made, "tokenizer", None) is not None
    if several and backend == "pil" and hasattr(made, "image_processor"):
        made.image_processor = _processor(path, backend)
    return made if several or hasattr(made, "sampling_rate") else None


def _implied_by(weights: Weights) -> dict[str, Any]:
    """The number of classes that a checkpoint's own head has."""
    endings = ("classifier.weight", "classifier.out_proj.weight", "score.weight")
    heads = [w for k, w in weights.items() if k.endswith(endings) and w.ndim == 2]
    return {"num_labels": heads[0].shape[0]} if heads else {}


def _check_complete(model: Any, info: dict[str, Any], name: str, task: str) -> None:
    """Refuse a model some of whose weights are missing: they would be random."""
    missing = sorted(map(str, info.get("missing_keys", ())))
    if missing:
        raise LoadError(
            f"{name} lacks weights that a model for {task} has, which would be random",
            expected=f"every tensor of {type(model).__name__}",
            got="without " + ", ".join(missing[:6]),
            todo="choose a model that was fine-tuned for this task",
        )


def _with_weights(auto: Any, config: Any, weights: Weights, source: str) -> Any:
    """A model with given weights, strictly; transformers renames what other releases called differently."""
    dry_build(lambda: auto.from_config(copy.deepcopy(config), trust_remote_code=False), StoredSize.of(weights), source)
    with torch.device("meta"):
        cls: Any = type(auto.from_config(config, trust_remote_code=False))
    own = cls(config)
    fitted = fit_names(weights, set(own.state_dict()))
    model, info = cls.from_pretrained(
        None, config=config, state_dict=fitted, output_loading_info=True, trust_remote_code=False
    )
    problems = {k: sorted(map(str, v)) for k, v in info.items() if k.endswith("_keys") and v}
    if problems:
        shown = "; ".join(f"{k.replace('_', ' ')}: {', '.join(v[:6])}" for k, v in problems.items())
        raise LoadError(
            f"the weights in {source} do not fit {cls.__name__}",
            expected="every tensor of the model, and no other",
            got=shown,
            todo="choose the model and num_labels that the checkpoint was trained with",
        )
    return model


def _tokenizer(path: str) -> Any:
    from transformers import AutoTokenizer

    try:
        made: Any = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        if not isinstance(made.model_max_length, (int, float)):
            raise LoadError(f"model_max_length of {path} is no number", got=made.model_max_length)
        return made
    except Exception as error:
        logger.warning("%s has no tokenizer that can be read (%s): pass token numbers", path, _reason(path, error))
        return None


def _reason(path: str, error: Exception) -> str:
    if "trust_remote_code" in str(error):
        error = remote_code_error(path, error)
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it came from, and so on."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def hf_preprocess(path: str, config: Any, backend: Backend | None = None) -> Preprocess | None:
    """How pictures are prepared for a model, as the image processor does that `AutoImageProcessor` makes.

    None, with a warning, where pictures cannot be prepared so; a warning, too, where it is only nearly so.
    """
    settings, size = preprocessor_config(path), image_size(config)
    channels = int(getattr(config, "num_channels", None) or 3)
    if not settings:
        return Preprocess.from_hf({}, size, channels=channels)
    processor, fast = None, False
    try:
        processor = _processor(path, backend)
        name = type(processor).__name__
        fast = getattr(processor, "backend", "torchvision" if name.endswith("Fast") else "pil") == "torchvision"
        settings = {**dict(processor.to_dict()), "image_processor_type": name.removesuffix("Fast").removesuffix("Pil")}
    except Exception as error:
        name = "ViTImageProcessor"
        reason = _reason(path, error)
        logger.warning("%s has no image processor that can be made (%s): taken as %s", path, reason, name)
    try:
        made = Preprocess.from_hf(settings, size, backend="torchvision" if fast else "pil", channels=channels)
    except LoadError as error:
        logger.warning("%s: PIL images cannot be prepared for it, so pass tensors. %s", path, error)
        return None
    if processor is not None and max(made.size) > _COMPARED:
        logger.warning("%s: its pictures are too large to compare them with what %s makes", path, name)
    elif processor is not None and not _alike(made, processor):
        logger.warning(
            "%s: %s prepares pictures in a way of its own, which is followed only nearly; for the very same numbers "
            "pass the tensors that it makes",
            path,
            name,
        )
    return made


def _processor(path: str, backend: Backend | None) -> Any:
    from transformers import AutoImageProcessor
    from transformers.utils import logging as hf_logging

    own: dict[str, Any] = {}
    if backend is not None:
        import transformers

        old = int(transformers.__version__.partition(".")[0]) < 5
        own |= {"use_fast": backend == "torchvision"} if old else {"backend": backend}
    shown = hf_logging.get_verbosity()
    hf_logging.set_verbosity_error()  # notes on which backend was chosen
    try:
        return AutoImageProcessor.from_pretrained(path, trust_remote_code=False, **own)
    finally:
        hf_logging.set_verbosity(shown)


def _alike(made: Preprocess, processor: Any) -> bool:
    """Whether pictures come out as the processor makes them: a small one, a large one, and some of nearly the model's
    size, whose crops leave even and odd rests."""
    drawn = np.random.default_rng(0)
    sides = max(made.size)
    near = [(sides, sides + more) for more in range(4)]
    for height, width in ((sides // 2 + 3, sides // 2 + 10), (2 * sides + 7, sides + sides // 2), *near):
        colours = drawn.integers(0, 256, (height, width, 3), dtype=np.uint8)
        picture = Image.fromarray(colours).convert("L" if made.channels == 1 else "RGB")
        try:
            theirs = torch.as_tensor(processor(picture, return_tensors="pt")["pixel_values"][0])
        except Exception:  # it does not take this one, and nor will the model get it
            continue
        ours = made(picture)[0] if made.channels in (1, 3) else theirs
        if ours.shape != theirs.shape or not torch.equal(ours, theirs.float()):
            return False
    return True


def preprocessor_config(path: str) -> dict[str, Any]:
    """What `preprocessor_config.json` of a model says, or the image processor in its `processor_config.json`; empty,
    with a warning, where there is none. Raises `LoadError` for a file that is no object of JSON."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        file = Path(path) / name
        if not Path(path).is_dir():
            from huggingface_hub import hf_hub_download

            try:
                file = Path(hf_hub_download(path, name))
            except Exception:
                continue
        if os.path.lexists(file):
            found = read_object(file, expected="settings of an image processor")
            if name != "processor_config.json":
                return found
            inner: Any = found.get("image_processor")
            if inner and not isinstance(inner, dict):
                raise LoadError(f"image_processor in {file} is no object", expected="its settings", got=kind(inner))
            if inner:
                return inner
    logger.warning("%s has no preprocessor_config.json: resizing to the model's size, mean and deviation 0.5", path)
    return {}

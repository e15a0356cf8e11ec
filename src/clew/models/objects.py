"""Models as other libraries hand them out: pipelines of transformers, sentence encoders and cross-encoders."""

from __future__ import annotations

import logging
from typing import Any

from torch import nn

from ..errors import LoadError
from ..inputs import Preprocess, height_width
from ..targets import config_labels
from .loaded_model import LoadedModel

logger = logging.getLogger("clew")


class Keyworded(nn.Module):
    """A model whose `forward` takes one mapping, called with keywords; made anew for each call, for the same model."""

    lends = "inner"

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.training = inner.training

    def forward(self, **inputs: Any) -> Any:
        """What the model makes of the mapping of these."""
        return self.inner(dict(inputs))


def as_loaded(model: Any) -> Any:
    """A model of another library with its tokenizer or preprocessing, as `LoadedModel`; anything else as it is."""
    origins = [cls.__module__ for cls in type(model).__mro__]
    if any(origin.startswith("transformers.pipelines") for origin in origins):
        return _pipeline(model)
    if any(origin.startswith("sentence_transformers") for origin in origins):
        inner = getattr(model, "model", None)
        tokenizer = getattr(model, "tokenizer", None)
        if isinstance(inner, nn.Module) and "CrossEncoder" in type(model).__name__:
            return LoadedModel(inner, None, config_labels(getattr(inner, "config", None)), "model", tokenizer=tokenizer)
        if isinstance(model, nn.Module):
            return LoadedModel(Keyworded(model), None, None, type(model).__name__, tokenizer=tokenizer)
    return model


def _pipeline(pipeline: Any) -> LoadedModel:
    model, processor = pipeline.model, getattr(pipeline, "image_processor", None)
    preprocess = None
    if processor is not None and hasattr(model.config, "image_size"):
        name = type(processor).__name__.removesuffix("Fast").removesuffix("Pil")
        settings = {**dict(processor.to_dict()), "image_processor_type": name}
        channels = int(getattr(model.config, "num_channels", None) or 3)
        fast = getattr(processor, "backend", None) == "torchvision" or type(processor).__name__.endswith("Fast")
        size = height_width(model.config.image_size, "image_size")
        try:
            preprocess = Preprocess.from_hf(settings, size, backend="torchvision" if fast else "pil", channels=channels)
        except LoadError as error:
            logger.warning("pictures of this pipeline cannot be prepared, so pass tensors. %s", error)
    name = str(getattr(model, "name_or_path", "") or type(model).__name__)
    return LoadedModel(model, preprocess, config_labels(model.config), name, tokenizer=pipeline.tokenizer)

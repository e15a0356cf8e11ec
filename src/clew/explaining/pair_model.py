"""An image–text model with what belongs to it: it encodes texts and images, and becomes a classifier of images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import CheckFailed, ClewError, InputError, OptionError, UnknownArchitecture, short_repr
from ..models import LoadedModel, Pair, find_pair, tower
from ..seam import DoublePrecision, in_callers_modes, is_quantized, isolated_modes
from ..seam.twin import twin
from .prepare import encoder_inputs, unwrap
from .side_inputs import SideInputs, side_inputs

_CHUNK = 64  # texts or images encoded at a time

Template = str | Callable[[str], str]


@isolated_modes()
def encode_features(
    model: LoadedModel, pair: Pair, some: SideInputs, *, precise: bool = False, truncate: bool = False
) -> Tensor:
    """Features (item, width) of texts or images, not yet of length 1, without a graph.

    Raises `InputError` where the model refuses them.
    """
    made: Any = tower(unwrap(model.model), pair, some.side, torch.zeros(1, 1))
    # As the model's user calls it; quantised layers compute with floats, and casts are left out, only where asked.
    if precise or any(map(is_quantized, made.modules())):
        made = twin(made)
    found: list[Tensor] = []
    for start in range(0, len(some.items), _CHUNK):
        chunk = some.select(range(start, min(start + _CHUNK, len(some.items))))
        inputs = encoder_inputs(replace(model, model=made), chunk, is_text=some.side == "text", truncate=truncate)
        if not truncate:
            _same_tokens(chunk, inputs, model.tokenizer)
        with in_callers_modes(), DoublePrecision(made) if precise else nullcontext(), torch.no_grad():
            try:
                found.append(made.encode(**inputs))
            except ClewError:
                raise
            except (ValueError, TypeError, RuntimeError, IndexError) as error:
                shapes = {k: tuple(v.shape) for k, v in inputs.items() if isinstance(v, Tensor)}
                name = type(made.owner).__name__
                expected = f"{some.side}s as the model takes them"
                raise InputError(f"{name} cannot encode this", expected=expected, got=f"{shapes}: {error}") from error
    return torch.cat(found)


def _same_tokens(texts: Any, inputs: Mapping[str, Any], tokenizer: Any) -> None:
    """Token numbers against the tokenizer's own. Raises `CheckFailed` where they are others."""
    for i, text in enumerate(texts if isinstance(texts, list) else []):
        if not isinstance(text, str):
            continue
        own = list(tokenizer(text, verbose=False)["input_ids"])
        found = inputs["input_ids"][i, : len(own)].tolist()
        if found != own[: len(found)]:
            raise CheckFailed(
                "a text reaches the model with other tokens than its own", expected=own, got=found, todo="report this"
            )


@dataclass(repr=False)
class LoadedPair(LoadedModel):
    """An image–text model in evaluation mode with its preprocessing and its tokenizer.

    Pass it to `explain` with a `Similarity` as target, or make a classifier of it with `zero_shot`.
    """

    @property
    def pair(self) -> Pair:
        """The declaration of the model. Raises `UnknownArchitecture` where there is none."""
        module = unwrap(self.model)
        found = find_pair(module)
        if found is None:
            raise UnknownArchitecture(
                f"{type(module).__name__} is no image–text model that is known",
                expected="CLIP and its kin",
                todo="declare it: clew.register_pair(clew.Pair(…))",
            )
        return found

    def encode(self, inputs: Any, *, truncate: bool = False) -> Tensor:
        """Features of texts or images, (item, width), of length 1, without a graph; `truncate` cuts long texts."""
        return F.normalize(encode_features(self, self.pair, side_inputs(inputs), truncate=truncate), dim=-1)

    def zero_shot(
        self,
        classes: Iterable[str],
        template: Template | Sequence[Template] = "a photo of a {}",
        *,
        truncate: bool = False,
    ) -> LoadedModel:
        """A classifier of images whose classes are texts, encoded here and only once; usable wherever a classifier is.

        `template` has a place `{}` for the class, or is a function of it; of several templates the mean of the features
        counts (Radford et al. 2021, section 3.1.4). Probabilities are the softmax over the classes, of models that
        compare with a bias (SigLIP) the sigmoid of each. Raises `OptionError` for a template without a place, and for
        classes that are no list of different words.
        """
        templates: list[Template] = [template] if isinstance(template, str) or callable(template) else list(template)
        wrong = [t for t in templates if isinstance(t, str) and "{}" not in t]
        if wrong or not templates:
            raise OptionError("a template has a place for the class", expected="a photo of a {}", got=wrong or "none")
        names = [] if isinstance(classes, str) else [str(one) for one in classes]
        if not names or len(set(names)) != len(names):
            raise OptionError("these are no classes", expected="different words, in a list", got=short_repr(classes))
        texts = [t.replace("{}", name) if isinstance(t, str) else t(name) for name in names for t in templates]
        features = self.encode(texts, truncate=truncate).view(len(names), len(templates), -1).mean(1)
        made = tower(unwrap(self.model), self.pair, "image", features)
        facts: dict[str, Any] = {"template": [t if isinstance(t, str) else repr(t) for t in templates]}
        return LoadedModel(made, self.preprocess, names, f"{self.name}, zero-shot", facts)

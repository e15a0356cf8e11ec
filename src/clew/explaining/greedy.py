"""What a model writes after a prompt: greedily, whatever its own settings are."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import Tensor

from ..errors import InputError
from ..inputs import named_token_ids
from ..seam import in_callers_modes, owning_model
from ..subject import input_error

# Settings of generation that would make anything but one sequence, a token at a time, ended by the model: as they are
# where nobody set them.
_UNSET = (
    "max_length", "min_length", "min_new_tokens", "max_time", "stop_strings", "early_stopping", "num_beam_groups",
    "penalty_alpha", "dola_layers", "prompt_lookup_num_tokens", "temperature", "top_k", "top_p", "min_p", "top_h",
    "typical_p", "epsilon_cutoff", "eta_cutoff", "diversity_penalty", "length_penalty", "guidance_scale", "constraints",
    "force_words_ids", "watermarking_config", "token_healing", "cache_implementation", "prefill_chunk_size",
    "forced_eos_token_id",
)  # fmt: skip


def written_by(model: Any, inputs: Mapping[str, Any], name: str, count: int) -> list[int] | None:
    """What the model writes after the tokens of the argument `name`, at most `count` tokens; None where it puts others
    before these. The token that ends the text is no part of it. Raises `InputError` for models that do not write."""
    if not hasattr(model, "generate"):
        raise InputError(
            "this model does not generate",
            expected="a causal language model, or an encoder with a decoder",
            got=type(model).__name__,
            todo="explain what it says of a whole input by clew.explain, on the command line by clew explain",
        )
    own: Any = getattr(model, "generation_config", None)
    config = getattr(model, "config", None)
    pads = named_token_ids(own, "pad") or named_token_ids(config, "pad")
    settings: dict[str, Any] = {"max_new_tokens": count, "do_sample": False, "pad_token_id": min(pads, default=0)}
    ends = named_token_ids(config if own is None else own, "eos")
    if own is not None:  # a copy of the model that shares everything but these settings
        model = copy.copy(model)
        model.generation_config = _greedy(own, settings)
        settings = {"generation_config": model.generation_config}
    given = dict(inputs)
    before: list[int] = given[name][0].tolist()
    # Words alone by position: not every `generate` calls them as the model does.
    words = [given.pop(name)] if all(not v.is_floating_point() for v in _tensors(given)) and name == "input_ids" else []
    try:
        with torch.no_grad(), in_callers_modes():
            found: Any = model.generate(*words, **given, **settings)
    except IndexError as error:  # a prompt beyond the positions that the model has
        raise input_error(owning_model(model), error, (1, len(before)), is_text=True) from error
    except (ValueError, TypeError, AttributeError, NotImplementedError) as error:
        raise InputError(
            f"{type(model).__name__} cannot write after this prompt",
            expected="a model whose generate() goes on greedily",
            got=error,
            todo="correct model.generation_config, or pass what it wrote: answer=…",
        ) from error
    found = found if isinstance(found, Tensor) else getattr(found, "sequences", found)
    ids = [int(i) for i in cast(Tensor, found)[0].tolist()]
    if ids[: len(before)] == before:
        ids = ids[len(before) :]
    elif len(ids) > count:  # else only what is new
        return None
    return ids[:-1] if ids and ids[-1] in ends else ids


def room_after(model: Any, tokens: int) -> int | None:
    """How many tokens may follow so many, by the positions that the configuration names; None where it names none, or
    where there are more tokens already: then it is the model that knows."""
    config: Any = getattr(model, "config", None)
    config = getattr(config, "get_text_config", lambda **_: config)(decoder=True)
    named = (getattr(config, name, None) for name in ("max_target_positions", "max_position_embeddings"))
    most = next((n for n in named if isinstance(n, int) and n > 0), None)
    return None if most is None or most <= tokens else most - tokens


def _tensors(given: Mapping[str, Any]) -> list[Tensor]:
    return [v for v in given.values() if isinstance(v, Tensor)]


def _greedy(own: Any, settings: dict[str, Any]) -> Any:
    """A model's settings without those that would make anything but one sequence."""
    found, unset = copy.deepcopy(own), type(own)()
    outputs = ("return_dict_in_generate", "output_scores", "output_logits", "output_attentions", "output_hidden_states")
    values = {name: getattr(unset, name) for name in _UNSET if hasattr(unset, name)}
    values |= {name: False for name in outputs if hasattr(unset, name)}
    for name, value in {**values, "num_beams": 1, "num_return_sequences": 1, **settings}.items():
        setattr(found, name, value)
    return found

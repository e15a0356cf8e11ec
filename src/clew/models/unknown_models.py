"""What to say of a model that no declaration fits: what is known inside it, or a declaration to fill in."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ..errors import UnknownArchitecture

_IMAGES = """
from clew import Architecture, Readout, explain

mine = Architecture(
    name="{name}",
    classes=("{full_name}",),
    blocks="{blocks}",  # the list of blocks, from the model
    attention="{attention}",  # the module that computes attention, from a block
    output_projection="{projection}",  # the linear layer after it, from a block
    patches="{patches}",  # a module whose output ends in (grid height, grid width)
    prefix=lambda model: 1,  # tokens before the patches: CLS, registers
    readout=lambda model: Readout.cls(),  # the rows that the head reads; or Readout.mean(), …
)
explain(model, images, architecture=mine)  # or clew.register(mine), once"""

_TEXTS = """
from clew import Architecture, Readout, explain

mine = Architecture(
    name="{name}",
    classes=("{full_name}",),
    modality="text",
    input_name="{input_name}",  # the argument that takes token numbers
    task=lambda model: "{task}",  # or classification, causal-lm, token-classification, question-answering
    blocks="{blocks}",  # the list of blocks, from the model
    attention="{attention}",  # the module that computes attention, from a block
    output_projection="{projection}",  # the linear layer after it, from a block
    patches="{patches}",  # the look-up of word embeddings
    {embeddings}
    readout=lambda model: {readout},  # the tokens that the head reads
)
explain(model, token_numbers, architecture=mine)  # or clew.register(mine), once"""

_TASKS = (
    ("MaskedLM", "token-classification"),
    ("CausalLM", "causal-lm"),
    ("LMHeadModel", "causal-lm"),
    ("TokenClassification", "token-classification"),
    ("QuestionAnswering", "question-answering"),
)
_INPUTS = (
    "q",
    "k",
    "v",
    "qkv",
    "query",
    "key",
    "value",
    "queries",
    "keys",
    "values",
    "query_key_value",
    "wqkv",
    "in_proj",
)


Find = Callable[[nn.Module], Any]


def unknown(model: nn.Module, known: Mapping[str, Any], find: Find) -> UnknownArchitecture:
    """The error for a model that none of the `known` declarations, by class name, fits."""
    kind = type(model)
    return UnknownArchitecture(
        f"no declaration fits {kind.__module__}.{kind.__qualname__}",
        expected="one of " + ", ".join(sorted({a.name for a in known.values()})),
        got="a module with "
        + (", ".join(f"{n}: {type(c).__name__}" for n, c in model.named_children()) or "no submodules"),
        todo=advice(model, known, find),
    )


def advice(model: nn.Module, known: Mapping[str, Any], find: Find) -> str:
    """What is known inside a model, why no declaration can describe it, or one to fill in."""
    return _adapted(model) or _inside(model, find) or _of_another_kind(model) or "declare it:\n" + template(model)


def _adapted(model: Any) -> str | None:
    """What to do with a model of PEFT."""
    if not any(name.startswith("peft.") for name in _names(model)):
        return None
    if not hasattr(model.base_model, "merge_and_unload"):
        return "this is a model of PEFT whose adapter is no part of its layers, which cannot be explained"
    return (
        "this is a model of PEFT: pass model.base_model.model, which has the adapters in its layers, or "
        "model.merge_and_unload(), a plain model with the adapters added to its weights"
    )


@dataclass(frozen=True)
class KnownInside:
    """A module of a known family inside a model: its `path`, how it is `declared`, what to change, and the `others`."""

    path: str
    part: nn.Module
    declared: Any
    changes: dict[str, Any]
    others: list[str]


def known_inside(model: nn.Module, find: Find) -> KnownInside | None:
    """The outermost module of a known family inside a model."""
    found = sorted(
        (
            (path.replace("._orig_mod", ""), part, declared)
            for path, part in model.named_modules()
            if path and (declared := find(part)) is not None
        ),
        key=lambda one: one[0].count("."),
    )
    if not found:
        return None
    path, part, declared = found[0]
    takes = list(inspect.signature(model.forward).parameters)
    changes: dict[str, Any] = {}
    if declared.input_name is not None and declared.input_name not in takes:
        changes["input_name"] = takes[0] if declared.modality == "text" and takes else None
    others = sorted({p for p, *_ in found if p != path and not p.startswith(f"{path}.")})
    return KnownInside(path, part, declared, changes, others)


def _inside(model: nn.Module, find: Find) -> str | None:
    """How to declare a model that holds one of a known family."""
    found = known_inside(model, find)
    if found is None:
        return None
    path, part, declared = found.path, found.part, found.declared
    more = "".join(f", {k}={v!r}" for k, v in found.changes.items())
    also = f"\n(also known: {', '.join(found.others[:4])}; one of them is explained)" if found.others else ""
    inputs = "token_numbers" if declared.modality == "text" else "images"
    return (
        f"its {path!r} is a {type(part).__name__}, which is known: say where it is\n\n"
        f"mine = clew.architectures()[{declared.name!r}].within({path!r}{more})\n"
        f"clew.explain(model, {inputs}, architecture=mine)\n\n"
        f"and where the head reads other tokens than {path!r} itself does, also "
        f"within({path!r}, readout=lambda model: clew.Readout.cls()), or .mean(), …{also}"
    )


def _of_another_kind(model: nn.Module) -> str | None:
    """What to say of a model that no declaration can describe."""
    if {"input_ids", "pixel_values"} <= inspect.signature(model.forward).parameters.keys():
        return (
            "a model that reads pictures and words in one sequence cannot be explained; one with a tower for each is "
            "declared with clew.Pair, see clew.register_pair"
        )
    if getattr(getattr(model, "config", None), "is_encoder_decoder", False) is True:
        return "an encoder with a decoder cannot be explained: choose a model with one of them"
    if "MultipleChoice" in type(model).__name__:
        return (
            "a model that reads several choices at a time cannot be explained: choose one that classifies single texts"
        )
    stages = _stages(model)
    if stages:
        shown = ", ".join(stages[:4])
        return (
            f"its blocks are in stages of different widths ({shown}): hierarchical models are not supported, only "
            "those whose tokens stay the same from the first block to the last"
        )
    if not _blocks(model)[1]:
        return (
            "no attention was found in it; models without are not supported. Where it has some, declare it:\n"
            + template(model)
        )
    return None


def _stages(model: nn.Module) -> list[str]:
    """Lists of blocks with attention where they differ in width."""
    found = {path: blocks for path, blocks in _lists(model) if _attention(blocks[0])[0]}
    lists = [path for path in found if not any(other.startswith(f"{path}.") for other in found)]
    widths = {next(m.in_features for m in found[path].modules() if isinstance(m, nn.Linear)) for path in lists}
    return lists if len(widths) > 2 else []


def _names(part: nn.Module) -> Iterable[str]:
    return (f"{cls.__module__}.{cls.__qualname__}" for cls in type(part).__mro__)


def template(model: nn.Module) -> str:
    """A declaration to fill in, with the places that can be guessed."""
    kind, takes = type(model), list(inspect.signature(model.forward).parameters)
    words = [path for path, m in model.named_modules() if isinstance(m, nn.Embedding)]
    convolutions = [path for path, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    main = getattr(model, "main_input_name", None)
    is_text = main == "input_ids" or "input_ids" in takes or (bool(words) and not convolutions)
    blocks, attention, projection = _blocks(model)
    blocks, attention, projection = blocks or "encoder.layers", attention or "attention", projection or "attention.proj"
    places = {
        "name": kind.__name__.lower(),
        "full_name": f"{kind.__module__}.{kind.__qualname__}",
        "blocks": blocks,
        "attention": attention,
        "projection": projection,
    }
    if not is_text or main == "pixel_values":
        return _IMAGES.format(**places, patches=next(iter(convolutions), "patch_embed.proj"))
    patches = _words(model, words)
    around = patches.rpartition(".")[0]
    task = next((task for ending, task in _TASKS if ending in kind.__name__), "classification")
    guessed = len(words) > 1 and around and not f"{blocks}.".startswith(f"{around}.")
    embeddings = f'embeddings="{around}",' if guessed else '# embeddings="…",'
    return _TEXTS.format(
        **places,
        patches=patches,
        task=task,
        embeddings=f"{embeddings}  # a module whose output is the sequence with positions in it, if they are looked up",
        input_name="input_ids" if "input_ids" in takes or not takes else takes[0],
        readout="Readout.cls()" if task == "classification" else "Readout.tokens()",
    ).replace("Readout.cls(),  # the", "Readout.cls(),  # or Readout.last_token(…), Readout.mean(): the")


def _words(model: nn.Module, found: list[str]) -> str:
    """Where words seem to be looked up."""
    try:
        own: Any = getattr(model, "get_input_embeddings", lambda: None)()
    except Exception:  # of a model that knows of none
        own = None
    named = next((path for path, m in model.named_modules() if m is own), None)
    likely = [path for path in found if not re.search("pos|type|segment", path.rpartition(".")[2])]
    return named or next(iter(likely or found), "embed_tokens")


def _blocks(model: nn.Module) -> tuple[str, str, str]:
    """Where blocks, attention and the layer after it seem to be."""
    for path, blocks in sorted(_lists(model), key=lambda one: -len(one[1])):
        attention, projection = _attention(blocks[0])
        if attention:
            return path, attention, projection
    return "", "", ""


def _lists(model: nn.Module) -> list[tuple[str, Any]]:
    return [(p, m) for p, m in model.named_modules() if isinstance(m, (nn.ModuleList, nn.Sequential)) and len(m)]


def _attention(block: nn.Module) -> tuple[str, str]:
    """The module of a block that holds queries, keys and values, and the linear layer that comes after them."""
    linear = [path for path, m in block.named_modules() if isinstance(m, nn.Linear)]
    for path, m in block.named_modules():
        if isinstance(m, nn.MultiheadAttention):
            return path, f"{path}.out_proj"
    inputs = [
        i
        for i, path in enumerate(linear)
        if re.sub(r"_?(proj|lin|layer)$", "", path.rpartition(".")[2].lower()) in _INPUTS
    ]
    if not inputs or not (owner := linear[inputs[0]].rpartition(".")[0]):
        return "", ""
    after = [path for i, path in enumerate(linear) if i > inputs[-1]]
    return owner, next(iter(after), "")

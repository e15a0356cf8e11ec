"""Models of Hugging Face of any kind: what `config.json` names, adapters on their base, and sentence encoders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import LoadError, optional_import
from ..files import read_object
from ..models import LoadedModel, as_loaded

# What PEFT calls a task, as `clew.load` does.
_ADAPTED = {
    "SEQ_CLS": "classification",
    "TOKEN_CLS": "token-classification",
    "CAUSAL_LM": "causal-lm",
    "QUESTION_ANS": "question-answering",
}


def named_class(config: Any, name: str) -> Any:
    """The class of transformers that a configuration names. Raises `LoadError` where there is none of that name."""
    import transformers

    built: str = (getattr(config, "architectures", None) or [""])[0]
    cls: Any = getattr(transformers, built, None)
    if not isinstance(cls, type) or not issubclass(cls, transformers.PreTrainedModel):
        raise LoadError(
            f"{name} is a {built}, which this transformers does not have",
            expected="the name of a model class of transformers in `architectures`",
            got=built,
            todo="install the transformers that has it; code that comes with a model is not run",
        )
    return cls


def load_adapter(folder: Path, load: Callable[[str, str | None], LoadedModel]) -> LoadedModel:
    """A model with the adapters of a folder of PEFT in its layers, unmerged; `load(base, task)` loads the base.

    Raises `LoadError` where the base is not told, or weights are pickled.
    """
    config = read_object(folder / "adapter_config.json", expected="the configuration of an adapter of PEFT")
    base = config.get("base_model_name_or_path")
    if not isinstance(base, str) or not base:
        raise LoadError(
            f"{folder} holds an adapter of PEFT that does not say what it belongs to",
            expected="base_model_name_or_path in adapter_config.json",
            got=base,
            todo="peft.PeftModel.from_pretrained(base_model, folder), and pass that to clew.explain",
        )
    if not (folder / "adapter_model.safetensors").is_file():
        raise LoadError(
            f"{folder} has no weights that are safe to read", expected="adapter_model.safetensors", got="no such file"
        )
    peft: Any = optional_import("peft", extra="train", purpose="load adapters")
    known = Path(base).is_dir() or (Path(folder.parent, base).is_dir())
    place = base if Path(base).is_dir() or not known else str(folder.parent / base)
    found = load(place if known else f"hf:{base}", _ADAPTED.get(str(config.get("task_type"))))
    try:
        found.model = peft.PeftModel.from_pretrained(found.model, str(folder))
    except Exception as error:
        raise LoadError(f"the adapter in {folder} does not fit {base}", got=error) from error
    return found


def is_sentence_encoder(folder: Path) -> bool:
    """Whether a folder is one of sentence-transformers."""
    return (folder / "modules.json").is_file()


def load_sentence_encoder(folder: Path) -> LoadedModel:
    """A sentence encoder with its pooling. Raises `LoadError` for modules of other packages and pickled weights."""
    from ..files import parsed

    modules: Any = parsed((folder / "modules.json").read_text(encoding="utf-8"))
    kinds = [str(m.get("type")) for m in modules if isinstance(m, dict)] if isinstance(modules, list) else []
    if not kinds or any(not kind.startswith("sentence_transformers.") for kind in kinds):
        raise LoadError(
            f"{folder} names modules that are not those of sentence-transformers, whose code is not run",
            expected="types sentence_transformers.… in modules.json",
            got=", ".join(kinds) or "none",
        )
    pickled = [p for p in folder.rglob("*.bin") if not list(p.parent.glob("*.safetensors"))]
    if pickled:
        raise LoadError(f"{pickled[0]} is pickled, which is not read", expected=".safetensors beside it")
    library: Any = optional_import("sentence_transformers", extra="sentences", purpose="load sentence encoders")
    try:
        made = library.SentenceTransformer(str(folder), device="cpu", trust_remote_code=False, local_files_only=True)
    except Exception as error:
        raise LoadError(f"{folder} is no sentence encoder that can be read", got=error) from error
    return as_loaded(made.eval())

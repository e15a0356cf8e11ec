"""`finetune`: from a model and labelled data to a folder with the model, its card and what was measured."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..datasets import Dataset
from ..errors import InputError, OptionError, close_matches, optional_import
from ..evaluation import versions
from ..files import is_valid_filename, slug
from ..loading.load import load
from ..models import LoadedModel
from ..validation import validate_arguments, validate_call, validate_integer, validate_size
from .data import split_data
from .recipes import TASKS, Task, changed

logger = logging.getLogger("clew")
Source = str | Path | Dataset
MOST_RANK, MOST_WORKERS = 1_024, 256


@dataclass(frozen=True)
class Finetuned:
    """What `finetune` made: the `folder` that `clew.load` and `from_pretrained` open.

    `before` and `after` are the scores of the test part: accuracy (0 to 1) with its 95 % interval `low` to `high`,
    macro `f1`, `examples`, and for each of the `classes` precision, recall and F1. `before` is None where it was not
    measured.
    """

    folder: Path
    before: dict[str, Any] | None
    after: dict[str, Any]
    facts: dict[str, Any]

    def load(self) -> LoadedModel:
        """The model, as `clew.load(folder)`."""
        return load(self.folder)


@validate_call
def finetune(
    task: str,
    model: str | Path | None = None,
    data: Source | None = None,
    *,
    out: str | Path | None = None,
    validation: Source | float | None = None,
    test: Source | float | None = None,
    data_options: Mapping[str, Any] | None = None,
    limit: int | None = None,
    lora: int | None = None,
    quantize: str | None = None,
    device: str | None = None,
    bf16: bool = False,
    micro_batch: int | None = None,
    gradient_checkpointing: bool = False,
    eval_steps: int | None = None,
    workers: int = 0,
    before: bool = True,
    overwrite: bool = False,
    show_progress: bool = True,
    tell: Callable[[str], None] | None = None,
    **options: Any,
) -> Finetuned:
    """Train a model on labelled texts or pictures; the same call again goes on from its last whole checkpoint.

    The weights that are best on the validation part are kept, and measured on the whole test part. Under
    `accelerate launch` several GPUs or machines share each batch.

    Args:
        task: "movies", "20newsgroups" or "imdb", the papers' recipes; "text" or "images" for data of your own, with
            `data`; or the data itself.
        model: what to begin with, as for `clew.load`: "hf:ORG/NAME", "timm:NAME", "mini:NAME" or a folder. Default: the
            paper's.
        data: what `clew.open_dataset` opens. Default: the name that the papers' data has.
        out: the folder to write to. Default: `finetuned/TASK-MODEL`.
        validation: other data, or the share (0 to 1) of the training part to hold out. Default: a part that the data
            has of its own, else 10 %.
        test: the same; else 20 %.
        data_options: further arguments of `clew.open_dataset`: kind, text, label, classes, …
        limit: the first so many examples of the training part (the validation part is held out of them).
        lora: train LoRA matrices of this rank beside frozen weights (PEFT), merged into them at the end.
        quantize: "4bit" or "8bit": the frozen weights meanwhile (QLoRA).
        device: "cpu" not to use a GPU. `bf16`: mixed precision.
        micro_batch: examples that fit on a device at once; a batch then comes in pieces, with the same result.
        gradient_checkpointing: less memory for more time.
        eval_steps: evaluate and save each so many steps instead of after each epoch.
        workers: processes that prepare examples.
        before: measure the test part before training, too.
        overwrite: begin anew where the folder holds another training.
        show_progress: a bar on the error stream. `tell` is given a line for each evaluation.
        **options: hyper-parameters in place of the task's, see `clew.training.recipes.Recipe`: lr, batch_size, epochs,
            patience, schedule, warmup_epochs, weight_decay, adam_epsilon, max_grad_norm, max_length, train, reinit,
            augment, seed.

    Raises:
        InputError: data that cannot be read, have no labels or one class; a folder with another training.
        LoadError: a model that cannot be had. OptionError: unknown options, or out of range.
        WriteError: a full disk, say; what was there before is kept, and the same call goes on from it.
    """
    validate_arguments({"task": task, "model": model, "data": data}, finetune)
    optional_import("accelerate", extra="train", purpose="train models")
    chosen, source = _task(task, data)
    recipe = changed(chosen.recipe, options)
    if device not in (None, "cpu"):
        raise OptionError("a GPU is taken where there is one", expected="device=None or 'cpu'", got=device)
    limit, eval_steps, micro_batch = (
        None if value is None else validate_size(name, value)
        for name, value in (("limit", limit), ("eval_steps", eval_steps), ("micro_batch", micro_batch))
    )
    lora = None if lora is None else validate_integer("lora, the rank of LoRA's matrices,", lora, 1, MOST_RANK)
    workers = validate_integer("workers", workers, 0, MOST_WORKERS)
    if quantize is not None and lora is None:
        raise OptionError("packed weights cannot be trained", expected="lora=16 beside quantize=", got="no lora")
    if lora is not None and (recipe.train != chosen.recipe.train or recipe.reinit):
        raise OptionError("LoRA freezes all weights", expected="lora without train= and reinit=", got=recipe.train)
    name = model if model is not None else chosen.model
    if name is None:
        raise OptionError("no model to begin with", expected="model='hf:ORG/NAME' or 'timm:NAME'", got="none")
    folder = Path(out) if out is not None else Path("finetuned") / f"{slug(task)}-{slug(str(name))}"
    limit = limit if limit is not None else chosen.limit
    parts = split_data(chosen, source, validation=validation, test=test, limit=limit, options=data_options)
    if task not in TASKS and not parts.is_text:
        chosen, recipe = TASKS["images"], changed(TASKS["images"].recipe, options)
    if parts.is_text != (chosen.name != "images"):
        kinds = ("texts", "pictures") if parts.is_text else ("pictures", "texts")
        raise InputError(f"the task {chosen.name!r} is of {kinds[1]}", expected=f"data of {kinds[1]}", got=kinds[0])
    more = {"lora": lora, "quantize": quantize, "limit": limit, "eval_steps": eval_steps, "bf16": bf16}
    asked: dict[str, Any] = {
        "model": str(name),
        "data": source.name if isinstance(source, Dataset) else _short(source),
        "classes": list(parts.classes),
        "parts": {"train": len(parts.train), "validation": len(parts.validation), "test": len(parts.test)},
        "content": parts.content,
        "recipe": asdict(recipe),
        "more": {k: v for k, v in more.items() if v},
    }
    from . import state  # needs accelerate

    state.processes(device)
    facts = state.from_main(lambda: state.open_training(folder, asked, overwrite))
    if facts.get("results") is not None:
        logger.info("%s is done; nothing is trained", folder)
        return Finetuned(folder, facts.get("before"), facts["results"]["test"], facts)
    given = {
        "model": name, "data": source if task in TASKS else None, "validation": validation, "test": test,
        "data_option": data_options or None, **{k: v for k, v in more.items() if v},
    }  # fmt: skip
    facts |= {
        "notes": list(parts.notes),
        "command": state.command(task, given, recipe, chosen.recipe),
        "versions": versions(("torch", "transformers", "accelerate", "peft", "timm")),
    }
    from .loop import TrainingRuntime
    from .session import Session

    machine = TrainingRuntime(
        device=device, bf16=bf16, micro_batch=micro_batch, gradient_checkpointing=gradient_checkpointing,
        eval_steps=eval_steps, workers=workers,
    )  # fmt: skip
    say = tell or (lambda line: logger.info("%s", line))
    Session(folder, facts, parts, recipe, machine, lora, quantize, say, show_progress).run(before)
    return Finetuned(folder, facts["before"], facts["results"]["test"], facts)


def _task(task: str, data: Source | None) -> tuple[Task, Source]:
    """The task and its data; a task that is no name is data, taken for texts until they are read."""
    if not is_valid_filename(task):
        raise InputError("no data have such a name", expected="a name that a file could have", got=ascii(task[:60]))
    named = TASKS.get(task)
    if named is not None and (data is not None or named.data is not None):
        return named, data if data is not None else named.data or ""
    if named is not None or data is not None:
        raise OptionError(
            f"no data for the task {task!r}" if named is not None else f"no task {task!r}",
            expected=f"a task ({', '.join(TASKS)}) and data, or data alone",
            got=f"task={task!r}, data={data!r}",
            todo="clew finetune text --data reviews.csv, or clew finetune reviews.csv",
        )
    if not any(sign in task for sign in ":./\\") and not Path(task).exists():  # a word, mistyped perhaps
        raise OptionError(
            f"{task!r} is no task, and no data",
            expected=f"{', '.join(TASKS)}, or a csv, jsonl or folder that is there, or hf:ORG/NAME",
            got=task,
            todo=close_matches(task, TASKS),
        )
    return TASKS["text"], task


def _short(source: str | Path) -> str:
    """What data are called: a file or folder by its name, others in full."""
    text = str(source)
    return text if text.startswith(("hf:", "mini:")) else Path(text).name or text

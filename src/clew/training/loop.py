"""The training itself, by transformers' `Trainer`: examples in, progress out, the best weights at the end."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_model
from torch import Tensor
from torch.utils.data import Dataset
from transformers import (
    DataCollatorWithPadding,
    EarlyStoppingCallback,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from ..errors import InputError, OptionError, WriteError, optional_import
from ..files import write_errors
from ..inputs import Preprocess
from .checkpoints import seal
from .data import DataSplits, LabelledSplit
from .models import Trainable
from .recipes import Recipe
from .state import on_cpu, processes

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class TrainingRuntime:
    """How training runs, without a say in what is learned: options of `clew.finetune`."""

    device: str | None = None
    bf16: bool = False
    micro_batch: int | None = None
    gradient_checkpointing: bool = False
    eval_steps: int | None = None
    workers: int = 0


class TextDataset(Dataset[dict[str, Any]]):
    """Texts as token numbers, cut to `longest`, not padded."""

    def __init__(self, part: LabelledSplit, tokenizer: Any, longest: int) -> None:
        self.part, self.tokenizer, self.longest = part, tokenizer, longest

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, index: int) -> dict[str, Any]:
        text = self.part.data.read(index).text or ""
        ids = self.tokenizer(text, truncation=True, max_length=self.longest)["input_ids"]
        return {"input_ids": ids, "labels": self.part.labels[index]}


class ImageDataset(Dataset[dict[str, Any]]):
    """Pictures as the model takes them; with `augment` after a random crop, flipped or not."""

    def __init__(self, part: LabelledSplit, preprocess: Preprocess, augment: bool = False) -> None:
        self.part, self.preprocess = part, preprocess
        self.augment: Any = None
        if augment:
            transforms = optional_import("torchvision.transforms", extra="timm", purpose="augment pictures")
            crop = transforms.RandomResizedCrop(preprocess.resize, scale=(0.5, 1.0), interpolation=3)
            self.augment = transforms.Compose([crop, transforms.RandomHorizontalFlip()])

    def __len__(self) -> int:
        return len(self.part)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image: Any = self.part.data.read(index).image
        if image is None:
            raise InputError(f"{self.part.data.ids[index]} is no picture", expected="a picture", got="a text")
        pixels, _ = self.preprocess(image if self.augment is None else self.augment(image))
        return {"pixel_values": pixels, "labels": self.part.labels[index]}


def torch_dataset(
    made: Trainable, part: LabelledSplit, recipe: Recipe, *, training: bool = False
) -> Dataset[dict[str, Any]]:
    """The examples of a part as the model's inputs."""
    if made.preprocess is not None:
        return ImageDataset(part, made.preprocess, augment=recipe.augment and training)
    return TextDataset(part, made.tokenizer, made.longest(recipe.max_length))


def mean_cross_entropy(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
    """Cross entropy over a batch that may come in pieces: its sum, divided by the number of examples in all pieces."""
    logits: Tensor = outputs["logits"].float()
    total = F.cross_entropy(logits, labels, reduction="sum")
    return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)


def compute_metrics(prediction: Any) -> dict[str, float]:
    """Accuracy, macro F1 and `selection`: the accuracy and, among equal ones, the smaller loss.

    What the loss adds is less than one example adds to the accuracy.
    """
    metrics = optional_import("sklearn.metrics", extra="train", purpose="measure accuracy")
    logits, labels = logits_of(prediction.predictions), prediction.label_ids
    guessed = logits.argmax(-1)
    loss = float(F.cross_entropy(torch.from_numpy(logits).double(), torch.from_numpy(labels).long()))
    accuracy = float(metrics.accuracy_score(labels, guessed))
    loss = loss if math.isfinite(loss) else 1e9
    return {
        "accuracy": accuracy,
        "f1": float(metrics.f1_score(labels, guessed, average="macro", zero_division=0)),
        "selection": accuracy - loss / (1 + loss) / (len(labels) + 1),
    }


def logits_of(predictions: Any) -> Any:
    """The logits; models may return more beside them."""
    return predictions[0] if isinstance(predictions, tuple) else predictions


class _Checkpointing(Trainer):
    """Writes checkpoints whole, and under the model's own names, under which `Trainer` reads them.

    `save_pretrained` of transformers 5 writes some models under the names of earlier releases; of those a checkpoint
    would be read back in part, without an error.
    """

    def _save_checkpoint(self, *args: Any, **more: Any) -> None:
        folder = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        try:
            with write_errors(folder, then="run the same again: it goes on from the last checkpoint"):
                super()._save_checkpoint(*args, **more)
                self.accelerator.wait_for_everyone()
                if self.args.should_save:
                    seal(folder)
        except WriteError:
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        model = self.accelerator.unwrap_model(self.model)
        if hasattr(model, "peft_config"):
            super()._save(output_dir, state_dict)
            return
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_model(model, str(folder / "model.safetensors"))


def make_trainer(
    made: Trainable,
    parts: DataSplits,
    recipe: Recipe,
    folder: Path,
    machine: TrainingRuntime,
    tell: Tell,
    show_progress: bool,
) -> Trainer:
    """A `Trainer` that evaluates and saves after each epoch, or each `eval_steps`, and keeps the best and the last."""
    devices = _devices(machine)
    each, pieces = _pieces(recipe.batch_size, devices, machine.micro_batch)
    steps = math.ceil(len(parts.train) / recipe.batch_size)
    when: dict[str, Any] = {"eval_strategy": "epoch", "save_strategy": "epoch"}
    if machine.eval_steps is not None:
        when = {"eval_strategy": "steps", "save_strategy": "steps"}
        when |= {"eval_steps": machine.eval_steps, "save_steps": machine.eval_steps}
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=each,
        gradient_accumulation_steps=pieces,
        per_device_eval_batch_size=each if machine.micro_batch is not None else max(each, 8),
        learning_rate=recipe.lr,
        lr_scheduler_type=recipe.schedule if recipe.warmup_epochs == 0 else _WITH_WARMUP[recipe.schedule],
        warmup_steps=round(recipe.warmup_epochs * steps),
        weight_decay=recipe.weight_decay,
        adam_epsilon=recipe.adam_epsilon,
        max_grad_norm=recipe.max_grad_norm,
        seed=recipe.seed,
        bf16=machine.bf16,
        use_cpu=on_cpu(machine.device),
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="selection",
        greater_is_better=True,
        restore_callback_states_from_checkpoint=True,  # or patience would begin anew
        logging_steps=max(1, steps // 20),
        label_names=["labels"],
        remove_unused_columns=False,
        dataloader_num_workers=machine.workers,
        dataloader_pin_memory=torch.cuda.is_available(),
        disable_tqdm=True,
        report_to=[],
        **when,
    )
    callbacks: list[TrainerCallback] = [Progress(tell, show_progress)]
    if recipe.patience:
        callbacks.append(EarlyStoppingCallback(early_stopping_patience=recipe.patience))
    trainer = _Checkpointing(
        made.model,
        arguments,
        train_dataset=torch_dataset(made, parts.train, recipe, training=True),
        eval_dataset=torch_dataset(made, parts.validation, recipe),
        data_collator=DataCollatorWithPadding(made.tokenizer) if made.tokenizer is not None else None,
        compute_loss_func=mean_cross_entropy,
        compute_metrics=compute_metrics,
        preprocess_logits_for_metrics=lambda logits, labels: logits_of(logits),
        callbacks=callbacks,
    )
    for unwanted in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(unwanted)
    return trainer


_WITH_WARMUP = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}


def _devices(machine: TrainingRuntime) -> int:
    """How many devices share a batch."""
    state = processes(machine.device)
    if state.num_processes > 1 or on_cpu(machine.device):
        return state.num_processes
    return max(1, torch.cuda.device_count())  # one process then uses them all


def _pieces(batch: int, devices: int, largest: int | None) -> tuple[int, int]:
    """How many examples a device takes at once, and how many times for one step."""
    if batch % devices:
        raise OptionError(
            f"a batch is shared by {devices} devices", expected=f"a batch_size that {devices} divides", got=batch
        )
    share = batch // devices
    if largest is not None and largest < 1:
        raise OptionError("micro_batch is a number of examples", expected="1 or more", got=largest)
    each = next(n for n in range(min(share, largest or share), 0, -1) if share % n == 0)
    return each, share // each


class Progress(TrainerCallback):
    """A bar on the error stream, and a line for each evaluation."""

    def __init__(self, tell: Tell, show: bool) -> None:
        self.tell, self.show = tell, show
        self.bar: Any = None
        self.task: Any = None
        self.loss: float | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        best = Path(args.output_dir) / f"checkpoint-{state.best_global_step}"
        if best.is_dir():  # its path as it was written may be that of a folder that was moved since
            state.best_model_checkpoint = str(best)
        if not (self.show and state.is_world_process_zero):
            return
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
        self.bar = Bar(*columns, console=Console(stderr=True), transient=True)
        self.bar.start()
        self.task = self.bar.add_task("training", total=state.max_steps, completed=state.global_step)

    def on_step_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if self.bar is not None:
            said = f"epoch {state.epoch or 0:.1f}" + ("" if self.loss is None else f", loss {self.loss:.3f}")
            self.bar.update(self.task, completed=state.global_step, description=said)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **more: Any) -> None:
        self.loss = (logs or {}).get("loss", self.loss)

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **more: Any) -> None:
        if metrics is None or "eval_accuracy" not in metrics or not state.is_world_process_zero:
            return
        loss = "" if self.loss is None else f"training loss {self.loss:.4f}, "
        self.tell(
            f"epoch {state.epoch or 0:.4g}: {loss}validation loss {metrics['eval_loss']:.4f}, "
            f"accuracy {metrics['eval_accuracy']:.1%}"
        )

    def on_train_end(self, args: Any, state: Any, control: Any, **more: Any) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


def evaluations(history: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    """Of a trainer's history the evaluations: epoch, validation loss and accuracy."""
    return [
        {"epoch": row["epoch"], "loss": row["eval_loss"], "accuracy": row["eval_accuracy"]}
        for row in history
        if "eval_accuracy" in row
    ]

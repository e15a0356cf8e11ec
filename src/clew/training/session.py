"""One training from its beginning, or from where it stopped, to the folder that is written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from transformers import Trainer, set_seed
from transformers.utils import logging as hf_logging

from ..errors import ClewError
from ..files import umask, write_errors
from ..loading.load import load
from .adapters import AGAIN, merged, with_adapter
from .card import card, scores
from .checkpoints import last_checkpoint
from .data import DataSplits
from .loop import Tell, TrainingRuntime, evaluations, logits_of, make_trainer, torch_dataset
from .models import Trainable, save_memory, trainable
from .recipes import Recipe
from .state import from_main, save


@dataclass
class Session:
    """A training with all that it needs. `facts` is what is written to `finetune.json`, and grows."""

    folder: Path
    facts: dict[str, Any]
    parts: DataSplits
    recipe: Recipe
    machine: TrainingRuntime
    lora: int | None
    quantize: str | None
    tell: Tell
    show_progress: bool

    def run(self, before: bool) -> None:
        """Train, measure and write. `before`: measure before training, too."""
        with quiet():
            self._run(before)

    def _run(self, before: bool) -> None:
        if not PartialState().is_main_process:
            self.tell = lambda line: None
        made = self._made()
        if self.machine.gradient_checkpointing:
            save_memory(made.model)
        for note in self.parts.notes:
            self.tell(note)
        numbers = [p.numel() for p in made.model.parameters() if p.requires_grad]
        whole = sum(p.numel() for p in made.model.parameters())
        self.tell(f"{sum(numbers):,} of {whole:,} numbers are trained, by {len(self.parts.train)} examples")
        checkpoints = self.folder / "checkpoints"
        begun = from_main(lambda: last_checkpoint(checkpoints))
        trainer = make_trainer(made, self.parts, self.recipe, checkpoints, self.machine, self.tell, self.show_progress)
        tested = torch_dataset(made, self.parts.test, self.recipe)
        if "before" not in self.facts:
            self.facts["before"] = self._measure(trainer, tested)[0] if before else None
            from_main(lambda: save(self.folder, self.facts))
        if self.facts["before"] is not None:
            self.tell(f"before: {_said(self.facts['before'])}")
        if begun is not None:
            self.tell(f"going on from {begun}")
        set_seed(self.recipe.seed)
        trainer.train(resume_from_checkpoint=str(begun) if begun is not None else None)
        after, logits = self._measure(trainer, tested)
        if not np.isfinite(logits).all():
            raise ClewError(
                "training diverged: the model gives numbers that are none",
                expected="finite logits",
                got="NaN or infinity",
                todo="a smaller lr, or a warm-up (warmup_epochs); begin anew with overwrite=True, --overwrite",
            )
        self.facts["results"] = {
            "kind": made.kind,
            "test": after,
            "evaluations": evaluations(trainer.state.log_history),
            "epochs": trainer.state.epoch,
            "max_length": made.longest(self.recipe.max_length) if made.kind == "text" else None,
        }
        from_main(lambda: self._write(trainer, made, logits))
        shutil.rmtree(checkpoints, ignore_errors=True)
        self.tell(f"after: {_said(after)}")

    def _made(self) -> Trainable:
        fixed: dict[str, Any] = {"is_text": self.parts.is_text, "seed": self.recipe.seed}
        name, classes = self.facts["asked"]["model"], self.parts.classes
        if self.lora is None:
            return trainable(name, classes, **fixed, reinit=self.recipe.reinit, train=str(self.recipe.train))
        made = trainable(name, classes, **fixed, quantize=self.quantize)
        checkpointing = self.machine.gradient_checkpointing
        return with_adapter(made, self.lora, quantized=self.quantize is not None, checkpointing=checkpointing)

    def _measure(self, trainer: Trainer, tested: Any) -> tuple[dict[str, Any], Any]:
        """Scores and logits of the test part."""
        predicted: Any = trainer.predict(tested)
        logits = np.asarray(logits_of(predicted.predictions), dtype=np.float32)
        return scores(predicted.label_ids, logits.argmax(-1), self.parts.classes), logits

    def _write(self, trainer: Trainer, made: Trainable, logits: Any) -> None:
        """Write the model and its card, look whether they load as what was measured, then move them to their place."""
        if self.lora is not None:
            again: Trainable | None = None
            if self.quantize is not None:
                name, classes = self.facts["asked"]["model"], self.parts.classes
                again = trainable(name, classes, is_text=self.parts.is_text, seed=self.recipe.seed)
            made.model = merged(trainer.accelerator.unwrap_model(trainer.model), again, self.folder / "adapter")
        new = self.folder / ".writing"
        shutil.rmtree(new, ignore_errors=True)
        try:
            with write_errors(self.folder, then=AGAIN):
                new.mkdir(parents=True)
                made.write(new)
                (new / "README.md").write_text(card(self.facts), encoding="utf-8")
            if self.quantize is None:  # packed weights are rounded: what is written is better than what was trained
                self._check(new, logits[0])
            self.facts["files"] = sorted(file.name for file in new.iterdir())
            with write_errors(self.folder, then=AGAIN):
                for file in sorted(new.iterdir()):
                    file.chmod(0o666 & ~umask())
                    os.replace(file, self.folder / file.name)
        finally:
            shutil.rmtree(new, ignore_errors=True)
        save(self.folder, self.facts)  # last: now it is done

    def _check(self, folder: Path, logits: Any) -> None:
        """Raise `ClewError` where the model, loaded from what was written, gives other logits than were measured."""
        found = load(folder)
        example = self.parts.test.data.read(0)
        with torch.no_grad():
            if found.tokenizer is not None:
                longest = self.facts["results"]["max_length"]
                got: Any = found.model(
                    **found.tokenizer(example.text or "", truncation=True, max_length=longest, return_tensors="pt")
                )
            else:
                assert found.preprocess is not None and example.image is not None
                got = found.model(found.preprocess(example.image)[0][None])
        values = np.asarray(getattr(got, "logits", got).float())[0]
        loose = 0.1 if self.machine.bf16 else 2e-3
        if not np.allclose(values, logits, atol=loose, rtol=loose):
            raise ClewError("the written model is not the trained one", expected=logits, got=values)


@contextmanager
def quiet() -> Generator[None]:
    """Without the bars and hints that transformers writes for each file."""
    level, bar = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bar:
            hf_logging.enable_progress_bar()


def _said(test: dict[str, Any]) -> str:
    return (
        f"{test['accuracy']:.1%} of {test['examples']} test examples are right "
        f"(95 % interval {test['low']:.1%} to {test['high']:.1%})"
    )

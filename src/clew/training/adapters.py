"""LoRA by PEFT: small matrices beside frozen weights, which may be held in 4 or 8 bits (QLoRA)."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from ..errors import OptionError, WriteError, optional_import
from ..files import write_errors
from .models import Trainable, heads

AGAIN = "run the same again: nothing is trained anew"


def with_adapter(made: Trainable, rank: int, *, quantized: bool, checkpointing: bool) -> Trainable:
    """The model with LoRA matrices of a rank beside every linear layer; those, and the head, are what is trained.

    α is twice the rank and dropout 0.05. Raises `OptionError` for models of timm.
    """
    if made.kind == "timm":
        raise OptionError("LoRA is for models of transformers", expected="no lora=", got=made.base)
    peft = optional_import("peft", extra="train", purpose="train with LoRA")
    model: Any = made.model
    if quantized:
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=checkpointing)
    config = peft.LoraConfig(
        task_type="SEQ_CLS" if made.kind == "text" else None,
        r=rank,
        lora_alpha=2 * rank,
        lora_dropout=0.05,
        target_modules="all-linear",
        modules_to_save=None if made.kind == "text" else heads(model),
    )
    made.model = peft.get_peft_model(model, config)
    return made


def merged(trained: Any, again: Trainable | None, folder: Path) -> Any:
    """The adapter written to a folder, and the plain model with what it learned added to its weights.

    A quantised model's adapter is added to the weights in floats: those of `again`, the same model loaded anew.
    Raises `WriteError`.
    """
    peft = optional_import("peft", extra="train", purpose="train with LoRA")
    try:
        with write_errors(folder, then=AGAIN):
            trained.save_pretrained(folder)
    except WriteError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if again is not None:
        trained = peft.PeftModel.from_pretrained(again.model, folder)
    return trained.merge_and_unload()

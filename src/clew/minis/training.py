"""How the bundled models are trained: one pass over generated examples, seeded, on a CPU."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainingArguments

from ..files import write_all, write_errors


def training_arguments(
    output: Path, *, batch: int, warmup: int, learning_rate: float = 1e-3, **more: Any
) -> TrainingArguments:
    """Arguments of transformers' `Trainer`; what it writes on the way goes to `output / "checkpoints"`."""
    return TrainingArguments(
        output_dir=str(output / "checkpoints"),
        num_train_epochs=1,
        per_device_train_batch_size=batch,
        learning_rate=learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=warmup,
        weight_decay=0.05,
        max_grad_norm=1.0,
        save_strategy="no",
        report_to=[],
        seed=0,
        use_cpu=True,
        disable_tqdm=True,
        **more,
    )


def write_model(model: Any, output: Path, measured: dict[str, Any], tokenizer: Any = None) -> None:
    """Write a model in float16 with its tokenizer, and what was measured of it; what training left there goes."""
    shutil.rmtree(output / "checkpoints", ignore_errors=True)
    with write_errors(output):
        model.half().save_pretrained(output)
    _write(output / "measured.json", measured)
    if tokenizer is not None:
        with write_errors(output):
            tokenizer.save_pretrained(output)
        told = json.loads((output / "tokenizer_config.json").read_text())
        told["tokenizer_class"] = "PreTrainedTokenizerFast"  # the name that transformers 4 and 5 both know
        _write(output / "tokenizer_config.json", told)


def write_processor(output: Path, kind: str, size: int) -> None:
    """Write how pictures are prepared: resized to a square of `size`, pixels scaled to [-1, 1]."""
    half = [0.5, 0.5, 0.5]
    resized = {"do_resize": True, "do_center_crop": False, "size": {"height": size, "width": size}, "resample": 3}
    scaled = {
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": half,
        "image_std": half,
    }
    _write(output / "preprocessor_config.json", {"image_processor_type": kind, **resized, **scaled})


def write_scenes(output: Path, **arrays: np.ndarray) -> None:
    """Write the scenes that ship with a model."""
    content = io.BytesIO()
    np.savez_compressed(content, allow_pickle=False, **arrays)
    write_all({output / "scenes.npz": content.getvalue()})


def _write(path: Path, content: dict[str, Any]) -> None:
    write_all({path: json.dumps(content, indent=2) + "\n"})

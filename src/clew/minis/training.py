"""How the bundled models are trained: one pass over generated examples, seeded, on a CPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import TrainingArguments


def training_arguments(output: Path, *, batch: int, warmup: int, **more: Any) -> TrainingArguments:
    """Arguments of transformers' `Trainer`; what it writes on the way goes to `output / "checkpoints"`."""
    return TrainingArguments(
        output_dir=str(output / "checkpoints"),
        num_train_epochs=1,
        per_device_train_batch_size=batch,
        learning_rate=1e-3,
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

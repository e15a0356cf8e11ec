"""`clew models`."""

from __future__ import annotations

import typer
from rich.console import Console
from rich.table import Table

from ..loading import MINIS
from ..models import pairs
from ..models.architectures import architectures

UNDECLARED = {
    "pictures with words": "LLaVA, Qwen-VL, SmolVLM, PaliGemma, InternVL, Mllama, BLIP-2, Florence-2",
    "encoder with decoder": "T5, BART, Marian, NLLB, TrOCR, Donut, Whisper",
    "sound": "wav2vec2, AST",
}

app = typer.Typer(add_completion=False)
console = Console()


@app.command()
def models() -> None:
    """List the bundled models and the families that can be explained as they are."""
    bundled = Table("bundled", "what it is")
    for name, what in MINIS.items():
        bundled.add_row(f"mini:{name}", what)
    families = Table("declaration", "classes")
    for architecture in [*architectures().values(), *pairs().values()]:
        families.add_row(architecture.name, "\n".join(path.rpartition(".")[2] for path in architecture.classes))
    undeclared = Table("any other model", "for example")
    for what, names in UNDECLARED.items():
        undeclared.add_row(what, names)
    console.print(bundled, families, undeclared)
    console.print(
        "A declaration makes explanations faster and is for methods of blocks. Any other model is explained as it is, "
        "by LRP, gradients and attention (docs/any-model.md, docs/answers.md); `clew doctor` tries it."
    )

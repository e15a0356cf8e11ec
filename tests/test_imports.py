"""The order of the files, the names that are public, and how little `import clew` needs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import clew

SOURCE = Path(clew.__file__).parent

# A file imports only from files of a smaller number; imports inside functions count.
LAYERS = {
    "shapes": 0, "discovery": 0, "json_files": 1, "archives": 1, "model_files": 2, "picture_settings": 1,
    "outputs": 1, "files": 2, "words": 1, "quantized": 1, "quadrature": 2, "twin": 2, "guest": 0, "gradient_stops": 1,
    "sparse": 1, "heads": 1, "class_targets": 2, "unknown": 1, "refusals": 3,
    "passes": 1, "passing": 1, "measured": 1, "checking": 0, "paths": 3, "typed": 1, "surrogates": 1, "literals": 2,
    "arguments": 1, "spelling": 1, "token_numbers": 4, "encodings": 5, "padding": 6, "answers": 5, "prompts": 12,
    "rules.base": 1, "rules.*": 2, "rules": 3, "rule_sets": 4, "mha": 3, "seam": 3, "precise": 4,
    "architectures": 2, "plots": 3, "progress": 1, "text_html": 3, "texts": 2, "architectures.*": 3, "page": 4,
    "generation_html": 4, "pair": 3, "things": 5, "architectures.pairs": 4, "target_kinds": 1,
    "saved": 2, "attribution": 4, "image_attribution": 5, "text_attribution": 5, "pair_attribution": 6, "compare": 6,
    "opening": 3, "images": 4, "arrays": 4, "checkpoints": 4, "readout": 4, "reach": 3, "capture": 5,
    "blocks": 6, "trace": 6, "subject": 7,
    "ledger": 5, "text_places": 5, "positional": 6, "tape": 6, "operations": 7, "operations.*": 8, "relevance": 9,
    "methods": 8, "methods.*": 10, "targets": 6,
    "hub": 3, "loaded": 6, "load_timm": 7, "load_open_clip": 7, "load_hf": 7, "load": 10,
    "minis.digit_scenes": 7, "minis.film_reviews": 1, "minis.captions": 1, "minis": 7, "minis.training": 3,
    "minis.captioned": 8,
    "minis.train_digits": 8, "minis.train_reviews": 8, "minis.train_pairs": 9,
    "verify": 9, "verify.*": 8,
    "prepare_text": 7, "inputs": 5, "prepare": 8, "pair_model": 9, "assemble": 10, "windows": 11, "similarity": 11,
    "explain": 12, "generation": 13,
    "metrics.curves": 2, "metrics.segmentation": 1, "metrics.eraser_files": 3, "metrics.eraser": 4,
    "metrics.perturbation": 7, "metrics.flipping": 7, "metrics": 8,
    "datasets.content": 1, "datasets.places": 2, "datasets.selection": 2, "datasets.tables": 3, "datasets.labels": 4,
    "datasets.imagenet_labels": 4, "datasets": 5, "datasets.pictures": 5, "datasets.stored": 6, "datasets.sheets": 7,
    "datasets.rows": 7, "datasets.choices": 8, "datasets.*": 9,
    "resampling": 1, "statistics": 2, "report_curves": 3, "report_rows": 2, "report_data": 3, "report_tables": 4,
    "report_parts": 5, "report_page": 6, "report": 7,
    "benchmarks": 10, "benchmarks.texts": 11, "benchmarks.segmentation": 11, "benchmarks.rationale": 12,
    "benchmarks.*": 13,
    "manifest": 3, "work": 13, "store": 14, "engines": 14, "identity": 7, "asked": 14, "run": 15,
    "evaluate": 16, "chosen": 16, "shown": 16,
    "model_places": 4, "training": 1, "training.recipes": 2, "training.state": 3, "training.data": 6,
    "training.models": 11, "training.checkpoints": 3, "training.card": 1, "training.adapters": 12,
    "training.loop": 12, "training.session": 13,
    "reading": 0, "token_strings": 1, "lettering": 2, "text_lines": 4, "figure_texts": 6, "figure": 7,
    "target_words": 7, "explaining": 14, "cli_words": 3, "cli_figure": 15, "finetune": 14,
    "cli_finetune": 15,
    "app": 1, "app.memory": 1, "app.folders": 3, "app.access": 1,
    "app.asking": 15, "app.maps": 7, "app.pieces": 16, "app.results": 17, "app.explain_tab": 17,
    "app.compare_tab": 17, "app.results_tab": 18, "app.blocks": 19, "app.serve": 20, "cli_ui": 21,
    "doctor": 13, "many": 13, "demo": 14, "cli_bench": 17, "cli": 22,
    "__main__": 23, "": 23,
}  # fmt: skip


def layer(name: str) -> int:
    if name in LAYERS:
        return LAYERS[name]
    return LAYERS[name.rpartition(".")[0] + ".*"]


def modules():
    for file in SOURCE.rglob("*.py"):
        parts = file.relative_to(SOURCE).with_suffix("").parts
        package = parts[:-1]
        yield file, ".".join(package if parts[-1] == "__init__" else parts), package


def imports_of(file: Path, package: tuple[str, ...]):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            target = ".".join([*base, *(node.module.split(".") if node.module else [])])
            if node.module is None:
                for alias in node.names:
                    name = ".".join([*base, alias.name])
                    yield (
                        name
                        if name in LAYERS or (SOURCE / Path(*name.split("."))).with_suffix(".py").is_file()
                        else target
                    )
            else:
                yield target
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("clew"):
            yield node.module.removeprefix("clew").removeprefix(".")


def test_imports_go_one_way():
    wrong = []
    for file, name, package in modules():
        for target in imports_of(file, package):
            if target != name and layer(target) >= layer(name):
                wrong.append(f"{name} (layer {layer(name)}) imports {target} (layer {layer(target)})")
    assert not wrong


def test_no_file_is_long():
    assert not [f"{file.name}: {n}" for file, *_ in modules() if (n := len(file.read_text().splitlines())) > 400]


def test_only_the_seam_intercepts_torch():
    trainers = [name for _, name, _ in modules() if name.startswith("minis.train_")]
    for file, name, _ in modules():
        text = file.read_text()
        if name != "seam":
            assert "TorchFunctionMode" not in text, name
        for banned in ("print(", "sys.exit(", "exit("):
            if name not in ("cli", "cli_ui", "app.asking", *trainers):  # commands end; the page writes code
                assert banned not in text.replace("console.print(", "").replace("fingerprint(", ""), (name, banned)


def test_public_names_exist_once():
    assert len(clew.__all__) == len(set(clew.__all__))  # ruff keeps the order
    assert all(hasattr(clew, name) for name in clew.__all__)


def test_importing_needs_torch_and_little_else():
    script = (
        "import sys, torch, time; t = time.perf_counter(); import clew; took = time.perf_counter() - t;"
        "heavy = [m for m in ('timm', 'torchvision', 'transformers', 'matplotlib', 'sklearn', 'scipy', 'rich', 'typer',"
        " 'jinja2') if m in sys.modules]; print(heavy, took)"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.startswith("[]"), run.stdout


def test_everything_public_is_documented():
    missing = [name for name in clew.__all__ if not (getattr(clew, name).__doc__ or "").strip()]
    assert not missing

"""The model card: what was trained, on what, how, and how good it is on the whole test part."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import optional_import


def scores(labels: Any, guessed: Any, classes: Sequence[str]) -> dict[str, Any]:
    """Accuracy with its 95 % interval (Wilson), macro F1, and precision, recall and F1 of each class."""
    metrics = optional_import("sklearn.metrics", extra="train", purpose="measure accuracy")
    stats = optional_import("scipy.stats", extra="train", purpose="give intervals")
    hits = int((labels == guessed).sum())
    interval = stats.binomtest(hits, len(labels)).proportion_ci(method="wilson")
    told = metrics.precision_recall_fscore_support(labels, guessed, labels=range(len(classes)), zero_division=0)
    return {
        "accuracy": hits / len(labels),
        "low": float(interval.low),
        "high": float(interval.high),
        "f1": float(metrics.f1_score(labels, guessed, average="macro", zero_division=0)),
        "examples": len(labels),
        "classes": {
            name: {"precision": float(p), "recall": float(r), "f1": float(f), "examples": int(n)}
            for name, p, r, f, n in zip(classes, *told, strict=True)
        },
    }


def card(facts: Mapping[str, Any]) -> str:
    """The text of `README.md`, with the metadata that the Hub reads, from what `finetune.json` holds."""
    asked, results = facts["asked"], facts["results"]
    test, sizes = results["test"], asked["parts"]
    is_text = results["kind"] == "text"
    before = facts.get("before")
    lines = [
        f"---\n{_metadata(facts)}\n---",
        f"# {asked['model']} fine-tuned on {asked['data']}",
        f"Classes: {', '.join(asked['classes'])}. Accuracy on the whole test part: **{test['accuracy']:.1%}** "
        f"(95 % interval {test['low']:.1%} to {test['high']:.1%}, {test['examples']} examples).",
        "## Use",
        f"```python\n{_usage(results['kind'])}\n```",
        "## Data",
        f"{asked['data']}: {sizes['train']} examples for training, {sizes['validation']} for validation, "
        f"{sizes['test']} for the test.",
        "\n".join(f"- {note}" for note in facts["notes"]),
        "## Training",
        f"`{facts['command']}`",
        _table(("option", "value"), list({**asked["recipe"], **asked["more"]}.items())),
        f"Of {len(results['evaluations'])} evaluations the one with the best validation accuracy was kept "
        "(among equal ones, that with the smallest loss):",
        _table(
            ("epoch", "validation loss", "validation accuracy"),
            [(f"{e['epoch']:.4g}", f"{e['loss']:.4f}", f"{e['accuracy']:.1%}") for e in results["evaluations"]],
        ),
        "## Test",
        _table(
            ("", "accuracy", "macro F1"),
            [
                (when, f"{one['accuracy']:.1%}", f"{one['f1']:.3f}")
                for when, one in (("before", before), ("after", test))
                if one is not None
            ],
        ),
        _table(
            ("class", "precision", "recall", "F1", "examples"),
            [
                (name, f"{c['precision']:.3f}", f"{c['recall']:.3f}", f"{c['f1']:.3f}", c["examples"])
                for name, c in test["classes"].items()
            ],
        ),
        "The test part was not used for training, nor to choose when to stop. "
        + ("Texts longer than " + str(results["max_length"]) + " tokens were cut. " if is_text else "")
        + f"Made with {', '.join(f'{k} {v}' for k, v in facts['versions'].items())}.",
    ]
    return "\n\n".join(line for line in lines if line) + "\n"


def _metadata(facts: Mapping[str, Any]) -> str:
    from huggingface_hub import EvalResult, ModelCardData

    asked, results = facts["asked"], facts["results"]
    kind = "text-classification" if results["kind"] == "text" else "image-classification"
    library, _, name = str(asked["model"]).partition(":")
    found = EvalResult(
        task_type=kind,
        dataset_type=str(asked["data"]),
        dataset_name=str(asked["data"]),
        dataset_split="test",
        metric_type="accuracy",
        metric_value=round(results["test"]["accuracy"], 4),
    )
    data = ModelCardData(
        library_name="timm" if results["kind"] == "timm" else "transformers",
        pipeline_tag=kind,
        base_model=name if library == "hf" else f"timm/{name}" if library == "timm" else None,
        model_name=f"{asked['model']} on {asked['data']}",
        metrics=["accuracy", "f1"],
        tags=["clew"],
        eval_results=[found],
    )
    return data.to_yaml()


def _usage(kind: str) -> str:
    if kind == "text":
        return 'import clew\n\nmodel = clew.load("FOLDER")\nclew.explain(model, "some text").save("words.html")'
    return 'import clew\n\nmodel = clew.load("FOLDER")\nclew.explain(model, clew.open_image("a.jpg")).save("map.png")'


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(_cell(value) for value in row) + " |" for row in rows)])


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")

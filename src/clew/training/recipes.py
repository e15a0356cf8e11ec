"""Hyper-parameters by task: those of the papers, and sensible ones for data of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from ..errors import OptionError, close_matches
from ..validation import SEEDS, parse_integer, validate_float, validate_integer


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model is trained; each field is an option of `clew.finetune` and of `clew finetune`.

    `lr`: peak learning rate of AdamW. `batch_size`: examples for each step, over all devices. `epochs`: at most so
    many passes. `patience`: stop after so many evaluations without a better one; 0: never. `schedule`: of the learning
    rate, "linear" or "cosine" down to 0, or "constant". `warmup_epochs`: it first rises from 0 for so long.
    `weight_decay`: of AdamW. `adam_epsilon`: of AdamW. `max_grad_norm`: longer gradients are cut to it; 0: never.
    `max_length`: tokens that texts are cut to. `train`: "all" parameters, "blocks" (all but embeddings), "head", or
    so many last blocks with what is above them. `reinit`: so many last blocks, and what is above them, begin anew.
    `augment`: random crops and flips of pictures. `seed`: of new weights, order and dropout.
    """

    lr: float | int = 2e-5
    batch_size: int = 32
    epochs: float | int = 5.0
    patience: int = 3
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_epochs: float | int = 0.0
    weight_decay: float | int = 0.01
    adam_epsilon: float | int = 1e-8
    max_grad_norm: float | int = 1.0
    max_length: int = 512
    train: str | int = "all"
    reinit: int = 0
    augment: bool = False
    seed: int = 42

    def __post_init__(self) -> None:
        for name, (least, most, above) in _NUMBERS.items():
            validate_float(name, getattr(self, name), least, most, above=above)
        for name, (least, most) in _WHOLE.items():
            validate_integer(name, getattr(self, name), least, most)
        validate_float("warmup_epochs", self.warmup_epochs, 0, self.epochs)
        train = str(self.train)
        object.__setattr__(self, "train", train)
        wrong = {
            "schedule": self.schedule not in ("linear", "cosine", "constant"),
            "train": train not in ("all", "blocks", "head") and (parse_integer(train) is None or train.startswith("-")),
            "augment": not isinstance(self.augment, bool),  # pyright: ignore[reportUnnecessaryIsInstance]
        }
        for name in (name for name, bad in wrong.items() if bad):
            raise OptionError(f"{name} is out of range", expected=_WORDS[name], got=getattr(self, name))


# The least and the most that each may be, `True` where the least itself is too little.
_NUMBERS: dict[str, tuple[float, float | None, bool]] = {
    "lr": (0, 1e6, True), "weight_decay": (0, 1e6, False), "adam_epsilon": (0, 1e6, False),
    "epochs": (0, 100_000, True), "max_grad_norm": (0, None, False),
}  # fmt: skip
_WHOLE: dict[str, tuple[int, int | None]] = {
    "seed": (0, SEEDS - 1), "batch_size": (1, 1_000_000), "patience": (0, None), "max_length": (1, None),
    "reinit": (0, None),
}  # fmt: skip
_WORDS = {
    "schedule": "linear, cosine or constant", "train": "all, blocks, head, or a number of last blocks",
    "augment": "True or False",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Task:
    """A named task: its recipe, and which model and data the paper took.

    `validation` is the share of the training part that is held out where the data has no part of its own for it,
    drawn by scikit-learn's `train_test_split` with `split_seed`; `stratified` keeps the shares of the classes.
    `limit`: the first so many training examples.
    """

    name: str
    what: str
    recipe: Recipe
    model: str | None = None
    data: str | None = None
    kind: str | None = None
    validation: float = 0.1
    test: float = 0.2
    split_seed: int = 0
    stratified: bool = True
    limit: int | None = None


TASKS = {
    task.name: task
    for task in (
        Task(
            name="movies",
            what="ERASER Movie Reviews, as in Beyond Intuition (bert_pipeline.py)",
            model="hf:bert-base-uncased",
            data="movies/",
            kind="eraser",
            # Released: Adam with ε 1e-8, the loss summed over a batch of 10, its gradient cut at 1.0. Of the mean, a
            # tenth of it, that is a cut at 0.1 and ε 1e-9.
            recipe=Recipe(
                lr=1e-5, batch_size=10, epochs=10, patience=10, schedule="constant", weight_decay=0.0,
                max_grad_norm=0.1, adam_epsilon=1e-9, seed=12345,
            ),
        ),
        Task(
            name="20newsgroups",
            what="20 Newsgroups without headers, footers and quotes, as in Beyond Intuition (bert_finetuning_20ng.py)",
            model="hf:bert-base-uncased",
            data="20news-bydate/",
            kind="newsgroups",
            validation=0.22,
            split_seed=2018,
            stratified=False,
            recipe=Recipe(lr=5e-6, batch_size=32, epochs=22, patience=0, weight_decay=0.0, adam_epsilon=1e-9),
        ),
        Task(
            name="imdb",
            what="IMDB reviews, as in PA-LRP (main_imdb.py)",
            model="hf:TinyLlama/TinyLlama-1.1B-Chat-v1.0",
            data="imdb.csv",
            kind="imdb",
            split_seed=42,
            limit=5000,
            # Released: up to 200 epochs without stopping early. Its rate of 5e-4 was in fact the head's alone.
            recipe=Recipe(
                lr=5e-4, batch_size=32, epochs=200, patience=10, warmup_epochs=5, weight_decay=0.0, train="blocks"
            ),
        ),
        Task(name="text", what="texts of your own: csv, tsv, jsonl, folders, hf:ORG/NAME", recipe=Recipe()),
        Task(
            name="images",
            what="pictures of your own, in a folder for each class or hf:ORG/NAME",
            recipe=Recipe(lr=1e-4, epochs=10, weight_decay=0.05, schedule="cosine"),
        ),
    )
}  # fmt: skip


def changed(recipe: Recipe, options: Mapping[str, Any]) -> Recipe:
    """A recipe with other values; with other epochs the warm-up keeps its share of them, unless it is given.

    Raises `OptionError` for options that no recipe has, and for values out of range.
    """
    known = {f.name for f in fields(Recipe)}
    for name in options:
        if name not in known:
            raise OptionError(f"fine-tuning has no option {name!r}", got=name, todo=close_matches(name, known))
    given = dict(options)
    if "epochs" in given:
        epochs = replace(recipe, epochs=given["epochs"], warmup_epochs=0).epochs  # told where it is no number
        given.setdefault("warmup_epochs", recipe.warmup_epochs * epochs / recipe.epochs)
    return replace(recipe, **given)

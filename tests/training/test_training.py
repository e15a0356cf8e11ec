"""Training: the papers' numbers, a literal twin of it, and what is frozen or begins anew."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import timm.models
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from sklearn.metrics import f1_score
from support.labelled_data import picture_folder, reviews, table
from support.tiny_text import build_text
from torch.optim.optimizer import register_optimizer_step_pre_hook
from transformers import AutoModelForSequenceClassification, AutoTokenizer

import clew
from clew.errors import LoadError, OptionError
from clew.models.module_paths import block_and_head_names
from clew.training.finetune import finetune
from clew.training.loop import compute_metrics
from clew.training.models import trainable
from clew.training.recipes import TASKS, Recipe, changed

MINIS = Path(clew.__file__).parent / "minis"


def quick(source, model, out, **options):
    """A training of few steps."""
    usual = {"epochs": 1.0, "batch_size": 8, "before": False, "show_progress": False}
    return finetune(str(source), str(model), out=out, **{**usual, **options})


def weights(folder):
    return load_file(str(folder / "model.safetensors"))


# Recipes


USUAL = {"max_length": 512, "reinit": 0, "augment": False}
PAPERS = {
    # bert_pipeline.py: Adam at 1e-5, batches of 10; the gradient of the summed loss is cut at 1.0.
    "movies": {
        "lr": 1e-5, "batch_size": 10, "epochs": 10, "patience": 10, "schedule": "constant", "warmup_epochs": 0,
        "weight_decay": 0, "adam_epsilon": 1e-8 / 10, "max_grad_norm": 1.0 / 10, "train": "all", "seed": 12345,
    },
    # bert_finetuning_20ng.py: AdamW at 5e-6 with ε 1e-9, linear decay without warm-up, all 22 epochs.
    "20newsgroups": {
        "lr": 5e-6, "batch_size": 32, "epochs": 22, "patience": 0, "schedule": "linear", "warmup_epochs": 0,
        "weight_decay": 0, "adam_epsilon": 1e-9, "max_grad_norm": 1.0, "train": "all", "seed": 42,
    },
    # main_imdb.py: AdamW at 5e-4, warm-up of five epochs, embeddings frozen.
    "imdb": {
        "lr": 5e-4, "batch_size": 32, "epochs": 200, "patience": 10, "schedule": "linear", "warmup_epochs": 5,
        "weight_decay": 0, "adam_epsilon": 1e-8, "max_grad_norm": 1.0, "train": "blocks", "seed": 42,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PAPERS)
def test_recipes_are_those_of_the_papers(name):
    assert asdict(TASKS[name].recipe) == USUAL | PAPERS[name]


def test_what_the_papers_took():
    ours = {name: (task.model, task.kind, task.limit, task.stratified) for name, task in TASKS.items()}
    assert ours["movies"] == ("hf:bert-base-uncased", "eraser", None, True)
    assert ours["20newsgroups"] == ("hf:bert-base-uncased", "newsgroups", None, False)
    assert ours["imdb"] == ("hf:TinyLlama/TinyLlama-1.1B-Chat-v1.0", "imdb", 5000, True)
    assert (TASKS["20newsgroups"].validation, TASKS["20newsgroups"].split_seed) == (0.22, 2018)
    assert all(TASKS[name].test == 0.2 and TASKS[name].model is None for name in ("text", "images"))


@pytest.mark.parametrize(
    ("option", "wrong", "right"),
    [
        ("lr", 0.0, 1.0), ("lr", -1e-5, 1e-9), ("batch_size", 0, 1), ("epochs", 0.0, 0.5), ("epochs", -1, 3),
        ("patience", -1, 0), ("warmup_epochs", -0.1, 0.0), ("warmup_epochs", 6.0, 5.0), ("max_length", 0, 1),
        ("max_grad_norm", -1.0, 0.0), ("reinit", -1, 0), ("train", "heads", "head"), ("train", "-1", "2"),
        ("train", "1.5", "blocks"), ("schedule", "step", "cosine"),
    ],
)  # fmt: skip
def test_values_out_of_range_are_refused(option, wrong, right, untyped):
    with refused_option(option, wrong):
        changed(TASKS["text"].recipe, {option: wrong})
    assert getattr(changed(TASKS["text"].recipe, {option: right}), option) == right


def refused_option(option, wrong):
    return pytest.raises(
        OptionError, match=rf"{option} is out of range\n.*expected: .+\n.*got: +{re.escape(str(wrong))}"
    )


def test_options_that_no_recipe_has_and_the_share_of_the_warm_up():
    with pytest.raises(OptionError, match="no option 'learning_rate'"):
        changed(Recipe(), {"learning_rate": 1.0})
    with pytest.raises(OptionError, match="did you mean 'batch_size'"):
        changed(Recipe(), {"batchsize": 1})
    assert changed(TASKS["imdb"].recipe, {"epochs": 20}).warmup_epochs == 0.5
    assert changed(TASKS["imdb"].recipe, {"epochs": 20, "warmup_epochs": 2}).warmup_epochs == 2
    assert changed(TASKS["imdb"].recipe, {"train": 2}).train == "2"


# Training is what it says


def calm(folder, base="reviews-bert"):
    """A bundled model without dropout."""
    folder.mkdir()
    for file in (MINIS / base).iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "hidden_dropout_prob": 0.0}))
    return folder


@pytest.fixture(scope="module")
def wrong_way_round(tmp_path_factory):
    """Reviews that are called the opposite of what they are, so that there is much to learn."""
    folder = tmp_path_factory.mktemp("opposite")
    some = [(r.text, ("positive", "negative")[r.label]) for r in clew.reviews(30)]
    for name, rows in (("train", some[:10]), ("val", some[10:20]), ("test", some[20:])):
        table(folder / f"{name}.csv", rows)
    return folder, some[:10]


def gradients_of_sum(model, tokenizer, rows):
    """The summed loss's gradients, cut at 1.0, as bert_pipeline.py has them; and how long they were."""
    batch = tokenizer([text for text, _ in rows], padding=True, truncation=True, max_length=256, return_tensors="pt")
    labels = torch.tensor([("negative", "positive").index(label) for _, label in rows])
    model.zero_grad()
    F.cross_entropy(model(**batch).logits, labels, reduction="sum").backward()
    return float(torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0))


def norm_of(optimizer):
    found = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    return float(torch.nn.utils.get_total_norm(found))


@pytest.mark.parametrize("pieces", [None, 2])
def test_the_films_recipe_is_adam_on_the_summed_loss_of_a_batch(wrong_way_round, tmp_path, pieces):
    folder, rows = wrong_way_round
    base = calm(tmp_path / "base")
    films = {k: v for k, v in PAPERS["movies"].items() if k not in ("epochs", "train")}
    options = films | {"epochs": 3, "micro_batch": pieces}  # one batch is the whole training part
    norms = []
    handle = register_optimizer_step_pre_hook(lambda optimizer, *_: norms.append(norm_of(optimizer)))
    done = quick(folder, base, tmp_path / "out", **options)
    handle.remove()
    assert norms == pytest.approx([1.0 / 10] * 3, rel=1e-4)  # the mean's; that of the sum is 1.0
    losses = [one["loss"] for one in done.facts["results"]["evaluations"]]
    assert losses == sorted(losses, reverse=True) and len(losses) == 3  # so the last weights were kept

    model = AutoModelForSequenceClassification.from_pretrained(base, dtype=torch.float32).train()
    tokenizer = AutoTokenizer.from_pretrained(base)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    certain = {name: torch.ones_like(p, dtype=torch.bool) for name, p in before.items()}
    for _ in range(3):
        assert gradients_of_sum(model, tokenizer, rows) > 1.5  # it is cut
        for name, p in model.named_parameters():  # not those of which ε, or rounding, is a part
            certain[name] &= p.grad.abs() > 1e-4
        optimizer.step()
    found, steps = weights(done.folder), []
    for name, p in model.named_parameters():
        sure = certain[name]
        steps.append((p.detach() - before[name])[sure].abs())
        torch.testing.assert_close(found[name][sure], p.detach()[sure], atol=6e-8, rtol=2.5e-7)
        assert (found[name] - before[name]).abs().max() < 3.1e-5  # and nowhere are there more than three steps
    assert sum(map(len, steps)) > 20_000 and torch.cat(steps).median() > 1e-5


def test_a_batch_in_pieces_is_the_same_batch(tmp_path):
    """Of different lengths, and the last batch is smaller."""
    source = table(tmp_path / "a.csv", [(text + " and on" * (i % 5), l) for i, (text, l) in enumerate(reviews(30))])
    options = {"batch_size": 6, "epochs": 2, "lr": 1e-3, "train": "1"}
    one, two, five = (
        quick(source, "mini:reviews-llama", tmp_path / f"{pieces}", micro_batch=pieces, **options)
        for pieces in (None, 1, 4)
    )
    found = weights(one.folder)
    moved = (
        found["score.weight"]
        - trainable("mini:reviews-llama", ("bad", "good"), is_text=True, seed=0).model.score.weight
    ).abs()
    assert moved.max() > 1e-3
    for other in (two, five):
        for name, value in weights(other.folder).items():
            torch.testing.assert_close(value, found[name], atol=2e-5, rtol=1e-4)
    with pytest.raises(OptionError, match="micro_batch is out of range"):
        quick(source, "mini:reviews-llama", tmp_path / "wrong", micro_batch=0)


@pytest.mark.parametrize("schedule", ["linear", "cosine", "constant"])
def test_learning_rates(tmp_path, schedule):
    source = table(tmp_path / "a.csv", reviews(30))  # 21 examples: six steps of four
    rates = []
    handle = register_optimizer_step_pre_hook(lambda optimizer, *_: rates.append(optimizer.param_groups[0]["lr"]))
    quick(
        source, "mini:reviews-llama", tmp_path / "out", batch_size=4, epochs=4, warmup_epochs=0.5, lr=1e-3,
        schedule=schedule, patience=0,
    )  # fmt: skip
    handle.remove()
    total, rising = 24, 3
    rest = [(k - rising) / (total - rising) for k in range(rising, total)]
    falling = {
        "linear": [1 - x for x in rest],
        "cosine": [0.5 * (1 + np.cos(np.pi * x)) for x in rest],
        "constant": [1.0 for _ in rest],
    }
    expected = 1e-3 * np.array([k / rising for k in range(rising)] + falling[schedule])
    np.testing.assert_allclose(rates, expected, rtol=1e-6, atol=1e-12)


def test_of_equal_accuracies_the_smaller_loss_is_better():
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 3, 12)
    found = []
    for scale in (0.1, 1.0, 10.0, 1e4) * 25:
        logits = (scale * draw.normal(size=(12, 3))).astype(np.float32)
        loss = float(F.cross_entropy(torch.tensor(logits).double(), torch.tensor(labels)))
        got = compute_metrics(SimpleNamespace(predictions=logits, label_ids=labels))
        guessed = logits.argmax(1)
        assert got["accuracy"] == (guessed == labels).mean()
        assert got["f1"] == pytest.approx(f1_score(labels, guessed, average="macro", zero_division=0))
        found.append(((guessed == labels).sum(), -loss, got["selection"]))
    assert len({hits for hits, *_ in found}) > 4
    assert sorted(found) == sorted(found, key=lambda one: one[2])
    broken = compute_metrics(SimpleNamespace(predictions=np.full((12, 3), np.nan, np.float32), label_ids=labels))
    assert broken["selection"] <= broken["accuracy"]


# What is frozen, and what begins anew


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Texts, pictures, and the folders of the models that read them."""
    folder = tmp_path_factory.mktemp("sources")
    texts = table(folder / "texts.csv", reviews(24))
    pictures = picture_folder(folder / "pictures", 12)
    torch.manual_seed(0)
    vit = timm.create_model("test_vit", num_classes=2)
    timm.models.save_for_hf(
        vit, str(folder / "vit"), model_config={"label_names": ["cat", "dog"]}, safe_serialization=True
    )
    return {
        "mini:reviews-bert": (texts, MINIS / "reviews-bert"),
        "mini:reviews-llama": (texts, MINIS / "reviews-llama"),
        "mini:digits": (pictures, MINIS / "digits"),
        str(folder / "vit"): (pictures, folder / "vit"),
    }


# What is changed, of names as they are stored.
CHANGED = {
    "reviews-bert": {
        "head": r"classifier\.",
        "1": r"(bert\.encoder\.layer\.1|bert\.pooler|classifier)\.",
        "blocks": r"(bert\.encoder\.layer\.[01]|bert\.pooler|classifier)\.",
    },
    "reviews-llama": {
        "head": r"score\.",
        "1": r"(model\.layers\.1|model\.norm|score)\.",
        "blocks": r"(model\.layers\.[01]|model\.norm|score)\.",
    },
    "digits": {
        "head": r"classifier\.",
        "1": r"(vit\.encoder\.layer\.5|vit\.layernorm|classifier)\.",
        "blocks": r"(vit\.encoder\.layer\.[0-5]|vit\.layernorm|classifier)\.",
    },
    "vit": {
        "head": r"head\.",
        "1": r"(blocks\.5|norm|head)\.",
        "blocks": r"(blocks\.[0-5]|norm|head)\.",
    },
}  # fmt: skip
for _wanted in CHANGED.values():
    _wanted["all"] = ""


def kind_of(model):
    return re.split("[:/]", model)[-1]


@pytest.mark.sampled(0.25)
@pytest.mark.parametrize("train", ["head", "1", "blocks", "all"])
@pytest.mark.parametrize("kind", CHANGED)
def test_what_is_frozen_stays_to_the_last_bit_and_all_else_changes(sources, tmp_path, kind, train):
    model, (source, base) = next((m, found) for m, found in sources.items() if kind_of(m) == kind)
    done = quick(source, model, tmp_path / "out", train=train, lr=1e-2)
    old, new = weights(base), weights(done.folder)
    assert old.keys() == new.keys()
    fresh = {"classifier.weight", "classifier.bias"} if kind == "digits" else set()  # two classes instead of ten
    changed = {k for k in new if k in fresh or not torch.equal(new[k], old[k].float())}
    assert changed == {k for k in new if re.match(CHANGED[kind][train], k)}


@pytest.mark.parametrize("kind", CHANGED)
def test_more_blocks_than_there_are(sources, tmp_path, kind):
    model = next(model for model in sources if kind_of(model) == kind)
    depth = {"reviews-bert": 2, "reviews-llama": 2}.get(kind, 6)
    asked = {"is_text": "reviews" in kind, "seed": 0}
    trainable(model, ("bad", "good"), **asked, train=str(depth), reinit=depth)
    for wrong in ({"train": str(depth + 1)}, {"reinit": depth + 1}):
        with pytest.raises(OptionError, match=f"fewer blocks\n.*at most {depth}\n"):
            trainable(model, ("bad", "good"), **asked, **wrong)


@pytest.mark.parametrize("kind", CHANGED)
@pytest.mark.parametrize("count", [1, 2])
def test_what_begins_anew_depends_on_the_seed_alone(sources, kind, count):
    model = next(model for model in sources if kind_of(model) == kind)

    def made(seed, global_seed=0):
        torch.manual_seed(global_seed)
        found = trainable(model, ("bad", "good"), is_text="reviews" in kind, seed=seed, reinit=count).model
        return (found.model if kind == "vit" else found).state_dict()

    whole = trainable(model, ("bad", "good"), is_text="reviews" in kind, seed=0).model
    old = (whole.model if kind == "vit" else whole).state_dict()
    first, again, other = made(1), made(1, global_seed=5), made(2)
    depth = {"reviews-bert": 2, "reviews-llama": 2}.get(kind, 6)
    last = "|".join(str(i) for i in range(depth - count, depth))
    # In memory the blocks of the bundled ViT are called vit.layers or vit.encoder.layer.
    drawn = {
        k for k in old if re.search(rf"\b(layers?|blocks)\.({last})\.", k)
        or re.match(r"(classifier|score|head|norm|model\.norm|vit\.layernorm|bert\.pooler)\.", k)
    }  # fmt: skip
    assert len(drawn) > 5 and (len(drawn) < len(old))
    for k in old:
        assert torch.equal(first[k], again[k])
        assert (k in drawn) or torch.equal(first[k], old[k]), k
        if k in drawn and first[k].ndim > 1:  # biases and norms begin at 0 and 1
            assert not torch.equal(first[k], old[k]) and not torch.equal(first[k], other[k]), k


@pytest.mark.parametrize("name", ["deberta_v2", "deberta_v2_shared"])
def test_positions_that_all_blocks_read_are_not_above_them(name):
    _, above = block_and_head_names(build_text(name, "eager"))
    assert "classifier" in above and not any("encoder" in one for one in above)


def test_models_that_cannot_be_trained_so(sources, tmp_path):
    for model, is_text, said in (
        ("mini:digit", False, "no bundled model"), ("nowhere", True, "no model 'nowhere'"),
        ("timm:test_vit", True, "reads no texts"), ("timm:no_such_vit", False, "timm has no model"),
        ("hf:nobody/nothing", True, "could not be loaded"),
    ):  # fmt: skip
        with pytest.raises(LoadError, match=said):
            trainable(model, ("bad", "good"), is_text=is_text, seed=0)

"""Benchmarks of texts against slow twins: one copy of one text at a time, token by token, from the definitions."""

from __future__ import annotations

import copy
import json
import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import sklearn.metrics
import torch
import transformers
from support.bench_twins import Given, evaluated

import clew
from clew.datasets import Example
from clew.errors import InputError, OptionError

METHODS = ("input_x_gradient", "raw_attention")


@pytest.fixture(scope="module")
def bert():
    return clew.load("mini:reviews-bert")


@pytest.fixture(scope="module")
def models(bert, writer):
    """By name: two trained classifiers, one of 512 positions, and a language model of as many."""
    torch.manual_seed(1)
    config = transformers.BertConfig(
        vocab_size=len(bert.tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=24, initializer_range=0.4, num_labels=2,
    )  # fmt: skip
    wide = replace(bert, model=transformers.BertForSequenceClassification(config).eval(), labels=["no", "yes"])
    wordy = replace(writer, model=copy.deepcopy(writer.model))
    wordy.model.config.max_position_embeddings = 512
    return {"bert": bert, "llama": clew.load("mini:reviews-llama"), "wide": wide, "writer": wordy}


@pytest.fixture(scope="module")
def reviews():
    data = clew.open_dataset("mini:reviews")
    found = [data.read(i) for i in (0, 3, 5)]
    short = [replace(e, text=" ".join(e.words[:14]), words=e.words[:14], rationale=((2, 4), (9, 10))) for e in found]
    return [short[0], replace(short[1], label=1 - short[1].label), short[2]]


def tokens_of(loaded, text, limit=None):
    """Token numbers, characters, and which tokens the tokenizer added."""
    found = loaded.tokenizer(text, return_offsets_mapping=True, return_special_tokens_mask=True)
    special = [bool(s) for s in found["special_tokens_mask"]]
    ids, spans = found["input_ids"], found["offset_mapping"]
    if limit is not None and len(ids) > limit:  # the last token is a special one in all of these tokenizers
        ids, spans, special = ([*one[: limit - 1], one[-1]] for one in (ids, spans, special))
    return ids, spans, special


def stored_scores(loaded, text, method, target, row):
    """Of one text explained alone; the stored ones, which rank to the last bit."""
    alone = clew.explain(loaded, text, method=method, target=target)
    np.testing.assert_allclose(row["scores"], alone.scores[0].tolist(), rtol=1e-3, atol=1e-5)
    return row["scores"]


def direct(loaded, ids, attention, gone=(), eraser="mask", mask_id=None):
    ids, attention = list(ids), list(attention)
    words = loaded.model.get_input_embeddings().weight.detach()
    embedded = torch.stack([words[i] for i in ids])
    for k in gone:
        if eraser == "mask":
            attention[k] = 0
            embedded[k] = embedded[k] if mask_id is None else words[mask_id]
        else:
            embedded[k] = 0 if eraser == "zero" else words[eraser]
    with torch.no_grad():
        # Without padding behind it, the last token is the one that is read.
        out = loaded.model(inputs_embeds=embedded[None], attention_mask=torch.tensor([attention])).logits[0]
    return (out[-1] if out.ndim == 2 else out).double().tolist()


def softmax(y):
    top = max(y)
    total = sum(math.exp(v - top) for v in y)
    return [math.exp(v - top) / total for v in y]


def area(x, y):
    return sum((y[k] + y[k + 1]) / 2 * (b - a) for k, (a, b) in enumerate(pairwise(x)))


# Flipping

GENERATE, PRUNE = ("generate/most", "generate/least", "prune/least"), ("prune/most", "prune/least")
TENTHS = [i / 10 for i in range(11)]
STEPS = np.arange(0.52, 0.68, 0.02).tolist()
FLIPPING = {  # model, options, the eraser's meaning, runs that rank by magnitude
    "imdb": ("bert", {}, 1, {"generate/least", "prune/least"}),
    "imdb, llama": ("llama", {"ranking": "value", "fractions": (0.0, 0.35, 0.6, 1.0)}, 5, set()),
    "imdb, mask": ("bert", {"eraser": "mask", "ranking": "magnitude", "max_length": 9}, "mask", set(GENERATE)),
    "imdb, zero": ("llama", {"eraser": "zero", "variant": "pa_lrp"}, "zero", {"generate/least", "prune/least"}),
    "movies": ("bert", {"protocol": "movies", "fractions": (0.0, 0.3, 0.7, 1.0)}, "mask", set()),
    "movies, released": ("bert", {"protocol": "movies", "variant": "beyond_intuition"}, "mask", set()),
    "movies, token": ("bert", {"protocol": "movies", "eraser": "token", "internal_batch_size": 3}, 1, set()),
    "20newsgroups": ("bert", {"protocol": "20newsgroups", "variant": "pa_lrp", "eraser": "zero"}, "zero", set()),
    "20newsgroups, released": (
        "wide", {"protocol": "20newsgroups", "variant": "beyond_intuition", "fractions": (0.01, 0.03, 0.2, 0.9)},
        "mask", set(),
    ),
    "wikipedia": ("writer", {"fractions": (0.0, 0.2, 0.5, 1.0)}, 1, set()),
    "wikipedia, zero": ("writer", {"protocol": "wikipedia", "eraser": "zero", "variant": "pa_lrp"}, "zero", set()),
    "arc_easy": ("writer", {"protocol": "arc_easy", "fractions": (0.0, 0.5, 1.0)}, 1, set()),
    "arc_easy, answers": ("writer", {"protocol": "arc_easy", "answers": True, "fractions": (0.0, 0.4, 1.0)}, 1, set()),
    "arc_easy, prompts": (
        "writer", {"protocol": "arc_easy", "answers": True, "variant": "pa_lrp", "fractions": (0.0, 0.4, 1.0)}, 1, set()
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def questions(models, tmp_path_factory):
    """Questions from a file, and two whose answer is what the language model says, and is not."""
    lines = [
        {"id": "q", "question": {"stem": "It is?", "choices": [{"label": "A", "text": "film"},
         {"label": "B", "text": "so"}]}, "answerKey": "B"},
    ]  # fmt: skip
    path = tmp_path_factory.mktemp("arc") / "ARC-Easy-Test.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)))
    prompt, loaded = "Pick: it's so\nA. café", models["writer"]
    with torch.no_grad():
        said = loaded.model(torch.tensor([loaded.tokenizer(prompt)["input_ids"]])).logits[0, -1].argmax()
    letter = loaded.tokenizer.decode([int(said)]).strip()[-1]
    right = Example(id="right", text=prompt, label=letter, choices=("é", letter), protected=((0, 6), (13, 17)))
    wrong = replace(right, id="wrong", label="é")
    return [right, wrong], [clew.open_dataset(path).read(0)]


@pytest.mark.sampled(0.5)
@pytest.mark.parametrize("case", FLIPPING)
def test_each_protocol_flips_as_written(models, reviews, questions, case):
    name, options, eraser, magnitudes = FLIPPING[case]
    loaded, protocol = models[name], options.get("protocol") or case.split(",")[0]
    variant, answers, limit = options.get("variant", "paper"), options.get("answers"), options.get("max_length")
    examples = reviews[: 2 + (case == "imdb")]
    if protocol == "wikipedia":
        examples = [Example(id="a", text="it's 3.5 stars!"), Example(id="b", text="naïve so-called film owners")]
    if protocol == "arc_easy":
        examples = questions[1] if answers else questions[0]
    released, hits = variant == "beyond_intuition", protocol in ("movies", "20newsgroups")
    rows, numbers = evaluated("flipping", loaded, examples, METHODS, batch_size=2, **options)
    if protocol == "arc_easy" and not answers:
        assert rows["wrong", METHODS[0]]["error"].startswith("left out: answered ")
        examples = examples[:1]
    theirs = variant == "pa_lrp" and not hits
    steps = STEPS if case == "movies, released" else np.linspace(0, 1, 11).tolist() if theirs else TENTHS
    x = list(options.get("fractions") or steps)
    runs = PRUNE if hits else GENERATE
    for method in METHODS:
        curves, correct = {}, []
        for e in examples:
            row = rows[e.id, method]
            assert row["error"] is None
            ids, spans, special = tokens_of(loaded, e.text, limit)
            clean = direct(loaded, ids, [1] * len(ids))
            best = max(range(len(clean)), key=clean.__getitem__)
            among = range(len(clean))
            if answers:
                among = [loaded.tokenizer(f"Answer: {c}", add_special_tokens=False)["input_ids"][-1] for c in e.choices]
            given = among[e.choices.index(e.label)] if answers else e.label
            text = e.text if limit is None else e.text[: max(b for _, b in spans)]
            target = given if hits or answers else None
            scores = stored_scores(loaded, text, method, target, row)
            assert len(scores) == len(ids)
            scores = [max(s, 0.0) if released else s for s in scores]
            fixed = [
                s or any(a < q and b > p for p, q in e.protected) for s, (a, b) in zip(special, spans, strict=True)
            ]
            attention = [1] * len(ids)
            if case == "20newsgroups, released" or (protocol == "imdb" and theirs):
                more = 512 - len(ids)
                ids, attention, scores = ids + [0] * more, attention + [0] * more, scores + [0.0] * more
            free = [k for k in range(len(ids)) if variant != "paper" or not fixed[k]]
            if variant == "paper":
                assert len(free) < len(ids) - 1 and not any(special[k] for k in free)
            watched = given if hits or answers or protocol == "imdb" else best
            if watched != best or protocol not in ("wikipedia", "arc_easy"):
                correct.append(float(watched == max(among, key=clean.__getitem__)))
                assert row["correct"] == correct[-1]
            for run in runs:
                mode, first = run.split("/")
                size = [abs(s) if run in magnitudes else s for s in scores]
                order = sorted(free, key=lambda k, size=size, first=first: -size[k] if first == "most" else size[k])
                found = {c: [] for c in ("hits", "evidence", "logit", "squared_error")}
                for f in x:
                    exact = f * len(free) if theirs else round(f * len(free), 6)
                    some = order[: math.floor(exact) if hits else math.ceil(exact)]
                    gone = some if mode == "prune" else [k for k in free if k not in some]
                    seen = sum(attention) if theirs else len(ids)  # a causal model does not see padding behind
                    gone = [k for k in gone if k < seen]
                    y = direct(loaded, ids[:seen], attention[:seen], gone, eraser, 0 if released else None)
                    found["hits"].append(float(max(range(len(y)), key=y.__getitem__) == watched))
                    found["logit"].append(y[watched])
                    found["evidence"].append(softmax([y[c] for c in among])[list(among).index(watched)])
                    every = protocol == "imdb" or answers
                    error = [(a - b) ** 2 for k, (a, b) in enumerate(zip(clean, y, strict=True)) if every or k == best]
                    found["squared_error"].append(sum(error))
                for c in ("evidence", "hits") if hits else ("evidence", "logit", "squared_error"):
                    np.testing.assert_allclose(row[f"{run}/{c}"], found[c], rtol=2e-3, atol=1e-4, err_msg=f"{run}/{c}")
                    curves.setdefault(f"{run}/{c}", []).append(row[f"{run}/{c}"])
        areas = {key: area(x, np.mean(values, axis=0).tolist()) for key, values in curves.items()}
        if hits:
            expected = {f"{run} accuracy AUC": areas[f"{run}/hits"] for run in runs}
            expected |= {f"{run} probability AUC": areas[f"{run}/evidence"] for run in runs}
        else:
            expected = {"generate MERF (logit)": areas["generate/most/logit"]}
            expected["generate LERF (logit)"] = areas["generate/least/logit"]
            expected["generate MERF - LERF"] = areas["generate/most/logit"] - areas["generate/least/logit"]
            for mode, run in (("generate", "generate/most"), ("prune", "prune/least")):
                expected[f"{mode} AU-MSE"] = areas[f"{run}/squared_error"]
                expected[f"{mode} AUAC"] = areas[f"{run}/evidence"]
        if protocol != "wikipedia":
            expected["model accuracy"] = np.mean(correct) if correct else 1.0
        assert {m: v for (m, one), v in numbers.items() if one == method} == pytest.approx(expected, abs=1e-6)
        assert np.ptp(next(iter(curves.values()))) > 1e-4  # something happened


def test_seven_tenths_of_ninety_tokens_are_sixty_three():
    gone = clew.metrics.flipped_tokens(torch.zeros(1, 90), torch.zeros(90).bool(), (0.7, 0.58), rounding="floor")
    assert gone.sum(2).tolist() == [[63, 52]]


# Rationales


@pytest.fixture(scope="module")
def documents(reviews, tmp_path_factory):
    """An ERASER folder: a document with a word that the tokenizer drops, one without a rationale, and a long one."""
    folder = tmp_path_factory.mktemp("movies")
    (folder / "docs").mkdir()
    texts = [reviews[0].text.replace(" is ", " \x16 is ", 1), reviews[1].text, reviews[2].text]
    marks, lines = [[(1, 4), (6, 7)], [], [(2, 4), (3, 8), (12, 14)]], []
    for i, text in enumerate(texts):
        (folder / "docs" / f"d{i}").write_text(text.replace(" ", "\n", 2))
        evidence = [[{"docid": f"d{i}", "start_token": a, "end_token": b, "text": ""}] for a, b in marks[i]]
        line = {"annotation_id": f"d{i}", "classification": ("NEG", "POS")[i % 2], "evidences": evidence}
        lines.append({**line, "docids": [f"d{i}"]})
    (folder / "test.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return clew.open_dataset(folder)


def literal_rationale(loaded, e, ids, spans, special, scores, reduce, counts, hard, thresholds, c):
    words, places, at = e.text.split(" "), [], 0
    for word in words:
        covering = [k for k, (a, b) in enumerate(spans) if not special[k] and a < at + len(word) and b > at]
        places.append(covering)
        at += len(word) + 1
    seen = max(w for w, covering in enumerate(places) if covering) + 1
    of = {"max": max, "sum": sum, "mean": lambda v: sum(v) / len(v)}[reduce]
    value = [of([scores[k] for k in covering]) if covering else None for covering in places[:seen]]
    value = [min(v for v in value if v is not None) if v is None else v for v in value]
    true = [any(a <= w < b for a, b in e.rationale) for w in range(len(words))]
    order = sorted(range(seen), key=lambda w: (-value[w], w))
    row = {"annotated": float(any(true))}
    for k in (*counts, hard):
        taken = order[:k]
        both = sum(true[w] for w in taken)
        row[f"f1@{k}"] = 2 * both / (len(taken) + sum(true))
    row |= {"auprc": 0.5, "average_precision": None, "roc_auc": None}
    if any(true[:seen]):
        precision, recall, _ = sklearn.metrics.precision_recall_curve(true[:seen], value)
        row["auprc"] = sklearn.metrics.auc(recall, precision)
    if any(true[:seen]) and not all(true[:seen]):
        row["average_precision"] = sklearn.metrics.average_precision_score(true[:seen], value)
        pairs = [
            (a, b) for a, t in zip(value, true, strict=False) if t for b, u in zip(value, true, strict=False) if not u
        ]
        row["roc_auc"] = sum((a > b) + (a == b) / 2 for a, b in pairs) / len(pairs)
    marked = set(order[:hard])
    runs = [(a, min(b for b in range(a, seen + 1) if b not in marked)) for a in sorted(marked) if a - 1 not in marked]
    ious = [max((len({*range(*s)} & {*range(*t)}) / len({*range(*s)} | {*range(*t)}) for t in e.rationale), default=0)
            for s in runs]  # fmt: skip
    hits = sum(v >= 0.5 for v in ious)
    row |= {"iou_precision": hits / len(runs), "iou_recall": hits / len(e.rationale) if e.rationale else 0.0}
    full = softmax(direct(loaded, ids, [1] * len(ids)))
    row |= {"comprehensiveness": [], "sufficiency": []}
    for t in thresholds:
        chosen = {k for w in order[: math.ceil(round(t * seen, 6))] for k in places[w]}
        without = [i for k, i in enumerate(ids) if k not in chosen]
        alone = [i for k, i in enumerate(ids) if k in chosen or special[k]]
        for name, rest in (("comprehensiveness", without), ("sufficiency", alone)):
            row[name].append(full[c] - softmax(direct(loaded, rest, [1] * len(rest)))[c])
    return row


RATIONALE = {
    "default": ("bert", {}),
    "predicted": ("llama", {"explain": "predicted", "words": "sum", "counts": (1, 3), "hard": 3, "thresholds": 0.3}),
    "cut": ("bert", {"max_length": 10, "words": "mean", "counts": (2, 50), "hard": 5, "internal_batch_size": 2}),
    "released": ("bert", {"variant": "beyond_intuition", "counts": 4, "hard": 6, "thresholds": (0.2, 1.0)}),
}


@pytest.mark.parametrize("case", RATIONALE)
def test_words_are_compared_as_written(models, documents, case):
    name, options = RATIONALE[case]
    loaded, examples = models[name], [documents.read(i) for i in range(3)]
    examples[2] = replace(examples[2], label=1 - examples[2].label)
    many = lambda key, default: v if isinstance(v := options.get(key, default), tuple) else (v,)  # noqa: E731
    counts, hard = many("counts", tuple(range(5, 85, 5))), options.get("hard", 40)
    thresholds, limit = many("thresholds", (0.01, 0.05, 0.1, 0.2, 0.5)), options.get("max_length")
    rows, numbers = evaluated("rationale", loaded, examples, METHODS, batch_size=2, **options)
    for method in METHODS:
        found = []
        for e in examples:
            ids, spans, special = tokens_of(loaded, e.text, limit)
            full = direct(loaded, ids, [1] * len(ids))
            c = e.label if options.get("explain") != "predicted" else full.index(max(full))
            row, text = rows[e.id, method], e.text if limit is None else e.text[: max(b for _, b in spans)]
            scores = stored_scores(loaded, text, method, c, row)
            scores = [max(s, 0.0) for s in scores] if case == "released" else scores
            more = options.get("words", "max"), counts, hard, thresholds, c
            found.append(literal_rationale(loaded, e, ids, spans, special, scores, *more))
            for column, value in found[-1].items():
                assert row[column] == (None if value is None else pytest.approx(value, abs=1e-5)), column

        def mean(column, found=found):
            kept = [row[column] for row in found if row[column] is not None]
            return float(np.mean(kept))

        for column in ("average_precision", "auprc", "roc_auc", *(f"f1@{k}" for k in (*counts, hard))):
            assert numbers[column, method] == pytest.approx(mean(column), abs=1e-6), column
        for column in ("comprehensiveness", "sufficiency"):
            assert numbers[f"{column} AOPC", method] == pytest.approx(mean(column), abs=1e-5)
        p, r = mean("iou_precision"), mean("iou_recall") * 3 / 2  # one of three has no rationale to be found
        assert numbers["iou F1", method] == pytest.approx(2 * p * r / (p + r) if p + r else 0.0)


# What goes wrong


@pytest.mark.parametrize(
    ("benchmark", "name", "options", "change", "words"),
    [
        ("flipping", "bert", {}, {"label": None}, "needs the class of each example"),
        ("flipping", "bert", {}, {"text": " "}, "left out: it has no words"),
        ("flipping", "bert", {}, {"text": None}, "without a text"),
        ("rationale", "bert", {}, {"rationale": None}, "words that humans marked"),
        ("rationale", "bert", {}, {"words": ("other", "words")}, "not those of the text"),
        ("rationale", "bert", {}, {"label": None}, "needs the class of each example"),
        ("sanity", "bert", {"stages": ()}, {"text": None}, "no texts"),
    ],
)  # fmt: skip
def test_texts_that_fail_are_rows_with_an_error(models, reviews, benchmark, name, options, change, words):
    examples = [replace(reviews[0], **change), replace(reviews[1], id="torn"), reviews[2]]
    rows, _ = evaluated(benchmark, models[name], examples, METHODS[:1], **options)
    assert words in rows[examples[0].id, METHODS[0]]["error"] and "broken" in rows["torn", METHODS[0]]["error"]
    assert rows[examples[2].id, METHODS[0]]["error"] is None


def test_texts_without_answers_are_refused_where_answers_are_compared(models, reviews):
    with pytest.raises(InputError, match=r"no example(.|\n)*no answers to choose from"):
        evaluated("flipping", models["writer"], reviews[:2], METHODS[:1], protocol="arc_easy", answers=True)


@pytest.mark.parametrize(
    ("benchmark", "name", "options"),
    [
        ("flipping", "bert", {"protocol": "imbd"}), ("flipping", "bert", {"protocol": "wikipedia"}),
        ("flipping", "writer", {"protocol": "movies"}), ("flipping", "bert", {"eraser": "black"}),
        ("flipping", "bert", {"ranking": "rank"}), ("flipping", "bert", {"answers": True}),
        ("flipping", "bert", {"fractions": (0.5, 0.1)}), ("flipping", "bert", {"fractions": (0.0, 1.5)}),
        ("flipping", "bert", {"fractions": 0.5}), ("flipping", "bert", {"variant": "beyond_intuition"}),
        ("flipping", "bert", {"protocol": "20newsgroups", "variant": "beyond_intuition"}),  # 256 positions
        ("rationale", "bert", {"explain": "best"}), ("rationale", "bert", {"words": "min"}),
        ("rationale", "bert", {"counts": (0, 5)}), ("rationale", "bert", {"hard": 0}),
        ("rationale", "bert", {"thresholds": (0.5, 1.5)}), ("rationale", "bert", {"variant": "pa_lrp"}),
    ],
)  # fmt: skip
def test_unknown_options_are_refused_before_anything_runs(models, reviews, benchmark, name, options):
    with pytest.raises(OptionError):
        clew.evaluate(benchmark, models[name], Given(reviews), methods=METHODS, show_progress=False, **options)


def test_a_benchmark_is_for_one_kind_of_model(models, reviews):
    with pytest.raises(InputError, match="segmentation is for models of images"):
        clew.evaluate("segmentation", models["bert"], Given(reviews), show_progress=False)
    with pytest.raises(InputError, match="flipping is for models of texts"):
        clew.evaluate("flipping", clew.load("mini:digits"), Given(reviews), show_progress=False)
    with pytest.raises(OptionError, match="tokenizer"):
        clew.evaluate("flipping", replace(models["bert"], tokenizer=None), Given(reviews), show_progress=False)

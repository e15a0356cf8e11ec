"""What nobody should type or pass: an error of ours that says what is wrong, or a result; never a raw traceback."""

from __future__ import annotations

import io
import math
import sys
from dataclasses import replace
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import torch
from rich.console import Console

import clew
from clew.attributions.figure import figure
from clew.cli import main as cli
from clew.errors import ClewError, OptionError
from clew.errors import short_repr as in_words
from clew.explainers import parse_method
from clew.metrics import flipping, perturbation
from clew.requests.options import literal_or_word, numbers
from clew.training.recipes import TASKS, changed
from clew.validation import matches_type, parse_integer

TEXT = "a quiet, brilliant film"
HALF = "\ud800"
ITSELF = []
ITSELF.append(ITSELF)
KEYED = {}
KEYED["input_ids"] = KEYED
DEEP = "a"
for _ in range(3_000):
    DEEP = [DEEP]
NAN, INF, HUGE = math.nan, math.inf, 10**400


def named(value):
    return in_words(value)[:20]


@pytest.fixture(autouse=True)
def _untyped(untyped):
    """Errors are to be our own, not the tests' type checker's."""


@pytest.fixture(scope="module")
def given(digits, writer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    picture = clew.scenes().images[0]
    picture.save(folder / "scene.png")
    reviews, pairs = clew.load("mini:reviews-bert"), clew.load("mini:digits-clip")
    (folder / "r.csv").write_text(
        "text,label\n" + "\n".join(f"film {i},{'good' if i % 2 else 'bad'}" for i in range(40))
    )
    digits.model.save_pretrained(folder / "model")
    return SimpleNamespace(
        digits=digits, writer=writer, reviews=reviews, pairs=pairs, picture=picture, folder=folder,
        text=clew.explain(reviews, TEXT, method="raw_attention", checks="off"),
        image=clew.explain(digits, picture, method="raw_attention", checks="off"),
        pixels=torch.rand(1, 3, 32, 32), out=folder / "out.html",
    )  # fmt: skip


def raw(model, inputs, **options):
    return clew.explain(model, inputs, **{"method": "raw_attention", "checks": "off", **options})


# Literals in NAME(option=value)

ENDLESS = {
    "deep": "a(b=" + "[" * 150 + "]" * 150 + ")",
    "parentheses": "a(b=" + "(" * 3_000 + "1" + ")" * 900 + ")",
    "signs": "a(b=" + "-" * 3_900 + "1)",
    "sums": "a(b=" + "1+" * 1_900 + "1)",
    "long": "a(b='" + "x" * 10**6 + "')",
    "digits": "a(b=" + "9" * 5_000 + ")",
    "power": "a(b=9**9**9)",
    "product": "a(b='a'*10**10)",
    "key": "a(b={[1]: 2})",
    "member": "a(b={[1]})",
    "inner": "a(b=(1, {{}: 2}))",
    "nul": "a(\0)",
    "half": "a(b=1\udcff)",
    "twice": "a(b=1, b=2)",
    "stars": "a(**{})",
    "square": "a(b=²)",
}


@pytest.mark.parametrize("name", ENDLESS)
def test_literals_are_bounded(name):
    with pytest.raises(OptionError):
        parse_method(ENDLESS[name])


@pytest.mark.parametrize("word", ["[" * 150, "{[1]}", "{[1]: 2}", "²", "-" * 3_900])
def test_words_that_are_no_values_stay_words(word):
    assert literal_or_word(word) == word


@pytest.mark.parametrize("word", ["[" * 50 + "]" * 50, "x" * 10**5])
def test_values_without_end_are_refused(word):
    with pytest.raises(OptionError, match=r"nested too deep|too long"):
        literal_or_word(word)


# Options of methods

OPTIONS = {
    "raw_attention": {"layer": [1.5, "1", HUGE, True, [1]], "variant": [1, None, []]},
    "random": {"seed": [2**70, -1, 1.5, NAN, "5", None, [1, 2, 3], [2**70], {}]},
    "smoothgrad": {
        "seed": [2**70, -1, 1.5, NAN, None, [1]], "n_samples": [0, -1, 10**6, 10**12, 1.5, NAN, "5", None, HUGE],
        "stdevs": [NAN, INF, -1, "1", None, HUGE], "internal_batch_size": [0, -1, 1.5, NAN, "5"], "absolute": ["a", 3],
    },
    "integrated_gradients": {
        "n_steps": [0, -1, 10**6, 10**12, 1.5, NAN, INF, "5", None, HUGE],
        "baselines": [None, NAN, INF, "a", b"a", HUGE, {}, ITSELF, DEEP], "quadrature": [None, 1, []],
        "internal_batch_size": [0, 1.5, "5", [1]],
    },
    "beyond_intuition_token": {"n_steps": [0, 10**6, 1.5], "start_layer": [DEEP, ITSELF, 1.5, HUGE], "feedback": [3]},
    "lrp": {
        "rules": [3, None, [1], {1: {}}, {"a": DEEP}], "level": [[], {}, 1], "start": [3], "clamp": [NAN],
        "gamma_linear": ["a", NAN, INF, -1, HUGE, [1]],
    },
}  # fmt: skip
WRONG_OPTIONS = [(m, k, v) for m, of in OPTIONS.items() for k, values in of.items() for v in values]


@pytest.mark.parametrize(("method", "option", "value"), WRONG_OPTIONS, ids=named)
def test_options_of_methods(method, option, value, given):
    with pytest.raises(OptionError):
        clew.explain(given.digits, given.picture, method=method, checks="off", **{option: value})


def test_more_at_a_time_than_there_are_is_all(given):
    found = raw(given.digits, given.picture, method="integrated_gradients", n_steps=2, internal_batch_size=HUGE)
    assert found.scores.isfinite().all()


# Arguments of the library

STRANGE = [None, b"abc", 1.5, NAN, True, {}, {"a"}, DEEP, ITSELF, KEYED, object(), 10**30]


@pytest.mark.parametrize("value", STRANGE, ids=named)
def test_values_of_no_type_that_is_taken(value, given):
    ids, scores = torch.arange(4), torch.zeros(1, 4)
    maps, picture, many = torch.rand(1, 8, 8), given.picture, {"methods": ["random"], "show_progress": False}
    several = (
        lambda: raw(given.digits, value),
        lambda: raw(given.reviews, value),
        lambda: raw(given.pairs, value, target="a seven"),
        lambda: raw(given.pairs, picture, target=clew.Contrast(value, "a")),
        lambda: raw(given.digits, picture, method=value),
        lambda: raw(given.digits, picture, score=value),
        lambda: clew.explain_generation(given.writer, value, max_new_tokens=2),
        lambda: clew.Sources(given.writer, value, max_new_tokens=2),
        lambda: clew.Sources(given.writer, TEXT, answer="a", context=value or 3),
        lambda: clew.Sources(given.writer, TEXT, answer="a", context="film").explain(part=value or 3),
        lambda: clew.Sources(given.writer, TEXT, answer="a", context="film").token_log_odds(value),
        lambda: raw(given.writer, TEXT, target=clew.Token(value, 1)),
        lambda: figure(value, given.folder / "a.pdf"),
        lambda: figure([given.image], 3 if value is None else value),  # None gives the figure itself
        lambda: clew.compare(value, given.out),
        lambda: clew.evaluate(value, given.digits, "mini:digits", limit=1, **many),
        lambda: clew.finetune(value),
        lambda: flipping(given.reviews, value, scores),
        lambda: flipping(given.reviews, ids, value),
        lambda: perturbation(given.digits, value, maps),
        lambda: perturbation(given.digits, given.pixels, value),
        lambda: perturbation(given.digits, given.pixels, maps, fractions=value),
        lambda: clew.load("mini:digits", mean=value, std=value) if value is not None else clew.load(value),
    )
    for call in several:
        with pytest.raises(ClewError):
            call()


@pytest.mark.parametrize("value", [b"abc", 1.5, NAN, {}, DEEP, ITSELF, object(), 10**30, -(10**30)], ids=named)
def test_targets_that_are_none(value, given):
    for model, inputs in ((given.digits, given.picture), (given.reviews, TEXT), (given.writer, TEXT)):
        for target in (value, clew.Contrast(value, 1), [value]):
            with pytest.raises(ClewError):
                raw(model, inputs, target=target)


ODD = {
    "sparse": torch.ones(1, 4).long().to_sparse(),
    "meta": torch.zeros(1, 3, 32, 32, device="meta"),
    "truths": torch.ones(1, 4, dtype=torch.bool),
    "nan": torch.full((1, 3, 32, 32), NAN),
    "complex": torch.zeros(1, 3, 32, 32, dtype=torch.complex64),
    "huge": [[10**30]],
    "empty": [[]],
    "blank": "  \n",
    "none": [None],
    "mixed": ["a", 1],
    "a mask of none": {"input_ids": torch.tensor([[1, 2]]), "attention_mask": "x"},
    "in itself": {"pixel_values": ITSELF, "input_ids": ITSELF},
}


@pytest.mark.parametrize("name", ODD)
def test_inputs_that_are_none(name, given):
    for model, target in ((given.digits, None), (given.reviews, None), (given.pairs, "a seven")):
        with pytest.raises(ClewError):
            raw(model, ODD[name], target=target)
    with pytest.raises(ClewError):
        clew.explain_generation(given.writer, ODD[name], max_new_tokens=2)
    with pytest.raises(ClewError):
        clew.Sources(given.writer, ODD[name], max_new_tokens=2)


@pytest.mark.parametrize("spans", [3, [3], [[1]], [["ab"]], [[(1.5, 2)]], [], ITSELF, "a", {}])
def test_spans_of_words_that_are_none(spans, given):
    with pytest.raises(OptionError):
        given.text.words(spans=spans)


# Numbers

NUMBERS = {
    "generate": [
        {"max_new_tokens": v} for v in (0, -1, 10**6, 10**12, 1.5, NAN, "5", None)
    ] + [{"batch_size": v} for v in (0, -1, 1.5, None)],
    "window": [{"window": v} for v in (0, -1, 1.5, NAN, "5")] + [{"window": 8, "stride": v} for v in (0, 1.5, "5")],
    "evaluate": [
        *({"seed": v} for v in (2**70, -1, 1.5, NAN, "5", None)), *({"limit": v} for v in (0, -1, 1.5, NAN, "5")),
        *({"batch_size": v} for v in (0, -1, 1.5, None, "5")), *({"shard_size": v} for v in (0, 1.5, NAN)),
        *({"engine": "ray", "workers": v} for v in (0, -1, 1.5, NAN, 10**6, HUGE)),
        *({"engine": "ray", "threads": v} for v in (0, -1, 1.5, 10**6)), {"grid": {"seed": 1}}, {"grid": 3},
        {"methods": [("random",)]}, {"methods": [("random", 3)]}, {"data_options": {"fraction": NAN}},
        {"data_options": {"sample": 1.5}}, {"data_options": {"seed": 2**70, "sample": 1}}, {"out": "\0"},
    ],
    "finetune": [
        *({"lora": v} for v in (0, -1, 1.5, NAN, 10**6, 10**12, "a")), *({"workers": v} for v in (-1, 1.5, 10**6, NAN)),
        *({"limit": v} for v in (0, 1.5, "a")), *({"micro_batch": v} for v in (0, 1.5)),
        *({"eval_steps": v} for v in (0, 1.5, NAN)), *({"validation": v} for v in (HUGE, NAN, -1)), {"bf16": "a"},
    ],
}  # fmt: skip


@pytest.mark.parametrize(("what", "options"), [(k, o) for k, of in NUMBERS.items() for o in of], ids=str)
def test_numbers_out_of_range(what, options, given, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)  # told before any cluster is looked for
    calls = {
        "generate": lambda: clew.explain_generation(given.writer, TEXT, **options),
        "window": lambda: raw(given.reviews, TEXT, **options),
        "evaluate": lambda: clew.evaluate(
            "segmentation", given.digits, "mini:digits",
            **{"limit": 1, "methods": ["random"], "show_progress": False, **options},
        ),
        "finetune": lambda: clew.finetune(str(given.folder / "r.csv"), "mini:reviews-bert", **options),
    }  # fmt: skip
    with pytest.raises(OptionError if options != {"out": "\0"} else ClewError):
        calls[what]()


RECIPE = {
    "seed": [2**70, 2**32, -1, 1.5, NAN, "a", True], "lr": [NAN, INF, 0, -1, "a", HUGE],
    "batch_size": [10**12, 1.5, "a"], "epochs": [NAN, INF, 10**12, 0, "a", HUGE],
    "patience": [-1, 1.5, "a"], "warmup_epochs": [NAN, INF, -1, "a"],
    "weight_decay": [NAN, INF, "a"], "adam_epsilon": [NAN, "a"], "max_grad_norm": [NAN, INF, "a"],
    "max_length": [0, 1.5, "a"], "train": ["²", "٣", -1, None, [1]], "reinit": [-1, 1.5], "augment": ["a", None, 3],
    "schedule": [[1], None],
}  # fmt: skip


@pytest.mark.parametrize(("name", "value"), [(k, v) for k, of in RECIPE.items() for v in of], ids=named)
def test_recipes_out_of_range(name, value):
    with pytest.raises(OptionError, match="out of range"):
        changed(TASKS["text"].recipe, {name: value})


@pytest.mark.parametrize("values", ["nan,nan,nan", "0,0,0", "inf,1,1", "1e-320,1,1", "-1,1,1", "1e300,1,1"])
def test_normalisation_out_of_range(values, given):
    with pytest.raises(OptionError, match="std of a channel"):
        clew.load(given.folder / "model", mean=[0, 0, 0], std=numbers(values, "--std"))


@pytest.mark.parametrize("word", ["²", "٣,٣,٣", "", "1,,2"])
def test_flags_of_numbers(word):
    with pytest.raises(OptionError):
        numbers(word, "--mean")


def test_numbers_in_words_are_written_in_plain_digits():
    assert [parse_integer(word) for word in ("7", "-7", "007")] == [7, -7, 7]
    for word in ("²", "٣", "①", "𝟜", "1_0", "+1", "--1", "", "-", " 1", "9" * 5_000, "1.0"):
        assert parse_integer(word) is None


def test_types_are_told_apart():
    assert (
        matches_type(True, bool | str)
        and not matches_type(True, int)
        and not matches_type(1.0, int)
        and matches_type(1, float)
    )
    assert matches_type("a", list[int] | str) and not matches_type("a", float | None)


# Characters

TEXTS = {
    "nul": "a \0 film", "controls": "".join(map(chr, range(1, 32))) + " good", "mark of order": "\ufefffilm good",
    "inside": "fi\ufefflm", "sides": "\u200fgood\u200e \u202egood\u202c", "nothing wide": "\u200b\u200d",
    "escape": "\x1b[31m[red]x[/red]", "none": "\uffff\ufffe good", "own": "\ue000\U0010ffff", "sums": "$\\frac{1}{$",
    "lines": "a\x0b\x0c\x1c\x85\u2028\u2029b", "marks": "e" + "\u0301" * 2_000, "long": "x" * 200_000,
    "brackets": "(" * 50_000 + "]" * 50_000, "words": "good film " * 10_000, "half": HALF, "rtl": "ب" * 20_000,
}  # fmt: skip


@pytest.mark.sampled(0.2)
@pytest.mark.parametrize("name", TEXTS)
def test_figures_of_any_characters(name, given, tmp_path):
    words, columns = TEXTS[name], given.text.scores.shape[1]
    strange = replace(given.text, tokens=[[words] * columns], texts=(), offsets=None)
    names = {"inputs": [words], "methods": [words], "caption": words}
    for suffix in (".pdf", ".svg"):
        assert (
            figure([given.text, strange], tmp_path / f"a{suffix}", **{**names, "methods": [words] * 2}).stat().st_size
        )
    ElementTree.parse(tmp_path / "a.svg")
    assert figure([given.image], tmp_path / "b.pdf", **names).stat().st_size
    for result in (given.text, given.image):
        assert clew.compare([result], tmp_path / "a.html", title=words, methods=[words]).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", [name for name in TEXTS if name not in ("half", "nothing wide")])
def test_texts_of_any_characters(name, given, tmp_path):
    result = raw(given.reviews, TEXTS[name], truncate=True, checks="default")
    for suffix in (".html", ".tex", ".safetensors"):
        result.save(tmp_path / f"a{suffix}")
    assert clew.Attribution.load(tmp_path / "a.safetensors").texts == result.texts
    result.words()
    Console(file=io.StringIO()).print(result.to_rich())


@pytest.mark.parametrize(
    "text", [HALF, f"a {HALF} b", "a film \udcff", "x" * 600_000], ids=lambda text: ascii(text)[:12]
)
def test_texts_that_are_none(text, given):
    several = (
        lambda: raw(given.reviews, text, truncate=True),
        lambda: raw(given.reviews, ("a", text), truncate=True),
        lambda: raw(given.reviews, text, window=16),
        lambda: raw(given.writer, text),
        lambda: raw(given.writer, TEXT, target=text),
        lambda: raw(given.writer, TEXT, target=clew.Span(text)),
        lambda: raw(given.pairs, given.picture, target=text, truncate=True),
        lambda: clew.explain_generation(given.writer, text),
        lambda: clew.explain_generation(given.writer, TEXT, answer=text),
        lambda: clew.Sources(given.writer, text),
        lambda: clew.Sources(given.writer, TEXT, answer="a", context=text),
        lambda: raw(given.digits, given.picture, target=text),
    )
    for call in several:
        with pytest.raises(ClewError) as error:
            call()
        assert len(str(error.value).encode()) < 20_000  # and it can be printed


@pytest.mark.parametrize("name", ["\0", HALF, "x" * 10_000])
def test_names_that_no_file_has(name, given):
    several = (
        lambda: clew.load(name), lambda: clew.load("hf:" + name), lambda: clew.load("timm:" + name),
        lambda: clew.open_image(name), lambda: clew.open_dataset(name), lambda: clew.finetune(name),
        lambda: clew.Attribution.load(name), lambda: clew.Run(name), lambda: given.text.save(f"{name}.html"),
        lambda: clew.evaluate("sanity", given.digits, "mini:digits", limit=1, out=name, methods=["random"]),
    )  # fmt: skip
    for call in several:
        with pytest.raises(ClewError):
            call()


def test_texts_of_many_tokens(given, tmp_path):
    count = 20_000
    many = replace(
        given.text, all_scores=torch.randn(1, count), input_ids=torch.zeros(1, count, dtype=torch.long),
        mask=torch.ones(1, count, dtype=torch.bool), special=torch.zeros(1, count, dtype=torch.bool),
        tokens=[["ab "] * count], texts=["ab " * (count - 1) + "a" * 30_000],
        offsets=torch.tensor([[(3 * i, 3 * i + 2) for i in range(count)]]),
    )  # fmt: skip
    assert len(many.words()[0]) == count
    special = replace(many, special=many.special | (torch.arange(count) % 2 > 0))
    assert len(special.words()[0]) == count // 2
    assert figure([many], tmp_path / "a.pdf").stat().st_size
    made = clew.explain_generation(given.writer, "a", answer=" film good")
    matrix = torch.zeros(2_500, 2_501)
    long = replace(made, all_scores=matrix, tokens=["a"] * 2_501, prompt=1, score=matrix[:, 0], target=["a"] * 2_500)
    with pytest.raises(ClewError, match="more tokens than a page can show"):
        long.to_html()


# The command line

PAIRS = ("explain", "PICTURE", "-m", "mini:digits-clip", "--method", "raw_attention", "-o", "OUT")
SCENE = ("explain", "PICTURE", "-m", "mini:digits", "--method", "raw_attention", "-o", "OUT")
WORDS = ("explain", "-m", "mini:reviews-bert", "--method", "raw_attention", "-o", "OUT")
BENCH = ("bench", "segmentation", "-m", "mini:digits", "--data", "mini:digits", "--method", "random", "-o", "RUN")
TRAIN = ("finetune", "CSV", "-m", "mini:reviews-bert", "-o", "RUN", "--epochs", "1")
REFUSED = [
    (*SCENE[:4], "--method", "raw_attention(layer={[1]: 2})"), (*SCENE[:4], "--method", ENDLESS["signs"]),
    (*SCENE, "--target", "²"), (*SCENE, "--target", "٣"), (*SCENE, "--target", "9" * 5_000),
    (*SCENE, "--target", f"3 / {'9' * 30}"), (*SCENE, "--target", HALF), (*SCENE, "--score", "\udcff"),
    (*SCENE, "--batch-size", "-1"), ("explain", "x" * 5_000 + ".png", *SCENE[2:]),
    ("explain", "\udcff.png", *SCENE[2:]),
    (*SCENE[:2], "-m", "\udcff", *SCENE[4:]), (*WORDS, HALF), (*WORDS, "--text", "a \udcff b"), (*WORDS, "  "),
    (*WORDS, TEXT, "--window", "-1"), (*WORDS, "x" * 600_000), (*PAIRS, "--text", HALF),
    ("generate", HALF, "-m", "mini:reviews-bert", "-o", "OUT"), ("methods", "\udcff"), ("report", "\udcff"),
    ("explain", "PICTURE", "-m", "MODEL", "--mean", "1,1", "--std", "0,0", "-o", "OUT"),
    ("explain", "PICTURE", "-m", "MODEL", "--mean", "0.4,0.5", "--std", "1,1", "-o", "OUT"),
    *((*BENCH, flag, value) for flag, value in (
        ("--seed", str(2**70)), ("--seed", "-1"), ("--seed", "²"), ("--limit", "-1"), ("--shard-size", "-1"),
        ("--workers", "-1"), ("--fraction", "nan"), ("--sample", "0"), ("--mean", "²"), ("--grid", "seed={[1]}"),
        ("--grid", "seed=" + "[" * 60 + "]" * 60), ("--data-option", "split={[1]: 2}"), ("--batch-size", "-1"),
    )),
    *((*TRAIN, flag, value) for flag, value in (
        ("--seed", str(2**70)), ("--seed", "-1"), ("--lr", "nan"), ("--lr", "inf"), ("--lora", "1000000000000"),
        ("--lora", "-1"), ("--workers", "-1"), ("--workers", "1000000"), ("--train", "²"), ("--train", "٣"),
        ("--validation", "nan"), ("--limit", "-1"), ("--batch-size", "0"), ("--epochs", "1e12"), ("--epochs", "nan"),
    )),
    ("finetune", "\udcff"), ("ui", "--port", "99999999"), ("ui", "--port", "-1"), ("demo", "--limit", "-1"),
]  # fmt: skip


def typed(arguments, given, monkeypatch):
    """What the command line says to a terminal of UTF-8, and its exit status."""
    named = {"PICTURE": "scene.png", "OUT": "out.html", "RUN": "run", "CSV": "r.csv", "MODEL": "model"}
    words = [str(given.folder / named[one]) if one in named else one for one in arguments]
    said = [io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2)]
    monkeypatch.setattr(sys, "argv", ["clew", *words])
    monkeypatch.setattr(sys, "stdout", said[0])
    monkeypatch.setattr(sys, "stderr", said[1])
    status = 0
    try:
        cli.main()
    except SystemExit as stop:
        status = stop.code
    return "".join(stream.buffer.getvalue().decode() for stream in said), status


@pytest.mark.parametrize("arguments", REFUSED, ids=lambda words: ascii(" ".join(words))[-40:])
def test_commands_are_refused_in_words(arguments, given, monkeypatch):
    said, status = typed(arguments, given, monkeypatch)
    assert status and said and "Traceback" not in said
    assert len(said) < 20_000


def test_files_of_any_name_and_content_are_explained(given, monkeypatch):
    odd = given.folder / "sc\udcffene.png"
    given.picture.save(odd)
    said, status = typed(("explain", str(odd), *SCENE[2:]), given, monkeypatch)
    assert not status and "sc\\udcffene.png" in said
    for name, content in (("bom.txt", b"\xef\xbb\xbfa good film"), ("nul.txt", b"a good\0film")):
        (given.folder / name).write_bytes(content)
        said, status = typed((*WORDS, str(given.folder / name)), given, monkeypatch)
        assert not status and name in said

"""The page without a browser: what is asked, what is refused, and what results look like as HTML."""

from __future__ import annotations

import re
from html import unescape

import numpy as np
import pytest
import torch
from PIL import Image

import clew
from clew.app import components
from clew.app.maps import cards, difference, in_plain_words, message, row_of
from clew.app.page_requests import (
    MOST_CHARACTERS,
    OfferedModels,
    PageRequest,
    check_request,
    explain_request,
    open_upload,
    predictions,
    snippet,
)
from clew.app.results import RunBrowser
from clew.errors import ClewError, InputError, OptionError

IMAGE = clew.scenes().images[0]
RAW = [("raw_attention", {})]


@pytest.fixture(scope="module")
def models():
    return OfferedModels()


def numbers(html: str) -> list[float]:
    return [float(n) for n in re.findall(r'data-n="([^"]*)"', html)]


def test_only_models_that_are_offered_can_be_named(models):
    assert models.names[0] == "mini:digits" and models.kind("mini:digits-clip") == "pair"
    for name in ("/etc", "hf:bert-base-uncased", "mini:nothing", ""):
        with pytest.raises(OptionError, match="not offered"):
            models[name]
    assert OfferedModels(["mini:reviews-bert"]).names[0] == "mini:reviews-bert"


def test_few_models_are_held(models):
    for name in models.names:
        models[name]
    assert len(models._held) == 3


@pytest.mark.parametrize(
    ("asked", "kind", "words"),
    [
        (PageRequest("m", RAW), "image", "no picture"),
        (PageRequest("m", RAW, text=" "), "text", "no text"),
        (PageRequest("m", RAW, IMAGE, texts=[" "]), "pair", "no caption"),
        (PageRequest("m", RAW, IMAGE, texts=["a"] * 9), "pair", "too many captions"),
        (PageRequest("m", [], IMAGE), "image", "choose methods"),
        (PageRequest("m", RAW * 9, IMAGE), "image", "choose methods"),
        (PageRequest("m", RAW, text="a" * (MOST_CHARACTERS + 1)), "text", "too long"),
        (PageRequest("m", [("nothing", {})], IMAGE), "image", "nothing"),
    ],
)
def test_what_cannot_be_answered_is_refused(asked, kind, words):
    with pytest.raises(ClewError, match=words):
        check_request(asked, kind)


def test_a_picture_of_twelve_bits_in_sixteen_is_told_on_the_page(tmp_path, caplog):
    Image.fromarray(np.full((8, 8), 4000, np.uint16)).save(tmp_path / "scan.png")
    shown = components._preview(str(tmp_path / "scan.png"))
    assert "this file has 16 bits a pixel, but no value above 4000" in shown and "<img" in shown
    assert "scan.png" not in shown and not caplog.records
    Image.fromarray(np.full((8, 8), 60000, np.uint16)).save(tmp_path / "scan.png")
    assert "bits" not in components._preview(str(tmp_path / "scan.png"))


def test_pictures_that_are_too_large_or_broken_are_refused_without_the_servers_paths(tmp_path):
    Image.new("1", (7_000, 6_000)).save(tmp_path / "large.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    assert open_upload(None) is None
    for name, words in (("large.png", "too large"), ("broken.png", "this file"), ("none.png", "this file")):
        with pytest.raises(InputError, match=words) as refused:
            open_upload(tmp_path / name)
        assert str(tmp_path) not in str(refused.value) and name not in str(refused.value)


def test_answers_are_those_of_explain_and_errors_come_in_their_place(models):
    asked = PageRequest(
        "mini:digits", [("attn_lrp", {}), ("lrp", {"rules": "nothing"}), *RAW], IMAGE, target="seven / two"
    )
    found = list(explain_request(asked, models["mini:digits"]))
    assert isinstance(found[1], ClewError) and [f.method for f in (found[0], found[2])] == ["attn_lrp", "raw_attention"]
    direct = clew.explain(models["mini:digits"], IMAGE, method="attn_lrp", target=clew.Contrast("seven", "two"))
    assert torch.equal(found[0].all_scores, direct.all_scores)
    best = predictions(direct, models["mini:digits"])
    assert best[0][0] == "seven" and 0.9 < best[0][1] <= 1 and best[0][1] >= best[1][1]


@pytest.mark.parametrize("kind", ["image", "text", "pair"])
def test_the_code_that_is_shown_gives_the_same(models, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scene = clew.captioned_scenes().images[0] if kind == "pair" else IMAGE
    scene.save("picture.png")
    name = {"image": "mini:digits", "text": "mini:reviews-llama", "pair": "mini:digits-clip"}[kind]
    target = {"image": "seven", "text": "negative / positive"}.get(kind, "")
    asked = PageRequest(
        name, [("pa_lrp", {"part": "position"} if kind != "pair" else {}), *RAW], None if kind == "text" else scene,
        "a 'dull' \"film\"\nindeed", ["a seven", "a two"], target,
    )  # fmt: skip
    names: dict = {}
    exec(snippet(asked, models[name]).replace("print(", "str("), names)
    for i, answer in enumerate(explain_request(asked, models[name])):
        assert torch.allclose(names[f"a{i}"].all_scores, answer.all_scores, atol=1e-6)


def test_every_cell_and_word_carries_its_number_and_rank(models):
    result = clew.explain(models["mini:digits"], IMAGE, method="attn_lrp")
    html = row_of(cards([result]))
    assert np.allclose(numbers(html), result.scores[0].numpy(), rtol=1e-3, atol=1e-6)
    at = int(result.scores[0].argmax())
    assert f"row {at // 8 + 1}, column {at % 8 + 1}, rank 1 of 64" in html
    text = clew.explain(models["mini:reviews-bert"], "a dull film", method="attn_lrp")
    html = row_of(cards([text]))
    assert np.allclose(numbers(html), text.scores[0].numpy(), rtol=1e-3, atol=1e-6)
    best = text.top(1)[0][0].token
    assert re.search(rf'data-at="{best}, rank \d', html)


def test_scores_that_are_no_numbers_are_said_to_be_none(models):
    from dataclasses import replace

    result = clew.explain(models["mini:digits"], IMAGE, method="raw_attention")
    scores = result.all_scores.clone()
    scores[0, 5] = torch.nan
    html = row_of(cards([replace(result, all_scores=scores)]))
    assert html.count("not a number") == 1 and "nan" not in html


def test_all_that_users_write_is_escaped(models):
    evil = "<img src=x onerror=alert(1)> \"'&"
    result = clew.explain(models["mini:reviews-bert"], f"{evil} film", method="raw_attention")
    html = row_of(cards([result], [evil])) + message(evil) + message(evil, "note")
    assert "<img" not in html and unescape(html).count(evil) >= 3


def test_checks_are_told_in_plain_words(models):
    result = clew.explain(models["mini:digits"], IMAGE, method="attn_lrp")
    told = in_plain_words(result, 0)
    assert float(told["by how much the model, called by itself, says something else"]) < 1e-5
    assert "what of it was lost to: softmax" in told and not any(name.startswith("leak") for name in told)
    pair = clew.explain(
        models["mini:digits-clip"], clew.captioned_scenes().images[0], method="attn_lrp",
        target=clew.Similarity("a seven"), side="both",
    )  # fmt: skip
    assert any(name.startswith("of the text: ") for name in in_plain_words(pair, 0))


def test_the_difference_is_of_shares_of_the_largest(models):
    digits = models["mini:digits"]
    a, b = (clew.explain(digits, IMAGE, method=name) for name in ("attn_lrp", "raw_attention"))
    literal = (a.scores[0] / a.scores[0].abs().max() - b.scores[0] / b.scores[0].abs().max()).numpy()
    assert np.allclose(numbers(difference(a, b)), literal, atol=1e-3)
    bert, llama = (
        clew.explain(models[f"mini:reviews-{k}"], "a dull film", method="attn_lrp") for k in ("bert", "llama")
    )
    words = [{w.text: w.score for w in r.words()[0]} for r in (bert, llama)]
    sizes = [max(abs(v) for v in some.values()) for some in words]
    literal = [words[0][w] / sizes[0] - words[1][w] / sizes[1] for w in ("a", "dull", "film")]
    assert np.allclose(numbers(difference(bert, llama)), literal, atol=1e-3)
    same = clew.explain(models["mini:reviews-bert"], "a dull film", method="attn_lrp")
    assert not any(numbers(difference(bert, same)))
    with pytest.raises(InputError, match="no difference"):
        difference(a, bert)
    with pytest.raises(InputError, match="different texts"):
        difference(bert, clew.explain(models["mini:reviews-llama"], "another film", method="attn_lrp"))


def test_maps_of_models_that_see_the_picture_otherwise_meet_in_its_frame(models):
    clip = models["mini:digits-clip"].zero_shot(["seven", "two"], template="a {}")
    a = clew.explain(models["mini:digits"], IMAGE, method="raw_attention")
    b = clew.explain(clip, IMAGE, method="raw_attention")
    assert len(numbers(difference(a, b))) == (64 if a.patch_grid == b.patch_grid else 24 * 24)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    clew.evaluate(
        "segmentation", clew.load("mini:digits"), "mini:digits", methods=["raw_attention", "random"],
        out=folder / "a" / "b", limit=4, show_progress=False,
    )  # fmt: skip
    return folder


def test_examples_are_sorted_by_a_metric(runs, models):
    results = RunBrowser(runs, models)
    (name,) = results.names
    assert name == "a/b" and results.methods(name) == ["raw_attention", "random"] and "map" in results.metrics(name)
    rows = {r["example"]: r["average_precision"] for r in clew.Run(runs / "a" / "b").table.to_pylist()
            if r["method"] == "random"}  # fmt: skip
    best = sorted(rows, key=lambda one: -rows[one])
    assert results.order(name, "map", "random", False) == best
    assert results.order(name, "map", "random", True) == best[::-1]
    table = results.table(name, "map", "random", False)
    assert table["headers"] == ["example", "random", "raw_attention"]
    assert [row[0] for row in table["data"]] == best and table["data"][0][1] == f"{rows[best[0]]:.4f}"


def test_an_example_shows_all_methods_where_model_and_data_are_there(runs, models):
    html = RunBrowser(runs, models).example("a/b", "0")
    assert html.count("<section") == 2 == html.count("data:image/jpeg")
    other = RunBrowser(runs, models, data="mini:reviews").example("a/b", "0")
    assert other.count("<section") == 2 and "not that of the run" in other and "data:image" not in other


def test_a_folder_without_runs_is_refused(tmp_path, models):
    with pytest.raises(InputError, match="no runs in"):
        RunBrowser(tmp_path, models)

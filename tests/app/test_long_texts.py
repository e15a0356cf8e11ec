"""Texts longer than a model's positions on the page: refused, cut, or explained in windows."""

from __future__ import annotations

from unittest.mock import MagicMock

import pytest
import torch

import clew
from clew.app.long_texts import CUT, REFUSED, WINDOWS, LongTexts, longest, options_for, said_of, ways
from clew.app.page_requests import OfferedModels, PageRequest, explain_request, snippet
from clew.errors import InputError, OptionError

LONG = "a dull film, and a fine one . " * 60


@pytest.fixture(scope="module")
def models():
    return OfferedModels()


def test_what_can_be_done_is_offered(models):
    bert = models["mini:reviews-bert"]
    assert ways(bert) == [REFUSED, CUT, WINDOWS]
    assert ways(models["mini:digits"]) == ways(models["mini:digits-clip"]) == []
    assert longest(bert) == bert.model.config.max_position_embeddings and longest(models["mini:digits"]) is None
    assert f"{longest(bert):,} tokens" in said_of(bert)


def test_a_model_of_which_nothing_is_declared_has_no_windows(models):
    assert ways(OfferedModels(["mini:reverse"])["mini:reverse"]) == [REFUSED, CUT]


def test_long_texts_are_explained_as_chosen_and_the_code_does_the_same(models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bert = models["mini:reviews-bert"]
    limit = longest(bert)

    def asked(how, window=None, stride=None):
        more = options_for(bert, how, window, stride)
        return PageRequest("mini:reviews-bert", [("raw_attention", {})], text=LONG, long=more)

    (refused,) = explain_request(asked(REFUSED), bert)
    assert isinstance(refused, InputError) and "longer than the model's positions" in str(refused)
    (cut,) = explain_request(asked(CUT), bert)
    assert cut.scores.shape[1] == limit
    for given, said in (((), {"window": limit}), ((24, 12), {"window": 24, "stride": 12})):
        question = asked(WINDOWS, *given)
        assert question.long == said
        (whole,) = explain_request(question, bert)
        literal = clew.explain(bert, LONG, method="raw_attention", **said)
        assert whole.scores.shape[1] > limit and torch.equal(whole.scores, literal.scores)
        names: dict = {}
        exec(snippet(question, bert).replace("print(", "str("), names)
        assert torch.equal(names["a0"].scores, whole.scores)


def test_windows_that_overlap_too_much_are_refused(models):
    bert = models["mini:reviews-bert"]
    assert options_for(bert, WINDOWS, 24, 3) == {"window": 24, "stride": 3}
    with pytest.raises(OptionError, match="every 3 tokens or more"):
        options_for(bert, WINDOWS, 24, 2)
    assert options_for(models["mini:digits"], WINDOWS, 24, 2) == {}  # a picture is no text


def test_what_was_chosen_stays_where_the_model_takes_it(models):
    gr = MagicMock()  # gradio itself leaves an event loop behind
    gr.update = lambda **more: more
    box = LongTexts(gr, models["mini:reviews-bert"])
    how = box.shown_for(models["mini:reviews-bert"], WINDOWS)[0]
    assert how["value"] == WINDOWS and how["visible"]
    how, window, stride = box.shown_for(models["mini:digits"], WINDOWS)
    assert how["value"] == REFUSED and not how["visible"] and window["value"] is stride["value"] is None

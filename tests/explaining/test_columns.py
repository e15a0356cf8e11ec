"""Columns of pandas as inputs and as targets, and cells without a text."""

import inspect

import pandas as pd
import pytest
import torch

import clew
from clew.errors import InputError

explain = inspect.unwrap(clew.explain)  # the types of targets are looked at by `explain` itself


def test_columns_are_lists():
    frame = pd.DataFrame({"text": ["a joy", "dull and long"], "label": ["positive", "negative"]}, index=[7, 3])
    model = clew.load("mini:reviews-bert")
    wanted = clew.explain(model, frame["text"].tolist(), method="saliency", target=[1, 0])
    for target in (frame["label"], frame["label"].map({"positive": 1, "negative": 0})):
        found = explain(model, frame["text"], method="saliency", target=target)
        assert found.target == wanted.target == ["positive", "negative"]
        torch.testing.assert_close(found.scores, wanted.scores)


def test_a_cell_without_a_text_is_told_by_its_position():
    model = clew.load("mini:reviews-bert")
    for empty, shown in ((float("nan"), "nan"), (None, "None")):
        texts = pd.Series(["a joy", "dull", empty, "long"], dtype=object)
        with pytest.raises(InputError, match=f"{shown} in example 2(.*\\n)*.*leave the examples without a text out"):
            explain(model, texts, method="saliency")
    with pytest.raises(InputError, match=r"list, str: \['a', 'b'\] in example 1"):
        explain(model, ["a joy", ["a", "b"], "c"], method="saliency")

"""Metrics of sources, by their definitions."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from support.tokenized_models import writer

import clew
from clew.errors import InputError, OptionError
from clew.metrics import linear_datamodeling_score, top_k_drop

CONTEXT = "once upon a time. there was a cat. the cat said hello. a time"


def sources():
    model = writer()
    model.model.double()
    return clew.Sources(model, f"a {CONTEXT}\nwhat?", context=CONTEXT, answer=" a cat")


def test_the_drop_is_what_is_lost_without_the_best():
    asked = sources()
    scores = torch.tensor([0.5, 2.0, -3.0, 0.5])
    for k, gone in {1: {1}, 2: {1, 0}, 3: {1, 0, 3}, 4: {0, 1, 2, 3}}.items():
        whole, without = asked.log_probs([[True] * 4, [i not in gone for i in range(4)]]).tolist()
        assert top_k_drop(asked, scores, k=k) == pytest.approx(whole - without, abs=1e-12)
    best = max(top_k_drop(asked, row) for row in np.eye(4))
    assert top_k_drop(asked, asked.explain("leave_one_out").scores[0]) == pytest.approx(best, abs=1e-12)
    assert top_k_drop(asked, scores, k=1, part=(0, 1)) != top_k_drop(asked, scores, k=1)


def ranks(values):
    """From the lowest, of equal ones the mean."""
    values = np.asarray(values)
    return np.array([(values < one).sum() + ((values == one).sum() - 1) / 2 for one in values])


def test_the_score_is_a_correlation_of_ranks():
    asked, scores = sources(), np.array([0.5, 2.0, -3.0, 0.25])
    masks = np.stack([np.random.RandomState([5, i]).choice([False, True], 4, p=[0.25, 0.75]) for i in range(20)])
    expected = np.corrcoef(ranks(masks @ scores), ranks(asked.log_odds(masks).numpy()))[0, 1]
    options = {"num_ablations": 20, "ablation_keep_prob": 0.75, "seed": 5}
    assert linear_datamodeling_score(asked, scores, **options) == pytest.approx(expected, abs=1e-12)
    assert linear_datamodeling_score(asked, scores, **options, part=(0, 1)) != pytest.approx(expected)
    assert linear_datamodeling_score(asked, np.zeros(4)) == 0.0


def test_a_linear_model_of_the_answer_is_better_than_others():
    """Of all orders of its own weights."""
    asked = sources()
    scores = asked.explain().scores[0]
    found = linear_datamodeling_score(asked, scores)
    assert found > 0.5
    several = [linear_datamodeling_score(asked, scores[list(one)]) for one in itertools.permutations(range(4))]
    assert found == max(several)


def test_what_is_refused():
    asked = sources()
    for scores in (torch.zeros(3), torch.zeros(1, 4), torch.full((4,), torch.nan), "abcd", None, [[1], [2], [3], []]):
        for metric in (top_k_drop, linear_datamodeling_score):
            with pytest.raises(InputError):
                metric(asked, scores)
    for k in (0, 5, 1.5):
        with pytest.raises(OptionError):
            top_k_drop(asked, torch.zeros(4), k=k)
    for options in ({"num_ablations": 1}, {"ablation_keep_prob": 2.0}, {"seed": -1}):
        with pytest.raises(OptionError):
            linear_datamodeling_score(asked, torch.zeros(4), **options)

"""What docs/which-method.md says of kinds of methods, against what they are and do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import clew

TEXT = (Path(__file__).parents[2] / "docs" / "which-method.md").read_text()
FEW = {"augmented": {"n_samples": 4}, "dave": {"n_samples": 2}, "tis": {"n_masks": 4}}


def named(title):
    """The methods that the first sentence of a paragraph names."""
    said = re.split(r"have signs|need to know", TEXT.split(f"**{title}**")[1])[0]
    return set(re.findall(r"`(\w+)`", said))


def test_methods_that_need_a_declaration():
    assert named("Without a declaration.") == {name for name, m in clew.methods().items() if not m.any_model}


@pytest.mark.parametrize("method", [name for name in clew.methods() if name not in ("augmented", "tis")])
def test_methods_whose_scores_have_signs(method):
    """TIS adds up scores of the model, which may be negative; `augmented` has the signs of what it is around."""
    images = clew.methods()[method].images
    model, given = (
        ("mini:digits", clew.scenes().images[:2]) if images else ("mini:reviews-bert", clew.reviews(2)[0].text)
    )
    a = clew.explain(clew.load(model), given, method=method, **FEW.get(method, {}))
    assert bool((a.all_scores < 0).any()) == (method in named("For and against."))

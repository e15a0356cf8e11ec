"""A module in memory takes pictures and labels as a `LoadedModel`, and every error on the way there says so."""

from __future__ import annotations

import inspect

import pytest
import torch
from support import tiny
from torch import nn

import clew
from clew.errors import ClewError


class Net(nn.Module):
    """A model that nothing is declared of."""

    def __init__(self):
        super().__init__()
        self.cut, self.head = nn.Conv2d(3, 8, 8, 8), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.cut(x).flatten(2).mean(2))


NETS = {"any": lambda: Net().eval(), "declared": lambda: tiny.build("timm_token").float()}
LABELS = ["dog", "camel", "car"]


@pytest.mark.parametrize("made", NETS.values(), ids=NETS)
def test_a_module_with_a_size_and_labels_takes_pictures(made):
    net, picture = made(), clew.scenes().images[0].resize((50, 40))
    preprocess = clew.Preprocess(size=(32, 32))
    assert preprocess == clew.Preprocess((32, 32), (32, 32), "squash")
    labels = LABELS + ["…"] * 7
    with torch.no_grad():
        wanted = net(preprocess(picture)[0][None])[0]
    mine = clew.LoadedModel(net, preprocess, labels=labels[: len(wanted)])
    a = clew.explain(mine, picture, method="saliency", target=clew.Contrast("dog", "camel"))
    torch.testing.assert_close(a.score[0], wanted[0] - wanted[1])


def test_a_size_of_nothing_is_still_refused():
    with pytest.raises(ClewError, match="size"):
        clew.Preprocess((32, 32), (0, 0), "squash")


@pytest.mark.parametrize("made", NETS.values(), ids=NETS)
def test_errors_lead_there(made):
    net, x, picture = made(), torch.rand(1, 3, 32, 32), clew.scenes().images[0]
    contrast = clew.Contrast("dog", "camel")
    for call in (
        lambda: clew.explain(net, picture, method="saliency"),
        lambda: clew.explain(net, x, method="saliency", labels=LABELS),
        lambda: clew.explain(net, x, method="saliency", target=contrast),
        lambda: inspect.unwrap(clew.load)(net, labels=LABELS),
    ):
        with pytest.raises(ClewError, match=r"clew\.LoadedModel\(model, clew\.Preprocess.*docs/any-model\.md"):
            call()


@pytest.mark.parametrize("made", NETS.values(), ids=NETS)
@pytest.mark.parametrize("alone", [True, False])
def test_names_of_picture_files_are_to_be_opened(made, alone, tmp_path):
    mine = clew.LoadedModel(made(), clew.Preprocess((32, 32)))
    for path in ("dog.JPG", tmp_path / "dog.jpg"):
        with pytest.raises(ClewError, match=r"clew\.open_image"):
            clew.explain(mine, path if alone else [path], method="saliency")


def test_words_for_a_model_without_a_tokenizer():
    with pytest.raises(ClewError, match=r"tokenizer="):
        clew.explain(Net().eval(), "a dog", method="saliency")

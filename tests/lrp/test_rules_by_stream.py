"""Rules that are those of one stream: of what is made of one input and of no other."""

import pytest
import torch
from support import tiny
from support.zoo import build
from torch import nn

import clew
from clew.errors import OptionError
from clew.rules import Epsilon, Gamma
from clew.rules.rule_sets import ATTN_LRP, RULE_SETS


class Sum(nn.Module):
    """Two towers of one layer each, added, and a head."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.of_image, self.of_table, self.head = (nn.Linear(4, 4, bias=False).double() for _ in range(3))
        self.eval().requires_grad_(False)

    def forward(self, image, table):
        return self.head(self.of_image(image) + self.of_table(table))


def given():
    torch.manual_seed(1)
    return {name: torch.randn(2, 4, dtype=torch.float64) for name in ("image", "table")}


def by_gamma(x, W, R, gamma):
    """Relevance of a linear layer's input by the gamma rule, written out: terms of the output's sign count more."""
    found = torch.zeros_like(x)
    for b in range(len(x)):
        for i in range(len(W)):
            z = W[i] * x[b]
            same = z.clamp(min=0) if z.sum() > 0 else z.clamp(max=0)
            terms = z + gamma * same
            found[b] += terms / terms.sum() * R[b, i]
    return found


def test_one_tower_has_its_own_rule():
    model, inputs = Sum(), given()
    rules = {**ATTN_LRP, "linear@image": Gamma(0.25, epsilon=0.0)}
    found = clew.explain(model, inputs, method="lrp", rules=rules, target=1)
    of_image = model.of_image(inputs["image"])
    R = of_image * model.head.weight[1]  # by epsilon behind the sum, which shares by size
    torch.testing.assert_close(found["image"].scores, by_gamma(inputs["image"], model.of_image.weight, R, 0.25))
    plain = clew.explain(model, inputs, method="attn_lrp", target=1)
    torch.testing.assert_close(found["table"].scores, plain["table"].scores)
    assert not torch.allclose(found["image"].scores, plain["image"].scores)


def test_gamma_in_the_tower_of_a_chat_model_leaves_words_as_they_are():
    specimen = build("llava")
    options = {"method": "lrp", "target": specimen.score}
    plain = clew.explain(specimen.model, specimen.inputs, rules=ATTN_LRP, **options)
    rules = {**ATTN_LRP, "linear@pixel_values": Gamma(0.05)}
    found = clew.explain(specimen.model, specimen.inputs, rules=rules, **options)
    torch.testing.assert_close(found["input_ids"].all_scores, plain["input_ids"].all_scores, rtol=0, atol=1e-12)
    assert (found["pixel_values"].all_scores - plain["pixel_values"].all_scores).abs().max() > 1e-3
    assert "account" in found["pixel_values"].checks["verified"]
    same = {**ATTN_LRP, "linear@pixel_values": Epsilon(), "linear@input_ids": Epsilon()}
    again = clew.explain(specimen.model, specimen.inputs, rules=same, **options)
    torch.testing.assert_close(again["pixel_values"].all_scores, plain["pixel_values"].all_scores)


def test_streams_that_there_are_not():
    with pytest.raises(OptionError, match="no stream 'picture'"):
        clew.explain(Sum(), given(), method="lrp", rules={**ATTN_LRP, "linear@picture": Gamma()}, target=1)
    model, x = tiny.build("timm_token"), tiny.images(tiny.TINY["timm_token"].size)
    with pytest.raises(OptionError, match="one stream"):
        clew.explain(model, x, method="lrp", rules={**ATTN_LRP, "linear@image": Gamma()}, target=1)


def test_the_set_for_chats_names_the_picture_as_people_do():
    specimen = build("llava")
    options = {"method": "lrp", "target": specimen.score}
    found = clew.explain(specimen.model, specimen.inputs, rules="chat", **options)
    own = {key.replace("@image", "@pixel_values"): rule for key, rule in RULE_SETS["chat"].items()}
    expected = clew.explain(specimen.model, specimen.inputs, rules=own, **options)
    for name, part in expected.streams.items():
        torch.testing.assert_close(found[name].all_scores, part.all_scores, rtol=0, atol=0)
    plain = clew.explain(specimen.model, specimen.inputs, rules=ATTN_LRP, **options)
    assert not torch.allclose(found["image"].all_scores, plain["image"].all_scores)
    assert found["image"].options["rules"] == "chat"


@pytest.mark.parametrize("name", ["bart", "declared"])
def test_the_set_for_chats_is_attn_lrp_without_a_picture_s_tower(name):
    if name == "bart":
        specimen = build("bart")
        model, x, options = specimen.model, specimen.inputs, {"target": specimen.score}
    else:
        model, x, options = tiny.build("timm_token"), tiny.images(tiny.TINY["timm_token"].size), {"target": 1}
    found = clew.explain(model, x, method="lrp", rules="chat", **options)
    plain = clew.explain(model, x, method="attn_lrp", **options)
    torch.testing.assert_close(found.all_scores, plain.all_scores, rtol=0, atol=0)

"""All mass of a pass is accounted for, on every model of the zoo; what has no softmax attention is refused."""

import pytest
import torch
from support.zoo import ZOO, build
from torch import nn

import clew
from clew.errors import CaptureError, CheckFailed, OptionError
from clew.mass import Site, mass_pass

NO_ATTENTION = ("lstm", "gru", "convolutions", "series", "in_place", "activated_in_place", "given_token_first",
                "indexed_table", "ids_token_first", "ids_padded_inside")  # fmt: skip
DEFORMABLE = ("deformable_detr", "rt_detr", "mask2former")
LINEAR = ("qwen3_5",)
DECLARED = ("own_head_on_vit", "own_head_on_bert", "picture_and_table", "two_heads", "siamese", "trocr", "mean_of_bert")
METHODS = ["attention_rollout", "generic_attribution", "gradient_attention_rollout", "raw_attention",
           "beyond_intuition_head"]  # fmt: skip
OPTIONS = {"beyond_intuition_head": {"n_steps": 2}}


def explain(specimen, method):
    given = specimen.inputs
    return clew.explain(specimen.model, given, method=method, target=specimen.score, **OPTIONS.get(method, {}))


@pytest.mark.sampled(0.25)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", [n for n in ZOO if n not in (*NO_ATTENTION, *DEFORMABLE, *LINEAR, *DECLARED)])
def test_everything_arrives(name, method):
    specimen = build(name)
    found = explain(specimen, method)
    checks = found.checks if not hasattr(found, "streams") else found[next(iter(found.streams))].checks
    assert checks["unaccounted"] < 1e-9
    assert 0 < checks["sites_reached"] <= checks["sites"]
    assert "mass" in checks["verified"]


@pytest.mark.parametrize(("names", "error", "words"), [
    (NO_ATTENTION, CaptureError, "no softmax attention was seen"),
    (DEFORMABLE, OptionError, "places that are sampled"),
    (LINEAR, OptionError, "attention without a softmax"),
])  # fmt: skip
def test_what_is_not_defined_is_refused(names, error, words):
    for name in names:
        with pytest.raises(error, match=words):
            explain(build(name), "attention_rollout")


class Experts(nn.Module):
    """A block whose tokens visit two of three experts, whose results are added up in place."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.router, self.experts = nn.Linear(8, 3), nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = x + self.attention(x, x, x, need_weights=False)[0]
        flat = x.flatten(0, 1)
        weights, chosen = self.router(flat).softmax(-1).topk(2)
        out = torch.zeros_like(flat)
        for i, expert in enumerate(self.experts):
            rows, places = (chosen == i).nonzero(as_tuple=True)
            out.index_add_(0, rows, expert(flat[rows]) * weights[rows, places][:, None])
        return self.head((x + out.view_as(x)).mean(1))


def test_a_token_counts_once_however_many_experts_it_visits():
    torch.manual_seed(0)
    model, x = Experts().double().eval(), torch.randn(2, 5, 8, dtype=torch.float64)
    found = clew.explain(model, x, method="attention_rollout", target=1)
    with torch.no_grad():
        A = model.attention(x, x, x, average_attn_weights=True)[1]
    expected = ((A + torch.eye(5, dtype=torch.float64)) / 2).mean(1)
    torch.testing.assert_close(found.all_scores.view(2, 5, 8).sum(-1), expected, rtol=0, atol=1e-12)


def test_mass_that_is_lost_is_seen(monkeypatch):
    """The account is not one of an operation with itself: a linear layer that hands on less is noticed."""
    from clew.mass.operations import tokens

    monkeypatch.setattr(tokens, "spread", lambda g, shape: (g.sum(-1, keepdim=True) * 0.9 / shape[-1]).expand(shape))
    with pytest.raises(CheckFailed, match="mass that neither inputs nor constants got"):
        explain(build("bart"), "attention_rollout")


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("change", [lambda A: A.roll(1, -1), lambda A: A.roll(1, -3), lambda A: A.square()])
def test_attention_that_is_not_the_models_is_seen(change, kernel, monkeypatch):
    """The account does not tell whom mass went to: what was made of the values does."""
    own = Site.probabilities
    monkeypatch.setattr(Site, "probabilities", lambda self, *rows: change(own(self, *rows)))
    with pytest.raises(CheckFailed, match="times its values, against what the model made"):
        explain(build("bart", kernel), "attention_rollout")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_in_shorter_floats(dtype):
    """What rounding may lose is allowed: 3 % in half precision."""
    specimen = build("t5_tied")
    right = explain(specimen, "attention_rollout")["input_ids"].all_scores
    specimen.model.to(dtype)
    found = explain(specimen, "attention_rollout")["input_ids"]
    assert found.checks["unaccounted"] < (1e-6 if dtype == torch.float32 else 3e-2)
    torch.testing.assert_close(found.all_scores.double(), right, rtol=0, atol=1e-5 if dtype == torch.float32 else 1e-2)


def test_a_pass_in_mass_is_compared_with_the_models_own_call_though_gradients_were(monkeypatch):
    from clew.mass.operations import tokens

    specimen = build("encoder_batch_first")
    explain(specimen, "input_x_gradient")
    own = tokens.norm
    wrong = lambda tape, func, args, kwargs: own(tape, func, (args[0] * 1.1, *args[1:]), kwargs) * 1.1  # noqa: E731
    monkeypatch.setitem(mass_pass.OPERATIONS, torch.nn.functional.layer_norm, wrong)
    with pytest.raises(CheckFailed, match="forward"):
        explain(specimen, "attention_rollout")


def test_nothing_is_left_on_tensors_of_the_model_or_its_input():
    specimen = build("encoder_batch_first")
    before = {id(p): set(vars(p)) for p in specimen.model.parameters()}
    explain(specimen, "generic_attribution")
    assert {id(p): set(vars(p)) for p in specimen.model.parameters()} == before
    given = specimen.inputs if isinstance(specimen.inputs, torch.Tensor) else None
    assert given is None or not hasattr(given, mass_pass._MARK)


def test_the_doctor_says_which_attention_asks_what():
    specimen = build("t5_tied")
    findings = {one.name: one for one in clew.doctor(specimen.model, specimen.inputs, target=specimen.score)}
    said = findings["mass by attention"]
    assert said.ok
    assert "decoder.block.0.layer.1.EncDecAttention: decoder_input_ids ← input_ids (5 × 9)" in said.seen
    assert "decoder.block.0.layer.0.SelfAttention: decoder_input_ids ← decoder_input_ids (5 × 5)" in said.seen
    chat, net = build("llava"), build("lstm")
    of_pictures = clew.doctor(chat.model, chat.inputs, target=chat.score)
    assert "pixel_values ← pixel_values (17 × 17; nothing of it is read)" in of_pictures[-2].seen
    assert "mass by attention" not in {one.name for one in clew.doctor(net.model, net.inputs)}


def test_options():
    specimen = build("bart")
    explain_with = {"method": "attention_rollout", "target": specimen.score}
    with pytest.raises(OptionError, match="there is no attention 6"):
        clew.explain(specimen.model, specimen.inputs, start_layer=6, **explain_with)
    with pytest.raises(OptionError, match="needs a declared model"):
        clew.explain(specimen.model, specimen.inputs, method="raw_attention", target=specimen.score,
                     variant="beyond_intuition")  # fmt: skip


def test_mass_that_grows_is_accounted_for_by_what_there_was():
    """Single precision, and twelve attentions that each hand on what they get and what goes past them."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, dropout=0.0)
    model = nn.Sequential(nn.TransformerEncoder(layer, 12, enable_nested_tensor=False), nn.Linear(16, 3)).eval()
    found = clew.explain(model, torch.randn(2, 40, 16), method="beyond_intuition_head", target=lambda o: o[:, 0, 1])
    assert float(found.checks["unaccounted"]) < 1e-5


@pytest.mark.parametrize("method", ["attention_rollout", "raw_attention", "beyond_intuition_head"])
def test_details_say_which_attention_asks_what(method):
    specimen = build("t5_tied")
    options = {"method": method, "target": specimen.score, "details": True, **OPTIONS.get(method, {})}
    found = clew.explain(specimen.model, specimen.inputs, **options)
    lines = found["input_ids"].checks["graph"].splitlines()
    assert len(lines) == found["input_ids"].checks["sites"]
    assert sum("decoder_input_ids ← input_ids" in line for line in lines) == len(lines) // 3
    plain = clew.explain(specimen.model, specimen.inputs, **{**options, "details": False})
    torch.testing.assert_close(found["input_ids"].all_scores, plain["input_ids"].all_scores)

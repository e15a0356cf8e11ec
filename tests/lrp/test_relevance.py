"""LRP on whole models: the account closes, a batch equals its examples, nothing is disturbed or left behind."""

from __future__ import annotations

import copy
import threading
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from support import lrp_twins as twin
from support.tiny import TINY, build, images
from torch import nn

import clew
from clew.diagnosis import state
from clew.errors import CaptureError, OptionError
from clew.explaining.prepare import prepare
from clew.lrp.relevance import propagate
from clew.rules import Epsilon, Flat, PlainGradient, WSquare, rule_sets
from clew.subject.subject import Subject
from clew.targets import resolve

CASES = [(name, kind) for name, tiny in TINY.items() for kind in ("sdpa", "eager") if kind == "sdpa" or tiny.eager]
SETS = ["attn_lrp", "cp_lrp", "gamma", "z_plus", "chefer", "fixed_std", "pa_lrp_semi"]
PARTS = ["all", "semantic", "position"]


def subject_of(model, x, target=None):
    ready = prepare(model, x)
    return Subject(ready.model, ready.bound, ready.inputs, lambda out: resolve(target, out, len(x), None), precise=True)


def open_share(account):
    """The unexplained rest against the largest entry of an account."""
    largest = torch.stack([v.abs() for v in account.values()]).amax(0)
    return float((account["unexplained"].abs() / largest).max())


@pytest.mark.sampled(0.2, by="case")
@pytest.mark.parametrize("rules", SETS)
@pytest.mark.parametrize("case", CASES, ids="-".join)
def test_the_account_closes_on_every_architecture(case, rules):
    name, kind = case
    level = "token" if kind == "sdpa" else "pixel"
    subject = subject_of(build(name, kind), images(TINY[name].size))
    found = propagate(subject, rules, level=level)
    for part in PARTS:
        assert open_share(found.account(part)) < 1e-9


@pytest.mark.parametrize("rules", ["attn_lrp", "gamma", "chefer", "pa_lrp_gamma"])
def test_an_operation_left_out_of_the_account_is_missed(rules):
    found = propagate(subject_of(build("timm_token"), images((32, 32))), rules, level="pixel")
    assert open_share(found.account("all")) < 1e-9
    causes = {entry.cause: entry for entry in found.entries if float(entry.values.abs().max()) > 1e-6}
    assert "bias" in causes or rules == "chefer"
    for cause, entry in causes.items():
        without = replace(found, entries=[e for e in found.entries if e is not entry])
        assert open_share(without.account("all")) > 1e-9, cause


@pytest.mark.sampled(0.12)
@pytest.mark.parametrize("name", list(TINY))
@pytest.mark.parametrize("rules", ["attn_lrp", "chefer"])
def test_a_batch_equals_its_examples(name, rules):
    """With fused attention; that hand-written attention gives the same for a batch is tested below."""
    model, x = build(name), images(TINY[name].size)
    options = {"method": "lrp", "rules": rules, "part": "all", "compute_dtype": torch.float64}
    together = clew.explain(model, x, target=[0, 1, 2], **options)
    for i in range(3):
        alone = clew.explain(model, x[i : i + 1], target=i, **options)
        size = float(together.all_scores[i].abs().max())
        assert float((together.all_scores[i] - alone.all_scores[0]).abs().max()) < 1e-10 * size


@pytest.mark.sampled(0.15)
@pytest.mark.parametrize("name", [name for name, kind in CASES if kind == "eager"])
def test_fused_and_hand_written_attention_agree(name):
    x = images(TINY[name].size)
    for rules in ("attn_lrp", "cp_lrp", "chefer", "pa_lrp_epsilon"):
        options = {"rules": rules, "level": "token", "part": "all", "target": 0, "compute_dtype": torch.float64}
        fused, written = (
            clew.explain(build(name, kind), x, method="lrp", **options).all_scores for kind in ("sdpa", "eager")
        )
        assert float((fused - written).abs().max()) < 1e-10 * float(fused.abs().max()), rules


class OneBlock(nn.Module):
    """A transformer small enough to write its relevance down: one head, one block, mean readout."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(1, 4, 2, 2)
        self.position = nn.Parameter(torch.randn(1, 4, 4))
        self.block = _Block()
        self.blocks = nn.ModuleList([self.block])
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).mT + self.position
        return self.head(self.block(tokens).mean(1))


class _Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.attention = _Attention()
        self.up, self.down = nn.Linear(4, 6), nn.Linear(6, 4)

    def forward(self, x):
        x = x + self.attention(self.norm(x))
        return x + self.down(F.gelu(self.up(x)))


class _Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.out = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x):
        q, k, v = (part(x)[:, None] for part in (self.q, self.k, self.v))
        return self.out(F.scaled_dot_product_attention(q, k, v)[:, 0])


def one_block():
    torch.manual_seed(3)
    return OneBlock().double().eval()


ONE_BLOCK = clew.Architecture(
    name="one_block",
    classes=(),
    blocks="blocks",
    attention="attention",
    output_projection="attention.out",
    patches="patches",
    prefix=lambda model: 0,
    readout=lambda model: clew.Readout.mean(),
)


def literal_attn_lrp(model, image, target):
    """AttnLRP from the output to the tokens, rule after rule as the paper writes them, for one image."""

    def linear(layer, x, R):
        return torch.stack([twin.epsilon(t, layer.weight, layer.bias, r) for t, r in zip(x, R, strict=True)])

    b, a = model.block, model.block.attention
    E = model.patches(image[None]).flatten(2).mT[0]
    P = model.position[0]
    x0 = E + P
    n = b.norm(x0)
    q, k, v = a.q(n), a.k(n), a.v(n)
    o = (q @ k.T / 2).softmax(-1) @ v
    z = a.out(o)
    x1 = x0 + z
    u = b.up(x1)
    m = b.down(F.gelu(u))
    x2 = x1 + m
    pooled = x2.mean(0)
    logits = model.head(pooled)
    R_pooled = twin.epsilon(pooled, model.head.weight, model.head.bias, logits * F.one_hot(torch.tensor(target), 3))
    R2 = x2 / x2.sum(0) * R_pooled
    R_m = m * R2 / x2
    R1 = x1 * R2 / x2 + linear(b.up, x1, linear(b.down, F.gelu(u), R_m))
    R_o = linear(a.out, o, z * R1 / x1)
    R_q, R_k, R_v, _ = twin.attention(q, k, v, 0.5, R_o)
    R_n = linear(a.q, n, R_q) + linear(a.k, n, R_k) + linear(a.v, n, R_v)
    norm = [twin.layer_norm(t, b.norm.weight, b.norm.bias, b.norm.eps, r) for t, r in zip(x0, R_n, strict=True)]
    R0 = x0 * R1 / x1 + torch.stack(norm)
    return (E * R0 / x0).sum(1), (P * R0 / x0).sum(1)


def test_attn_lrp_is_the_paper_written_out():
    model, x = one_block(), images((4, 4), batch=2)[:, :1]
    found = clew.explain(model, x, method="pa_lrp", target=[0, 2], architecture=ONE_BLOCK, details=True)
    with torch.no_grad():
        for i, target in enumerate([0, 2]):
            semantic, position = literal_attn_lrp(model, x[i], target)
            torch.testing.assert_close(found.details["semantic"][i], semantic, rtol=0, atol=1e-10)
            torch.testing.assert_close(found.details["position"][i], position, rtol=0, atol=1e-10)
            torch.testing.assert_close(found.scores[i], semantic + position, rtol=0, atol=1e-10)


def test_parts_add_up_and_pixels_sum_to_patches():
    model, x = build("timm_token"), images((32, 32))
    for level in ("token", "pixel"):
        parts = {part: clew.explain(model, x, method="pa_lrp", rules="gamma", level=level, part=part) for part in PARTS}
        whole = parts["semantic"].all_scores + parts["position"].all_scores
        torch.testing.assert_close(parts["all"].all_scores, whole, rtol=0, atol=1e-10)
        if level == "pixel":
            maps = parts["all"].heatmap()
            assert maps.shape == (3, 32, 32)
            torch.testing.assert_close(maps.sum((1, 2)), parts["all"].scores.sum(1), rtol=0, atol=1e-10)


def test_a_dict_of_ones_own_works_everywhere():
    model, x = build("timm_token"), images((32, 32))
    for own in ({**rule_sets.ATTN_LRP, "conv": Flat()}, {**rule_sets.GAMMA, "conv": WSquare()}):
        result = clew.explain(model, x, method="lrp", rules=own, level="pixel")
        assert "conv" in result.options["rules"]
        assert float(result.checks["unexplained"].abs().max()) < 1e-9
    same = clew.explain(model, x, method="pa_lrp", rules=dict(rule_sets.ATTN_LRP))
    assert same.options["rules"] == "attn_lrp"
    torch.testing.assert_close(same.scores, clew.explain(model, x, method="pa_lrp").scores, rtol=0, atol=0)


def test_a_missing_rule_names_operation_and_place():
    model, x = build("timm_token"), images((32, 32))
    without = {k: v for k, v in rule_sets.ATTN_LRP.items() if k != "activation"}
    with pytest.raises(OptionError, match=r"'gelu' \(activation\), in block 3 \(mlp\)"):
        clew.explain(model, x, method="lrp", rules=without)
    plain = clew.explain(model, x, method="lrp", rules={**without, "gelu": PlainGradient()})
    assert float(plain.checks["leak_nonlinearity"].abs().max()) > 1e-6
    assert float(plain.checks["unexplained"].abs().max()) < 1e-9


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"rules": "attn"}, "attn_lrp"),
        ({"level": "patch"}, "token or pixel"),
        ({"part": "both"}, "semantic"),
        ({"reduction": "l2", "level": "pixel"}, "sum"),
        ({"start": "two"}, "score or one"),
    ],
)
def test_wrong_options_are_told(options, match):
    with pytest.raises(OptionError, match=match):
        clew.explain(build("timm_token"), images((32, 32)), method="lrp", **options)


def test_methods_of_attention_need_rules_that_reach_it():
    with pytest.raises(OptionError, match="no relevance"):
        clew.explain(build("hf_vit", "eager"), images((32, 32)), method="transformer_attribution", rules="cp_lrp")


@pytest.mark.parametrize("score", ["logit", "probability", "log_probability"])
def test_every_target_is_accounted_for(score):
    model, x = build("timm_token"), images((32, 32))
    for target in (None, 1, clew.Contrast(0, 1)):
        found = clew.explain(model, x, method="attn_lrp", target=target, score=score)
        torch.testing.assert_close(found.checks["explained"], found.score, rtol=0, atol=0)
        assert float(found.checks["unexplained"].abs().max()) < 1e-9
        if not isinstance(target, clew.Contrast):
            assert (float(found.checks["leak_target"].abs().max()) < 1e-12) == (score == "logit")


def test_two_models_interleaved_in_one_process_do_not_disturb_each_other():
    first, second, x = build("timm_token"), build("hf_vit"), images((32, 32))
    alone = [clew.explain(m, x, method="attn_lrp").scores for m in (first, second)]
    seconds = []

    def nested(*_):
        seconds.append(clew.explain(second, x, method="attn_lrp", score=score).scores)

    for module in (first.blocks[1], first.norm):  # the second model runs inside the first one's pass
        for score in ("logit", "probability"):
            handle = module.register_forward_hook(nested)
            inside = clew.explain(first, x, method="attn_lrp").scores
            handle.remove()
            torch.testing.assert_close(inside, alone[0], rtol=0, atol=0)
            expected = clew.explain(second, x, method="attn_lrp", score=score).scores
            torch.testing.assert_close(seconds.pop(), expected, rtol=0, atol=0)
            seconds.clear()
    results = {}

    def work(i, model):
        for _ in range(3):
            results[i] = clew.explain(model, x, method="attn_lrp").scores

    threads = [threading.Thread(target=work, args=(i, m)) for i, m in enumerate((first, second))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(2):
        torch.testing.assert_close(results[i], alone[i], rtol=0, atol=0)


def test_rules_leave_nothing_behind_after_an_exception_in_the_middle():
    model, x = build("timm_token"), images((32, 32))
    before, plain = state(model), model(x)

    class Broken(Exception):
        pass

    def fail(*_):
        raise Broken

    handle = model.blocks[2].mlp.register_forward_hook(fail)
    untouched = state(model)
    with pytest.raises(Broken):
        clew.explain(model, x, method="attn_lrp")
    assert state(model) == untouched
    handle.remove()
    assert state(model) == before
    assert torch.equal(model(x), plain)
    y = x.clone().requires_grad_()  # gradients are the model's own again
    gradient = torch.autograd.grad(model(y)[:, 0].sum(), y)[0]
    other = copy.deepcopy(model)
    z = x.clone().requires_grad_()
    assert torch.equal(gradient, torch.autograd.grad(other(z)[:, 0].sum(), z)[0])


def test_ill_conditioned_relevance_says_so_and_float64_cures_it():
    model, x = build("timm_token").float(), images((32, 32)).float()
    result = clew.explain(model, x, method="lrp", rules="attn_lrp")
    assert "advice" not in result.checks
    with torch.no_grad():
        model.head.bias[1] = -model(x)[0, 1] + model.head.bias[1] + 1e-7  # a score of almost nothing
    result = clew.explain(model, x[:1], method="lrp", rules="attn_lrp", target=1)
    assert "compute_dtype=torch.float64" in result.checks["advice"]
    cured = clew.explain(model, x[:1], method="lrp", rules="attn_lrp", target=1, compute_dtype=torch.float64)
    assert cured.scores.dtype == torch.float64
    assert next(model.parameters()).dtype == torch.float32
    assert "advice" not in cured.checks


def test_results_of_batches_are_joined_with_their_advice():
    model, x = build("timm_token"), images((32, 32))
    parts = [clew.explain(model, x[:1], method="attn_lrp"), clew.explain(model, x[1:], method="attn_lrp")]
    parts[1] = replace(parts[1], checks={**parts[1].checks, "advice": "look again"})
    joined = clew.Attribution.concatenate(parts)
    assert joined.checks["advice"] == "look again"
    assert joined.checks["relevance_by_stage"].shape[0] == 3


def test_an_embedding_that_is_never_called_is_told():
    class Skips(OneBlock):
        def forward(self, x):
            return self.head(self.block(x.flatten(2).mT.expand(-1, -1, 4) + self.position).mean(1))

    model = Skips().double().eval()
    with pytest.raises(CaptureError, match="patch embedding"):
        clew.explain(model, images((2, 2), batch=2)[:, :1], method="attn_lrp", architecture=ONE_BLOCK)


def test_results_keep_their_account(tmp_path):
    result = clew.explain(build("timm_token"), images((32, 32)), method="pa_lrp", details=True)
    again = clew.Attribution.load(result.save(tmp_path / "a.safetensors"))
    assert set(again.checks) == set(result.checks)
    torch.testing.assert_close(again.checks["relevance_by_stage"], result.checks["relevance_by_stage"])
    assert again.checks["stages"].startswith("position, semantic, block 0")
    assert "unexplained" in result.facts(0)
    assert Epsilon() == Epsilon(0.0)


@pytest.mark.sampled(0.3)
@pytest.mark.parametrize("name", TINY)
def test_what_the_head_reads_is_enough(name):
    model, x = build(name), images(TINY[name].size)

    def first_class(output):  # nothing is known of what a function reads
        return (output if isinstance(output, torch.Tensor) else output.logits)[:, 1]

    for rules in ("attn_lrp", "cp_lrp"):
        spared = clew.explain(model, x, method="lrp", rules=rules, target=1)
        whole = clew.explain(model, x, method="lrp", rules=rules, target=first_class)
        torch.testing.assert_close(spared.all_scores, whole.all_scores, rtol=0, atol=1e-10)
        for name, values in spared.checks.items():
            if name.startswith("leak_"):
                torch.testing.assert_close(values, whole.checks[name], rtol=0, atol=1e-10)

"""A pass that writes attention out and keeps a mix of it, against the kernel, a literal softmax, and itself."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from support import tiny
from support.tiny_text import build_text
from torch import nn

import clew
from clew.errors import CaptureError, CheckFailed
from clew.explaining.explain import subject_of
from clew.explaining.prepare import prepare
from clew.models import find_architecture
from clew.seam import Capture, MixedPass
from clew.seam.twin import original
from clew.subject import mean_heads, reached_rows
from clew.subject import subject as subjects


class Attends(nn.Module):
    """One block: attention as it is told, of (batch, token, width) with heads of 4."""

    def __init__(self, heads=3, groups=None, **told):
        super().__init__()
        self.heads, self.groups, self.told = heads, groups or heads, told
        self.qkv = nn.Linear(8, 4 * (heads + 2 * self.groups))
        self.out = nn.Linear(4 * heads, 8)

    def parts(self, x):
        sizes = [4 * self.heads, 4 * self.groups, 4 * self.groups]
        return [t.unflatten(-1, (-1, 4)).transpose(1, 2) for t in self.qkv(x).split(sizes, -1)]

    def forward(self, x):
        o = F.scaled_dot_product_attention(*self.parts(x), **self.told)
        return x + self.out(o.transpose(1, 2).flatten(2))


@pytest.fixture
def subject():
    """Of a tiny model that reads CLS, and three pictures."""
    return subject_of(prepare(tiny.build("timm_token"), tiny.images((32, 32))), [0, 1, 2])


def passed(module, x, mix=mean_heads, **more):
    seam = MixedPass([module], [module], len(x), mix, keep=frozenset({0}), last=0, **more)
    with seam, torch.no_grad():
        output = module(x)
    return output, seam.records[0]


def literal(module, x):
    """The mean over heads of `softmax(q kᵀ / √d + mask)`, entry by entry."""
    told = module.told
    q, k, _ = (t.detach() for t in module.parts(x))
    found = torch.zeros(len(x), q.shape[2], k.shape[2], dtype=x.dtype)
    for b in range(len(x)):
        for h in range(q.shape[1]):
            for i in range(q.shape[2]):
                seen = [j for j in range(k.shape[2]) if is_seen(told, b, i, j)]
                scale = told.get("scale") or 1 / math.sqrt(q.shape[3])
                keys = k[b, h * k.shape[1] // q.shape[1]]
                e = {j: math.exp(float(q[b, h, i] @ keys[j]) * scale) for j in seen}
                for j in seen:
                    found[b, i, j] += e[j] / sum(e.values()) / q.shape[1]
    return found


def is_seen(told, b, i, j):
    mask = told.get("attn_mask")
    if told.get("is_causal"):
        return j <= i
    return mask is None or bool(mask.expand(2, 1, 7, 7)[b, 0, i, j])


PADDED = torch.ones(2, 1, 1, 7, dtype=torch.bool)
PADDED[1, ..., 5:] = False
BANDED = torch.ones(7, 7, dtype=torch.bool).tril(2).triu(-2)
KINDS = {
    "plain": {},
    "scale": {"scale": 0.3},
    "causal": {"is_causal": True},
    "padded": {"attn_mask": PADDED},
    "banded": {"attn_mask": BANDED},
    "groups": {"heads": 4, "groups": 2, "enable_gqa": True},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_maps_and_output_are_those_of_the_kernel(kind, dtype):
    module, x = Attends(**KINDS[kind]).to(dtype), torch.randn(2, 7, 8, dtype=dtype)
    exact = 1e-5 if dtype == torch.float32 else 1e-12
    output, seen = passed(module, x, shown=0)
    with torch.no_grad():
        torch.testing.assert_close(output, module(x), rtol=exact, atol=exact)
        torch.testing.assert_close(seen.mixed.maps, literal(module, x), rtol=exact, atol=exact)
    few = seen.mixed.few
    torch.testing.assert_close(few.A.mean(1), literal(module, x)[:, few.rows], rtol=exact, atol=exact)
    torch.testing.assert_close(few.o, few.by_kernel, rtol=exact, atol=exact)
    assert seen.v.isnan().all() and seen.o.isnan().all()  # shapes alone


def test_what_stands_for_values_takes_no_memory():
    seen = passed(Attends(), torch.randn(2, 7, 8))[1]
    assert seen.mixed.few is None
    assert seen.v.shape == seen.o.shape == (2, 3, 7, 4)
    assert seen.v.untyped_storage().nbytes() == seen.o.untyped_storage().nbytes() == 4


@pytest.mark.parametrize("why", ["half", "added mask", "many", "graph"])
def test_elsewhere_the_kernel_is_kept(why, monkeypatch):
    module, x = Attends(), torch.randn(2, 7, 8)
    if why == "half":
        module, x = module.bfloat16(), x.bfloat16()
    if why == "added mask":
        module.told["attn_mask"] = torch.zeros(7, 7)
    if why == "many":
        monkeypatch.setattr("clew.seam.mixed_pass.BLOCK", 2 * 3 * 7 * 7 - 1)
    seam = MixedPass([module], [module], 2, mean_heads, keep=frozenset({0}), last=0, shown=0)
    with seam, torch.set_grad_enabled(why == "graph"):
        output = module(x)
    seen = seam.records[0]
    assert seen.mixed is None and not seen.v.isnan().any()
    assert torch.equal(output, module(x))
    assert seen.probabilities().shape == (2, 3, 7, 7)


def test_of_rows_that_are_read_all_is_right():
    module, x = Attends(), torch.randn(2, 7, 8, dtype=torch.float64)
    module = module.double()
    output, seen = passed(module, x, reads=(0, 3), shown=0)
    expected = module(x)
    torch.testing.assert_close(output[:, [0, 3]], expected[:, [0, 3]])
    assert torch.equal(output[:, 1], x[:, 1])  # nothing was added there
    assert seen.mixed.rows.tolist() == [0, 3]
    torch.testing.assert_close(seen.mixed.maps, literal(module, x)[:, [0, 3]])
    torch.testing.assert_close(seen.mixed.few.o, seen.mixed.few.by_kernel)


def test_most_of_the_rows_are_not_few():
    module, x = Attends(), torch.randn(2, 7, 8)
    output, seen = passed(module, x, reads=(0, 1, 2, 3))
    assert seen.mixed.maps.shape == (2, 7, 7)
    torch.testing.assert_close(output, module(x))


def test_what_was_not_kept_cannot_be_asked_for():
    seen = passed(Attends(), torch.randn(2, 7, 8))[1]
    with pytest.raises(CaptureError, match="only what a mix makes of it"):
        seen.probabilities()


def test_a_pass_that_is_asked_for_more_keeps_more(subject):
    """States, and a graph, beside a mix: nothing is dropped for the mix's sake."""
    trace = subject.run(range(subject.depth), hidden=[1], outputs=[1], mix=mean_heads)
    assert trace[1].hidden is not None and trace[1].output is not None and trace[1].mixed is None
    gradient = subject.run([2], leaf=(2, "v"), mix=mean_heads).gradients([(2, "v")])[2, "v"]
    torch.testing.assert_close(gradient, subject.run([2], leaf=(2, "v")).gradients([(2, "v")])[2, "v"])
    assert gradient.any()


def test_rows_that_were_not_kept_are_not_dropped_in_silence(subject):
    last = subject.last
    trace = subject.run([last], mix=mean_heads, readout_only=True)
    kept = subject.run([last])
    torch.testing.assert_close(trace.chain(trace.start(), last, mean_heads), kept.chain(kept.start(), last, mean_heads))
    with pytest.raises(CaptureError, match="only the rows that the head reads"):
        trace.chain(torch.ones_like(trace.start()), last, mean_heads)


@pytest.mark.parametrize("name", ["timm_token", "timm_average", "hf_vit"])
def test_rollout_is_that_of_a_pass_that_keeps_everything(name, monkeypatch):
    """Scores, logits and what each layer gives, by the kernel and by attention that was written out, to rounding."""
    model, x = tiny.build(name), tiny.images((32, 32))
    found = clew.explain(model, x, method="attention_rollout", target=[0, 1, 2], details=True)
    with torch.no_grad():
        plain = model(x)
    torch.testing.assert_close(found.logits, getattr(plain, "logits", plain), rtol=1e-12, atol=1e-12)
    monkeypatch.setattr("clew.seam.mixed_pass._is_open", lambda c: False)
    monkeypatch.setattr(subjects, "few_rows", lambda *given: None)
    kept = clew.explain(model, x, method="attention_rollout", target=[0, 1, 2], details=True)
    torch.testing.assert_close(found.all_scores, kept.all_scores, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.details["layer_maps"], kept.details["layer_maps"], rtol=1e-12, atol=1e-12)


def passes_of(monkeypatch):
    """Which passes are made: `mixed`, with rows left out or not, and others."""
    made = []
    for kind in (Capture, MixedPass):
        enter = kind.__enter__

        def entered(self, enter=enter, kind=kind):
            if type(self) is kind:
                made.append((kind.__name__, getattr(self, "_few", None), self._leaf))
            return enter(self)

        monkeypatch.setattr(kind, "__enter__", entered)
    return made


def test_results_do_not_depend_on_what_is_verified(monkeypatch):
    """To the last bit: whether rows that the score reaches are looked at again, or nothing is verified."""
    monkeypatch.setattr(reached_rows, "_AGAIN", 2)
    images, texts = tiny.images((32, 32)), torch.randint(5, 60, (2, 9))
    for model, given in ((tiny.build("timm_token"), images), (build_text("bert"), texts)):
        made = passes_of(monkeypatch)
        found = [
            clew.explain(model, given, method="attention_rollout", target=1, checks=checks)
            for checks in ("default", "default", "default", "off", "full")
        ]
        assert len({bool(leaf) for _, _, leaf in made}) == 2  # with and without a gradient
        for other in found[1:]:
            assert torch.equal(other.all_scores, found[0].all_scores)
            assert torch.equal(other.logits, found[0].logits) and torch.equal(other.score, found[0].score)


def test_rows_are_left_out_where_the_model_alone_decides_which(monkeypatch):
    made = passes_of(monkeypatch)

    def left_out(model, inputs, **more):
        made.clear()
        clew.explain(model, inputs, method="attention_rollout", **more)
        return {few for name, few, _ in made if name == "MixedPass"}

    bert, ids = build_text("bert"), torch.randint(5, 60, (2, 9))
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    assert left_out(tiny.build("timm_token"), tiny.images((32, 32)), target=1) == {(0,)}
    assert left_out(tiny.build("timm_average"), tiny.images((32, 32)), target=1) == {None}
    assert left_out(bert, ids, target=1) == {(0,)}
    assert left_out(bert, {"input_ids": ids, "attention_mask": mask}, target=1) == {None}
    assert left_out(tiny.build("timm_token"), tiny.images((32, 32)), target=lambda output: output[:, 0]) == {None}


def test_a_head_that_reads_more_than_is_said_is_seen():
    """The declaration says CLS; the model reads the mean of its patches: at the first call, too."""
    model, x = tiny.build("timm_average"), tiny.images((32, 32))
    architecture = find_architecture(model)
    said = tiny.build("timm_token")
    wrong = dataclasses.replace(architecture, readout=lambda model: architecture.readout(said))
    for checks in ("default", "full"):
        with pytest.raises(CheckFailed, match="readout"):
            clew.explain(model, x, method="attention_rollout", architecture=wrong, checks=checks, target=1)


def test_several_targets_of_one_image():
    model, x = tiny.build("timm_token"), tiny.images((32, 32))
    found = clew.explain(model, x, method="attention_rollout", target=clew.Each(0, 2))
    alone = clew.explain(model, x, method="attention_rollout", target=2)
    torch.testing.assert_close(found.all_scores[1::2], alone.all_scores)


def test_nothing_is_left_on_the_model():
    model, x = tiny.build("timm_token"), tiny.images((32, 32))
    before = {name: dict(vars(part)) for name, part in model.named_modules()}
    clew.explain(model, x, method="attention_rollout", target=1)
    for name, part in model.named_modules():
        assert dict(vars(part)).keys() == before[name].keys() and original(part) is part
        assert not part._forward_hooks and not part._forward_pre_hooks

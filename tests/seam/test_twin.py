"""The twin that is explained: the same numbers, to the last bit, in modules of its own; the model is only read."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from support import tiny, tiny_text
from torch import nn

import clew
from clew.seam.module_hooks import replace_output
from clew.seam.twin import freeze, original, owning_model, twin, wanted_gradient


def everything(model):
    """What can be seen of a model: attributes by identity, hooks, numbers, flags."""
    found = []
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            found.append((name, key, id(value)))
            if isinstance(value, (dict, list)):
                found.append(
                    (name, key, [*map(str, value)], [*map(id, value.values() if isinstance(value, dict) else value)])
                )
    config = getattr(model, "config", None)
    found.append(None if config is None else copy.deepcopy(vars(config)))
    found += [(p.requires_grad, p.grad is None, None if p.is_inference() else p._version) for p in model.parameters()]
    return found


@pytest.mark.parametrize("name", ["timm_token", "hf_vit"])
def test_a_model_is_only_read(name):
    model, x = tiny.build(name), tiny.images((32, 32))
    before = everything(model)
    for method in clew.methods():
        clew.explain(model, x, method=method, target=1)
    assert everything(model) == before


def test_a_twin_is_the_model_to_the_last_bit_and_shares_its_memory():
    model, x = tiny.build("timm_token"), tiny.images((32, 32))
    made = twin(model)
    assert torch.equal(made(x), model(x).detach()) and not made(x).requires_grad
    for mine, own in zip(made.parameters(), model.parameters(), strict=True):
        assert mine.data_ptr() == own.data_ptr() and not mine.requires_grad and wanted_gradient(mine)
    for mine, own in zip(made.modules(), model.modules(), strict=True):
        assert mine is not own and type(mine) is type(own) and original(mine) is own
        assert mine._forward_hooks is not own._forward_hooks and mine._modules is not own._modules
    assert original(twin(made)) is model and owning_model(made) is model
    with torch.no_grad():  # a training step beside it is seen
        model.head.bias.add_(1.0)
    assert torch.equal(made(x), model(x).detach())


def test_weights_that_are_not_frozen_are_those_of_the_model_until_they_are():
    model = tiny.build("timm_token")
    made = twin(model, frozen=False)
    assert all(mine is own for mine, own in zip(made.parameters(), model.parameters(), strict=True))
    freeze(made)
    for mine, own in zip(made.parameters(), model.parameters(), strict=True):
        assert mine.data_ptr() == own.data_ptr() and not mine.requires_grad and wanted_gradient(mine)
        assert own.requires_grad
    tied = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
    tied[1].weight = tied[0].weight
    made = twin(tied, frozen=False)
    freeze(made)
    assert made[1].weight is made[0].weight is not tied[0].weight


@pytest.mark.parametrize("method", ["raw_attention", "attention_rollout"])
def test_looking_at_a_gradient_makes_no_graph_of_the_weights(method, monkeypatch):
    """Methods without gradients leave weights as they are, until a gradient is looked at: it leads to none of them."""
    monkeypatch.setattr("clew.subject.reached_rows._AGAIN", 1)
    model, x = tiny.build("timm_token"), tiny.images((32, 32))
    saved = []

    def packed(tensor):
        saved.append(tensor.data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(packed, lambda tensor: tensor):
        clew.explain(model, x, method=method, target=1)
    before_the_last = {p.data_ptr() for block in model.blocks[:-1] for p in block.parameters()}
    assert saved and not before_the_last & set(saved)


def test_weights_that_are_tied_stay_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
            self.second.weight = self.first.weight
            self.again = self.first

    made = twin(Tied())
    assert made.first.weight is made.second.weight and made.again is made.first


def test_checkpointing_unseen_kernels_and_caches_are_changed_in_the_twin_alone():
    model = tiny_text.build_text("llama")
    model.config._attn_implementation, model.model.gradient_checkpointing = "flash_attention_2", True
    before = everything(model)
    made = twin(model)
    assert made.config._attn_implementation == "sdpa" and not made.config.use_cache
    assert not made.model.gradient_checkpointing
    assert made.model.layers[0].self_attn.config is made.config is not model.config
    assert everything(model) == before
    assert twin(model, as_is=True).config is model.config


def test_parts_of_a_configuration_are_told_in_the_twin_alone():
    class PretrainedConfig:
        def __init__(self, **more):
            vars(self).update(more)

    part = PretrainedConfig(use_cache=True)
    whole = PretrainedConfig(text_config=part)

    class Part(nn.Module):
        config = None

        def __init__(self, config):
            super().__init__()
            self.config = config

    model = Part(whole)
    model.inner = Part(part)
    made = twin(model)
    assert part.use_cache and not made.inner.config.use_cache
    assert made.config.text_config is made.inner.config


def test_functions_bound_to_modules_are_bound_to_those_of_the_twin():
    """As accelerate, compiled forwards and patches put them on modules."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(2, 2)
            self.listed = [self.layer, {"layer": self.layer}]

        def forward(self, x):
            return self.layer(x), self

    def wrapped(inner, more, x):
        return inner(x), more

    model = Model()
    own = model.forward
    ways = {
        "bound": own,
        "partial": functools.partial(wrapped, own, model.layer),
        "closure": lambda x: own(x),
        "compiled": torch.compile(own, backend="eager"),
    }
    x = torch.ones(1, 2)
    for name, forward in ways.items():
        model.forward = forward
        made = twin(model)
        seen = []
        made.layer.register_forward_hook(lambda m, a, o, seen=seen: seen.append(m))
        found = made(x)
        assert seen == [made.layer], name
        assert (found[0][1] if name == "partial" else found[1]) is made
        assert model.forward is forward and not model.layer._forward_hooks
        assert made.listed[0] is made.listed[1]["layer"] is made.layer and model.listed[0] is model.layer
    assert vars(twin(model, as_is=True))["forward"] is not None


def test_compiled_layers_and_blocks_run_as_they_were_written():
    model, x = tiny.build("timm_token"), tiny.images((32, 32))
    expected = clew.explain(model, x, method="attn_lrp", target=1).scores
    layers, forward = copy.deepcopy(model), copy.deepcopy(model)
    for i, block in enumerate(layers.blocks):
        layers.blocks[i] = torch.compile(block, backend="eager")
    forward.forward = torch.compile(forward.forward, backend="eager")
    for compiled in (layers, forward):
        before = everything(compiled)
        assert torch.equal(clew.explain(compiled, x, method="attn_lrp", target=1, checks="off").scores, expected)
        assert everything(compiled) == before


def test_hooks_of_the_user_run_and_those_of_clew_are_not_seen():
    model, x = tiny.build("timm_token"), tiny.images((32, 32))
    seen = []
    model.blocks[0].register_forward_hook(lambda m, a, o: seen.append(1) or o * 2)
    other = copy.deepcopy(model)
    assert torch.equal(twin(model)(x), other(x).detach()) and len(seen) == 2
    made = twin(model)
    replace_output(made.blocks[1], torch.zeros(1))
    assert not model.blocks[1]._forward_hooks and len(model.blocks[0]._forward_hooks) == 1


def test_weights_made_in_inference_mode_stay_so_and_can_be_in_a_graph():
    x = tiny.images((32, 32))
    with torch.inference_mode():
        model = tiny.build("timm_token")
    ordinary = tiny.build("timm_token")
    before = everything(model)
    for method in ("attn_lrp", "saliency", "beyond_intuition_token"):
        expected = clew.explain(ordinary, x, method=method, target=1).scores
        assert torch.equal(clew.explain(model, x, method=method, target=1).scores, expected)
    assert everything(model) == before and all(p.is_inference() for p in model.parameters())
    assert all(m.data_ptr() == p.data_ptr() for m, p in zip(twin(model).parameters(), model.parameters(), strict=True))


def test_the_doctor_compares_a_twin_with_the_model_itself(monkeypatch):
    import clew.explaining.prepare as prepare

    model, x = tiny.build("timm_token"), tiny.images((32, 32))

    def other(model, **options):
        made = twin(model, **options)
        made.head.weight.data = made.head.weight.data * 1.05
        return made

    assert {one.name: one.ok for one in clew.doctor(model, x)}["forward unchanged"]
    monkeypatch.setattr(prepare, "twin", other)
    assert not {one.name: one.ok for one in clew.doctor(model, x)}["forward unchanged"]

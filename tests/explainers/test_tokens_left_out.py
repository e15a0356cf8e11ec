"""Passes with tokens left out, or with those of another pass; and TIS, which is made of the former."""

from __future__ import annotations

import pytest
import torch
from support import newer_twins, tiny

import clew
from clew.errors import CaptureError, OptionError
from clew.explaining.explain import subject_of
from clew.explaining.prepare import prepare
from clew.subject import keep_tokens, put_tokens

NAMES = ["timm_token", "timm_average", "timm_registers_average", "timm_layer_scale", "timm_not_square"]
TARGETS = [1, 4, 0]


@pytest.fixture(params=NAMES)
def setting(request):
    return tiny.build(request.param), tiny.images(tiny.TINY[request.param].size)


def subject_for(model, x, targets=TARGETS):
    return subject_of(prepare(model, x), targets)


def masks(patches, count=6, seed=1):
    return torch.randn(count, patches, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("options", [{}, {"tokens_ratio": [0.25, 0.7]}, {"score": "probability"}])
def test_tis(setting, options):
    model, x = setting
    maps = masks(newer_twins.states(model, x[0]).x[0].shape[0] - model.num_prefix_tokens)
    found = clew.explain(model, x, method="tis", masks=maps, target=TARGETS, **options)
    more = {"ratios": options.get("tokens_ratio", [0.5]), "probability": "score" in options}
    for scores, image, target in zip(found.scores, x, TARGETS, strict=True):
        torch.testing.assert_close(scores, newer_twins.tis(model, image, target, maps, **more), rtol=1e-9, atol=1e-12)


def test_centroids_are_those_of_the_features_of_all_blocks():
    """With as many centroids as there are features each feature is one, in any order."""
    model, x = tiny.build("timm_token"), tiny.images((32, 32))
    features = torch.stack([torch.cat([s[1:].T for s in newer_twins.states(model, image).x[1:]]) for image in x])
    given = clew.explain(model, x, method="tis", masks=features.detach(), target=TARGETS)
    drawn = clew.explain(model, x, method="tis", n_masks=1024, target=TARGETS)
    torch.testing.assert_close(drawn.scores, given.scores)
    few, again, other = (clew.explain(model, x, method="tis", n_masks=8, seed=s, target=TARGETS) for s in (0, 0, 1))
    assert torch.equal(few.scores, again.scores) and not torch.allclose(few.scores, other.scores)
    alone = clew.explain(model, x[1:2], method="tis", n_masks=8, target=TARGETS[1])
    torch.testing.assert_close(alone.scores[0], few.scores[1])


def test_patches_that_no_mask_keeps_are_told():
    model, x = tiny.build("timm_token"), tiny.images((32, 32))
    found = clew.explain(model, x, method="tis", masks=torch.arange(16.0)[None], tokens_ratio=0.25)
    assert found.checks["never_kept"].tolist() == [12] * 3
    assert not found.scores[:, :12].any() and (found.scores[:, 12:] == found.scores[:, 12:13]).all()


def test_batches_and_several_targets():
    model, x = tiny.build("timm_registers"), tiny.images((32, 32))
    options = {"method": "tis", "masks": masks(16)}
    each = clew.explain(model, x, target=clew.Each(1, 3), **options).scores
    for i, target in enumerate((1, 3)):
        for size in (1, 4, None):
            own = clew.explain(model, x, target=target, internal_batch_size=size, **options).scores
            torch.testing.assert_close(each[i::2], own)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_single_and_half_precision(dtype):
    model, x = tiny.build("timm_token"), tiny.images((32, 32))
    exact = clew.explain(model, x, method="tis", masks=masks(16), target=1).scores
    found = clew.explain(model.to(dtype), x, method="tis", masks=masks(16), target=1).scores
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, exact.float(), rtol=0, atol=(1e-5 if dtype == torch.float32 else 0.1))


def test_all_tokens_kept_or_put_as_they_are_change_nothing(setting):
    subject = subject_for(*setting)
    whole = torch.arange(subject.length).expand(3, -1)
    trace = subject.run(range(subject.depth), hidden=range(subject.depth))
    for changes in (
        {0: keep_tokens(whole)},
        {k: keep_tokens(whole) for k in range(subject.depth)},
        {k: put_tokens(whole, trace.layers[k].hidden) for k in range(subject.depth)},
    ):
        torch.testing.assert_close(subject.scores_where(changes), trace.score, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layers", [range(1, 3), range(4), range(2, 3)])
def test_activations_of_tokens_of_another_pass(setting, layers):
    """A run of an empty image, in which blocks get some tokens of the run of an image."""
    model, x = setting
    subject = subject_for(model, x)
    source = subject.run(layers, hidden=layers)
    places = torch.tensor([[2, 5], [3, 4], [9, 2]])
    changes = {k: put_tokens(places, source.layers[k].hidden) for k in layers}
    found = subject.scores_where(changes, x=torch.zeros_like(x))
    for i, (image, target) in enumerate(zip(x, TARGETS, strict=True)):
        own = newer_twins.states(model, image).x
        state = model._pos_embed(model.patch_embed(torch.zeros_like(image)[None]))
        for k, block in enumerate(model.blocks):
            if k in layers:
                state = state.clone()
                for place in places[i].tolist():
                    state[0, place] = own[k][place]
            state = block(state)
        torch.testing.assert_close(found[i], newer_twins.head(model, state[0])[target].detach())


def test_some_examples_and_their_targets():
    model, x = tiny.build("timm_token"), tiny.images((32, 32))
    rows, kept = torch.tensor([2, 0]), torch.tensor([[0, 3, 4], [0, 7, 9]])
    found = subject_for(model, x).scores_where({0: keep_tokens(kept)}, rows=rows)
    expected = [newer_twins.score_of_some(model, x[i], TARGETS[i], k) for i, k in zip([2, 0], kept, strict=True)]
    torch.testing.assert_close(found, torch.stack(expected))


@pytest.mark.parametrize("name", ["timm_eva_rotary", "timm_eva_average", "hf_beit"])
@pytest.mark.parametrize("ratio", [0.5, 0.01])
def test_blocks_that_know_positions_themselves_are_refused(name, ratio):
    model, x = tiny.build(name), tiny.images(tiny.TINY[name].size)
    with pytest.raises(CaptureError, match="take all tokens or none"):
        clew.explain(model, x, method="tis", masks=masks(16), tokens_ratio=ratio)


def test_an_error_of_ones_own_change_is_told_as_it_is():
    def broken(states):
        raise ValueError("a fault in the change")

    model, x = tiny.build("timm_token"), tiny.images((32, 32))
    with pytest.raises(ValueError, match="a fault in the change"):
        subject_for(model, x).scores_where({1: broken})
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"tokens_ratio": 0.0}, "tokens_ratio"),
        ({"tokens_ratio": [0.5, 1.5]}, "tokens_ratio"),
        ({"n_masks": 0}, "n_masks"),
        ({"masks": torch.zeros(3, 9)}, "masks do not fit"),
        ({"masks": torch.full((3, 16), torch.nan)}, "masks do not fit"),
        ({"masks": torch.zeros(2, 4, 16)}, "masks do not fit"),
        ({"masks": torch.zeros(0, 16)}, "masks do not fit"),
    ],
)
def test_bad_options(options, says):
    with pytest.raises(OptionError, match=says):
        clew.explain(tiny.build("timm_token"), tiny.images((32, 32)), method="tis", **options)

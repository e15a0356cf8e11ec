"""`explain` as a user meets it: targets, inputs, options, checks, bad input, memory."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from support import tiny

import clew
from clew.errors import CaptureError, InputError, OptionError, TargetError, UnknownArchitecture

LABELS = ["ash", "birch", "cedar, red cedar", "oak", "willow"]


@pytest.fixture
def model():
    return tiny.build("timm_token")


@pytest.fixture
def x():
    return tiny.images((32, 32))


@pytest.fixture
def loaded(model):
    preprocess = clew.Preprocess((32, 32), (32, 32), "squash")
    return clew.LoadedModel(model, preprocess, LABELS, "trees")


# Targets


def test_the_default_target_is_the_predicted_class(model, x):
    found = clew.explain(model, x, method="generic_attribution")
    predicted = model(x).argmax(-1)
    same = clew.explain(model, x, method="generic_attribution", target=predicted)
    assert torch.equal(found.scores, same.scores)
    torch.testing.assert_close(found.score, model(x).amax(-1).detach())
    assert found.target == [f"class {i}" for i in predicted.tolist()]


def test_labels_indices_and_lists_mean_the_same(loaded, x):
    found = [
        clew.explain(loaded, x, method="saliency", target=t).scores
        for t in ("Oak", 3, [3, 3, 3], ["oak"] * 3, torch.tensor([3, 3, 3]))
    ]
    assert all(torch.equal(f, found[0]) for f in found)
    assert clew.explain(loaded, x, target="red cedar", method="random").target == ["cedar, red cedar"] * 3


def test_contrast_and_score_kinds(model, x):
    logits = model(x).detach()
    a = clew.explain(model, x, method="saliency", target=clew.Contrast(1, [0, 2, 3]), absolute=False)
    torch.testing.assert_close(a.score, logits[:, 1] - logits[torch.arange(3), torch.tensor([0, 2, 3])])
    parts = [clew.explain(model, x, method="saliency", target=t, absolute=False) for t in (1, [0, 2, 3])]
    torch.testing.assert_close(a.scores, parts[0].scores - parts[1].scores, rtol=1e-9, atol=1e-12)
    for kind, values in (("probability", logits.softmax(-1)), ("log_probability", logits.log_softmax(-1))):
        found = clew.explain(model, x, method="random", target=2, score=kind)
        torch.testing.assert_close(found.score, values[:, 2])
        assert found.options["score"] == kind


def test_a_callable_target_scores_the_raw_output(x):
    model = tiny.build("hf_vit")
    found = clew.explain(model, x, method="saliency", target=lambda output: output.logits[:, 0])
    same = clew.explain(model, x, method="saliency", target=0)
    assert torch.equal(found.scores, same.scores)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (5, "0 to 4"),
        (-1, "0 to 4"),
        ([1, 2], "expected: 3"),
        ("willo", "did you mean 'willow'"),
        (1.5, "no target"),
        (torch.ones(3), "integers"),
        (lambda output: output, "one number per example"),
        (lambda output: output[0], "one number per example"),
        (lambda output: output.argmax(-1), "one number per example"),
        (True, "int or str"),
        (clew.Contrast(0, "elm"), "no label 'elm'"),
    ],
)
def test_wrong_targets(loaded, x, target, message, untyped):
    with pytest.raises(TargetError, match=message):
        clew.explain(loaded, x, method="raw_attention", target=target)


def test_numpy_targets_and_scores_of_functions(model, x):
    labels = np.array([1, 2, 3])
    assert clew.explain(model, x, method="random", target=labels).target == ["class 1", "class 2", "class 3"]
    assert clew.explain(model, x, method="random", target=labels[0]).target == ["class 1"] * 3
    with pytest.raises(TargetError, match="makes its own score"):
        clew.explain(model, x, target=lambda output: output[:, 0], score="probability")
    with pytest.raises(TargetError, match="logit or probability"):
        clew.explain(model, x, target=lambda output: output[:, 0], score="bogus")


def test_a_label_that_two_classes_share_is_ambiguous(model, x):
    twins = clew.LoadedModel(model, None, ["crane", "crane", "a", "b", "c"], "birds")
    with pytest.raises(TargetError, match=r"classes \[0, 1\]"):
        clew.explain(twins, x, target="crane")


def test_a_label_needs_labels(model, x):
    with pytest.raises(TargetError, match="class index"):
        clew.explain(model, x, target="oak")


# Inputs


def test_one_image_and_a_batch(model, x):
    assert len(clew.explain(model, x[0], method="raw_attention")) == 1
    assert len(clew.explain(model, x, method="raw_attention")) == 3


def test_a_mapping_and_pil_images(loaded, x):
    hf = tiny.build("hf_vit")
    assert torch.equal(
        clew.explain(hf, {"pixel_values": x}, method="raw_attention").scores,
        clew.explain(hf, x, method="raw_attention").scores,
    )
    image = Image.new("RGB", (50, 40), "red")
    found = clew.explain(loaded, [image, image.convert("L")], method="raw_attention")
    assert found.pictures[0].pixels.shape == (40, 50, 3)
    assert len(clew.explain(loaded, image, method="raw_attention")) == 1


def test_inputs_follow_the_models_dtype(model):
    assert clew.explain(model, tiny.images((32, 32)).float(), method="raw_attention").scores.dtype == torch.float64
    single = model.float()
    assert clew.explain(single, tiny.images((32, 32)), method="raw_attention").scores.dtype == torch.float32
    half = copy.deepcopy(single).bfloat16()
    exact = clew.explain(single, tiny.images((32, 32)), target=1).scores
    close = clew.explain(half, tiny.images((32, 32)), target=1).scores
    assert close.dtype == torch.float32
    ranks = torch.corrcoef(torch.stack([exact.flatten().argsort().argsort(), close.flatten().argsort().argsort()]))
    assert ranks[0, 1] > 0.9


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("method", sorted(set(clew.methods()) - {"random", "smoothgrad", "value_norm", "dave", "tis"}))
def test_half_precision_gives_float32_scores_close_to_the_exact_ones(method, dtype):
    model, x = tiny.build("timm_token"), tiny.images((32, 32))
    options = {"n_steps": 4} if "n_steps" in clew.methods()[method].options else {}
    exact = clew.explain(model, x, method=method, target=1, **options).all_scores.float()
    found = clew.explain(model.to(dtype), x, method=method, target=1, **options)
    assert found.all_scores.dtype == torch.float32
    assert found.to_numpy().dtype == np.float32
    if found.options.get("rules") is not None:  # LRP says itself where half precision is not enough
        ill = bool((found.checks["conditioning"] > 1e-3).any())
        assert ill == ("advice" in found.checks)
        if ill:
            return
    together = torch.stack([exact.flatten(), found.all_scores.flatten()])
    assert torch.corrcoef(together)[0, 1] > (0.97 if dtype == torch.bfloat16 else 0.999)


def test_probabilities_do_not_overflow_in_half_precision():
    from clew.seam.attention import Attention

    q = torch.full((1, 1, 2, 64), 60.0, dtype=torch.float16)
    v = torch.ones(1, 1, 2, 4, dtype=torch.float16)
    A = Attention(v, v, "sdpa", q=q, k=q).probabilities()
    torch.testing.assert_close(A, torch.full((1, 1, 2, 2), 0.5))


def test_other_sizes_of_hugging_face_models_with_interpolated_positions():
    model, x = tiny.build("hf_vit"), tiny.images((48, 40))
    found = clew.explain(model, {"pixel_values": x, "interpolate_pos_encoding": True}, n_steps=2)
    assert found.patch_grid == (6, 5)
    with pytest.raises(InputError, match="interpolate_pos_encoding"):
        clew.explain(model, x)


def test_hybrids_with_a_convolutional_stem():
    import timm

    model = timm.create_model("vit_tiny_r_s16_p8_224", pretrained=False, num_classes=5, img_size=64, depth=2).eval()
    x = torch.randn(2, 3, 64, 64)
    found = clew.explain(model, x, n_steps=2)
    assert found.patch_grid == (2, 2)
    assert not [f for f in clew.doctor(model, x) if not f.ok]


def test_a_part_in_training_mode_is_found(model, x):
    model.blocks[2].train()
    with pytest.raises(InputError, match=r"blocks\.2"):
        clew.explain(model, x)


NAN = tiny.images((32, 32))
NAN[1, 0, 3, 3] = torch.nan


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.zeros(3, 1, 32, 32), r"\(batch, 3, height, width\)"),
        (torch.zeros(3, 32, 32, 3), r"\(batch, 3, height, width\)"),
        (torch.zeros(0, 3, 32, 32), "batch of images"),
        (torch.zeros(3, 3, 32, 32, dtype=torch.uint8), "uint8"),
        (NAN, r"examples \[1\]"),
        ("cat.jpg", "open_image"),
        ([], "nothing"),
        (Image.new("RGB", (32, 32)), "clew.load"),
        ({"pixel_values": "x"}, "holds the images"),
    ],
)
def test_wrong_inputs(model, inputs, message, untyped):
    with pytest.raises(InputError, match=message):
        clew.explain(model, inputs)


def test_a_model_in_training_mode_is_refused(model, x, untyped):
    with pytest.raises(InputError, match=r"model\.eval\(\)"):
        clew.explain(model.train(), x)
    with pytest.raises(InputError, match="this is no model"):
        clew.explain("resnet", x)


def test_a_model_without_a_declaration_gets_a_template(x):
    unknown = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3)).eval()
    with pytest.raises(UnknownArchitecture, match=r"Architecture\(\n\s+name=\"sequential\"") as caught:
        clew.explain(unknown, x, method="pa_lrp")
    assert "torch.nn.modules.container.Sequential" in str(caught.value)
    with pytest.raises(CaptureError, match="no softmax attention was seen"):
        clew.explain(unknown, x, target=lambda output: output.flatten(1)[:, 0])


def test_models_that_cannot_be_explained_say_why(x):
    from timm.models.vision_transformer import ParallelScalingBlock

    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}
    cls = type(tiny.build("timm_token"))
    parallel = cls(**sizes, block_fn=ParallelScalingBlock).eval()
    with pytest.raises(UnknownArchitecture, match="ParallelScalingBlock"):
        clew.explain(parallel, x)
    with pytest.raises(UnknownArchitecture, match="global_pool='max'"):
        clew.explain(cls(**sizes, global_pool="max").eval(), x)
    with pytest.raises(UnknownArchitecture, match="no attention block"):
        clew.explain(cls(**{**sizes, "depth": 0}).eval(), x)


def test_a_declaration_of_ones_own(x):
    class Renamed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = tiny.build("timm_token")

        def forward(self, image):
            return self.body(image)

    mine = clew.Architecture(
        name="renamed",
        classes=("nowhere.Renamed",),
        blocks="body.blocks",
        attention="attn",
        output_projection="attn.proj",
        patches="body.patch_embed.proj",
        prefix=lambda model: 1,
        readout=lambda model: clew.Readout.cls(),
    )
    model = Renamed().eval()
    found = clew.explain(model, x, architecture=mine)
    assert torch.equal(found.scores, clew.explain(model.body, x).scores)
    wrong = clew.Architecture(**{**vars(mine), "attention": "attention"})
    with pytest.raises(UnknownArchitecture, match="has no attention"):
        clew.explain(model, x, architecture=wrong)


def test_a_corrected_declaration_is_used_and_entries_of_the_register_are_methods(x):
    import dataclasses

    model = tiny.build("timm_token")
    good = clew.architectures()["timm_vit"]
    wrong = dataclasses.replace(good, prefix=lambda model: 2)
    with pytest.raises(InputError, match="2 prefix tokens"):
        clew.explain(model, x, architecture=wrong)
    found = clew.explain(model, x, architecture=good, method=clew.methods()["raw_attention"])
    assert found.method == "raw_attention"


def test_doctor_looks_inside_wrappers_and_at_half_precision(model, x):
    for wrapped in (torch.nn.DataParallel(model), torch.compile(model), copy.deepcopy(model).bfloat16()):
        assert [f for f in clew.doctor(wrapped, x) if not f.ok] == []


# Results


def test_raw_scores_by_default_and_the_papers_forms_on_request(model, x):
    raw = clew.explain(model, x, method="attention_rollout")
    low, high = raw.scores.amin(-1, keepdim=True), raw.scores.amax(-1, keepdim=True)
    minmax = clew.explain(model, x, method="attention_rollout", normalize="minmax")
    torch.testing.assert_close(minmax.scores, (raw.scores - low) / (high - low))
    largest = clew.explain(model, x, method="attention_rollout", normalize="max")
    torch.testing.assert_close(largest.scores, raw.scores / high)
    assert (raw.all_scores[:, 0] > 0).all()
    assert clew.explain(model, x, method="attention_rollout", zero_cls=True).options["zero_cls"]
    assert (clew.explain(model, x, method="attention_rollout", zero_cls=True).all_scores[:, 0] == 0).all()


@pytest.mark.parametrize(
    ("method", "options"), [("saliency", {}), ("integrated_gradients", {"n_steps": 3}), ("lrp", {"level": "pixel"})]
)
def test_pixels_are_normalised_as_scores_are(model, x, method, options):
    """Each image's map by hand: over its own largest size, or from its least to its largest value."""
    raw = clew.explain(model, x, method=method, **options)
    for i in range(len(x)):
        pixels = raw.pixels[i]
        of_max = clew.explain(model, x, method=method, normalize="max", **options)
        torch.testing.assert_close(of_max.pixels[i], pixels / pixels.abs().max())
        assert of_max.heatmap()[i].abs().max() == of_max.scores[i].abs().max() == 1
        stretched = clew.explain(model, x, method=method, normalize="minmax", **options)
        torch.testing.assert_close(stretched.pixels[i], (pixels - pixels.min()) / (pixels.max() - pixels.min()))
        assert stretched.panels()[i].heat.min() == 0 and stretched.panels()[i].heat.max() == 1


def test_checks_say_what_was_verified(model, x):
    checks = clew.explain(model, x).checks
    assert checks["forward_difference"] == 0
    assert checks["attention"] == "sdpa"
    assert checks["non_finite"].tolist() == [0, 0, 0]
    assert (checks["integration_error"] >= 0).all()
    raw = clew.explain(model, x, method="raw_attention")
    share = raw.all_scores[:, :1].sum(-1) / raw.all_scores.sum(-1)
    torch.testing.assert_close(raw.checks["prefix_share"], share)
    assert "forward_difference" not in clew.explain(model, x, checks="off").checks


def test_the_forward_check_is_made_once_and_again_on_request(model, x, monkeypatch):
    calls = 0
    original = type(model).forward

    def counting(self, *args):
        nonlocal calls
        calls += 1
        return original(self, *args)

    monkeypatch.setattr(type(model), "forward", counting)

    def passes(**options):
        nonlocal calls
        calls = 0
        clew.explain(model, x, method="raw_attention", **options)
        return calls

    # The first time one pass reads the patch grid and is left there, and the model is called by itself.
    assert [passes(), passes(), passes(checks="full"), passes(checks="off")] == [3, 1, 2, 1]


def test_details_only_on_request(model, x):
    assert not clew.explain(model, x).details
    details = clew.explain(model, x, method="beyond_intuition_head", details=True, start_layer=1).details
    assert details["head_importance"].shape == (3, 3, 3)
    torch.testing.assert_close(details["head_importance"].sum(-1), torch.ones(3, 3, dtype=torch.float64))
    assert details["feedback"].shape == (3, 17)


@pytest.mark.parametrize(
    "method", ["attention_rollout", "generic_attribution", "beyond_intuition_head", "beyond_intuition_token"]
)
def test_layer_maps_are_what_starting_at_each_layer_would_give(model, x, method):
    options = {"n_steps": 2} if method.startswith("beyond") else {}
    found = clew.explain(model, x, method=method, start_layer=1, target=1, details=True, **options)
    assert found.details["layer_maps"].shape == (3, 3, 17)
    for start in (1, 2, 3):
        alone = clew.explain(model, x, method=method, start_layer=start, target=1, **options)
        torch.testing.assert_close(found.details["layer_maps"][:, start - 1], alone.all_scores)


def test_raw_attention_of_any_layer_with_an_attention_pool():
    pooled = tiny.build("timm_attention_pool_cls")
    for layer in range(4):
        found = clew.explain(pooled, tiny.images((32, 32)), method="raw_attention", layer=layer)
        torch.testing.assert_close(found.all_scores.sum(-1), torch.ones(3, dtype=torch.float64))


def test_pixels_that_do_not_fill_a_patch_belong_to_none():
    from timm.models.vision_transformer import VisionTransformer

    sizes = {"img_size": 35, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}
    model, x = VisionTransformer(**sizes).double().eval(), tiny.images((35, 35))
    found = clew.explain(model, x, method="saliency")
    assert (found.patch_grid, found.patch_size) == ((4, 4), (8, 8))
    torch.testing.assert_close(found.scores.sum(-1), found.pixels[:, :32, :32].sum((1, 2)))
    assert clew.explain(model, x, method="raw_attention").heatmap().shape == (3, 35, 35)


# Memory


def test_no_attention_map_is_kept_for_blocks_a_method_does_not_read(model, x, monkeypatch):
    from clew.subject.subject import Subject

    seen = []
    original = Subject.run

    def spying(self, *args, **kwargs):
        trace = original(self, *args, **kwargs)
        seen.append((sorted(trace.layers), [a.probs is not None for a in trace.layers.values()]))
        return trace

    monkeypatch.setattr(Subject, "run", spying)
    clew.explain(model, x, method="beyond_intuition_token", start_layer=2, n_steps=2, checks="off")
    assert [kept for kept, _ in seen] == [[2, 3]] + [[3]] * (len(seen) - 1)
    assert not any(any(maps) for _, maps in seen)
    # Hand-written attention makes the maps; even so only those of the blocks that are read are kept.
    seen.clear()
    eager = tiny.build("timm_token", "eager")
    clew.explain(eager, x, method="beyond_intuition_token", start_layer=2, n_steps=2, checks="off")
    assert [maps for _, maps in seen] == [[True, True]] + [[True]] * (len(seen) - 1)


def test_option_errors_leave_the_model_as_it_was(model, x):
    with pytest.raises(OptionError):
        clew.explain(model, x, start_layer=99)
    assert all(p.requires_grad for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_method_may_be_written_with_its_options(model, x):
    written = clew.explain(model, x, method="beyond_intuition_head(n_steps=3, start_layer=1)", start_layer=0)
    plain = clew.explain(model, x, method="beyond_intuition_head", n_steps=3, start_layer=0)
    assert torch.equal(written.all_scores, plain.all_scores) and written.method == "beyond_intuition_head"
    with pytest.raises(OptionError, match="no option 'steps'"):
        clew.explain(model, x, method="beyond_intuition_head(steps=3)")


class Encoder(torch.nn.Module):
    """A ViT of torch's own layers, whose blocks get (token, batch, width) unless `batch_first`."""

    def __init__(self, batch_first):
        super().__init__()
        layer = torch.nn.TransformerEncoderLayer(24, 2, 48, norm_first=True, batch_first=batch_first)
        self.batch_first, self.cut = batch_first, torch.nn.Conv2d(3, 24, 8, 8)
        self.encoder = torch.nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.position, self.head = torch.nn.Parameter(torch.randn(1, 9, 24)), torch.nn.Linear(24, 3)

    def forward(self, x):
        x = self.cut(x).flatten(2).mT + self.position
        x = self.encoder(x) if self.batch_first else self.encoder(x.transpose(0, 1)).transpose(0, 1)
        return self.head(x.mean(1))


@pytest.mark.parametrize("batch", [1, 2, 9])  # nine tokens
def test_blocks_that_get_tokens_first_are_explained_as_those_that_get_examples_first(batch):
    first, other = Encoder(True).double().eval(), Encoder(False).double().eval()
    other.load_state_dict(first.state_dict())
    mine = clew.Architecture(
        name="encoder", classes=(), blocks="encoder.layers", attention="self_attn",
        output_projection="self_attn.out_proj", patches="cut", readout=lambda model: clew.Readout.mean(),
    )  # fmt: skip
    x = torch.randn(batch, 3, 24, 24).double()
    for method in clew.methods():
        of_rules = ("transformer_attribution", "augmented", "dave", "decompx")
        if "lrp" in method or method.startswith("libra") or method in (*of_rules, "random"):
            continue  # relevance wants examples first, and says so
        options = {"method": method, "architecture": mine, "target": 1}
        options |= {"n_steps": 2} if method == "integrated_gradients" else {}
        one, same = (clew.explain(model, x, **options).scores for model in (first, other))
        torch.testing.assert_close(same, one, rtol=1e-9, atol=1e-12)
    with pytest.raises(clew.ClewError, match="does not have its examples first"):
        clew.explain(other, torch.cat([x, x]) if batch != 9 else x, method="attn_lrp", architecture=mine)


def test_scores_of_patches_alone_are_refused_with_what_a_method_has_to_give(model, x):
    tokens = clew.explain(model, x, method="raw_attention").all_scores.shape[1]

    def of_patches(subject: clew.Subject) -> torch.Tensor:
        return torch.ones(subject.batch, tokens - 1)

    with pytest.raises(InputError, match=rf"{tokens}\)(.|\n)*{tokens - 1}\)(.|\n)*CLS\) first(.|\n)*subject\.length"):
        clew.explain(model, x, method=of_patches)

"""Image–text models: similarities explained on either side, one by one and many at once."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import tiny_pairs, twins
from support.tiny import images
from support.tiny_pairs import NO_TEXT, PAIRS, READS_PADDING, build_pair, build_tower
from torch import nn
from transformers import PreTrainedTokenizerFast

import clew
from clew.errors import CaptureError, InputError, OptionError, TargetError, UnknownArchitecture
from clew.explaining.pair_model import encode_features
from clew.explaining.side_inputs import side_inputs
from clew.models.pair import find_pair
from clew.seam.precision import DoublePrecision
from clew.subject.quadrature import quadrature_rule

METHODS = [name for name in clew.methods() if name not in ("smoothgrad", "integrated_gradients", "random")]
FEW = {"n_steps": 3}
SIZE = (32, 32)


def options_of(method):
    few = {"dave": {"n_samples": 2}, "tis": {"n_masks": 6}}
    return FEW if method.startswith("beyond_intuition") else few.get(method, {})


def captions(count=3, length=6, seed=5):
    """Token numbers that begin with 1 and end with 59, the largest number, which ends a text for most models."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(8, 58, (count, length), generator=generator)
    ids[:, 0], ids[:, -1] = 1, 59
    return ids


def captions_for(name):
    ids = captions()
    if name in ("clip_end_token", "open_clip_custom_text"):
        ids[:, -1] = 7
    if name == "metaclip2":
        ids[:, -1] = 2
    return ids


def own_logits(name, model, x, ids):
    """(image, text), by the model's own forward pass."""
    if name in READS_PADDING or name.startswith(("open", "coca")):
        length = {"siglip": 14, "siglip2": 14}.get(name, tiny_pairs.CONTEXT)
        ids = F.pad(ids, (0, length - ids.shape[1]))
    with torch.no_grad(), DoublePrecision(model):  # transformers 4 makes no causal mask in float64
        if name == "siglip2":
            patches = x.reshape(-1, 3, 4, 8, 4, 8).permute(0, 2, 4, 3, 5, 1).reshape(len(x), 16, -1)
            shapes, mask = torch.tensor([[4, 4]] * len(x)), torch.ones(len(x), 16, dtype=torch.long)
            more = {"pixel_values": patches, "spatial_shapes": shapes, "pixel_attention_mask": mask}
            return model(input_ids=ids, **more).logits_per_image
        if hasattr(model, "get_logits"):
            return model.get_logits(x, ids)[0]
        if name.startswith("coca"):
            both = model.encode_image(x), model.encode_text(ids)
            return model.logit_scale.exp() * both[0] @ both[1].T
        return model(input_ids=ids, pixel_values=x).logits_per_image


@pytest.mark.parametrize("name", [n for n in PAIRS if n not in ("open_clip_attention_pool",)])
def test_what_is_explained_is_the_models_own_similarity(name):
    model, x, ids = build_pair(name), images(SIZE), captions_for(name)
    expected = own_logits(name, model, x, ids)
    precise = {"compute_dtype": torch.float64, "method": "raw_attention"}
    image = clew.explain(model, x, target=clew.Similarity(list(ids)), **precise)
    torch.testing.assert_close(image.score.view(3, 3), expected, rtol=0, atol=1e-9)
    assert image.target == [f"text {i}" for i in range(3)] * 3
    if name in NO_TEXT:
        with pytest.raises(UnknownArchitecture, match="the text tower of this CoCa"):
            clew.explain(model, x, target=clew.Similarity(list(ids)), side="text")
        return
    text = clew.explain(model, x, target=clew.Similarity(list(ids)), side="text", **precise)
    torch.testing.assert_close(text.score, image.score, rtol=0, atol=1e-9)
    swapped = clew.explain(model, ids, target=clew.Similarity(list(x)), **precise)
    torch.testing.assert_close(swapped.score.view(3, 3).T.flatten(), image.score, rtol=0, atol=1e-9)


@pytest.mark.sampled(0.2, by="method")
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["clip", "siglip", "open_clip", "coca", "eva_clip", "open_siglip"])
def test_many_targets_at_once_are_one_after_the_other(name, method):
    model, x = build_tower(name, "image"), images(SIZE, batch=2)
    options = {"method": method, "checks": "full", "details": True, **options_of(method)}
    asked = [[0, 3, 1], [2, 0, 4]]
    if (name, method) == ("eva_clip", "tis"):  # its blocks know positions themselves: no token can be left out
        with pytest.raises(CaptureError, match="take all tokens or none"):
            clew.explain(model, x, target=[clew.Each(*row) for row in asked], **options)
        return
    together = clew.explain(model, x, target=[clew.Each(*row) for row in asked], **options)
    assert together.maps_per_image == 3 and len(together) == 6
    for i, row in enumerate(asked):
        for j, one in enumerate(row):
            alone, found = clew.explain(model, x[i], target=one, **options), together[3 * i + j]
            size = float(alone.all_scores.abs().max())
            assert float((found.all_scores - alone.all_scores).abs().max()) <= 1e-10 * size
            assert found.target == alone.target
            torch.testing.assert_close(found.score, alone.score)
            for key, value in alone.checks.items():
                if isinstance(value, torch.Tensor) and key not in ("unexplained", "conditioning", "integration_error"):
                    whole = alone.score if key == "completeness_gap" else value  # what the value is a difference of
                    largest = float(alone.checks.get("relevance_by_stage", whole).abs().max())
                    torch.testing.assert_close(found.checks[key], value, rtol=1e-8, atol=1e-9 * largest)
            for key, value in alone.details.items():
                torch.testing.assert_close(found.details[key], value, rtol=1e-8, atol=1e-8 * float(value.abs().max()))


@pytest.mark.parametrize("method", ["integrated_gradients", "smoothgrad"])
@pytest.mark.parametrize("chunk", [None, 1, 3])
def test_many_targets_along_a_path(method, chunk):
    model, x = build_tower("clip", "image"), images(SIZE, batch=2)
    options = {"method": method, "internal_batch_size": chunk}
    options |= {"n_steps": 4} if method == "integrated_gradients" else {"n_samples": 4}
    together = clew.explain(model, x, target=clew.Each(1, 4), **options)
    for i in range(2):
        for j, one in enumerate((1, 4)):
            alone = clew.explain(model, x[i], target=one, **options)
            torch.testing.assert_close(together.scores[2 * i + j], alone.scores[0], rtol=1e-8, atol=1e-10)


def test_many_targets_of_any_classifier_with_contrasts():
    model, x = clew.load("mini:digits"), clew.scenes().images[:2]
    both = clew.Each(clew.Contrast("seven", "one"), clew.Contrast("two", "one"))
    found = clew.explain(model, x, target=both, method="attn_lrp")
    assert found.target == ["seven rather than one", "two rather than one"] * 2
    apart = clew.explain(model, x, target=clew.Each("seven", "two", "one"), method="attn_lrp").all_scores
    expected = torch.stack([apart[::3] - apart[2::3], apart[1::3] - apart[2::3]], 1).flatten(0, 1)
    assert float((found.all_scores - expected).abs().max()) < 1e-4 * float(expected.abs().max())
    with pytest.raises(TargetError, match="mixed"):
        clew.explain(model, x, target=clew.Each("seven", clew.Contrast("seven", "one")))
    with pytest.raises(TargetError, match="equally many"):
        clew.explain(model, x, target=[clew.Each(1, 2), 3])


def test_the_image_runs_once_for_all_texts():
    model, x = build_pair("clip").float(), images(SIZE, batch=1).float()
    blocks = model.vision_model.encoder.layers
    texts = list(captions(10))
    for method in ("beyond_intuition_token", "beyond_intuition_head", "attn_lrp", "saliency"):
        counts = []
        for some in (texts[:1], texts):
            seen = []
            handle = blocks[0].register_forward_hook(lambda m, i, o, seen=seen: seen.append(len(i[0])))
            clew.explain(model, x, target=clew.Similarity(some), method=method, checks="off", **options_of(method))
            handle.remove()
            counts.append(sum(seen))
        assert counts[0] == counts[1], method


# Twins


def clip_twins():
    model = build_pair("clip")
    x, ids = images(SIZE, batch=2), captions(2)
    pair, loaded = find_pair(model), clew.LoadedPair(model)
    both = ("image", x), ("text", ids)
    features = {side: encode_features(loaded, pair, side_inputs(value), precise=True) for side, value in both}
    return model, x, ids, features


TWINS = ["raw_attention", "attention_rollout", "attention_gradcam", "generic_attribution", "gradient_attention_rollout"]


@pytest.mark.parametrize("method", [*TWINS, "beyond_intuition_head", "beyond_intuition_token"])
def test_both_sides_against_their_twins(method):
    model, x, ids, features = clip_twins()
    path, more = {}, {}
    start = {} if method in ("raw_attention", "attention_gradcam") else {"start": 1}
    if method.startswith("beyond"):
        q = quadrature_rule("gauss_legendre", 3)
        path, more = {"points": q.points, "weights": q.weights}, {"n_steps": 3}
    options = {"method": method, "compute_dtype": torch.float64, **more}
    options |= {"start_layer": 1} if start else {}
    both = clew.explain(model, x, target=clew.Similarity(list(ids)), side="both", **options)
    entering = model.text_model.embeddings(ids).detach()
    for pair in range(4):
        i, j = pair // 2, pair % 2
        image = getattr(twins, method)(twins.Clip(model, features["text"]), x[i], j, **path, **start).detach()
        torch.testing.assert_close(both.all_scores[pair], image, rtol=1e-9, atol=1e-11 * float(image.abs().max()))
        reader = twins.Clip(model, features["image"], end=5, num_prefix_tokens=0)
        text = getattr(twins, method)(reader, entering[j], i, **path, **start).detach()
        torch.testing.assert_close(both.text.scores[pair], text, rtol=1e-9, atol=1e-11 * float(text.abs().max()))


def test_relevance_against_its_twin():
    model, x, ids, features = clip_twins()
    found = clew.explain(
        model, x, target=clew.Similarity(list(ids)), method="attn_lrp", part="semantic", compute_dtype=torch.float64
    )
    for pair in range(4):
        twin = twins.Clip(model, features["text"], rules=True)
        expected = twins.attn_lrp(twin, x[pair // 2], pair % 2).detach()
        torch.testing.assert_close(found.scores[pair], expected, rtol=1e-9, atol=1e-11 * float(expected.abs().max()))


def test_the_released_ratio_is_that_of_the_stream_behind_the_attention():
    for name in ("clip", "open_clip"):
        model, x = build_tower(name, "image"), images(SIZE, batch=1)
        options = {
            "method": "beyond_intuition_token",
            "start_layer": 0,
            "details": True,
            "compute_dtype": torch.float64,
        }
        found = clew.explain(model, x, variant="beyond_intuition", target=1, **options).details["token_ratio"]
        block = (
            model.owner.vision_model.encoder.layers[1]
            if name == "clip"
            else model.owner.visual.transformer.resblocks[1]
        )
        kept = {}
        norm = block.layer_norm1 if name == "clip" else block.ln_1
        handles = [
            block.register_forward_pre_hook(
                lambda m, a, k, kept=kept: kept.update(x=a[0] if a else k["q_x"]), with_kwargs=True
            ),
            (block.self_attn if name == "clip" else block.attn).register_forward_hook(
                lambda m, a, o, kept=kept: kept.update(attention=o[0])
            ),
        ]
        with torch.no_grad():
            model(x)
        for handle in handles:
            handle.remove()
        behind = norm(kept["x"] + kept["attention"])
        if name == "clip":
            own = block.self_attn
            values, W = own.v_proj(behind), own.out_proj.weight
        else:
            third = len(block.attn.in_proj_weight) // 3
            W = block.attn.out_proj.weight
            values = behind @ block.attn.in_proj_weight[2 * third :].T + block.attn.in_proj_bias[2 * third :]
        expected = (values @ W.T).norm(dim=-1) / kept["x"].norm(dim=-1)
        torch.testing.assert_close(found[:, 1], expected.detach(), rtol=1e-5, atol=1e-6)
        plain = clew.explain(model, x, target=1, **options).details["token_ratio"]
        assert float((plain - found).abs().max()) > 1e-3


# Texts that read their padding


@pytest.mark.sampled(0.25)
@pytest.mark.parametrize("name", READS_PADDING)
def test_padding_that_is_read_is_scored_as_special_tokens(name):
    model, x, ids = build_pair(name), images(SIZE, batch=1), captions(2)
    longer = {"input_ids": F.pad(ids, (2, 0)), "attention_mask": F.pad(torch.ones_like(ids), (2, 0))}  # padded in front
    for method in (method for method in METHODS if not clew.methods()[method].images):
        options = {"method": method, "compute_dtype": torch.float64, "target": clew.Similarity(x), **options_of(method)}
        found = clew.explain(model, ids, **options)
        length = 14 if name.startswith("siglip") else tiny_pairs.CONTEXT
        assert found.scores.shape == (2, length) and found.mask.all()
        assert found.special[:, 6:].all()
        again = clew.explain(model, longer, **options)
        alone = clew.explain(model, ids[1], **options)
        size = float(found.scores.abs().max())
        assert float((again.scores - found.scores).abs().max()) <= 1e-10 * size, method
        assert float((alone.scores[0] - found.scores[1]).abs().max()) <= 1e-10 * size, method


# What people do with it


@pytest.fixture(scope="module")
def loaded():
    """A random CLIP with a tokenizer of whole words and preprocessing."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    words = ["<pad>", "<unk>", "<s>", "<e>", "a", "photo", "of", "dog", "cat", "red", "and"]
    tokens = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokens.normalizer, tokens.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    tokens.post_processor = processors.TemplateProcessing(single="<s> $A <e>", special_tokens=[("<s>", 2), ("<e>", 3)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokens, pad_token="<pad>", unk_token="<unk>", bos_token="<s>", eos_token="<e>"
    )
    torch.manual_seed(1)
    model = tiny_pairs._hf("CLIP", {"eos_token_id": 3})("sdpa")
    preprocess = clew.Preprocess((32, 32), (32, 32), "squash")
    return clew.LoadedPair(tiny_pairs.moved(model).float(), preprocess, None, "random CLIP", tokenizer=tokenizer)


@pytest.fixture(scope="module")
def pictures():
    return clew.scenes().images[:3]


def test_words_pictures_and_every_combination(loaded, pictures):
    plain = {"method": "raw_attention"}
    one = clew.explain(loaded, pictures[0], target="a photo of a dog", **plain)
    again = clew.explain(loaded, pictures[0], target=clew.Similarity("a photo of a dog"), **plain)
    assert torch.equal(one.score, again.score) and one.target == ["a photo of a dog"]
    several = clew.explain(loaded, pictures[:2], target=clew.Similarity("a dog", "a cat"), **plain)
    assert several.target == ["a dog", "a cat"] * 2 and several.maps_per_image == 2
    each = clew.explain(loaded, pictures[:2], target=["a dog", clew.Similarity("a cat")], **plain)
    assert each.target == ["a dog", "a cat"]
    torch.testing.assert_close(each.score, several.score[[0, 3]])
    contrast = clew.explain(loaded, pictures[:2], target=clew.Contrast("a dog", "a cat"), **plain)
    torch.testing.assert_close(contrast.score, several.score[::2] - several.score[1::2])
    assert contrast.target[0] == "a dog rather than a cat"
    alike = clew.explain(loaded, pictures[:2], target=clew.Similarity(pictures[2]), **plain)
    assert alike.target == ["image 0"] * 2
    self_alike = clew.explain(loaded, pictures[0], target=clew.Similarity(pictures[0]), **plain)
    torch.testing.assert_close(self_alike.score, loaded.model.logit_scale.detach().exp()[None])
    words = clew.explain(loaded, "a red dog", target=clew.Similarity(pictures[0]), method="input_x_gradient")
    assert [w.text for w in words.words()[0]] == ["a", "red", "dog"]
    texts = clew.explain(loaded, ["a red dog", "a cat"], target="a dog and a cat", **plain)
    assert texts.kind == "text" and len(texts) == 2


def test_both_sides_are_one_result(loaded, pictures, tmp_path):
    both = clew.explain(loaded, pictures[:2], target=clew.Similarity("a dog", "a red cat"), side="both", n_steps=2)
    assert isinstance(both, clew.PairAttribution) and both.text.texts == ["a dog", "a red cat"] * 2
    page = both.save(tmp_path / "both.html").read_text()
    assert page.count('class="words"') == 4 and page.count('<section class="row">') == 2
    assert both.save(tmp_path / "both.png").stat().st_size > 1000
    read = clew.Attribution.load(both.save(tmp_path / "both.safetensors"))
    assert isinstance(read, clew.PairAttribution)
    assert torch.equal(read.text.scores, both.text.scores) and torch.equal(read.scores, both.scores)
    assert read.to_html() == both.to_html()
    assert len(both[1:3]) == 2 and both[1:3].text.texts == ["a red cat", "a dog"]
    assert both[1:3].maps_per_image == 1 and both[2:].maps_per_image == 2
    joined = clew.Attribution.concatenate([both, both])
    assert len(joined.text) == 8 and joined.maps_per_image == 2
    swapped = clew.explain(loaded, "a dog", target=clew.Similarity(pictures[0]), side="both", n_steps=2)
    torch.testing.assert_close(swapped.scores[0], both.scores[0])
    assert type(both.image) is clew.ImageAttribution
    assert clew.compare([both, both], tmp_path / "two.html").read_text().count("<figure>") == 2 * (1 + 4)


def test_zero_shot_is_a_classifier_like_any(loaded, pictures):
    classes = ["dog", "cat", "photo"]
    model = loaded.zero_shot(classes, template="a photo of a {}")
    found = clew.explain(model, pictures, score="probability", n_steps=2)
    assert set(found.target) <= set(classes) and found.logits.shape == (3, 3)
    texts = clew.Similarity([f"a photo of a {c}" for c in classes])
    own = clew.explain(loaded, pictures, target=texts, method="raw_attention")
    torch.testing.assert_close(found.logits, own.score.view(3, 3), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.score, own.score.view(3, 3).softmax(1).amax(1), rtol=1e-4, atol=1e-5)
    several = loaded.zero_shot(classes, template=["a {}", "a photo of a {}"])
    mean = F.normalize(
        loaded.encode([f"a {c}" for c in classes]) + loaded.encode([f"a photo of a {c}" for c in classes])
    )
    torch.testing.assert_close(several.model.features, mean)
    assert all(finding.ok for finding in clew.doctor(model))


def test_what_is_asked_wrongly_is_told(loaded, pictures):
    for target, error, words in (
        (None, TargetError, "explains similarities"),
        (3, TargetError, "explains similarities"),
        (clew.Each("a dog", clew.Contrast("a", "b")), TargetError, "mixed"),
        (clew.Similarity("a dog", torch.tensor([2, 3])), TargetError, "mixed"),
        (clew.Similarity(["a dog", pictures[0]]), TargetError, "mixed"),
        ([clew.Similarity("a", "b"), clew.Similarity("a")], TargetError, "equally many"),
        ([clew.Contrast("a", "b"), clew.Similarity("a")], TargetError, "mixed"),
        (clew.Contrast(clew.Similarity("a", "b"), "a"), TargetError, "contrast"),
        (["a", "b", "c"], TargetError, "several texts for every input: Similarity"),
    ):
        with pytest.raises(error, match=words):
            clew.explain(loaded, pictures[:2], target=target)
    with pytest.raises(InputError, match="compares texts or images"):
        clew.explain(loaded, 3, target="a dog")
    with pytest.raises(OptionError, match="unknown side"):
        clew.explain(loaded, pictures[0], target="a dog", side="left")
    with pytest.raises(OptionError, match="both are images"):
        clew.explain(loaded, pictures[0], target=clew.Similarity(pictures[1]), side="text")
    with pytest.raises(TargetError, match="two other sides"):
        clew.explain(loaded, pictures[0], target=clew.Contrast("a", "b"), side="text")
    with pytest.raises(OptionError, match="neither score"):
        clew.explain(loaded, pictures[0], target="a dog", score="probability")
    with pytest.raises(OptionError, match="sides"):
        clew.explain(clew.load("mini:digits"), pictures[0], side="text")
    with pytest.raises(TargetError, match="only image–text models"):
        clew.explain(loaded.zero_shot(["dog", "cat"]), pictures[0], target=clew.Similarity("a dog"))
    for classes, template in ((["dog"], "a photo"), ("dog", "a {}"), (["dog", "dog"], "a {}"), ([], "a {}")):
        with pytest.raises(OptionError, match=r"template|classes"):
            loaded.zero_shot(classes, template=template)


def test_a_pair_of_ones_own(loaded, pictures):
    class Mine(type(loaded.model)):
        pass

    own = tiny_pairs.moved(Mine(loaded.model.config)).float()
    model = dataclasses.replace(loaded, model=own)
    assert clew.explain(model, pictures[0], target="a dog", n_steps=2).provenance["architecture"] == "hf_clip (image)"
    declared = dataclasses.replace(find_pair(own), name="mine", classes=("somewhere.Else",))
    assert clew.register_pair(declared) is declared
    with pytest.raises(clew.ClewError, match="registered already"):
        clew.register_pair(declared)


@pytest.mark.parametrize("name", ["clip", "clip_end_token", "siglip", "siglip2", "open_clip", "open_siglip", "coca"])
def test_doctor_tries_both_towers(name):
    findings = clew.doctor(build_pair(name).float())
    wrong = [f.name for f in findings if not f.ok]
    assert wrong == (["text: declaration"] if name in NO_TEXT else [])
    assert {f.name.partition(":")[0] for f in findings} == {"image", "text"}


def test_tensors_are_compared_once_and_a_processors_output_is_read(loaded, pictures):
    ids = captions(3).clamp(max=10)
    x = torch.stack([loaded.preprocess(p)[0] for p in pictures[:2]])
    plain = {"method": "raw_attention"}
    found = clew.explain(loaded, x, target=clew.Similarity(ids), **plain)
    assert found.target == ["text 0", "text 1", "text 2"] * 2 and found.logits.shape == (6, 3)
    both = {"pixel_values": x, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    again = clew.explain(loaded, both, **plain)
    torch.testing.assert_close(again.score, found.score)
    with pytest.raises(InputError, match="holds images and texts"):
        clew.explain(loaded, both, target="a dog")
    arrays = {"input_ids": ids.numpy(), "attention_mask": np.ones(ids.shape), "special_tokens_mask": ids.numpy() == 2}
    words = clew.explain(loaded, arrays, target=clew.Similarity(x[0]), **plain)
    assert torch.equal(words.special, ids == 2)
    listed = clew.explain(loaded, ids.tolist(), target=clew.Similarity(x[0]), **plain)
    torch.testing.assert_close(listed.scores, words.scores)
    for value, message in (
        ([x[0], x[0, :, :8]], "one size"),
        (torch.zeros(2, 3, 32, 32, dtype=torch.long), "neither images nor texts"),
        (x[:0], "neither images nor texts"),
        ({"pixel_values": x, "spatial_shapes": x}, "laid out"),
        ({}, "compares texts or images"),
    ):
        with pytest.raises(InputError, match=message):
            clew.explain(loaded, value, target="a dog")
    with pytest.raises(InputError, match="cannot encode this"):
        clew.explain(loaded, x, target=clew.Similarity(torch.zeros(3, 16, 16)))


def test_several_contrasts_of_one_image(loaded, pictures):
    asked = clew.Each(clew.Contrast("a dog", "a cat"), clew.Contrast("a red dog", "a cat"))
    found = clew.explain(loaded, pictures[:2], target=asked, method="raw_attention")
    assert found.target == ["a dog rather than a cat", "a red dog rather than a cat"] * 2
    three = clew.explain(loaded, pictures[:2], target=clew.Each("a dog", "a red dog", "a cat"), method="raw_attention")
    scores = three.score.view(2, 3)
    torch.testing.assert_close(found.score.view(2, 2), scores[:, :2] - scores[:, 2:])


def test_long_texts_are_told_or_cut(loaded, pictures):
    long = "a dog " * 60
    with pytest.raises(InputError, match="truncate=True"):
        clew.explain(loaded, pictures[0], target=long)
    both = clew.explain(loaded, pictures[0], target=long, truncate=True, side="both", method="raw_attention")
    assert both.text.scores.shape == (1, 40)
    assert loaded.zero_shot([long], template="{}", truncate=True).labels == [long]


def test_options_that_fit_one_tower_only_are_told(loaded, pictures):
    with pytest.raises(OptionError, match="the text tower"):
        clew.explain(loaded, pictures[0], target="a dog", side="both", method="attention_rollout", start_layer=2)


def test_padding_that_is_read_is_what_the_tokenizer_fills_up_with(loaded):
    """SigLIP 2's configuration keeps the number of SigLIP's padding, its tokenizer has another."""
    model = tiny_pairs.build_pair("siglip").float()
    model.config.text_config.pad_token_id = 1
    pair = clew.LoadedPair(model, tokenizer=loaded.tokenizer)
    whole = loaded.tokenizer("a dog", padding="max_length", max_length=14, return_tensors="pt")["input_ids"]
    with torch.no_grad():
        features = model.get_text_features(input_ids=whole)
    features = features if isinstance(features, torch.Tensor) else features.pooler_output
    torch.testing.assert_close(pair.encode("a dog"), F.normalize(features, dim=-1))


def test_a_zero_shot_classifier_travels(loaded, pictures, tmp_path):
    model = loaded.zero_shot(["dog", "cat"])
    torch.save(model.model, tmp_path / "model.pt")
    again = dataclasses.replace(model, model=torch.load(tmp_path / "model.pt", weights_only=False))
    first, second = (clew.explain(m, pictures[:1], method="generic_attribution") for m in (model, again))
    assert torch.equal(first.scores, second.scores)


def test_models_in_wrappers_and_in_inference_mode(loaded, pictures):
    options = {"target": clew.Similarity("a dog"), "method": "raw_attention"}
    expected = clew.explain(loaded, pictures[0], **options)
    for wrapped in (torch.compile(loaded.model), nn.DataParallel(loaded.model).eval()):
        found = clew.explain(dataclasses.replace(loaded, model=wrapped), pictures[0], **options)
        torch.testing.assert_close(found.scores, expected.scores)
        dataclasses.replace(loaded, model=wrapped).zero_shot(["dog", "cat"])
    with torch.inference_mode():
        found = clew.explain(loaded, pictures[0], compute_dtype=torch.float64, **options)
    torch.testing.assert_close(found.scores.float(), expected.scores, rtol=1e-4, atol=1e-6)


def test_a_model_may_have_an_owner():
    model = build_tower("clip", "image").owner.float()
    model.owner = "somebody"
    assert clew.explain(
        model, images(SIZE, 1).float(), target=clew.Similarity(captions(1)), method="attn_lrp"
    ).scores.any()


def test_templates_of_open_clip_are_functions(loaded):
    several = loaded.zero_shot(iter(["dog", "cat"]), template=[lambda c: f"a {c}", "a {} {color}"])
    assert several.labels == ["dog", "cat"]


def test_doctor_tries_the_side_of_its_inputs(loaded, pictures):
    assert {f.name.partition(":")[0] for f in clew.doctor(loaded, ["a dog", "a red cat"])} == {"text"}
    with pytest.raises(InputError):
        clew.doctor(loaded, 3)


def test_batches_that_are_compared_with_other_texts_are_joined(loaded, pictures):
    parts = [
        clew.explain(loaded, pictures[0], target=clew.Similarity(*texts), side="both", method="raw_attention")
        for texts in (["a dog", "a cat"], ["a red dog", "a dog"])
    ]
    joined = clew.Attribution.concatenate(parts)
    assert joined.target == ["a dog", "a cat", "a red dog", "a dog"] and joined.logits is None and joined.labels is None
    assert joined.text.texts == joined.target
    same = clew.Attribution.concatenate([parts[0], parts[0]])
    assert same.labels == ["a dog", "a cat"] and same.logits.shape == (4, 2)

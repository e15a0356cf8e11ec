"""What a score means comes from the head: probabilities, embeddings, and the names of classes."""

import dataclasses
import json

import pytest
import torch
import transformers
from support import tiny, tiny_pairs
from support.tiny_text import build_text
from timm.models.vision_transformer import VisionTransformer
from torch import nn

import clew
from clew.errors import TargetError
from clew.targets.heads import config_labels, head_of, labels_by_index, log_odds, log_probability_of, probability_of

IDS = torch.tensor([[5, 9, 30, 12, 7], [8, 8, 21, 40, 6]])
MULTI = {"problem_type": "multi_label_classification"}
SIZES = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}


def bert(**options):
    torch.manual_seed(3)
    sizes = {
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "intermediate_size": 32,
        "vocab_size": 60,
        "initializer_range": 0.3,
        "num_labels": 4,
    }
    return transformers.BertForSequenceClassification(transformers.BertConfig(**sizes | options)).double().eval()


def test_of_several_parts_the_outermost_tells_what_the_outputs_are():
    inner, middle, whole = nn.Linear(4, 3), nn.Sequential(), nn.Sequential()
    inner.config = {"problem_type": "multi_label_classification", "num_labels": 3}
    middle.add_module("inner", inner)
    beside = nn.Linear(4, 1)
    beside.config = {"problem_type": "regression", "num_labels": 1}
    whole.add_module("deep", middle)
    whole.add_module("beside", beside)
    assert head_of(whole).kind == "values"
    del whole.beside
    assert head_of(whole).kind == "labels"


def by_hand(model, value):
    """The score and gradient × input of each token, by plain autograd."""
    x = model.get_input_embeddings()(IDS).detach().requires_grad_()
    score = value(model(inputs_embeds=x).logits)
    (gradient,) = torch.autograd.grad(score.sum(), x)
    return score.detach(), (gradient * x).sum(-1).detach()


PROBABILITIES = {
    "labels that do not exclude each other": (MULTI, 2, lambda y: 1 / (1 + (-y[:, 2]).exp()), "sigmoid"),
    "an only output": ({"num_labels": 1}, None, lambda y: 1 / (1 + (-y[:, 0]).exp()), "sigmoid"),
    "classes": ({}, 2, lambda y: y[:, 2].exp() / y.exp().sum(-1), "softmax"),
    "classes that are told so": (
        {"problem_type": "single_label_classification"},
        2,
        lambda y: y[:, 2].exp() / y.exp().sum(-1),
        "softmax",
    ),
}


@pytest.mark.parametrize("name", PROBABILITIES)
def test_a_probability_is_what_the_head_was_trained_for(name):
    options, target, probability, scale = PROBABILITIES[name]
    model = bert(**options)
    for score, value in (("probability", probability), ("log_probability", lambda y: probability(y).log())):
        found = clew.explain(model, IDS, target=target, score=score, method="input_x_gradient")
        p, scores = by_hand(model, value)
        torch.testing.assert_close(found.score, p, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(found.scores, scores, rtol=1e-9, atol=1e-12)
        assert found.checks["probability"] == scale and found.facts(0)["probability"] == scale
    assert "probability" not in clew.explain(model, IDS, target=target, method="saliency").checks


def test_a_contrast_of_probabilities_is_of_the_same_kind():
    model = bert(**MULTI)
    target = clew.Contrast(0, 3)
    for score, value in (
        ("probability", lambda y: torch.sigmoid(y[:, 0]) - torch.sigmoid(y[:, 3])),
        ("log_probability", lambda y: torch.sigmoid(y[:, 0]).log() - torch.sigmoid(y[:, 3]).log()),
    ):
        found = clew.explain(model, IDS, target=target, score=score, method="input_x_gradient")
        p, scores = by_hand(model, value)
        torch.testing.assert_close(found.score, p, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(found.scores, scores, rtol=1e-9, atol=1e-12)


def test_images_and_wrapped_models_are_read_the_same_way():
    vit = tiny.build("hf_vit")
    vit.config.problem_type = "multi_label_classification"
    x = tiny.images((32, 32))
    expected = vit(x).logits[:, 1].detach().sigmoid()
    found = clew.explain(vit, x, target=1, score="probability", method="attn_lrp")
    torch.testing.assert_close(found.score, expected)

    class Inside(nn.Module):
        def __init__(self):
            super().__init__()
            self.vit = vit

        def forward(self, x):
            return self.vit(x).logits

    inside = dataclasses.replace(clew.architectures()["hf_vit"].within("vit"), input_name=None)
    found = clew.explain(Inside().eval(), x, target=1, score="probability", method="saliency", architecture=inside)
    torch.testing.assert_close(found.score, expected)
    one = VisionTransformer(**SIZES, num_classes=1).double().eval()
    found = clew.explain(one, x, score="probability", method="saliency")
    torch.testing.assert_close(found.score, one(x)[:, 0].detach().sigmoid())
    assert found.scores.abs().max() > 0


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("score", ["probability", "log_probability"])
@pytest.mark.parametrize("target", [0, clew.Contrast(0, 0)])
def test_a_regression_has_no_probability(outputs, score, target):
    model = bert(num_labels=outputs, problem_type="regression")
    with pytest.raises(TargetError, match=r"is a regression(.|\n)*score='logit'"):
        clew.explain(model, IDS, target=target, score=score, method="saliency")
    assert clew.explain(model, IDS, target=0, method="saliency").scores.abs().max() > 0


def test_next_tokens_and_answers_stay_softmaxes():
    writer = build_text("llama")
    writer.config.problem_type = "multi_label_classification"  # of no meaning here
    found = clew.explain(writer, IDS, target=7, score="probability", method="saliency")
    torch.testing.assert_close(found.score, writer(IDS).logits[:, -1].softmax(-1)[:, 7].detach())
    assert found.checks["probability"] == "softmax"


def test_similarities_trained_with_a_bias_are_sigmoids():
    for name, scale in (("siglip", "sigmoid"), ("clip", "softmax")):
        made = tiny_pairs.build_tower(name, "image")
        assert head_of(made).scale(3) == scale


@pytest.mark.parametrize("scale", ["softmax", "sigmoid"])
@pytest.mark.parametrize("size", [0.0, 3.0, 25.0, -25.0, 60.0, -60.0, 200.0])
def test_probabilities_have_derivatives_where_they_round(scale, size):
    """Against float64 (and, of the complement, by hand): in float32 the probability of 25 is 1, but not its slope 0."""
    y = torch.tensor([[[size, 0.0, -1.0]]])
    index = torch.zeros(1, 1, dtype=torch.long)
    exact = y.double().requires_grad_()
    odds = exact[0, 0, 0] - (torch.logsumexp(exact[0, 0, 1:], 0) if scale == "softmax" else 0.0)
    p, rest = 1 / (1 + (-odds).exp()), 1 / (1 + odds.exp())
    (slope,) = torch.autograd.grad(odds, exact)
    for of, value, factor in ((probability_of, p, p * rest), (log_probability_of, -(-odds).exp().log1p(), rest)):
        x = y.clone().requires_grad_()
        found = of(log_odds(x, index, scale))
        (gradient,) = torch.autograd.grad(found.sum(), x)
        torch.testing.assert_close(found.double().flatten(), value.detach().flatten(), rtol=1e-5, atol=1e-38)
        torch.testing.assert_close(gradient.double(), factor.detach() * slope, rtol=1e-5, atol=1e-38)


def test_impossible_others_leave_a_finite_gradient():
    y = torch.tensor([[[1.0, -torch.inf, -torch.inf]]], requires_grad=True)
    found = probability_of(log_odds(y, torch.zeros(1, 1, dtype=torch.long), "softmax"))
    (gradient,) = torch.autograd.grad(found.sum(), y)
    assert float(found.detach()) == 1.0 and torch.equal(gradient, torch.zeros_like(gradient))


# Embeddings


def headless(kind):
    torch.manual_seed(2)
    vit = VisionTransformer(**SIZES, num_classes=5 if kind in ("identity", "reset") else 0).double().eval()
    if kind == "identity":
        vit.head = nn.Identity()
    if kind == "reset":
        vit.reset_classifier(0)
    if kind == "hugging face":
        vit = tiny.build("hf_vit")
        vit.classifier = nn.Identity()
    if kind == "torchvision":
        vit = tiny.build("torchvision_vit")
        vit.heads = nn.Sequential(nn.Identity())
    return vit.eval()


class Inside(nn.Module):
    """A model around another, with a head of its own or none."""

    def __init__(self, backbone, head=None):
        super().__init__()
        self.backbone, self.head = backbone, head
        self.architecture = clew.architectures()["timm_vit"].within("backbone")

    def forward(self, x):
        x = self.backbone(2 * x)
        return x if self.head is None else self.head(x)


@pytest.mark.parametrize("kind", ["plain", "identity", "reset", "hugging face", "torchvision", "inside"])
def test_an_embedding_has_no_class(kind):
    model = headless(kind)
    model = Inside(model).eval() if kind == "inside" else model
    x = tiny.images((32, 32), batch=2)

    def embed(x):
        found = model(x)
        return found if isinstance(found, torch.Tensor) else found.logits

    norm = embed(x).square().sum(-1).sqrt().detach()
    for method in ("raw_attention", "beyond_intuition_token", "attn_lrp", "saliency"):
        found = clew.explain(model, x, method=method)
        assert found.target == ["norm of the embedding"] * 2 and found.labels is None
        torch.testing.assert_close(found.score, norm)
        assert "embedding, no classes" in found.checks["advice"] and "cosine" in found.checks["advice"]
    leaf = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(embed(leaf).square().sum(-1).sqrt().sum(), leaf)
    found = clew.explain(model, x, method="input_x_gradient")
    torch.testing.assert_close(found.pixels, (gradient * x).sum(1))
    found = clew.explain(model, x, method="saliency", target=3)
    assert found.target == ["feature 3"] * 2 and "advice" not in found.checks
    torch.testing.assert_close(found.score, embed(x)[:, 3].detach())
    several = clew.explain(model, x, method="saliency", target=clew.Each(1, 4))
    assert several.target == ["feature 1", "feature 4"] * 2
    found = clew.explain(model, x, method="saliency", target=clew.Contrast(3, 7))
    assert found.target == ["feature 3 rather than feature 7"] * 2
    for wrong in ("cat", ["cat", "dog"], clew.Contrast("cat", 3), clew.Each("cat", "dog"), clew.Similarity("a cat")):
        with pytest.raises(TargetError, match=r"an embedding, no classes(.|\n)*callable"):
            clew.explain(model, x, method="saliency", target=wrong)
    with pytest.raises(TargetError, match="no such feature"):
        clew.explain(model, x, method="saliency", target=24)
    with pytest.raises(TargetError, match=r"embedding(.|\n)*score='logit'"):
        clew.explain(model, x, method="saliency", target=3, score="probability")
    reference = torch.randn(24, dtype=torch.float64)
    found = clew.explain(
        model, x, method="saliency", target=lambda out: torch.cosine_similarity(getattr(out, "logits", out), reference)
    )
    torch.testing.assert_close(found.score, torch.cosine_similarity(embed(x), reference).detach())


def test_a_head_makes_classes_of_an_embedding():
    x = tiny.images((32, 32), batch=2)
    backbone = headless("plain")
    for model in (Inside(backbone, nn.Linear(24, 5).double()).eval(), clew.DinoLinear(backbone, 5).double().eval()):
        found = clew.explain(model, x, method="saliency")
        assert found.target == [f"class {i}" for i in model(x).argmax(-1).tolist()] and "advice" not in found.checks
    backbone.head = nn.Linear(24, 5).double().eval()  # its num_classes is still 0
    assert clew.explain(backbone, x, method="saliency").target[0].startswith("class ")
    for around in (Inside(backbone, nn.Identity()), Inside(nn.Sequential(nn.Identity(), backbone), nn.Identity())):
        path = "backbone" if around.backbone is backbone else "backbone.1"
        found = clew.architectures()["timm_vit"].within(path)
        assert clew.explain(around.eval(), x, method="saliency", architecture=found).target[0].startswith("class ")
    zero_shot = Inside(
        headless("plain"), lambda x: x @ torch.ones(24, 5, dtype=torch.float64)
    )  # a head without weights
    assert clew.explain(zero_shot.eval(), x, method="saliency").target[0].startswith("class ")


def test_the_projection_of_an_image_text_model_is_no_classifier():
    import timm

    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 3}
    x = torch.randn(1, 3, 32, 32)
    for name, more, embeds in (
        ("vit_base_patch32_clip_224.openai", {}, True),
        ("vit_base_patch32_clip_224.openai", {"num_classes": 5}, False),
        ("vit_base_patch32_clip_224.laion2b_ft_in1k", {}, False),
        ("vit_base_patch16_224.augreg_in21k_ft_in1k", {}, False),
    ):
        model = timm.create_model(name, **sizes, **more).eval()
        found = clew.explain(model, x, method="raw_attention").target[0]
        assert (found == "norm of the embedding") == embeds, name


def test_a_model_without_a_head_is_loaded_where_that_is_asked_for(tmp_path):
    from timm.models import save_for_hf

    model = VisionTransformer(**SIZES, num_classes=0)
    model.pretrained_cfg = {"architecture": "vit_tiny_patch16_224", "input_size": (3, 32, 32), "num_classes": 0}
    save_for_hf(model, str(tmp_path), model_config={"model_args": SIZES}, safe_serialization=True)
    loaded = clew.load(tmp_path)
    assert clew.explain(loaded, torch.randn(1, 3, 32, 32), method="saliency").target == ["norm of the embedding"]


# Names


def test_labels_are_those_of_their_numbers(tmp_path):
    names = {i: f"L{i}" for i in range(12)}
    written = json.loads(json.dumps(names))
    assert list(written) == [str(i) for i in range(12)]
    bert(num_labels=12).float().save_pretrained(tmp_path)
    auto = transformers.AutoModelForSequenceClassification
    back = {name: i for i, name in names.items()}
    for more in (
        {"id2label": written},
        {"id2label": names},
        {"label2id": back},
        {"id2label": written, "label2id": back},
    ):
        model = auto.from_pretrained(tmp_path, **more).eval()
        logits = model(IDS).logits.detach()
        for i in (2, 8, 10, 11):
            found = clew.explain(model, IDS, target=f"L{i}", method="saliency")
            torch.testing.assert_close(found.score, logits[:, i])
            assert clew.explain(model, IDS, target=i, method="saliency").target == [f"L{i}"] * 2
    shuffled = {k: written[k] for k in sorted(written, reverse=True)}
    for named in (written, shuffled, names):
        found = clew.load(tmp_path, labels=named)
        assert found.labels == list(names.values())
    assert clew.explain(found, IDS, target="L10", method="saliency").target == ["L10"] * 2


def test_gaps_in_the_numbering_stay_gaps():
    config = transformers.BertConfig(num_labels=4)
    config.id2label = {"3": "d", "0": "a"}
    assert config_labels(config) == ["a", "class 1", "class 2", "d"]
    assert labels_by_index({2: "c"}) == ["class 0", "class 1", "c"]
    assert (
        labels_by_index(None) is None
        and labels_by_index(("a", "b")) == ["a", "b"]
        and labels_by_index({"cat": "x"}) is None
    )
    model = bert()
    model.config.id2label = {"3": "d", "0": "a"}
    found = clew.explain(model, IDS, target="d", method="saliency")
    torch.testing.assert_close(found.score, model(IDS).logits[:, 3].detach())
    assert clew.explain(model, IDS, target=1, method="saliency").target == ["class 1"] * 2


def test_a_number_in_words_is_told_to_be_none():
    loaded = clew.LoadedModel(bert(), labels=["a", "b", "c", "d"])
    with pytest.raises(TargetError, match=r"no label '3'(.|\n)*pass 3, not a string"):
        clew.explain(loaded, IDS, target="3", method="saliency")


def test_a_label_as_it_is_written_comes_first():
    loaded = clew.LoadedModel(bert(), labels=["US", "us", "it, them", "them"])
    for label, i in (("US", 0), ("us", 1), ("it", 2), ("them", 3)):
        found = clew.explain(loaded, IDS, target=label, method="saliency")
        torch.testing.assert_close(found.score, loaded.model(IDS).logits[:, i].detach())

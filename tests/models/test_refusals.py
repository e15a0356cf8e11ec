"""What clew says of models that it does not know, and of errors that models raise: the right thing to do."""

import inspect
import json
import re

import pytest
import timm
import torch
import transformers
from support import tiny
from support.tiny_text import build_text
from torch import nn

import clew
from clew.errors import InputError, LoadError, UnknownArchitecture

IDS = torch.tensor([[5, 9, 30, 12, 7], [8, 8, 21, 40, 6]])
SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 32}
WORDS = SMALL | {"vocab_size": 60, "initializer_range": 0.3}
PIXELS = SMALL | {"image_size": 32, "patch_size": 8, "num_labels": 4}


class Around(nn.Module):
    """A model around another."""

    def __init__(self, backbone, head=None):
        super().__init__()
        self.backbone, self.head = backbone, head or nn.Identity()

    def forward(self, x):
        return self.head(self.backbone(2 * x))


class AroundPixels(Around):
    def forward(self, pixel_values):
        return self.backbone(pixel_values).logits


class AroundWords(nn.Module):
    def __init__(self, bert):
        super().__init__()
        self.inner = nn.ModuleDict({"bert": bert})

    def forward(self, input_ids, attention_mask=None):
        return self.inner["bert"](input_ids, attention_mask=attention_mask).logits


def told(model, inputs, count):
    """The error, and the declaration that its advice makes."""
    with pytest.raises(UnknownArchitecture) as error:
        clew.explain(model, inputs, method="pa_lrp")
    said = str(error.value)
    code = said[said.index("\nfrom clew") if "\nfrom clew" in said else said.index("\nmine =") :]
    code = re.sub(r"\n(clew\.)?explain\(.*", "", code, flags=re.S)
    scope = {"clew": clew}
    exec(code, scope)
    return said, scope["mine"]


def gradients(model, x, score):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(score(model(x)).sum(), x)[0]


HOLDS = {
    "timm": (
        lambda: Around(timm.models.VisionTransformer(**VIT, num_classes=0), nn.Linear(24, 5)),
        "timm_vit",
        "backbone",
    ),
    "sequential": (
        lambda: nn.Sequential(nn.Identity(), timm.models.VisionTransformer(**VIT, num_classes=5)),
        "timm_vit",
        "1",
    ),
    "deeper": (
        lambda: Around(Around(timm.models.VisionTransformer(**VIT, num_classes=5))),
        "timm_vit",
        "backbone.backbone",
    ),
    "hugging face": (lambda: Around(Logits(tiny.build("hf_vit"))), "hf_vit", "backbone.of"),
    "hugging face, by its name": (lambda: AroundPixels(tiny.build("hf_vit")), "hf_vit", "backbone"),
}
VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3}


class Logits(nn.Module):
    def __init__(self, of):
        super().__init__()
        self.of = of

    def forward(self, x):
        return self.of(x).logits


@pytest.mark.parametrize("kind", HOLDS)
def test_a_known_model_inside_another_is_found(kind):
    build, name, path = HOLDS[kind]
    model, x = build().double().eval(), tiny.images((32, 32), batch=2)
    more = {} if kind == "hugging face, by its name" else {"input_name": None}
    mine = clew.architectures()[name].within(path, **more)
    for method in ("raw_attention", "attention_rollout"):
        expected = clew.explain(model, x, architecture=mine, method=method, target=2)
        found = clew.explain(model, x, method=method, target=2)
        torch.testing.assert_close(found.scores, expected.scores)
    found = clew.explain(model, x, method="input_x_gradient", target=2)
    expected = (gradients(model, x, lambda out: out[:, 2]) * x).sum(1)
    torch.testing.assert_close(found.pixels, expected)
    assert all(finding.ok for finding in clew.doctor(model, x, architecture=mine))


def test_a_known_model_of_texts_inside_another_is_found():
    bert = build_text("bert")
    model = AroundWords(bert).eval()
    for method in ("attention_rollout", "attn_lrp"):
        found = clew.explain(model, IDS, method=method, target=1)
        expected = clew.explain(bert, IDS, method=method, target=1)
        torch.testing.assert_close(found.scores, expected.scores)


def unknown_texts():
    yield transformers.GPTNeoXForCausalLM(transformers.GPTNeoXConfig(**WORDS | {"rotary_pct": 1.0})), "causal-lm"
    yield transformers.MPNetForSequenceClassification(transformers.MPNetConfig(**WORDS)), "classification"
    yield transformers.MPNetForTokenClassification(transformers.MPNetConfig(**WORDS)), "token-classification"
    yield transformers.MPNetForMaskedLM(transformers.MPNetConfig(**WORDS)), "token-classification"


@pytest.mark.parametrize("index", range(4))
def test_an_unknown_model_of_texts_gets_a_template_for_texts(index):
    model, task = list(unknown_texts())[index]
    model = model.double().eval()
    said, mine = told(model, IDS, 2)
    assert 'modality="text"' in said and 'input_name="input_ids"' in said and "patches" in said
    assert "grid" not in said and "images" not in said.partition("to do:")[2] and mine.task(model) == task
    target = clew.Token(2, 3 if "MaskedLM" in type(model).__name__ else 1) if task == "token-classification" else 1
    found = clew.explain(model, IDS, architecture=mine, method="input_x_gradient", target=target)
    x = model.get_input_embeddings()(IDS).detach().requires_grad_()
    logits = model(inputs_embeds=x).logits
    row = {"classification": ..., "causal-lm": -1, "token-classification": 2}[task]
    score = logits[:, 1] if row is ... else logits[:, row, 3 if "MaskedLM" in type(model).__name__ else 1]
    (gradient,) = torch.autograd.grad(score.sum(), x)
    torch.testing.assert_close(found.score, score.detach())
    torch.testing.assert_close(found.scores, (gradient * x).sum(-1).detach())
    assert clew.explain(model, IDS, architecture=mine, method="raw_attention", target=target).scores.shape == IDS.shape


def test_an_unknown_model_of_images_gets_places_that_were_found():
    model = transformers.ViTMSNForImageClassification(transformers.ViTMSNConfig(**PIXELS)).double().eval()
    x = tiny.images((32, 32), batch=2)
    said, mine = told(model, x, 2)
    assert "modality" not in said and "(grid height, grid width)" in said
    found = clew.explain(model, x, architecture=mine, method="input_x_gradient", target=2)
    torch.testing.assert_close(found.pixels, (gradients(model, x, lambda out: out.logits[:, 2]) * x).sum(1))
    assert clew.explain(model, x, architecture=mine, method="beyond_intuition_token").scores.shape == (2, 16)


def test_models_of_another_kind_are_told_so():
    x = tiny.images((32, 32), batch=1).float()
    for model, inputs, words in (
        (timm.create_model("resnet10t", num_classes=3), x, "no attention was found in it(.|\n)*not supported"),
        (timm.create_model("swin_tiny_patch4_window7_224", embed_dim=24, num_classes=3), x, "hierarchical"),
        (transformers.SegformerForImageClassification(transformers.SegformerConfig()), x, "hierarchical"),
        (transformers.T5ForConditionalGeneration(transformers.T5Config(**T5)), IDS, "an encoder with a decoder"),
        (transformers.ViltForQuestionAnswering(transformers.ViltConfig(**WORDS)), IDS, "in one sequence"),
    ):
        with pytest.raises(UnknownArchitecture, match=words):
            clew.explain(model.eval(), inputs, method="pa_lrp")


T5 = {"d_model": 24, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 3, "vocab_size": 60}


def test_a_configuration_that_names_no_class_is_told(tmp_path):
    transformers.BertModel(transformers.BertConfig(**WORDS)).save_pretrained(tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    del written["architectures"]
    (tmp_path / "config.json").write_text(json.dumps(written))
    with pytest.raises(LoadError, match=r"names no class(.|\n)*task="):
        clew.load(tmp_path)


class Strict(nn.Module):
    """A head with an opinion."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, x):
        raise self.error


@pytest.mark.parametrize(
    "error", [ValueError("too dark"), TypeError("no, thanks"), IndexError(), AssertionError("odd")]
)
def test_an_error_of_the_model_is_told_with_its_place(error):
    model = timm.models.VisionTransformer(**VIT, num_classes=3).eval()
    model.head = Strict(error).eval()
    with pytest.raises(InputError) as found:
        clew.explain(model, torch.randn(1, 3, 32, 32), method="saliency")
    line = inspect.getsourcelines(Strict.forward)[1] + 1
    said = str(found.value)
    assert f"{type(error).__name__}: {error}" in said and found.value.__cause__ is error
    assert f"Strict (head), {__file__}:{line}, in forward" in said
    assert "resize" not in said and "VisionTransformer raised an error" in said
    bert = build_text("bert").float()
    bert.classifier = Strict(error).eval()
    with pytest.raises(InputError) as found:
        clew.explain(bert, IDS, method="saliency")
    assert "token numbers" not in str(found.value) and f"{__file__}:{line}" in str(found.value)


def test_advice_on_sizes_is_given_where_it_is_about_sizes():
    vit, hf = timm.models.VisionTransformer(**VIT, num_classes=3).eval(), tiny.build("hf_vit")
    large = torch.randn(1, 3, 40, 40)
    for model, inputs in ((vit, large), (hf, large.double())):
        with pytest.raises(InputError, match=r"does not take this input(.|\n)*raised in(.|\n)*resize"):
            clew.explain(model, inputs, method="saliency")
    around, inside = Around(Logits(hf)).eval(), clew.architectures()["hf_vit"].within("backbone.of")
    with pytest.raises(InputError, match=r"its forward takes x: (.|\n)*input_name") as error:
        clew.explain(around, tiny.images((32, 32), 1), architecture=inside, method="saliency")
    assert "resize" not in str(error.value)

    class Old(timm.models.VisionTransformer):  # of another release than what it inherits
        def forward_features(self, x):
            return super().forward_features(x)

        def forward(self, x):
            return self.forward_head(self.forward_features(x, mask=None))

    with pytest.raises(
        InputError, match=r"unexpected keyword argument 'mask'\n  raised in Old, .*in forward\n"
    ) as error:
        clew.explain(Old(**VIT, num_classes=3).eval(), torch.randn(1, 3, 32, 32), method="saliency")
    assert "resize" not in str(error.value) and "input_name" not in str(error.value)
    llama = build_text("llama_classes")
    llama.config.pad_token_id = None
    with pytest.raises(InputError, match=r"does not take this input(.|\n)*to do: *several texts need"):
        clew.explain(llama, IDS, method="saliency")

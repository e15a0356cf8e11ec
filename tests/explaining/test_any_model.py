"""Models of which nothing is declared: wrappers, targets, stations, what is refused, and what a result says."""

from __future__ import annotations

import warnings

import captum.attr
import pandas
import peft
import pytest
import timm
import torch
import transformers
from captum.testing.helpers import basic_models
from torch import nn

import clew
from clew.errors import CaptureError, CheckFailed, InputError, OptionError, TargetError, UnknownArchitecture

SMALL = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 32}
IDS = torch.tensor([[2, 15, 7, 42, 3], [2, 8, 31, 9, 3]])
EXACT = {"rtol": 1e-9, "atol": 1e-12}


def vit(**more):
    torch.manual_seed(0)
    options = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, **more}
    return timm.create_model("vit_tiny_patch16_224", **options).double().eval()


def bert(kind=transformers.BertModel, **more):
    torch.manual_seed(0)
    config = transformers.BertConfig(**SMALL, vocab_size=60, initializer_range=0.3, **more)
    return kind(config).double().eval()


def pictures(batch=2):
    return torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


class Heads(nn.Module):
    """Two heads on a backbone."""

    def __init__(self):
        super().__init__()
        self.backbone = vit(num_classes=0)
        self.grade, self.site = nn.Linear(24, 4), nn.Linear(24, 2)

    def forward(self, x):
        features = self.backbone(x)
        return {"grade": self.grade(features), "site": self.site(features)}


class Both(nn.Module):
    """A picture and a table."""

    def __init__(self):
        super().__init__()
        self.picture = nn.Sequential(nn.Conv2d(1, 8, 8, 8), nn.GELU(), nn.Flatten(), nn.Linear(128, 8))
        self.table, self.head = nn.Linear(3, 8), nn.Linear(16, 2)

    def forward(self, image, table):
        return self.head(torch.cat([self.picture(image), self.table(table)], -1))


def both():
    torch.manual_seed(0)
    g = torch.Generator().manual_seed(3)
    inputs = {
        "image": torch.randn(2, 1, 32, 32, generator=g, dtype=torch.float64),
        "table": torch.randn(2, 3, generator=g, dtype=torch.float64),
    }
    return Both().double().eval(), inputs


# Wrappers


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda m: torch.compile(m, backend="eager"), lambda m: m])
def test_a_wrapped_model_says_what_the_model_says(wrap):
    inner = bert(transformers.BertForSequenceClassification, num_labels=3)
    for method in ("attn_lrp", "attention_rollout"):
        expected = clew.explain(inner, IDS, method=method, target=1)
        found = clew.explain(wrap(inner), IDS, method=method, target=1)
        torch.testing.assert_close(found.scores, expected.scores, **EXACT)


def test_adapters_unmerged_say_what_the_merged_model_says():
    model = peft.get_peft_model(
        bert(transformers.BertForSequenceClassification, num_labels=3),
        peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["query", "value"], init_lora_weights=False),
    )
    model = model.double().eval()
    apart = {m: clew.explain(model, IDS, method=m, target=1).scores for m in ("input_x_gradient", "attention_rollout")}
    merged = model.merge_and_unload()
    for method, scores in apart.items():
        expected = clew.explain(merged, IDS, method=method, target=1).scores
        torch.testing.assert_close(scores, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", ["attention_rollout", "beyond_intuition_token", "raw_attention"])
def test_the_known_module_inside_is_found_with_the_rows_that_the_head_reads(method):
    net = Heads().double().eval()
    declared = clew.architectures()["timm_vit"].within("backbone", readout=lambda m: clew.Readout.cls())
    more = {"n_steps": 3} if method.startswith("beyond") else {}

    def score(out):
        return out["grade"][:, 3]

    expected = clew.explain(net, pictures(), method=method, target=score, architecture=declared, **more)
    found = clew.explain(net, pictures(), method=method, target=score, **more)
    torch.testing.assert_close(found.scores, expected.scores, **EXACT)


def test_heads_that_average_are_seen_to_read_all_tokens():
    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.bert, self.head = bert(attn_implementation="eager"), nn.Linear(24, 3)

        def forward(self, input_ids):
            return self.head(self.bert(input_ids).last_hidden_state.mean(1))

    model = Mean().double().eval()
    attention = model.bert(IDS, output_attentions=True).attentions[-1].detach()  # (batch, head, query, key)
    found = clew.explain(model, IDS, method="raw_attention", target=1)
    torch.testing.assert_close(found.scores, attention.mean((1, 2)), rtol=1e-6, atol=1e-9)


def test_a_module_called_for_two_inputs_is_told_for_methods_of_attention():
    class Siamese(nn.Module):
        def __init__(self):
            super().__init__()
            self.vit = vit(num_classes=0)

        def forward(self, before, after):
            return torch.cosine_similarity(self.vit(before), self.vit(after))

    model, x = Siamese().eval(), {"before": pictures(), "after": pictures() + 1}
    with pytest.raises(CaptureError, match="twice in one forward pass"):
        clew.explain(model, x, method="attention_rollout", target=lambda out: out)
    a = clew.explain(model, x, method="attn_lrp", target=lambda out: out)
    assert list(a.streams) == ["before", "after"]


# Targets


def test_the_error_shows_the_output_where_it_does_not_say_what_to_explain():
    with pytest.raises(TargetError) as error:
        clew.explain(Heads().double().eval(), pictures(), method="saliency")
    said = str(error.value)
    assert "output['grade']: (2, 4) float64" in said
    assert "output['site']: (2, 2) float64" in said


def test_a_cosine_is_explained_whole():
    model = bert()
    other = {"input_ids": torch.tensor([[2, 15, 9, 3]])}
    a = clew.explain(model, {"input_ids": IDS}, method="attn_lrp", target=clew.Similarity(other))
    own, reference = model(IDS).pooler_output, model(**other).pooler_output
    torch.testing.assert_close(a.score, torch.cosine_similarity(own, reference).detach(), **EXACT)
    shares = sum(a.shares().values())
    torch.testing.assert_close(shares, a.score, **EXACT)
    assert float(a.checks["relevance"].abs().max()) > 0
    assert a.checks["embedding"] == "pooler_output"


def test_features_and_lengths_of_embeddings():
    model = vit(num_classes=0)
    plain = model(pictures()).detach()
    assert torch.allclose(clew.explain(Wrapped(model), pictures(), method="saliency", target=3).score, plain[:, 3])

    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x):
            return {"image_embeds": self.inner(x), "other": x}

    a = clew.explain(Named().eval(), pictures(), method="saliency")
    torch.testing.assert_close(a.score, plain.norm(dim=1), **EXACT)
    assert a.target == ["norm of the embedding"] * 2


class Wrapped(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner, self.training = inner, False

    def forward(self, x):
        return self.inner(x)


def test_one_number_for_each_example_needs_no_target():
    class Distance(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(5, 3)

        def forward(self, user, item):
            return torch.nn.functional.pairwise_distance(self.a(user), self.b(item))

    torch.manual_seed(0)
    model = Distance().double().eval()
    x = {"user": torch.randn(2, 4).double(), "item": torch.randn(2, 5).double()}
    a = clew.explain(model, x, method="attn_lrp")
    torch.testing.assert_close(a.score, model(**x).detach(), **EXACT)
    assert float(a.checks["unexplained"].abs().max()) < 1e-12


# Stations, shares, results


def test_scores_end_at_a_module():
    model, x = both()
    seen = []
    model.table.register_forward_hook(lambda m, a, out: seen.append(out.detach().requires_grad_()) or seen[-1])
    g = torch.autograd.grad(model(**x)[:, 1].sum(), seen[0])[0]
    model.table._forward_hooks.clear()
    a = clew.explain(model, x, method="input_x_gradient", target=1, at="table")
    torch.testing.assert_close(a.scores, (seen[0] * g).detach(), **EXACT)
    assert list(a.streams) == ["table"]
    found = clew.explain(model, x, method="attn_lrp", target=1, at="head")
    torch.testing.assert_close(found.scores.sum(1), found.score, **EXACT)
    with pytest.raises(OptionError, match=r"no module 'tabel'"):
        clew.explain(model, x, method="saliency", target=1, at="tabel")


def test_shares_add_up_and_results_are_kept(tmp_path):
    model, x = both()
    a = clew.explain(model, x, method="attn_lrp", target=1)
    torch.testing.assert_close(sum(a.shares().values()), a.score, **EXACT)
    assert a["image"].heatmap().shape == (2, 32, 32)
    assert a["image"].scores.shape == (2, 16)
    assert a["table"].scores.shape == (2, 3)
    again = clew.Attribution.load(a.save(tmp_path / "a.safetensors"))
    assert list(again.streams) == ["image", "table"]
    for name in a.streams:
        assert torch.equal(again[name].scores, a[name].scores)
        assert torch.equal(again[name].score, a.score)
    one, whole = a[1], clew.Attribution.concatenate([a[0], a[1]])
    assert torch.equal(one["table"].scores, a["table"].scores[1:])
    assert torch.equal(whole["image"].all_scores, a["image"].all_scores)
    assert "share of table" in a.save(tmp_path / "a.html").read_text()
    with pytest.raises(clew.ClewError, match="no stream 'tables'"):
        a["tables"]


def test_maps_are_drawn_on_the_pictures_that_were_given():
    a = clew.explain(Heads().double().eval(), pictures(), method="saliency", target=lambda out: out["site"][:, 0])
    drawn = [picture.pixels for picture in a.pictures]
    assert [one.shape for one in drawn] == [(32, 32, 3)] * 2
    x = pictures()[1]
    expected = ((x - x.amin()) / (x.amax() - x.amin()) * 255).permute(1, 2, 0)
    assert (torch.from_numpy(drawn[1].copy()).double() - expected).abs().max() <= 1


def test_a_table_keeps_the_names_of_its_columns(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.SELU(), nn.Linear(8, 2)).double().eval()
    table = pandas.DataFrame({"age": [1.0, 2.0], "income": [0.3, 0.1], "height": [0.5, 0.6]})
    a = clew.explain(model, table, method="attn_lrp", target=1)
    assert a.columns == ["age", "income", "height"]
    assert {one.name for one in a.top(3)[0]} == set(a.columns)
    again = clew.Attribution.load(a.save(tmp_path / "a.safetensors"))
    assert again.columns == a.columns
    assert torch.equal(again.scores, a.scores)


def test_names_that_only_contain_a_word_for_masks_are_no_masks():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(4, 2)

        def forward(self, duration, composition, concentration, labelled, attention_mask, aspect_ratio, pixel_mask):
            whole = torch.cat([duration, composition, concentration, labelled], 1)
            return self.inner(whole * attention_mask) + aspect_ratio + pixel_mask

    names = ("duration", "composition", "concentration", "labelled")
    about = {"attention_mask": torch.ones(2, 4), "aspect_ratio": torch.ones(2, 1), "pixel_mask": torch.zeros(2, 1)}
    x = {name: torch.full((2, 1), float(i + 1)) for i, name in enumerate(names)}
    a = clew.explain(Named().eval(), {**x, **about}, method="input_x_gradient", target=1)
    assert list(a.streams) == list(names)


def test_the_padding_of_a_source_is_not_that_of_the_words_beside_it():
    torch.manual_seed(0)
    config = transformers.T5Config(vocab_size=40, d_model=24, d_kv=8, d_ff=32, num_layers=1, num_heads=3)
    model = transformers.T5ForConditionalGeneration(config).double().eval()
    source = torch.tensor([[5, 9, 22, 7], [6, 8, 0, 0]])
    words = torch.tensor([[0, 31, 12, 9], [0, 14, 8, 3]])
    x = {"input_ids": source, "attention_mask": (source > 0).long(), "decoder_input_ids": words}
    a = clew.explain(model, x, method="input_x_gradient", target=7)
    torch.testing.assert_close(a.score, model(**x).logits[:, -1, 7].detach(), **EXACT)
    assert a["input_ids"].mask.tolist() == (source > 0).tolist()
    assert bool(a["decoder_input_ids"].mask.all())
    assert bool((a["decoder_input_ids"].scores != 0).all())


def test_arguments_of_torch_functions_by_their_names():
    class Keywords(nn.Module):
        def __init__(self, named):
            super().__init__()
            self.cut, self.head, self.named = nn.Conv2d(1, 6, 4, 4), nn.Linear(6, 2), named

        def forward(self, x):
            F = nn.functional
            if not self.named:
                h = torch.add(F.gelu(F.conv2d(x, self.cut.weight, self.cut.bias, 4)), 1.0)
                return F.linear(torch.mul(h, torch.sigmoid(h)).mean((2, 3)), self.head.weight)
            h = F.gelu(input=F.conv2d(input=x, weight=self.cut.weight, bias=self.cut.bias, stride=4))
            h = torch.add(input=h, other=1.0)
            return F.linear(
                input=torch.mul(input=h, other=torch.sigmoid(input=h)).mean((2, 3)), weight=self.head.weight
            )

    torch.manual_seed(0)
    plain = Keywords(False).double().eval()
    named = Keywords(True).double().eval()
    named.load_state_dict(plain.state_dict())
    x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    for method in ("attn_lrp", "input_x_gradient"):
        expected = clew.explain(plain, x, method=method, target=1)
        found = clew.explain(named, x, method=method, target=1)
        torch.testing.assert_close(found.pixels, expected.pixels, **EXACT)
        assert found.patch_size == expected.patch_size == (4, 4)


# What is verified


class Watched(nn.Module):
    """Says something else where it is looked at."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(4, 2)

    def forward(self, x):
        seen = torch.overrides._get_current_function_mode_stack()
        return self.inner(x) + (1 if seen else 0)


def test_a_pass_that_is_not_the_models_own_call_is_refused_every_time():
    torch.manual_seed(0)
    model, x = Watched().eval(), torch.randn(2, 4)
    for _ in range(2):
        with pytest.raises(CheckFailed, match="called as its user calls it"):
            clew.explain(model, x, method="saliency", target=1)


def test_a_layer_that_is_written_out_wrongly_is_noticed(monkeypatch):
    from clew.lrp.operations import recurrent

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.cell, self.head = nn.LSTM(4, 6, batch_first=True), nn.Linear(6, 2)

        def forward(self, x):
            return self.head(self.cell(x)[0][:, -1])

    torch.manual_seed(0)
    model, x = Net().eval(), torch.randn(2, 5, 4)
    clew.explain(model, x, method="saliency", target=1)  # a pass of another kind was verified
    right = recurrent._layer
    monkeypatch.setattr(recurrent, "_layer", lambda name, steps, *rest: right(name, steps[::-1], *rest))
    with pytest.raises(CheckFailed, match="forward"):
        clew.explain(model, x, method="attn_lrp", target=1)
    monkeypatch.undo()
    assert "forward" in clew.explain(model, x, method="attn_lrp", target=1).checks["verified"]


# What is refused


class Custom(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.exp()

    @staticmethod
    def backward(ctx, g):
        return g * 3


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.head = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.head(Custom.apply(self.inner(x)))


def test_an_open_account_names_what_keeps_it_open():
    torch.manual_seed(0)
    x = torch.randn(2, 4, dtype=torch.float64)
    with pytest.raises(CheckFailed, match="Custom"):
        clew.explain(Odd().double().eval(), x, method="attn_lrp", target=1)
    found = clew.explain(Odd().double().eval(), x, method="attn_lrp", target=1, checks="off")
    assert float(found.checks["unexplained"].abs().max()) > 1e-3


def test_what_cannot_be_explained_is_told_in_a_sentence():
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)).eval()
    x = torch.randn(2, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the newest torch deprecates it
        traced = torch.jit.trace(model, x)
        packed = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    with pytest.raises(InputError, match="TorchScript hides what it computes"):
        clew.explain(traced, x, method="saliency")
    with pytest.raises(InputError, match="int8 kernels have no weights in floats"):
        clew.explain(packed, x, method="saliency")
    with pytest.raises(UnknownArchitecture, match="a method that works on any: "):
        clew.explain(model, x, method="pa_lrp")
    with pytest.raises(CaptureError, match="no softmax attention was seen in this model"):
        clew.explain(model, x, method="attention_rollout")
    with pytest.raises(InputError, match="no tensor in the input"):
        clew.explain(model, "words", method="saliency")
    with pytest.raises(InputError, match="NaN or infinite"):
        clew.explain(model, x / 0 * 0, method="saliency")

    class Blind(nn.Module):
        def forward(self, x):
            with torch.no_grad():
                return model(x)

    with pytest.raises(CaptureError, match="no gradient comes from the score"):
        clew.explain(Blind().eval(), x, method="attn_lrp", target=1)


# captum


def noise(*shapes):
    generator = torch.Generator().manual_seed(5)
    return tuple(torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes)


# Models of `captum.testing`, their inputs, and the class that is explained (None: one number for each example).
CAPTUM = {
    "BasicModel_MultiLayer": ((), noise((2, 3)), 1),
    "BasicLinearReLULinear": ((4, 3), noise((2, 4)), 0),
    "BasicLinearModel_Multilayer": ((4, 5, 3), noise((2, 4)), 0),
    "ReLULinearModel": ((), noise((2, 3), (2, 3)), None),
    "BasicModel6_MultiTensor": ((), noise((2, 3), (2, 3)), None),
    "BasicModel_MultiLayer_TrueMultiInput": ((), noise((2, 3), (2, 3), (2, 3)), 1),
    "BasicModel_ConvNet": ((), noise((2, 1, 10, 10)), 3),
    "BasicModel_ConvNet_MaxPool1d": ((), noise((2, 1, 10)), 3),
    "BasicModel_ConvNet_MaxPool3d": ((), noise((2, 1, 10, 10, 10)), 3),
    "LinearMaxPoolLinearModel": ((), noise((2, 4)), None),
    "BasicModelWithReusedModules": ((), noise((2, 3)), 1),
}


@pytest.mark.parametrize("name", CAPTUM)
def test_captum_says_the_same(name):
    torch.manual_seed(0)
    arguments, x, target = CAPTUM[name]
    model = getattr(basic_models, name)(*arguments).double().eval()
    score = (lambda out: out.reshape(-1)) if target is None else target
    for method, theirs, given, options in (
        ("saliency", captum.attr.Saliency, {"abs": False}, {"absolute": False}),
        ("input_x_gradient", captum.attr.InputXGradient, {}, {}),
        ("integrated_gradients", captum.attr.IntegratedGradients, {"n_steps": 20}, {"n_steps": 20}),
    ):
        asked = tuple(t.clone().requires_grad_() for t in x)
        expected = theirs(model).attribute(asked, target=target, **given)
        found = clew.explain(model, x, method=method, target=score, **options)
        assert len(found.streams) == len(x)
        for own, part in zip(expected, found.streams.values(), strict=True):
            scores = part.heatmap() if own.ndim == 4 else part.scores
            own = own.detach().sum(1) if own.ndim == 4 else own.detach()
            near = 1e-7 if "n_steps" in given else 1e-12  # captum holds its weights in float32
            torch.testing.assert_close(scores, own, rtol=near, atol=near)

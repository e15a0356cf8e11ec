"""Grad-CAM of the last attention, where nothing is declared: against blocks, and against its equation, written out."""

import pytest
import torch
from mass.test_declared import IMAGES, TEXTS, TWO_READOUTS, by_mass, in_patches
from support import tiny, tiny_text
from support.zoo import build

import clew
from clew.errors import OptionError
from clew.seam import DoublePrecision


def close(found, expected):
    expected = expected.detach()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * float(expected.abs().max()))


def first_with_evidence(explained):
    """The first target whose map is not zero everywhere, where there is one."""
    maps = [explained(target) for target in range(3)]
    return next(((i, found) for i, found in enumerate(maps) if bool(found.any())), (0, maps[0]))


@pytest.mark.sampled(0.3)
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("name", IMAGES)
def test_images(name, kernel):
    model, x = tiny.build(name, kernel), tiny.images(tiny.TINY[name].size)
    options = {"method": "attention_gradcam", "compute_dtype": torch.float64, "checks": "off"}
    target, expected = first_with_evidence(lambda target: clew.explain(model, x, target=target, **options).scores)
    found = by_mass(model, {"pixel_values": x} if "hf" in name else x, target, "attention_gradcam")
    # Declarations count CLS and the mean of the patches both, in the weights and in the map.
    close(in_patches(found, expected.shape[1]) * (4 if name in TWO_READOUTS else 1), expected)


@pytest.mark.sampled(0.3)
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("name", TEXTS)
def test_texts(name, kernel):
    model, ids = tiny_text.build_text(name, kernel), torch.arange(5, 23).view(2, 9)
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    options = {"method": "attention_gradcam", "compute_dtype": torch.float64, "checks": "off"}
    last = model(**given).logits.ndim == 3
    target, expected = first_with_evidence(lambda n: clew.explain(model, given, target=n, **options).all_scores)
    found = by_mass(model, given, (lambda o: o.logits[:, -1, target]) if last else target, "attention_gradcam")
    close(found, expected)


def test_padding_is_left_out():
    model, ids = tiny_text.build_text("bert"), torch.arange(5, 23).view(2, 9)
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    given = {"input_ids": ids, "attention_mask": mask}
    options = {"method": "attention_gradcam", "checks": "off"}
    target, expected = first_with_evidence(lambda n: clew.explain(model, given, target=n, **options).all_scores)
    close(by_mass(model, given, target, "attention_gradcam"), expected)


def test_of_a_decoder():
    """The last attention asks the source: its rows at the last token of the prefix."""
    specimen, eager = build("bart"), build("bart", "eager")
    found = clew.explain(specimen.model, specimen.inputs, method="attention_gradcam", target=specimen.score)
    with DoublePrecision(eager.model):
        output = eager.model(**eager.inputs, output_attentions=True)
    A = output.cross_attentions[-1]
    G = torch.autograd.grad(eager.score(output).sum(), A)[0]
    seen = A[:, :, -1].gt(0).double()  # (batch, head, key), without padding
    w = (G[:, :, -1] * seen).sum(-1) / seen.sum(-1)
    expected = (w[..., None] * A[:, :, -1]).mean(1).clamp(min=0)
    assert expected.any()
    close(found["input_ids"].all_scores, expected)
    assert not found["decoder_input_ids"].all_scores.any()


def test_constants_at_both_ends():
    """YOLOS puts CLS before the patches and queries of its own behind them."""
    specimen, eager = build("yolos"), build("yolos", "eager")
    found = clew.explain(specimen.model, specimen.inputs, method="attention_gradcam", target=specimen.score)
    output = eager.model(**eager.inputs, output_attentions=True)
    A, read = output.attentions[-1], None
    score = eager.score(output).sum()
    G, at_logits = torch.autograd.grad(score, [A, output.logits])
    read = at_logits.abs().sum(-1).argmax(1) + A.shape[-1] - at_logits.shape[1]  # queries come last
    rows, grads = (M[torch.arange(len(M)), :, read] for M in (A, G))
    w = grads[..., 1 : -at_logits.shape[1]].mean(-1)
    expected = (w[..., None] * rows).mean(1).clamp(min=0)
    close(found.all_scores.flatten(1).sum(1), expected[:, 1 : -at_logits.shape[1]].sum(1))
    rest = expected.sum(1) - expected[:, 1 : -at_logits.shape[1]].sum(1)
    assert found.checks["constants"] == pytest.approx(float(rest.mean().detach()), rel=1e-9)


def test_released_variants_need_a_declared_model():
    specimen = build("bart")
    with pytest.raises(OptionError, match="needs a declared model"):
        clew.explain(
            specimen.model, specimen.inputs, method="attention_gradcam", variant="beyond_intuition",
            target=specimen.score,
        )  # fmt: skip


@pytest.mark.parametrize("name", ["llava", "blip2", "detr", "t5_gated", "segformer", "wav2vec2", "mllama"])
def test_any_model(name):
    """All of the map is accounted for, also where the keys of the last attention are several streams put together."""
    specimen = build(name)
    found = clew.explain(specimen.model, specimen.inputs, method="attention_gradcam", target=specimen.score)
    parts = [found[name] for name in found.streams]
    if name != "blip2":  # where learned queries, which are constants, get all of it
        assert any(bool(part.all_scores.any()) for part in parts)
    assert all(bool((part.all_scores >= 0).all()) for part in parts)
    assert parts[0].checks["unaccounted"] < 1e-9
    assert "attention" in parts[0].checks["verified"]


class Windows(torch.nn.Module):
    """Attention of two windows of four tokens."""

    def __init__(self):
        super().__init__()
        self.attention, self.head = torch.nn.MultiheadAttention(8, 2, batch_first=True), torch.nn.Linear(8, 3)

    def forward(self, x):
        some = x.unflatten(1, (2, 4)).flatten(0, 1)
        return self.head((x + self.attention(some, some, some)[0].unflatten(0, (-1, 2)).flatten(1, 2)).mean(1))


def test_windows_are_refused():
    torch.manual_seed(0)
    with pytest.raises(OptionError, match="in windows"):
        clew.explain(
            Windows().double().eval(), torch.randn(2, 8, 8, dtype=torch.float64), method="attention_gradcam", target=1
        )

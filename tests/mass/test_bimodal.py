"""Equations 5 to 11 of Chefer et al. (ICCV 2021), written out on the matrices that models return, against what is found
without knowing which attention is whose."""

import pytest
import torch
from support.zoo import build
from torch import nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import LxmertConfig, LxmertForQuestionAnswering

import clew
from clew.errors import OptionError
from clew.seam import DoublePrecision


def eye(n, batch=2):
    return torch.eye(n, dtype=torch.float64).expand(batch, n, n).clone()


def none(n, m, batch=2):
    return torch.zeros(batch, n, m, dtype=torch.float64)


def mixed(A, G):
    """Eq. 5."""
    return (A * G).clamp(min=0).mean(1)


def normalised(R):
    """Eq. 8 and 9."""
    rest = R - eye(R.shape[-1], len(R))
    return (rest / rest.sum(-1, keepdim=True)).nan_to_num(nan=0.0) + eye(R.shape[-1], len(R))


def across(R_ss, C, R_qq):
    """What eq. 10 adds."""
    return normalised(R_ss).transpose(1, 2) @ C @ normalised(R_qq)


def close(found, expected):
    expected = expected.detach()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * float(expected.abs().max()))


def explained(model, given, target, **options):
    found = clew.explain(model, given, method="generic_attribution", variant="chefer", target=target, **options)
    parts = {name: found[name] for name in found.streams}
    assert all(part.checks["unaccounted"] < 1e-9 for part in parts.values())
    assert all("attention" in part.checks["verified"] for part in parts.values())
    return parts


def encoder_and_decoder(specimen):
    """`R` of the decoder's tokens: of themselves, and of the encoder's."""
    with DoublePrecision(specimen.model):
        output = specimen.model(**specimen.inputs, output_attentions=True)
    encoder, decoder, cross = (getattr(output, f"{n}_attentions") for n in ("encoder", "decoder", "cross"))
    maps = [*encoder, *decoder, *cross]
    C = [mixed(A, G) for A, G in zip(maps, torch.autograd.grad(specimen.score(output).sum(), maps), strict=True)]
    n, m = len(encoder), len(decoder)
    R_qq = eye(C[0].shape[-1])
    for C_qq in C[:n]:
        R_qq = R_qq + C_qq @ R_qq  # eq. 6
    R_ss, R_sq = eye(C[n].shape[-1]), none(C[n].shape[-1], R_qq.shape[-1])
    for C_ss, C_sq in zip(C[n : n + m], C[n + m :], strict=True):
        R_ss, R_sq = R_ss + C_ss @ R_ss, R_sq + C_ss @ R_sq  # eq. 6, 7
        R_sq = R_sq + across(R_ss, C_sq, R_qq)  # eq. 10; in eq. 11 R_qs is 0
    return R_ss, R_sq


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["bart", "mbart", "marian", "t5_gated", "t5_tied", "whisper"])
def test_encoder_and_decoder(name, kernel):
    specimen = build(name, kernel)
    found = explained(specimen.model, specimen.inputs, specimen.score)
    R_ss, R_sq = encoder_and_decoder(build(name, "eager"))
    close(found["decoder_input_ids"].all_scores, R_ss[:, -1])
    if name != "whisper":
        close(found["input_ids"].all_scores, R_sq[:, -1])
    else:  # convolutions mix frames before the first attention
        close(found["input_features"].all_scores.flatten(1).sum(1), R_sq[:, -1].sum(1))
    assert found["decoder_input_ids"].checks["sites"] == 6


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_queries_of_a_detector(kernel):
    """Of the learned query that is read: the first attention among queries has values of constants alone, but counts in
    eq. 10."""
    specimen = build("detr", kernel)
    found = explained(specimen.model, specimen.inputs, specimen.score)["pixel_values"]
    specimen = build("detr", "eager")
    output = specimen.run()
    read = torch.autograd.grad(specimen.score(output).sum(), output.logits)[0].abs().sum(-1) > 0
    R_ss, R_sq = encoder_and_decoder(specimen)
    close(found.all_scores.flatten(1).sum(1), R_sq[read].sum(-1))
    assert found.checks["constants"] == pytest.approx(float(R_ss[read].sum(-1).mean().detach()), rel=1e-9)


def two_towers(**more):
    torch.manual_seed(0)
    config = LxmertConfig(
        vocab_size=60, hidden_size=32, num_attention_heads=4, intermediate_size=48, l_layers=2, r_layers=1, x_layers=3,
        visual_feat_dim=16, num_qa_labels=5, **more,
    )  # fmt: skip
    given = {
        "input_ids": torch.arange(5, 17).view(2, 6),
        "visual_feats": torch.randn(2, 4, 16, dtype=torch.float64),
        "visual_pos": torch.rand(2, 4, 4, dtype=torch.float64),
    }
    return LxmertForQuestionAnswering(config).double().eval(), given


def answer(output):
    return output.question_answering_score[:, 2]


def test_two_towers_that_ask_each_other():
    """LXMERT: both sides of a co-attention ask what the other was before it."""
    model, given = two_towers()
    found = explained(model, given, answer)
    encoder, seen = model.lxmert.encoder, []

    def with_maps(module, args, kwargs):
        return args, {**kwargs, "output_attentions": True}

    def keep(module, args, output):
        seen.append(output[1])

    modules = [b.attention.self for b in (*encoder.layer, *encoder.r_layers)]
    for block in encoder.x_layers:
        modules += [block.visual_attention.att, block.lang_self_att.self, block.visn_self_att.self]
    for module in modules:
        module.register_forward_pre_hook(with_maps, with_kwargs=True)
        module.register_forward_hook(keep)
    score = answer(model(**given)).sum()
    grads = torch.autograd.grad(score, seen, allow_unused=True, materialize_grads=True)
    C = iter([mixed(A, G) for A, G in zip(seen, grads, strict=True)])
    R_tt, R_ii, R_ti, R_it = eye(6), eye(4), none(6, 4), none(4, 6)
    for _ in encoder.layer:
        R_tt = R_tt + next(C) @ R_tt
    for _ in encoder.r_layers:
        R_ii = R_ii + next(C) @ R_ii
    for _ in encoder.x_layers:
        C_ti, C_it, C_tt, C_ii = next(C), next(C), next(C), next(C)
        R_ti, R_tt, R_it, R_ii = (
            R_ti + across(R_tt, C_ti, R_ii), R_tt + C_ti @ R_it,
            R_it + across(R_ii, C_it, R_tt), R_ii + C_it @ R_ti,
        )  # fmt: skip
        R_tt, R_ti = R_tt + C_tt @ R_tt, R_ti + C_tt @ R_ti
        R_ii, R_it = R_ii + C_ii @ R_ii, R_it + C_ii @ R_it
    close(found["input_ids"].all_scores, R_tt[:, 0])
    regions = sum(found[name].all_scores.view(2, 4, -1).sum(-1) for name in ("visual_feats", "visual_pos"))
    close(regions, R_ti[:, 0])


@pytest.mark.parametrize(
    "name", ["encoder_token_first", "encoder_batch_first", "dinov3", "yolos", "wav2vec2", "owlvit"]
)
def test_of_single_streams_nothing_changes(name):
    """Without cross attention equation 6 is all there is; two towers whose features are compared are two streams."""
    specimen = build(name)
    found = explained(specimen.model, specimen.inputs, specimen.score)
    expected = clew.explain(specimen.model, specimen.inputs, method="generic_attribution", target=specimen.score)
    for stream, part in found.items():
        close(part.all_scores, expected[stream].all_scores)


def test_from_a_later_attention_on():
    """What is before counts as the identity."""
    specimen = build("bart")
    found = explained(specimen.model, specimen.inputs, specimen.score, start_layer=5)
    output = (eager := build("bart", "eager")).model(**specimen.inputs, output_attentions=True)
    A = output.cross_attentions[-1]
    C = mixed(A, torch.autograd.grad(eager.score(output).sum(), A)[0])
    close(found["input_ids"].all_scores, C[:, -1])
    with pytest.raises(OptionError, match="there is no attention 6"):
        explained(specimen.model, specimen.inputs, specimen.score, start_layer=6)


class Asking(nn.Module):
    """Words ask sounds, once, by attention of one's own; `how` it is not as the equations want it."""

    def __init__(self, how=""):
        super().__init__()
        self.words, self.maps, self.how = nn.Embedding(20, 8), nn.ModuleList(nn.Linear(8, 8) for _ in range(4)), how

    def attend(self, x, y):
        q, k, v = (m(t).unflatten(-1, (2, 4)).transpose(1, 2) for m, t in zip(self.maps, (x, y, y), strict=False))
        return self.maps[3](scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    def forward(self, ids, sound):
        x = self.words(ids)
        given = self.attend(x, sound)
        if self.how == "no residual":
            return given.mean(1)
        if self.how == "turned":
            given = given.flip(1)
        y = x + given
        if self.how == "merged":
            y = y.unflatten(1, (2, 2)).mean(2)
            y = y + self.attend(y, y)
        if self.how == "together":
            y = y + self.attend(y, y + sound[:, :4])
        if self.how in ("earlier", "turned"):
            return (y + self.attend(y, y))[:, 0] + y[:, 1]
        return y.mean(1)


def asking(how=""):
    torch.manual_seed(0)
    given = {"ids": torch.arange(8).view(2, 4), "sound": torch.randn(2, 5, 8, dtype=torch.float64)}
    return Asking(how).double().eval(), given


def test_tokens_that_nothing_asks():
    """Words only ask: their rows have no keys to start from."""
    model, given = asking()
    found = explained(model, given, 3)
    close(found["ids"].all_scores, torch.full((2, 4), 0.25, dtype=torch.float64))
    expected = clew.explain(model, given, method="generic_attribution", target=3)  # one attention: eq. 10 is a product
    close(found["sound"].all_scores, expected["sound"].all_scores)


@pytest.mark.parametrize(("how", "words"), [
    ("no residual", "no residual"),
    ("turned", "change places"),
    ("merged", "come together"),
    ("together", "come together"),
    ("earlier", "none of those behind the last attention"),
])  # fmt: skip
def test_what_does_not_fit_is_refused(how, words):
    model, given = asking(how)
    with pytest.raises(OptionError, match=words) as error:
        explained(model, given, 3)
    assert "leave variant out" in str(error.value)


@pytest.mark.parametrize(("name", "words"), [
    ("swin", "in windows"), ("llava", "come together"), ("pvt_v2", "come together"), ("qwen2_vl", "other tokens"),
])  # fmt: skip
def test_models_whose_tokens_do_not_stay_apart_are_refused(name, words):
    specimen = build(name)
    with pytest.raises(OptionError, match=words):
        explained(specimen.model, specimen.inputs, specimen.score)


def test_other_variants_need_a_declared_model():
    specimen = build("bart")
    with pytest.raises(OptionError, match="needs a declared model"):
        clew.explain(
            specimen.model, specimen.inputs, method="generic_attribution", variant="beyond_intuition",
            target=specimen.score,
        )  # fmt: skip

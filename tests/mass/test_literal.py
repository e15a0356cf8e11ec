"""Token mass against products of the matrices that models return, or that hooks see, written out for each kind."""

import numpy as np
import pytest
import torch
from support.zoo import build
from transformers import LxmertConfig, LxmertForQuestionAnswering

import clew

METHODS = ["attention_rollout", "generic_attribution", "beyond_intuition_head"]


def mixed(A, G, method):
    """(batch, head, query, key) as what query i hands to key j: the mean over heads, or heads by their importance."""
    if method == "attention_rollout":
        return A.mean(1)
    if method == "generic_attribution":
        return (A * G).clamp(min=0).mean(1)
    padding = (A == 0).all(2).all(1)  # (batch, key): ∂s/∂A is not 0 there
    importance = (A.mT @ G).masked_fill(padding[:, None, None], 0.0).abs().mean((2, 3))
    return torch.einsum("bh,bhqk->bqk", importance / importance.sum(1, keepdim=True), A)


def through(R, C):
    """Rows of what each token is made of, behind an attention with its residual."""
    return R + C @ R


def gradients(method, score, maps):
    return [None] * len(maps) if method == "attention_rollout" else torch.autograd.grad(score.sum(), maps)


def halved(method):
    return 0.5 if method == "attention_rollout" else 1.0


def eye(n, batch=2):
    return torch.eye(n, dtype=torch.float64).expand(batch, n, n).clone()


def explained(specimen, method):
    options = {"feedback": False} if method.startswith("beyond") else {}
    found = clew.explain(specimen.model, specimen.inputs, method=method, target=specimen.score, **options)
    parts = {name: found[name] for name in found.streams}
    assert all(part.checks["unaccounted"] < 1e-9 for part in parts.values())
    return parts


def close(found, expected):
    expected = expected.detach()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * float(expected.abs().max()))


def encoder_decoder(specimen, method):
    """What the last row of the decoder is made of: tokens of the source, and of the prefix."""
    output = specimen.model(**specimen.inputs, output_attentions=True)
    encoder, decoder, cross = (getattr(output, f"{n}_attentions") for n in ("encoder", "decoder", "cross"))
    maps = [*encoder, *decoder, *cross]
    C = [mixed(A, G, method) for A, G in zip(maps, gradients(method, specimen.score(output), maps), strict=True)]
    return of_source_and_prefix(C, encoder, decoder, halved(method))


def of_source_and_prefix(C, encoder, decoder, half):
    """What the last row is made of, by what is handed on in encoder, decoder and across, in this order."""
    source, prefix = C[0].shape[-1], C[len(encoder)].shape[-1]
    of_source = eye(source)
    for layer in range(len(encoder)):
        of_source = half * through(of_source, C[layer])
    from_prefix, from_source = eye(prefix), torch.zeros(2, prefix, source, dtype=torch.float64)
    for layer in range(len(decoder)):
        own, other = C[len(encoder) + layer], C[len(encoder) + len(decoder) + layer]
        from_prefix, from_source = half * through(from_prefix, own), half * through(from_source, own)
        from_source = half * (from_source + other @ of_source)
        from_prefix = half * from_prefix
    return from_source[:, -1], from_prefix[:, -1]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["bart", "mbart", "marian", "t5_gated", "t5_tied", "whisper"])
def test_encoder_decoders(name, method):
    found = explained(build(name), method)
    with clew_precise(specimen := build(name, "eager")):
        source, prefix = encoder_decoder(specimen, method)
    close(found["decoder_input_ids"].all_scores, prefix)
    if name != "whisper":
        close(found["input_ids"].all_scores, source)
    else:  # convolutions mix frames before the first attention
        close(found["input_features"].all_scores.flatten(1).sum(1), source.sum(1))


@pytest.mark.parametrize("name", ["bart", "t5_gated"])
def test_tokens_of_encoder_decoders_by_how_much_their_values_change(name):
    """`‖V W_O‖ / ‖x‖`: `x` enters the block, or across is what values are made of."""
    specimen = build(name)
    options = {"method": "beyond_intuition_token", "target": specimen.score, "feedback": False}
    found = clew.explain(specimen.model, specimen.inputs, **options)
    specimen, seen = build(name, "eager"), {}
    for path, module in specimen.model.named_modules():
        if path.endswith((".v_proj", ".v", ".SelfAttention", ".layer.0")):
            module.register_forward_hook(lambda m, args, out, path=path: seen.update({path: (args, out)}))
    with clew_precise(specimen), torch.no_grad():
        output = specimen.model(**specimen.inputs, output_attentions=True)
    ratios = {"encoder": [], "decoder": [], "cross": []}
    for path in (p for p in seen if p.endswith((".v_proj", ".v"))):
        attention, (args, values) = specimen.model.get_submodule(path.rpartition(".")[0]), seen[path]
        own = "SelfAttention" in path or "self_attn" in path
        stream = seen[path.replace(".SelfAttention.v", "")][0][0] if "SelfAttention" in path else args[0]
        W = (attention.o if name.startswith("t5") else attention.out_proj).weight
        kind = ("encoder" if "encoder." in path.split("EncDec")[0] and own else "decoder") if own else "cross"
        ratios[kind].append((values @ W.mT).norm(dim=-1) / stream.norm(dim=-1))
    maps = [getattr(output, f"{kind}_attentions") for kind in ratios]
    rho = [r for kind in ratios.values() for r in kind]
    C = [A.mean(1) * r[:, None] for A, r in zip([A for kind in maps for A in kind], rho, strict=True)]
    source, prefix = of_source_and_prefix(C, maps[0], maps[1], 1.0)
    close(found["decoder_input_ids"].all_scores, prefix)
    close(found["input_ids"].all_scores, source)


def clew_precise(specimen):
    """Without casts to single precision, as clew computes."""
    from clew.seam import DoublePrecision

    return DoublePrecision(specimen.model)


def kept_maps(modules):
    """Attention probabilities that modules return beside their output, in the order of the calls."""
    maps = []
    for module in modules:
        module.register_forward_hook(lambda mod, args, out: maps.append(out[1]))
    return maps


def picture_and_prompt(specimen, method):
    """What the last row of LLaVA is made of: patches, and tokens of the prompt; and where in it the patches are."""
    half = halved(method)
    tower = kept_maps(layer.self_attn for layer in specimen.model.model.vision_tower.encoder.layers[:-1])
    with clew_precise(specimen):
        output = specimen.model(**specimen.inputs, output_attentions=True)
        maps = [*tower, *output.attentions]
        C = [mixed(A, G, method) for A, G in zip(maps, gradients(method, specimen.score(output), maps), strict=True)]
    patches, words = eye(C[0].shape[-1]), eye(C[-1].shape[-1])
    for layer in C[: len(tower)]:
        patches = half * through(patches, layer)
    for layer in C[len(tower) :]:
        words = half * through(words, layer)
    row = words[:, -1]
    places = (specimen.inputs["input_ids"][0] == specimen.model.config.image_token_id).nonzero().flatten()
    image = torch.einsum("bp,bpi->bi", row[:, places], patches[:, 1:])[:, 1:]  # CLS is dropped, and is no patch
    row[:, places] = 0
    return image, row, places


@pytest.mark.parametrize("method", METHODS)
def test_pictures_in_a_prompt(method):
    found = explained(build("llava"), method)
    image, row, _ = picture_and_prompt(build("llava", "eager"), method)
    close(found["pixel_values"].all_scores, image)
    close(found["input_ids"].all_scores, row)


def test_feedback_of_pictures_in_a_prompt():
    """`∫ ∂s/∂A dα` of the last attention: keys are placeholders, each with a patch, and words."""
    specimen, options = build("llava"), {"method": "beyond_intuition_head", "n_steps": 3}
    found = clew.explain(specimen.model, specimen.inputs, target=specimen.score, **options)
    assert "pixel_values, input_ids" in found["input_ids"].checks["feedback"]
    specimen = build("llava", "eager")
    image, row, places = picture_and_prompt(specimen, "beyond_intuition_head")
    nodes, weights = np.polynomial.legendre.leggauss(3)
    W = 0.0
    for alpha, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        given = {**specimen.inputs, "pixel_values": specimen.inputs["pixel_values"] * alpha}
        words = specimen.model.get_input_embeddings().register_forward_hook(lambda m, args, out, a=alpha: out * a)
        with clew_precise(specimen):
            output = specimen.model(**given, output_attentions=True)
        words.remove()
        W = W + weight * torch.autograd.grad(specimen.score(output).sum(), output.attentions[-1])[0]
    W = W.clamp(min=0).mean(1)[:, -1]
    close(found["input_ids"].all_scores, row * W)
    close(found["pixel_values"].all_scores, image * W[:, places])


@pytest.mark.parametrize("method", METHODS)
def test_windows_that_are_shifted_and_merged(method):
    from transformers.models.swin.modeling_swin import window_partition

    found, half = explained(build("swin"), method)["pixel_values"], halved(method)
    specimen = build("swin")
    blocks = [block for stage in specimen.model.swin.encoder.layers for block in stage.blocks]
    maps = kept_maps(block.attention for block in blocks)
    with clew_precise(specimen):
        output = specimen.model(**specimen.inputs, output_attentions=True)
        C = [mixed(A, G, method) for A, G in zip(maps, gradients(method, specimen.score(output), maps), strict=True)]
    side, R = 8, eye(64)
    for layer, block in enumerate(blocks):
        tokens, window = torch.arange(side * side).view(1, side, side, 1), min(block.window_size, side)
        if block.shift_size and side > window:
            tokens = torch.roll(tokens, (-block.shift_size, -block.shift_size), (1, 2))
        windows = window_partition(tokens, window).view(-1, window * window)
        whole = torch.zeros(2, side * side, side * side, dtype=torch.float64)
        for i, some in enumerate(windows):
            each = C[layer].view(2, len(windows), window**2, window**2)[:, i]
            whole[:, some[:, None], some[None]] = each
        R = half * through(R, whole)
        if layer == 1:  # four tokens become one
            places, side = torch.arange(side * side).view(side, side), side // 2
            merged = torch.zeros(side * side, len(places) ** 2, dtype=torch.float64)
            for i in range(side):
                for j in range(side):
                    merged[i * side + j, places[2 * i : 2 * i + 2, 2 * j : 2 * j + 2].flatten()] = 0.25
            R = merged @ R
    close(found.all_scores, R.mean(1))


@pytest.mark.parametrize("method", METHODS)
def test_queries_of_a_detector(method):
    """The sum of all pixels: a convolution net mixes them before the first attention. Queries are constants."""
    found = explained(build("detr"), method)["pixel_values"]
    specimen = build("detr", "eager")
    output = specimen.model(**specimen.inputs, output_attentions=True)
    maps = [*output.encoder_attentions, *output.decoder_attentions, *output.cross_attentions]
    grads = gradients(method, specimen.score(output), maps)
    C = [mixed(A, G, method) for A, G in zip(maps, grads, strict=True)]
    n, layers, half = len(output.encoder_attentions), len(output.decoder_attentions), halved(method)
    of_source = eye(C[0].shape[-1])
    for layer in range(n):
        of_source = half * through(of_source, C[layer])
    from_source = torch.zeros(2, C[n].shape[-1], C[0].shape[-1], dtype=torch.float64)
    for layer in range(layers):
        from_source = half * through(from_source, C[n + layer])
        from_source = half * (from_source + C[n + layers + layer] @ of_source)
    close(found.all_scores.flatten(1).sum(1), _of_query(specimen, from_source.sum(-1)))


def _of_query(specimen, values):
    """Values (batch, query) of the query that the score reads, which is seen by its gradient."""
    output = specimen.run()
    reached = torch.autograd.grad(specimen.score(output).sum(), output.logits)[0].abs().sum(-1) > 0
    return values[reached]


def test_two_towers_that_attend_to_each_other():
    """LXMERT: words and regions, each by itself, then in turns across."""
    torch.manual_seed(0)
    config = LxmertConfig(
        vocab_size=60, hidden_size=32, num_attention_heads=4, intermediate_size=48, l_layers=2, r_layers=1, x_layers=2,
        visual_feat_dim=16, num_qa_labels=5,
    )  # fmt: skip
    model = LxmertForQuestionAnswering(config).double().eval()
    given = {
        "input_ids": torch.arange(5, 17).view(2, 6),
        "visual_feats": torch.randn(2, 4, 16, dtype=torch.float64),
        "visual_pos": torch.rand(2, 4, 4, dtype=torch.float64),
    }
    found = clew.explain(
        model, given, method="attention_rollout", target=lambda output: output.question_answering_score[:, 2]
    )
    encoder, seen = model.lxmert.encoder, {}

    def keep(module, name):
        def before(module, args, kwargs):
            return args, {**kwargs, "output_attentions": True}

        def after(module, args, output):
            seen.setdefault(name, []).append(output[1])

        module.register_forward_pre_hook(before, with_kwargs=True)
        module.register_forward_hook(after)

    for kind in ("layer", "r_layers"):
        for i, block in enumerate(getattr(encoder, kind)):
            keep(block.attention.self, f"{kind}{i}")
    for i, block in enumerate(encoder.x_layers):
        keep(block.visual_attention.att, f"across{i}")
        keep(block.lang_self_att.self, f"words{i}")
        keep(block.visn_self_att.self, f"regions{i}")
    with torch.no_grad():
        model(**given, output_attentions=True)
    # What words and regions are made of: words first, then regions.
    words = torch.cat([eye(6), torch.zeros(2, 6, 4, dtype=torch.float64)], -1)
    regions = torch.cat([torch.zeros(2, 4, 6, dtype=torch.float64), eye(4)], -1)
    for i in range(2):
        words = through(words, seen[f"layer{i}"][0].mean(1)) / 2
    regions = through(regions, seen["r_layers0"][0].mean(1)) / 2
    for i in range(2):
        to_regions, to_words = (A.mean(1) for A in seen[f"across{i}"])
        words, regions = (words + to_regions @ regions) / 2, (regions + to_words @ words) / 2
        words = through(words, seen[f"words{i}"][0].mean(1)) / 2
        regions = through(regions, seen[f"regions{i}"][0].mean(1)) / 2
    close(found["input_ids"].all_scores, words[:, 0, :6])
    # Features and places of a region are added, so that each gets a part.
    close(
        sum(found[name].all_scores.view(2, 4, -1).sum(-1) for name in ("visual_feats", "visual_pos")), words[:, 0, 6:]
    )

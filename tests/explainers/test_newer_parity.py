"""The newer methods against arrays made by their released code, through the public API, where these arrays are."""

from __future__ import annotations

import json
from functools import cache, partial
from itertools import product
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from parity import arrays_in, collect, compare
from support import flow_twin, parity_ifr_flashtrace, parity_newer
from timm.models.vision_transformer import VisionTransformer
from transformers import BertConfig, BertForSequenceClassification

import clew

GOLDENS = Path(__file__).resolve().parents[3] / "shared" / "goldens-newer"  # beside the checkout, as for .ci/run
pytestmark = pytest.mark.skipif(not GOLDENS.is_dir(), reason="the golden arrays of the newer methods are not here")
TARGETS = (0, 3, 6)


@cache
def expected(folder):
    return arrays_in(GOLDENS / folder / "expected.npz")


def config(folder):
    return json.loads((GOLDENS / folder / "config.json").read_text())


def inputs(folder):
    return {name: torch.from_numpy(value) for name, value in arrays_in(GOLDENS / folder / "inputs.npz").items()}


def weights(folder):
    return parity_newer.weights(GOLDENS / folder)


def vit():
    return parity_newer.vit(GOLDENS / "vit")


@cache
def bert():
    model = (
        BertForSequenceClassification(BertConfig(**{**config("bert"), "model": None, "dtype": None})).double().eval()
    )
    unknown = model.load_state_dict(weights("bert"), strict=False)
    assert not unknown.unexpected_keys and all("position_ids" in key for key in unknown.missing_keys)
    return model, inputs("bert")


def assert_agrees(folder, case, found, tolerance=1e-9):
    array = expected(folder)[case]
    assert compare(array, np.asarray(found).reshape(array.shape)) <= tolerance, case


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("text", ["text0", "text1", "text2"])
@pytest.mark.parametrize(("case", "variant"), [("attcat", "att_cat"), ("attcat_outputs", "paper")])
def test_att_cat_on_texts(case, variant, text, target):
    model, texts = bert()
    found = clew.explain(model, texts[text], method="att_cat", variant=variant, target=target)
    assert_agrees("attcat_bert", f"{case}|{text}|t{target}", found.all_scores)


@pytest.mark.parametrize("score", ["logit", "probability"])
@pytest.mark.parametrize("target", TARGETS)
def test_att_cat_on_images(target, score):
    model, images = vit()
    found = clew.explain(model, images, method="att_cat", target=target, score=score)
    array = expected("libragrad")[f"attcat|NG|{score}|t{target}"]  # which leaves out the last block, and so CLS alone
    assert compare(array[:, 1:], found.scores.numpy()) <= 1e-9


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("start", [0, 2])
def test_le_grad_on_classifiers(start, target):
    """The norm after the mean, as the released code of CLIP has it."""
    model, images = vit()
    found = clew.explain(model, images, method="le_grad", start_layer=start, target=target)
    assert_agrees("legrad_classifier", f"legrad_classifier|mean_then_norm|from{start}|t{target}", found.all_scores)


@cache
def clip():
    """With a scale of 1 in place of the learned one: the released code explains cosines."""
    c = config("clip")
    vision = {"image_size": c["img_size"], "layers": c["layers"], "width": c["width"], "head_width": c["head_width"]}
    text = {"context_length": c["ctx"], "vocab_size": c["vocab"], "width": c["text_width"], "heads": c["text_heads"]}
    model = open_clip.model.CLIP(
        c["embed_dim"],
        vision | {"patch_size": c["patch_size"], "mlp_ratio": c["mlp_ratio"]},
        text | {"layers": c["text_layers"], "mlp_ratio": c["text_mlp_ratio"]},
    )
    unknown = model.double().eval().load_state_dict(weights("clip"), strict=False)
    assert not unknown.unexpected_keys and set(unknown.missing_keys) <= {"logit_scale", "attn_mask"}
    with torch.no_grad():
        model.logit_scale.zero_()
    return model, inputs("clip")


@pytest.mark.parametrize("layer_index", [-1, -2, -4, 1])
def test_le_grad_on_clip(layer_index):
    model, given = clip()
    options = {"method": "le_grad", "start_layer": layer_index % 4, "variant": "le_grad"}
    found = clew.explain(model, given["images"], target=clew.Similarity(list(given["tokens"])), **options)
    assert_agrees("legrad", f"legrad_clip|layer_index{layer_index}|raw", found.scores)


class Compared(torch.nn.Module):
    """A trunk as a classifier whose classes are embeddings of texts."""

    def __init__(self, trunk, texts):
        super().__init__()
        self.trunk, self.texts = trunk, texts
        self.architecture = clew.architectures()["timm_vit"].within("trunk")

    def forward(self, x):
        return torch.nn.functional.normalize(self.trunk(x), dim=-1) @ self.texts.T


@pytest.mark.parametrize("layer_index", [-1, -2, -4])
def test_le_grad_on_siglip(layer_index):
    names = ("img_size", "patch_size", "embed_dim", "depth", "num_heads", "mlp_ratio", "num_classes")
    sizes = {name: config("siglip")[name] for name in names} | {"class_token": False, "global_pool": "map"}
    trunk = VisionTransformer(**sizes, norm_layer=partial(torch.nn.LayerNorm, eps=1e-6)).double().eval()
    trunk.load_state_dict(weights("siglip"))
    given = inputs("siglip")
    model = Compared(trunk, given["text_embedding"]).eval()
    options = {"method": "le_grad", "start_layer": layer_index % 4, "variant": "le_grad"}
    found = clew.explain(model, given["images"], target=[clew.Each(0, 1, 2)] * 3, **options)
    assert_agrees("legrad", f"legrad_siglip|layer_index{layer_index}|correction0|raw", found.scores)


@pytest.mark.parametrize("layers", [1, 2])
def test_grad_eclip_on_pictures(layers):
    model, given = clip()
    options = {"method": "grad_eclip", "start_layer": 4 - layers, "variant": "grad_eclip"}
    found = clew.explain(model, given["images"], target=clew.Similarity(list(given["tokens"])), **options)
    assert_agrees("grad_eclip", f"grad_eclip_notebook|n{layers}", found.scores)


@pytest.mark.parametrize("cosines", [True, False])
def test_grad_eclip_of_the_script_on_pictures(cosines):
    model, given = clip()
    options = {"method": "grad_eclip", "cosines": cosines, "variant": "grad_eclip_script"}
    found = clew.explain(model, given["images"], target=clew.Similarity(list(given["tokens"])), **options)
    assert_agrees("grad_eclip", f"grad_eclip_script|withksim{int(cosines)}", found.scores)


@pytest.mark.parametrize(
    ("layers", "text", "cosines"),
    [*product((1,), (0, 1, 2, 3), (False, True)), *product((2,), (0, 1), (False, True)), (2, 3, True)],
)
def test_grad_eclip_on_texts(layers, text, cosines):
    name = f"grad_eclip_text|n{layers}|withksim{int(cosines)}|text{text}"
    model, given = clip()
    options = {"method": "grad_eclip", "start_layer": 2 - layers, "cosines": cosines, "variant": "grad_eclip_script"}
    ids, images = given["tokens"][text], given["images"]
    found = clew.explain(model, ids, target=clew.Similarity(list(images)), **options).scores
    inner = found[:, 1 : int(ids.argmax())]  # the released code makes their sum 1
    assert_agrees("grad_eclip", name, inner / inner.sum(1, keepdim=True))


@pytest.mark.parametrize("score", ["logit", "probability"])
@pytest.mark.parametrize("target", TARGETS)
def test_token_tm(target, score):
    model, images = vit()
    found = clew.explain(model, images, method="token_tm", target=target, score=score)
    assert_agrees("libragrad", f"tokentm|NG|{score}|t{target}", found.all_scores)


PLAIN, LIBRA = clew.RULE_SETS["gradient"], clew.RULE_SETS["libra"]
PRESETS = {
    "NG": "gradient",
    "Libra": "libra",
    "AttnLRP": "attn_lrp",
    "AliLRP": {**LIBRA, "activation": PLAIN["activation"]},
    "WO-Att": {**LIBRA, "softmax": PLAIN["softmax"], "matmul": PLAIN["matmul"]},
    "WO-LN": {**LIBRA, "norm": PLAIN["norm"]},
}
LAST = {"start_layer": 3}
FAMILY = {
    "ixg": ("libra_input_x_gradient", {}),
    "fullgrad": ("libra_full_grad", {}),
    **{f"fullgrad_block{block}": ("libra_full_grad", {"start_layer": block}) for block in range(4)},
    "fullgrad_plus": ("libra_full_grad_plus", {}),
    "fullgrad_plus_nobias": ("libra_full_grad_plus", {"biases": False}),
    "fullgrad_plus_half": ("libra_full_grad_plus", {"start_layer": 2}),
    "hirescam": ("libra_full_grad_plus", {"biases": False, **LAST}),
    "gradcam": ("libra_x_grad_cam_plus", {"weighted": False, **LAST}),
    "gradcam_plus": ("libra_x_grad_cam_plus", {"weighted": False}),
    "xgradcam": ("libra_x_grad_cam_plus", LAST),
    "xgradcam_plus": ("libra_x_grad_cam_plus", {}),
    "attcat": ("libra_att_cat", {}),
}


@pytest.mark.parametrize("case", FAMILY)
@pytest.mark.parametrize("preset", PRESETS)
def test_the_libra_family(preset, case):
    """All that were made: three targets, logit and probability."""
    model, images = vit()
    method, options = FAMILY[case]
    for score in ("logit", "probability"):
        if f"{case}|{preset}|{score}|t0" in expected("libragrad"):
            asked = {"method": method, "rules": PRESETS[preset], "score": score, **options}
            found = clew.explain(model, images, target=[clew.Each(*TARGETS)] * 3, **asked)
            for i, target in enumerate(TARGETS):
                assert_agrees("libragrad", f"{case}|{preset}|{score}|t{target}", found.all_scores[i::3])


IFR = GOLDENS / "ifr_flashtrace"


def test_information_flow_by_its_mapping():
    family = parity_ifr_flashtrace.Family(IFR)
    cases = [case for case in collect(GOLDENS) if case.family == IFR.name]
    assert len(cases) == 20
    for case in cases:
        assert compare(family.expected(case), family.run(case).found) <= family.tolerance(case), case.name


@pytest.mark.parametrize("text", [0, 1, 2])
def test_information_flow_with_norms_of_both_precisions(text):
    """By the literal twin, which makes values by a norm of its own, as the released code does."""
    model, texts = parity_ifr_flashtrace.llama(GOLDENS / "llama")
    flow = flow_twin.of_llama(model, texts[text])
    for threshold in (0.0, 2.0):
        every = [flow_twin.ifr(flow, {i: 1.0}, threshold=threshold) for i in range(texts.shape[1])]
        array = expected(IFR.name)[f"ifr_all|threshold{threshold}"][text]
        assert compare(array, torch.stack(every).numpy()) <= 1e-9
    for hops in (1, 2, 3):
        scores, shares = flow_twin.flash_trace(flow, [11, 12, 13], range(6, 11), hops, list(range(6)))
        assert compare(expected(IFR.name)[f"flashtrace|hops{hops}"][text], scores.numpy()) <= 1e-9
        assert compare(expected(IFR.name)[f"flashtrace_ratios|hops{hops}"][text], np.array(shares)) <= 1e-9

"""The joint table against slow twins, against each protocol alone, and on stand-ins of ImageNet's formats."""

from __future__ import annotations

import math
import re
import shlex
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import sklearn.metrics
import timm
import torch
from PIL import Image
from support.bench_twins import Given, evaluated, flat
from support.commands import parsed
from support.running import counting
from support.standins import imagenet_val, picture

import clew
from clew.datasets import readers
from clew.errors import InputError, OptionError
from clew.evaluation import shard
from clew.evaluation.controls import CONTROLS
from clew.inputs.preprocessing import Preprocess
from clew.metrics import relevance_inside

STEPS = (0.0, 0.25, 0.5, 1.0)


@pytest.fixture(scope="module")
def scenes():
    data = clew.open_dataset("mini:digits")
    return [data.read(i) for i in range(6)]


@pytest.fixture(scope="module")
def reader():
    return clew.load("mini:reviews-bert")


@pytest.fixture(scope="module")
def reviews():
    data = clew.open_dataset("mini:reviews", count=3)
    return [data.read(i) for i in range(3)]


# Pictures


def literal_inside(heat, mask):
    inside = every = 0.0
    for y in range(heat.shape[0]):
        for x in range(heat.shape[1]):
            if mask[y, x] >= 0 and heat[y, x] > 0:
                every += float(heat[y, x])
                inside += float(heat[y, x]) if mask[y, x] == 1 else 0.0
    return inside / every if every else 0.0


def test_relevance_inside_is_counted_pixel_by_pixel():
    heat = torch.randn(3, 5, 7, dtype=torch.float64)
    heat[2] = -heat[2].abs()
    masks = np.random.default_rng(0).integers(-1, 2, (3, 5, 7)).astype(np.int8)
    found = relevance_inside(heat, masks)
    assert found == pytest.approx([literal_inside(h, m) for h, m in zip(heat, masks, strict=True)])
    assert found[2] == 0 and relevance_inside(heat.clamp(min=0), masks) == pytest.approx(found)
    with pytest.raises(InputError, match="differ in shape"):
        relevance_inside(heat, masks[:, :4])


def literal_picture(model, example, method):
    """SRG, both accuracies, and what the mask says, of one picture, copy by copy."""
    x = model.preprocess(example.image)[0]
    result = clew.explain(model, x[None], method=method, target=example.label)
    scores = result.scores[0].tolist()
    side, (_, across) = 64 // result.patch_grid[0], result.patch_grid
    curves = {}
    for first in ("most", "least"):
        order = sorted(range(len(scores)), key=lambda k: (-scores[k] if first == "most" else scores[k], k))
        curves[first] = []
        for step in STEPS:
            copy = x.clone()
            for k in order[: math.floor(step * len(scores))]:
                top, left = k // across * side, k % across * side
                copy[:, top : top + side, left : left + side] = 0  # the mean colour, as the model gets it
            with torch.no_grad():
                logits = model.model(copy[None]).logits[0]
            curves[first].append((float(logits[example.label]), float(logits.argmax() == example.label)))
    gains = [least[0] - most[0] for least, most in zip(curves["least"], curves["most"], strict=True)]
    hits = {k: [hit for _, hit in v] for k, v in curves.items()}
    areas = {
        k: sum((a + b) / 2 * (t - s) for (a, b), (s, t) in zip(pairwise(v), pairwise(STEPS), strict=True))
        for k, v in hits.items()
    }
    heat, mask = result.heatmap()[0].double().numpy(), example.mask
    best = divmod(int(heat.argmax()), 64)
    return {
        "SRG": sum(gains) / len(gains),
        "accuracy, most first": areas["most"],
        "accuracy, least first": areas["least"],
        "relevance inside": literal_inside(heat, mask),
        "average precision": sklearn.metrics.average_precision_score((mask == 1).ravel(), heat.ravel()),
        "pointing game": float(mask[best] == 1),
    }


def test_pictures_are_measured_as_written(digits, scenes):
    methods = ["attention_rollout", "saliency", "res_lrp"]
    options = {"fractions": STEPS, "choose": False, "misclassified": True, "batch_size": 2}
    rows, numbers = evaluated("joint", digits, scenes[:3], methods, **options)
    for method in methods:
        found = [literal_picture(digits, example, method) for example in scenes[:3]]
        for name in found[0]:
            assert [rows[e.id, method][name] for e in scenes[:3]] == pytest.approx(
                [one[name] for one in found], abs=1e-4
            )
            assert numbers[name, method] == pytest.approx(sum(one[name] for one in found) / 3, abs=1e-4)


def test_a_flat_map_points_nowhere_and_a_mask_of_everything_says_nothing(digits, scenes):
    whole = replace(scenes[1], mask=np.ones_like(scenes[1].mask))
    rows, _ = evaluated("joint", digits, [scenes[0], whole], [flat], parts="mask", misclassified=True)
    row = rows[scenes[0].id, "flat"]
    assert row["pointing game"] == row["relevance inside"] == 0
    assert row["average precision"] == pytest.approx((scenes[0].mask == 1).mean())
    assert rows[whole.id, "flat"]["relevance inside"] is rows[whole.id, "flat"]["pointing game"] is None


def test_what_the_model_gets_wrong_is_left_out(digits, scenes):
    x = torch.stack([digits.preprocess(e.image)[0] for e in scenes])
    right = [int(c) == e.label for c, e in zip(digits.model(x).logits.argmax(-1), scenes, strict=True)]
    wrong = replace(scenes[0], id="wrong", label=(int(digits.model(x).logits[0].argmax()) + 1) % 10)
    rows, _ = evaluated("joint", digits, [*scenes, wrong], ["random"], parts="mask")
    errors = {example: row["error"] for (example, _), row in rows.items()}
    assert [errors[e.id] is None for e in scenes] == right and errors["wrong"] == "left out: classified wrong"


# Controls


def test_the_controls_never_look_at_the_model(digits, scenes):
    x = digits.preprocess(scenes[0].image)[0]
    a, b = (clew.explain(digits, x[None], method=CONTROLS[name]) for name in ("centred_gaussian", "edge_filter"))
    for y, z in ((0, 0), (10, 53), (32, 31), (63, 5)):
        distance = math.hypot(y - 31.5, z - 31.5)
        assert float(a.heatmap()[0, y, z]) == pytest.approx(math.exp(-(distance**2) / (2 * 16**2)), rel=1e-5)
    wide = np.pad(x.double().numpy(), ((0, 0), (1, 1), (1, 1)), mode="edge")
    for y, z in ((0, 0), (10, 20), (63, 63), (31, 40)):
        total = 0.0
        for near in wide[:, y : y + 3, z : z + 3]:
            g_x = (near[:, 2] - near[:, 0]) @ (1, 2, 1)
            g_y = (near[2] - near[0]) @ (1, 2, 1)
            total += math.hypot(g_x, g_y)
        assert float(b.heatmap()[0, y, z]) == pytest.approx(total, rel=1e-5, abs=1e-5)


def test_all_methods_and_the_controls_run_and_what_is_undefined_is_told(digits, scenes, reader, reviews, tmp_path):
    @clew.method(paper="mine", summary="never")
    def never_defined(subject: clew.Subject) -> torch.Tensor:
        """Refuses."""
        raise InputError("not on this model", expected="another")

    try:
        quiet = {"show_progress": False, "choose": False, "limit": 1}
        methods = ["all", "integrated_gradients(n_steps=2)", "smoothgrad(n_samples=2)"]
        out = tmp_path / "run"
        run = clew.evaluate("joint", digits, Given(scenes), methods=methods, parts="mask", out=out, **quiet)
        again = clew.evaluate("joint", digits, Given(scenes), methods=methods, parts="mask", out=out, **quiet)
        text = clew.evaluate("joint", reader, Given(reviews), methods=methods, parts="rationale", **quiet)
    finally:
        del clew.explainers._registered["never_defined"]
    names = {name.partition("(")[0] for name in run.manifest["methods"]}
    undefined = run.manifest["undefined"]
    assert names | set(undefined) == {*clew.methods(), *CONTROLS, "never_defined"} and not names & set(undefined)
    assert "only where it is named" in undefined["tis"]
    assert "not on this model" in undefined["never_defined"] and again.manifest == run.manifest
    assert run.manifest["methods"][-2:] == methods[1:] and not run.failed
    assert set(CONTROLS) <= names and set(CONTROLS) <= set(text.manifest["undefined"])
    few = clew.evaluate("joint", digits, Given(scenes), methods=["saliency", "tis(n_masks=2)"], **quiet)
    assert {*few.manifest["methods"]} == {"saliency", "tis(n_masks=2)"}
    run.report(tmp_path / "r.html")
    assert "- `never_defined`: not on this model" in (tmp_path / "r.md").read_text()
    assert "not on this model" in (tmp_path / "r.html").read_text()


# One explanation, its cost, and what it sums to


def test_each_example_is_explained_once_whatever_is_measured(digits, scenes):
    method, calls = counting()
    options = {"fractions": STEPS, "choose": False, "misclassified": True, "batch_size": 2}
    run = clew.evaluate("joint", digits, Given(scenes[:5]), methods=[method], show_progress=False, **options)
    assert run.benchmark.parts == ("patches", "mask") and calls == [2, 2, 1]


def test_cost_is_counted_in_passes_of_the_model(digits, scenes, monkeypatch):
    """By a clock that only a pass of the model moves."""
    now = [0.0]

    class Clock:
        perf_counter = staticmethod(lambda: now[0])

    def passes(count):
        def run(subject: clew.Subject) -> torch.Tensor:
            """Runs the model some times."""
            trace = subject.run([subject.last])
            for _ in range(count - 1):
                with torch.no_grad():
                    subject.forward()
            return torch.arange(float(trace.tokens)).expand(subject.batch, -1)

        run.__name__ = f"passes_{count}"
        return run

    monkeypatch.setattr(shard, "time", Clock)
    handle = digits.model.register_forward_hook(lambda *_: now.__setitem__(0, now[0] + 2))
    try:
        run = clew.evaluate(
            "joint", digits, Given(scenes[:4]), methods=[passes(1), passes(3)], parts="mask", choose=False,
            show_progress=False, batch_size=2, misclassified=True,
        )  # fmt: skip
    finally:
        handle.remove()
    costs = {row["method"]: row["cost"] for row in run.summary()}
    assert costs == {"passes_1": 1.0, "passes_3": 3.0}
    (path,) = [p for p in run.report() if p.suffix == ".md"]
    assert "| seconds | cost |" in path.read_text()


def test_the_gap_of_methods_that_promise_a_sum(digits, scenes):
    example = scenes[0]
    methods = ["integrated_gradients(n_steps=3)", "attn_lrp", "libra_full_grad", "attention_rollout"]
    _, numbers = evaluated("joint", digits, [example], methods, parts="mask", choose=False, misclassified=True)
    x = digits.preprocess(example.image)[0][None]
    with torch.no_grad():
        score, empty = (float(digits.model(one).logits[0, example.label]) for one in (x, 0 * x))
    for label, whole in zip(methods, (score - empty, score, score), strict=False):
        name, options = label.partition("(")[0], {"n_steps": 3} if "(" in label else {}
        total = float(clew.explain(digits, x, method=name, target=example.label, **options).all_scores.double().sum())
        assert numbers["completeness gap", label] == pytest.approx(abs(total - whole) / abs(whole), rel=1e-3, abs=1e-5)
    assert numbers["completeness gap", "attention_rollout"] is None


# Options


def test_options_are_chosen_on_one_half_and_reported_on_the_other(digits, tmp_path):
    methods = ["res_lrp", "generic_attribution", "random", "libra_att_cat(start_layer=1)"]
    options = {"parts": "mask", "limit": 8, "show_progress": False, "out": tmp_path}
    run = clew.evaluate("joint", digits, "mini:digits", methods=methods, **options)
    half = len(digits.model.vit.layers) // 2 if hasattr(digits.model, "vit") else 2
    assert set(run.manifest["methods"]) == {
        "res_lrp(gamma=0.25)", "res_lrp(gamma=1.0)", "generic_attribution(start_layer=None)",
        f"generic_attribution(start_layer={half})", "random", "libra_att_cat(start_layer=1)",
    }  # fmt: skip
    assert clew.evaluate("joint", digits, "mini:digits", methods=methods, **options).table.equals(run.table)
    picked = clew.chosen(run)
    assert {one.method for one in picked.choices} == set(methods)
    assert all("cost" in row and row["cost"] for row in picked.summary())
    best = max((one for one in picked.choices if one.method == "res_lrp"), key=lambda one: len(one.tried))
    assert best.chosen == max(best.tried, key=best.tried.get) and best.metric == "relevance inside"


# Texts


def test_texts_are_measured_as_each_protocol_does_alone(reader, reviews):
    methods = ["saliency", "attn_lrp"]
    options = {"choose": False, "misclassified": True, "fractions": STEPS}
    rows, numbers = evaluated("joint", reader, reviews, methods, **options)
    alone, told = evaluated("rationale", reader, reviews, methods)
    _, flipped = evaluated("flipping", reader, reviews, methods, protocol="movies", fractions=STEPS)
    for method in methods:
        most, least = (flipped[f"prune/{first} probability AUC", method] for first in ("most", "least"))
        expected = {
            "comprehensiveness": told["comprehensiveness AOPC", method],
            "sufficiency": told["sufficiency AOPC", method],
            "agreement": told["average_precision", method],
            "flipping, most first": most,
            "flipping, least first": least,
            "flipping": least - most,
        }
        assert {k: numbers[k, method] for k in expected} == pytest.approx(expected, abs=1e-6)
        for e in reviews:
            assert rows[e.id, method]["agreement"] == pytest.approx(alone[e.id, method]["average_precision"])


def test_texts_without_rationales_have_words_to_take_away(reader, reviews):
    plain = [replace(e, words=None, rationale=None) for e in reviews]
    options = {"choose": False, "misclassified": True, "fractions": STEPS}
    rows, _ = evaluated("joint", reader, plain, ["saliency"], **options)
    with_words, _ = evaluated("joint", reader, reviews, ["saliency"], parts=("words",), **options)
    for e in plain:
        row = rows[e.id, "saliency"]
        assert row["comprehensiveness"] == with_words[e.id, "saliency"]["comprehensiveness"] and "agreement" not in row


def test_of_a_language_model_the_next_token(writer):
    examples = [clew.datasets.Example(id=str(i), text=text) for i, text in enumerate(("a quiet film", "it was dull"))]
    options = {"fractions": STEPS, "choose": False}
    _, numbers = evaluated("joint", writer, examples, ["saliency", "random"], **options)
    _, alone = evaluated("flipping", writer, examples, ["saliency", "random"], fractions=STEPS)
    for method in ("saliency", "random"):
        assert numbers["flipping", method] == pytest.approx(alone["generate MERF - LERF", method], abs=1e-6)
        assert numbers["AU-MSE, pruned", method] == pytest.approx(alone["prune AU-MSE", method], abs=1e-6)


def test_of_several_inputs_what_is_planted():
    chat = clew.load("mini:digits-chat")
    run = clew.evaluate("joint", chat, methods=["saliency"], limit=2, show_progress=False)
    assert run.benchmark.parts == ("planted",) and {"quarter", "word"} <= {m.name for m in run.metrics}
    alone = clew.evaluate("planted", chat, methods=["saliency"], limit=2, show_progress=False)
    assert run.table.column("quarter").to_pylist() == alone.table.column("quarter").to_pylist()


def test_parts_that_are_not_there_are_refused(digits, scenes):
    with pytest.raises(OptionError, match="no such part"):
        evaluated("joint", digits, scenes[:1], ["random"], parts="words")
    with pytest.raises(OptionError, match="no such part"):
        evaluated("joint", digits, [replace(scenes[0], mask=None)], ["random"], parts="mask")


# Stand-ins of ImageNet's formats


def test_the_commands_of_the_docs_parse():
    text = (Path(__file__).parents[2] / "docs" / "joint-table.md").read_text()
    commands = re.findall(r"^clew bench joint .*$", text, re.M)
    assert len(commands) == 8
    known = {option for reader in readers().values() for option in reader.options}
    for line in commands:
        name, given = parsed(shlex.split(line))
        assert name == "joint" and {one.partition("=")[0] for one in given["data_option"] or []} <= known


@pytest.fixture(scope="module")
def classifier():
    """A tiny random ViT of timm with ImageNet's 1,000 classes."""
    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", pretrained=False, img_size=32, embed_dim=12, depth=2, num_heads=2
    ).eval()
    return clew.LoadedModel(model, labels=None, name="vit", preprocess=Preprocess((32, 32), (36, 36), "cover"))


def imagenet_s(folder, wnids, unlabelled=1000):
    """As the ImageNet-S toolbox leaves it: numbers of classes, or 1000, in red and green."""
    for k, wnid in enumerate(wnids):
        image = picture(k)
        numbers = np.zeros((60, 80), dtype=int)
        numbers[10:40, 20:50], numbers[40:45] = 300 + k, unlabelled
        mask = np.stack([numbers % 256, numbers // 256, 0 * numbers], -1).astype(np.uint8)
        for part, one, suffix in (
            ("validation", image, "JPEG"),
            ("validation-segmentation", Image.fromarray(mask), "png"),
        ):
            place = folder / part / wnid / f"ILSVRC2012_val_{k:08d}.{suffix}"
            place.parent.mkdir(parents=True, exist_ok=True)
            one.save(place)


def test_imagenet_s_as_it_is_distributed(classifier, tmp_path):
    wnids = ["n01440764", "n01443537", "n15075141"]
    folder = tmp_path / "ImageNetS50"
    imagenet_s(folder, wnids)
    data = clew.open_dataset(folder)
    assert [data.read(i).label for i in range(3)] == [0, 1, 999] and len(data.classes) == 1000
    names = [f"name {i}" for i in range(1000)]
    assert clew.open_dataset(folder, classes=names).classes[data.read(2).label] == "name 999"
    with pytest.raises(OptionError, match="names of all classes"):
        clew.open_dataset(folder, classes=names[:10])
    mask = data.read(0).mask
    assert (mask[10:40, 20:50] == 1).all() and (mask[40:45] == -1).all() and mask[0, 0] == 0
    options = {"misclassified": True, "fractions": STEPS, "choose": False, "show_progress": False}
    run = clew.evaluate("joint", classifier, folder, methods=["res_lrp", "random"], **options)
    assert run.benchmark.parts == ("patches", "mask") and not run.failed
    assert all(row["value"] is not None for row in run.summary() if "gap" not in row["metric"])
    (folder / "validation" / wnids[0] / "ILSVRC2012_val_00000000.JPEG").unlink()
    with pytest.raises(InputError, match="masks without pictures"):
        clew.open_dataset(folder)


def test_a_model_of_pictures_of_which_nothing_is_declared(tmp_path):
    torch.manual_seed(0)
    small = {"img_size": 64, "window_size": 4, "embed_dim": 12, "depths": (1, 1, 1, 1), "num_heads": (1, 2, 2, 2)}
    model = timm.create_model("swinv2_tiny_window8_256", pretrained=False, **small).eval()
    swin = clew.LoadedModel(model, labels=None, name="swin", preprocess=Preprocess((64, 64), (64, 64), "squash"))
    imagenet_s(tmp_path / "ImageNetS50", ["n01440764", "n15075141"])
    methods = ["res_lrp", "attention_rollout", *CONTROLS]
    options = {"misclassified": True, "fractions": STEPS, "show_progress": False, "methods": methods}
    run = clew.evaluate("joint", swin, tmp_path / "ImageNetS50", **options)
    assert run.benchmark.parts == ("patches", "mask") and not run.failed and len(run.manifest["methods"]) == 5
    assert all(row["value"] is not None and row["cost"] for row in run.summary() if "gap" not in row["metric"])


def test_imagenet_with_a_drawn_subset(classifier, tmp_path):
    imagenet_val(tmp_path / "val", 12)
    drawn = {"sample": 5, "seed": 339306}
    options = {"misclassified": True, "fractions": STEPS, "choose": False, "show_progress": False}
    run = clew.evaluate("joint", classifier, tmp_path / "val", methods=["random"], data_options=drawn, **options)
    assert run.benchmark.parts == ("patches",) and run.manifest["data"]["examples"] == 5 and not run.failed

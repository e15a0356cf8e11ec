"""Benchmarks of images against slow twins: one example at a time, pixel by pixel, from the definitions."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import sklearn.metrics
import torch
import torch.nn.functional as F
from PIL import Image
from support.bench_twins import Given, evaluated, flat

import clew
from clew.errors import InputError, OptionError
from clew.inputs.preprocessing import Preprocess

METHODS = ("attention_rollout", "saliency")  # scores of patches, and pixels


@pytest.fixture(scope="module")
def model():
    return clew.load("mini:digits")


@pytest.fixture(scope="module")
def scenes():
    data = clew.open_dataset("mini:digits")
    return [data.read(i) for i in range(6)]


def heatmap_of(model, x, method, target, row, column="scores"):
    """The map (height, width) of one picture, explained alone; where it ranks, the stored scores do, bit for bit."""
    result = clew.explain(model, x[None], method=method, target=target)
    np.testing.assert_allclose(row[column], result.scores[0].tolist(), rtol=1e-3, atol=1e-6)
    if result.pixels is not None:
        return result.heatmap()[0]
    grid = torch.tensor(row[column]).view(1, 1, *result.patch_grid)
    return F.interpolate(grid, size=x.shape[1:], mode="bilinear", align_corners=False)[0, 0]


def squashed(image, size=64):
    pixels = np.asarray(image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32)
    return torch.from_numpy(pixels / 255).permute(2, 0, 1)


# Segmentation


def threshold_of(flat, kind):
    if not isinstance(kind, str):
        return kind
    mean = math.fsum(flat) / len(flat)
    if kind == "mean":
        return mean
    if kind == "mean_over_variance":
        return mean / (3 * math.sqrt(math.fsum((v - mean) ** 2 for v in flat) / (len(flat) - 1)) + 1e-10)
    counts = [0] * 256
    for v in flat:
        counts[min(int(v * 256), 255)] += 1
    best, found = -1.0, 0.0
    for split in range(1, 256):
        w1, w2 = sum(counts[:split]), sum(counts[split:])
        m1 = sum(c * (i + 0.5) / 256 for i, c in enumerate(counts[:split])) / w1 if w1 else 0.0
        m2 = sum(c * (i + 0.5) / 256 for i, c in enumerate(counts[split:], split)) / w2 if w2 else 0.0
        if w1 * w2 * (m1 - m2) ** 2 > best * (1 + 1e-12):
            best, found = w1 * w2 * (m1 - m2) ** 2, (split - 0.5) / 256
    return found


def literal_segmentation(heat, mask, kinds, rows_of_pixels):
    low, high = float(heat.min()), float(heat.max())
    values = [(float(v) - low) / (high - low) if high > low else math.nan for v in heat.flatten()]
    pairs = [(v, m) for v, m in zip(values, mask.flatten().tolist(), strict=True) if m >= 0]
    truth = [t for _, m in pairs for t in (m == 0, m == 1)]
    ranks = [r for v, _ in pairs for r in ((0.0, 0.0) if math.isnan(v) else (1 - v, v))]
    row = {"average_precision": sklearn.metrics.average_precision_score(truth, np.float32(ranks))}
    best = max(range(len(pairs)), key=lambda k: -1 if math.isnan(pairs[k][0]) else pairs[k][0])
    row["pointing"] = float(pairs[best][1] == 1)
    row["object_pixels"] = float(sum(m == 1 for _, m in pairs))
    for kind in kinds:
        limit = threshold_of(values, kind) if high > low else 0.0
        counted = dict.fromkeys(("tp", "fp", "fn", "tn"), 0)
        for v, m in pairs:
            counted[("tn", "fn", "fp", "tp")[2 * (v > limit) + m]] += 1
        tp, fp, fn, tn = (counted[k] for k in ("tp", "fp", "fn", "tn"))
        row |= {f"pixel_correct@{kind}": tp + tn, f"pixel_labelled@{kind}": len(pairs)}
        row |= {f"intersection_object@{kind}": tp, f"union_object@{kind}": tp + fp + fn}
        row |= {f"intersection_background@{kind}": tn, f"union_background@{kind}": tn + fp + fn}
        f1 = 2 * tp / (2 * tp + fp + fn) if tp else 0.0
        if rows_of_pixels:
            each = []
            for y in range(len(mask)):
                said = [v > limit for v in values[y * mask.shape[1] : (y + 1) * mask.shape[1]]]
                true = [m == 1 for m in mask[y]]
                both = sum(s and t for s, t in zip(said, true, strict=True))
                each.append(2 * both / (sum(said) + sum(true)) if any(true) else 0.0)
            f1 = sum(each) / len(each)
        row[f"f1@{kind}"] = f1
    return row


SEGMENTATION = {
    "all": ("paper", "predicted", ("mean", "otsu", "mean_over_variance", 0.35)),
    "given": ("pa_lrp", "given", "mean"),
    "rows": ("beyond_intuition", "predicted", ("otsu", 0.5)),
}


@pytest.mark.parametrize("case", SEGMENTATION)
def test_segmentation_is_counted_pixel_by_pixel(model, scenes, case):
    variant, explain, threshold = SEGMENTATION[case]
    kinds = (threshold,) if isinstance(threshold, str) else threshold
    examples = [replace(e, label=(e.label + (explain == "given")) % 10) for e in scenes[:3]]
    if variant == "paper":
        mask = examples[1].mask.copy()
        mask[:20] = -1
        examples[1] = replace(examples[1], mask=mask, image=examples[1].image.resize((80, 48)))
        examples[1] = replace(examples[1], mask=np.asarray(Image.fromarray(mask + 1).resize((80, 48), 0), np.int8) - 1)
    methods = [*METHODS, flat]
    rows, numbers = evaluated(
        "segmentation", model, examples, methods, threshold=threshold, explain=explain, variant=variant, batch_size=2
    )
    for method in methods:
        name, found = getattr(method, "__name__", method), []
        for e in examples:
            target = e.label if explain == "given" else None
            row = rows[e.id, name]
            heat = heatmap_of(model, (squashed(e.image) - 0.5) / 0.5, method, target, row)
            mask = np.asarray(Image.fromarray((e.mask + 1).astype(np.uint8)).resize((64, 64), 0)).astype(int) - 1
            found.append(literal_segmentation(heat.double(), mask, kinds, variant == "beyond_intuition"))
            assert {k: row[k] for k in found[-1]} == pytest.approx(found[-1], abs=1e-6)
        total = {k: sum(one[k] for one in found) for k in found[0]}
        assert numbers["map", name] == pytest.approx(total["average_precision"] / 3, abs=1e-6)
        assert numbers["pointing_game", name] == pytest.approx(total["pointing"] / 3)
        for kind in kinds:
            at = "" if len(kinds) == 1 else f" ({kind})"
            ious = [
                total[f"intersection_{part}@{kind}"] / (total[f"union_{part}@{kind}"] or 1)
                for part in ("object", "background")
            ]
            assert numbers[f"miou{at}", name] == pytest.approx(sum(ious) / 2)
            accuracy = total[f"pixel_correct@{kind}"] / total[f"pixel_labelled@{kind}"]
            assert numbers[f"pixel_accuracy{at}", name] == pytest.approx(accuracy)
            assert numbers[f"f1{at}", name] == pytest.approx(total[f"f1@{kind}"] / 3)
            recall = total[f"intersection_object@{kind}"] / total["object_pixels"]
            assert numbers[f"foreground_recall{at}", name] == pytest.approx(recall)


@pytest.mark.parametrize(("resize", "scaled"), [(80, (109, 80)), (48, (65, 48))])
def test_a_mask_is_cut_as_its_picture_is(model, scenes, resize, scaled):
    cropped = replace(model, preprocess=Preprocess((64, 64), (resize, resize), "cover"))
    mask = np.asarray(Image.fromarray(scenes[0].mask).resize((96, 70), 0), np.int8)
    example = replace(scenes[0], image=scenes[0].image.resize((96, 70)), mask=mask)
    rows, _ = evaluated("segmentation", cropped, [example], ["attention_rollout"], resize="model")
    row = rows[example.id, "attention_rollout"]
    x, _ = cropped.preprocess(example.image)
    heat = heatmap_of(cropped, x, "attention_rollout", None, row)
    left, top = round((scaled[0] - 64) / 2), round((scaled[1] - 64) / 2)
    seen = Image.fromarray((mask + 1).astype(np.uint8)).resize(scaled, 0).crop((left, top, left + 64, top + 64))
    seen = np.asarray(seen).astype(int) - 1
    assert (seen == -1).any() == (resize == 48)  # beside the picture nothing is labelled
    found = literal_segmentation(heat.double(), seen, ("mean",), False)
    assert {k: row[k] for k in found} == pytest.approx(found, abs=1e-6)


def test_the_curve_of_precision_and_recall_counts_all_pixels(model, scenes):
    run = clew.evaluate("segmentation", model, Given(scenes[:2]), methods=["saliency"], show_progress=False)
    means = [np.mean(run.table.column(c).to_pylist(), axis=0) for c in ("object_bins", "background_bins")]
    curve = run.curves[0]
    for k in (0, 7, 50):
        true = said = every = 0
        for e in scenes[:2]:
            heat = clew.explain(model, model.preprocess(e.image)[0][None], method="saliency").heatmap()[0].numpy()
            above = (heat - heat.min()) / (heat.max() - heat.min()) >= k / 100
            true, said, every = true + (above & (e.mask == 1)).sum(), said + above.sum(), every + e.mask.sum()
        assert curve.of(*means)[k] == pytest.approx(true / said) and curve.x(*means)[k] == pytest.approx(true / every)


# Perturbation


def fill_of(pixels, eraser):
    """What comes in place of each pixel, (channel, height, width) from 0 to 1."""
    if eraser == "blur":
        kernel = np.array([math.exp(-(i**2) / 800) for i in range(-25, 26)])
        kernel = np.outer(kernel, kernel) / kernel.sum() ** 2
        wide = np.pad(pixels.double().numpy(), ((0, 0), (25, 25), (25, 25)), mode="reflect")
        found = [[[float((wide[c, y : y + 51, x : x + 51] * kernel).sum()) for x in range(64)] for y in range(64)]
                 for c in range(3)]  # fmt: skip
        return torch.tensor(found)
    value = {"black": 0.0, "channel_mean": 0.5}.get(eraser)
    return torch.stack([torch.full((64, 64), float(p.mean()) if value is None else value) for p in pixels])


def literal_perturbation(model, pixels, fill, heat, counts, direction, topk):
    """Logits (step, class)."""
    sign = 1 if direction == "positive" else -1
    values = (-sign * heat).flatten().tolist()
    order = sorted(range(len(values)), key=lambda k: (values[k], k))
    across, side = heat.shape[1], 64 // heat.shape[1]
    copies = []
    for count in counts:
        gone = (sign * heat).flatten().topk(count).indices.tolist() if topk else order[:count]
        one = pixels.clone()
        for k in gone:
            y, x = k // across * side, k % across * side
            one[:, y : y + side, x : x + side] = fill[:, y : y + side, x : x + side]
        copies.append((one - 0.5) / 0.5)
    with torch.no_grad():
        return model.model(torch.stack(copies)).logits.double()


def columns_of(logits, clean, c, label, variant):
    p = [[math.exp(v) / sum(math.exp(w) for w in y) for v in y] for y in logits.tolist()]
    found = {
        "hits": [float(max(range(10), key=y.__getitem__) == c) for y in p],
        "logit": [y[c] for y in logits.tolist()],
        "probability": [y[c] for y in p],
        "log_odds": [math.log(y[c] / sum(v for k, v in enumerate(y) if k != c)) for y in p],
    }
    if variant == "beyond_intuition":
        p0 = [math.exp(v) / sum(math.exp(w) for w in clean.tolist()) for v in clean.tolist()]
        found["hits"] = [float(max(range(10), key=y.__getitem__) == label) for y in p]
        found["log_ratio_to_second"] = [math.log(y[label] / sorted(y)[-2]) for y in p]
        found["change_of_largest_logit"] = [float(y.max() - clean.max()) for y in logits]
        found["change_of_largest_probability"] = [max(y) - max(p0) for y in p]
    return found


def area(x, y, span="measured"):
    points = dict(zip([round(v, 6) for v in x], y, strict=True))
    if span != "measured":
        points = {k: v for k, v in points.items() if (0.1 if span == "pa_lrp" else 0) <= k <= 0.9}
    if span == "beyond_intuition":
        points[1.0] = 0.0
    xs = sorted(points)
    return sum((points[a] + points[b]) / 2 * (b - a) for a, b in pairwise(xs))


SPANS = {"paper": "measured", "beyond_intuition": "beyond_intuition", "pa_lrp": "pa_lrp"}
TENTHS = [i / 10 for i in range(11)]
PERTURBATION = {
    "default": {},
    "classes": {"explain": ("predicted", "given", 3), "eraser": ("black", "mean"), "fractions": (0.0, 0.33, 0.9)},
    "patches": {"units": "patches", "counts": (0, 5, 20, 64), "eraser": ("blur", "channel_mean"), "explain": "given"},
    "least": {"direction": "negative", "counts": (1, 50, 4000), "internal_batch_size": 3},
    "released": {"variant": "beyond_intuition", "explain": ("predicted", "given"), "fractions": (0.0, 0.4, 0.9, 1.0)},
    "inner": {"variant": "pa_lrp", "fractions": TENTHS[1:10], "explain": ("predicted", "given"), "units": "patches"},
}


@pytest.mark.parametrize("case", PERTURBATION)
def test_perturbation_erases_as_written(model, scenes, case):
    options = PERTURBATION[case]
    variant = options.get("variant", "paper")
    many = lambda name, default: v if isinstance(v := options.get(name, default), tuple) else (v,)  # noqa: E731
    directions, explained = many("direction", ("positive", "negative")), many("explain", "predicted")
    examples = [scenes[0], replace(scenes[1], label=(scenes[1].label + 1) % 10)]
    rows, numbers = evaluated("perturbation", model, examples, METHODS, **options)
    counts, x = options.get("counts"), options.get("fractions", TENTHS)
    x = [c / max(counts) for c in counts] if counts else list(x)
    spans = [s for s, ends in {"measured": (), "chefer": (0, 0.9), "beyond_intuition": (0, 0.9), "pa_lrp": (0.1, 0.9)}
             .items() if set(ends) <= {round(v, 6) for v in x}]  # fmt: skip
    for method in METHODS:
        curves = {}
        for e in examples:
            row, pixels = rows[e.id, method], squashed(e.image)
            with torch.no_grad():
                clean = model.model(((pixels - 0.5) / 0.5)[None]).logits[0].double()
            for one in explained:
                c = {"predicted": int(clean.argmax()), "given": e.label}.get(one, one)
                column = "scores" if one == explained[0] else f"scores ({one})"
                heat = heatmap_of(model, (pixels - 0.5) / 0.5, method, c, row, column)
                if options.get("units") == "patches":
                    heat = torch.tensor(row[column]).view(8, 8)
                steps = counts or [math.floor(round(f * heat.numel(), 6)) for f in x]
                for eraser in ("image_mean" if o == "mean" else o for o in many("eraser", "black")):
                    fill = fill_of(pixels, eraser)
                    for direction in directions:
                        logits = literal_perturbation(model, pixels, fill, heat, steps, direction, variant != "paper")
                        for name, values in columns_of(logits, clean, c, e.label, variant).items():
                            key = f"{one}/{eraser}/{direction}/{name}"
                            np.testing.assert_allclose(row[key], values, rtol=2e-4, atol=2e-5, err_msg=key)
                            curves.setdefault(key, []).append(values)
        mean = {key: np.mean(values, axis=0).tolist() for key, values in curves.items()}
        for key, y in mean.items():
            head, _, name = key.rpartition("/")
            if name == "hits":
                for span in spans:
                    metric = f"{head}: hits AUC" + ("" if span == SPANS[variant] else f" ({span})")
                    assert numbers.pop((metric, method)) == pytest.approx(area(x, y, span), abs=1e-6)
                continue
            metric = f"{head}: {name if name.count('_') > 1 else name.replace('_', '-') + ' AUC'}"
            assert numbers.pop((metric, method)) == pytest.approx(area(x, y), rel=2e-4, abs=2e-5)
            if head.endswith("negative") and len(directions) == 2 and name in ("logit", "probability"):
                head = head.removesuffix("/negative")
                gap = [a - b for a, b in zip(y, mean[f"{head}/positive/{name}"], strict=True)]
                lerf_morf = numbers.pop((f"{head}: {name} area LeRF - MoRF", method))
                assert lerf_morf == pytest.approx(area(x, gap), rel=2e-4, abs=2e-5)
                assert numbers.pop((f"{head}: {name} SRG", method)) == pytest.approx(np.mean(gap), rel=2e-4, abs=2e-5)
    assert not numbers  # each number has been checked


def test_the_picture_may_be_prepared_as_the_model_was_trained(model, scenes):
    cropped = replace(model, preprocess=Preprocess((64, 64), (80, 80), "cover"))
    rows, _ = evaluated("perturbation", cropped, scenes[:1], ["saliency"], resize="model", fractions=(0.0, 1.0))
    with torch.no_grad():
        whole = model.model(cropped.preprocess(scenes[0].image)[0][None]).logits[0]
        black = model.model(-torch.ones(1, 3, 64, 64)).logits[0]
    found = rows[scenes[0].id, "saliency"]["predicted/black/positive/logit"]
    assert found == pytest.approx([float(whole.max()), float(black[whole.argmax()])], rel=1e-4, abs=1e-5)


def test_models_of_one_channel_are_measured_too(scenes):
    import timm

    torch.manual_seed(0)
    sizes = {"img_size": 64, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 10}
    module = timm.create_model("vit_tiny_patch16_224", in_chans=1, **sizes).eval()
    grey = clew.LoadedModel(module, Preprocess((64, 64), (64, 64), "squash", (0.4,), (0.3,), channels=1))
    steps = {"fractions": (0.0, 1.0)}
    rows, _ = evaluated("perturbation", grey, scenes[:1], ["saliency"], eraser=("black", "channel_mean"), **steps)
    with torch.no_grad():
        picture = (squashed(scenes[0].image.convert("L"))[:1] - 0.4) / 0.3
        predicted = int(module(picture[None]).argmax())
        black, mean = module(torch.stack([torch.full((1, 64, 64), -0.4 / 0.3), torch.zeros(1, 64, 64)]))[:, predicted]
    found = rows[scenes[0].id, "saliency"]
    assert found["predicted/black/positive/logit"][1] == pytest.approx(float(black), rel=1e-4, abs=1e-5)
    assert found["predicted/channel_mean/positive/logit"][1] == pytest.approx(float(mean), rel=1e-4, abs=1e-5)
    rows, _ = evaluated("segmentation", grey, scenes[:1], ["saliency"])
    heat = clew.explain(module, picture[None], method="saliency").heatmap()[0].double()
    expected = literal_segmentation(heat, scenes[0].mask.astype(int), ("mean",), False)
    assert {k: rows[scenes[0].id, "saliency"][k] for k in expected} == pytest.approx(expected, abs=1e-6)


def test_only_misclassified_examples_are_kept_on_request(model, scenes):
    examples = [scenes[0], replace(scenes[1], label=(scenes[1].label + 1) % 10)]
    rows, _ = evaluated("perturbation", model, examples, ["saliency"], misclassified=True, fractions=(0.0, 1.0))
    assert rows[scenes[0].id, "saliency"]["error"] == "left out: classified right"
    assert rows[scenes[1].id, "saliency"]["error"] is None


# What goes wrong


@pytest.mark.parametrize(
    ("benchmark", "options", "change", "words"),
    [
        ("segmentation", {}, {"mask": None}, "needs a mask"),
        ("segmentation", {"explain": "given"}, {"label": None}, "needs the class of each example"),
        ("segmentation", {}, {"image": None}, "no pictures"),
        ("perturbation", {"explain": "given"}, {"label": "a dog"}, "a label that the model has"),
        ("perturbation", {"misclassified": True}, {"label": None}, "needs the class"),
        ("perturbation", {"explain": 10}, {}, "no such class"),
        ("sanity", {"explain": "given", "stages": ()}, {"label": None}, "needs the class"),
    ],
)
def test_examples_that_fail_are_rows_with_an_error(model, scenes, benchmark, options, change, words):
    alone = options.get("explain") == 10
    examples = [replace(scenes[0], **change), replace(scenes[1], id="torn"), *([] if alone else scenes[2:4])]
    run = clew.evaluate(benchmark, model, Given(examples), methods=["saliency"], show_progress=False, **options)
    errors = dict(zip(run.table.column("example").to_pylist(), run.table.column("error").to_pylist(), strict=True))
    assert words in errors[scenes[0].id] and "torn.png is broken" in errors["torn"]
    if not options.get("misclassified") and not alone:
        assert errors[scenes[2].id] is None and errors[scenes[3].id] is None


@pytest.mark.parametrize(
    ("benchmark", "options"),
    [
        ("segmentation", {"threshold": "ostu"}), ("segmentation", {"explain": "best"}),
        ("segmentation", {"resize": "crop"}), ("segmentation", {"treshold": "otsu"}),
        ("segmentation", {"variant": "released"}), ("perturbation", {"direction": "up"}),
        ("perturbation", {"explain": "best"}), ("perturbation", {"eraser": "white"}),
        ("perturbation", {"units": "rows"}), ("perturbation", {"resize": "crop"}),
        ("perturbation", {"fractions": (0.5, 0.1)}), ("perturbation", {"fractions": (0.0, 1.5)}),
        ("perturbation", {"counts": (5,)}), ("perturbation", {"variant": "pa_lrp", "fractions": (0.0, 1.0)}),
        ("sanity", {"explain": "best"}), ("sanity", {"stages": (1.0, 0.0)}), ("sanity", {"stages": 2.0}),
        ("sanity", {"variant": "pa_lrp"}), ("segmantation", {}),
    ],
)  # fmt: skip
def test_unknown_options_are_refused_before_anything_runs(model, scenes, benchmark, options):
    with pytest.raises(OptionError):
        clew.evaluate(benchmark, model, Given(scenes[:1]), methods=["saliency"], show_progress=False, **options)


@pytest.mark.parametrize("benchmark", ["segmentation", "perturbation", "sanity"])
def test_pictures_need_their_preprocessing(model, scenes, benchmark):
    with pytest.raises(OptionError, match="how are pictures prepared"):
        clew.evaluate(benchmark, replace(model, preprocess=None), Given(scenes[:1]), show_progress=False)


def test_pixels_beyond_their_range_are_told_and_not_cut(model, scenes):
    unscaled = replace(model, preprocess=replace(model.preprocess, rescale=1.0))
    with pytest.raises(InputError, match=r"no example(.|\n)*these are no pixels"):
        evaluated("perturbation", unscaled, scenes[:1], ["saliency"], fractions=(0.0, 1.0))

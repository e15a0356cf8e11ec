"""Metrics against slow twins written from their equations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import sklearn.metrics
import torch
import transformers
from torch import nn

import clew
from clew import metrics
from clew.errors import InputError, OptionError


@pytest.fixture(scope="module")
def maps_and_masks():
    draw = np.random.default_rng(0)
    maps = draw.normal(size=(5, 12, 10))
    maps[3] = 0.25  # constant
    masks = (draw.random((5, 12, 10)) < 0.3).astype(np.int8)
    masks[1, :4] = -1
    masks[2] = 0
    return torch.from_numpy(maps), masks


def literal_threshold(flat, kind):
    mean = sum(flat) / len(flat)
    if kind == "mean":
        return mean
    if kind == "mean_over_variance":
        std = math.sqrt(sum((v - mean) ** 2 for v in flat) / (len(flat) - 1))
        return mean / (3 * std + 1e-10)
    counts = [0] * 256
    for v in flat:
        counts[min(int(v * 256), 255)] += 1
    centres = [(i + 0.5) / 256 for i in range(256)]
    best, found = -1.0, 0.0
    for split in range(1, 256):
        w1, w2 = sum(counts[:split]), sum(counts[split:])
        m1 = sum(c * x for c, x in zip(counts[:split], centres, strict=False)) / w1 if w1 else 0.0
        m2 = sum(c * x for c, x in zip(counts[split:], centres[split:], strict=False)) / w2 if w2 else 0.0
        if w1 * w2 * (m1 - m2) ** 2 > best * (1 + 1e-12):
            best, found = w1 * w2 * (m1 - m2) ** 2, centres[split - 1]
    return found


@pytest.mark.parametrize("kind", ["mean", "otsu", "mean_over_variance"])
def test_segmentation_is_counted_pixel_by_pixel(maps_and_masks, kind):
    maps, masks = maps_and_masks
    found = metrics.segmentation(maps, masks, threshold=kind)
    correct = labelled = 0
    inter, union, marked = [0, 0], [0, 0], [0, 0]
    precisions, f1s = [], []
    for heat, mask in zip(maps.numpy(), masks, strict=True):
        low, high = heat.min(), heat.max()
        flat = [(v - low) / (high - low) if high > low else float("nan") for v in heat.ravel()]
        limit = literal_threshold(flat, kind) if high > low else 0.0
        truth, ranks = [], []
        tp = fp = fn = 0
        for value, label in zip(flat, mask.ravel(), strict=True):
            if label < 0:
                continue
            said = value > limit
            correct, labelled = correct + (said == bool(label)), labelled + 1
            for c in (0, 1):
                inter[c] += said == c and label == c
                union[c] += said == c or label == c
                marked[c] += label == c
            tp, fp, fn = tp + (said and label == 1), fp + (said and label == 0), fn + (not said and label == 1)
            truth += [label == 0, label == 1]
            ranks += [0.0, 0.0] if math.isnan(value) else [1 - value, value]
        precisions.append(sklearn.metrics.average_precision_score(truth, ranks))
        f1s.append(2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0.0)
    total = found.aggregate()
    assert total["pixel_accuracy"] == pytest.approx(correct / labelled)
    assert total["iou_background"] == pytest.approx(inter[0] / union[0])
    assert total["iou_object"] == pytest.approx(inter[1] / union[1])
    assert total["miou"] == pytest.approx((inter[0] / union[0] + inter[1] / union[1]) / 2)
    assert total["foreground_recall"] == pytest.approx(inter[1] / marked[1])
    assert total["background_recall"] == pytest.approx(inter[0] / marked[0])
    assert total["map"] == pytest.approx(np.mean(precisions))
    assert found.f1 == pytest.approx(f1s)
    assert found.average_precision[3] == pytest.approx(0.5)


def test_the_highest_labelled_pixel_plays_the_pointing_game(maps_and_masks):
    maps, masks = maps_and_masks
    found = metrics.segmentation(maps, masks).pointing
    for i in (0, 1, 2, 4):
        known = np.where(masks[i] < 0, -np.inf, maps[i].numpy())
        assert found[i] == float(masks[i].ravel()[known.argmax()] == 1)


def test_precision_and_recall_at_each_threshold(maps_and_masks):
    maps, masks = maps_and_masks
    scores = metrics.segmentation(maps[:1], masks[:1])
    precision, recall = metrics.precision_recall(scores.object_bins[0], scores.background_bins[0])
    heat = maps[0].numpy()
    stretched = (heat - heat.min()) / (heat.max() - heat.min())
    for k in (0, 13, 50, 99):
        said = stretched >= k / 100
        hit = (said & (masks[0] == 1)).sum()
        assert precision[k] == pytest.approx(hit / said.sum())
        assert recall[k] == pytest.approx(hit / (masks[0] == 1).sum())


def test_a_perfect_map_scores_one_where_the_rows_score_less():
    mask = np.zeros((1, 8, 8), np.int8)
    mask[0, 2:5, 1:6] = 1
    assert metrics.segmentation(torch.from_numpy(mask).float(), mask).aggregate()["f1"] == 1
    rows = metrics.f1_per_row(torch.from_numpy(mask).float(), mask)
    with pytest.raises(InputError, match="differ in shape"):
        metrics.f1_per_row(torch.from_numpy(mask).float(), mask[:, :1])  # one row for all
    assert rows[0].tolist() == [0, 0, 1, 1, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("maps", "masks", "options", "words"),
    [
        (torch.zeros(1, 4, 4), np.zeros((1, 4, 5)), {}, "differ in shape"),
        (torch.zeros(1, 4, 4), np.full((1, 4, 4), 7), {}, "other values"),
        (torch.rand(1, 4, 4), np.zeros((1, 4, 4)), {"threshold": "ostu"}, "otsu"),
    ],
)
def test_what_cannot_be_compared_is_refused(maps, masks, options, words):
    with pytest.raises((InputError, OptionError), match=words):
        metrics.segmentation(maps, masks, **options)


# Perturbation


class Looks(nn.Module):
    """Three logits that depend on every pixel."""

    def __init__(self, pixels):
        super().__init__()
        torch.manual_seed(1)
        self.w = nn.Parameter(torch.randn(3, pixels, dtype=torch.float64))

    def forward(self, x):
        return x.flatten(1) @ self.w.T


@pytest.mark.parametrize("direction", ["positive", "negative"])
@pytest.mark.parametrize("eraser", ["black", "blur", "image_mean", "channel_mean"])
@pytest.mark.parametrize("patches", [False, True])
def test_each_copy_of_an_image_is_erased_as_written(direction, eraser, patches):
    torch.manual_seed(0)
    images = torch.rand(2, 3, 30, 30, dtype=torch.float64)
    heat = torch.randn(2, *((5, 5) if patches else (30, 30)), dtype=torch.float64)
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)
    model, fractions = Looks(2700), (0.0, 0.3, 0.55, 1.0)
    options = {"direction": direction, "eraser": eraser, "mean": mean, "std": std}
    found = metrics.perturbation(model, images, heat, fractions=fractions, internal_batch_size=3, **options)
    kernel = torch.tensor([math.exp(-(i**2) / 800) for i in range(-25, 26)], dtype=torch.float64)
    kernel /= kernel.sum()
    for i in range(2):
        side = 6 if patches else 1
        order = sorted(
            ((float(v) * (1 if direction == "positive" else -1), -k) for k, v in enumerate(heat[i].flatten())),
            reverse=True,
        )
        padded = nn.functional.pad(images[i][None], (25, 25, 25, 25), mode="reflect")[0]
        for s, fraction in enumerate(fractions):
            gone = [-k for _, k in order[: math.floor(fraction * len(order) + 1e-9)]]
            copy = images[i].clone()
            across = heat.shape[2]
            for k in gone:
                y, x = k // across * side, k % across * side
                for yy in range(y, y + side):
                    for xx in range(x, x + side):
                        for c in range(3):
                            if eraser == "blur":
                                window = padded[c, yy : yy + 51, xx : xx + 51]
                                value = float(kernel @ window @ kernel)
                            else:
                                whole = float(images[i, c].mean())
                                value = {"black": 0.0, "image_mean": whole, "channel_mean": mean[c]}[eraser]
                            copy[c, yy, xx] = value
            normal = torch.stack([(copy[c] - mean[c]) / std[c] for c in range(3)])
            torch.testing.assert_close(found.logits[s, i], model(normal[None])[0].detach(), rtol=1e-9, atol=1e-9)


def test_equal_values_are_erased_in_reading_order():
    gone = metrics.removed(torch.zeros(1, 2, 3), (0.0, 0.5, 1.0))
    assert gone[0, 1].tolist() == [[True, True, True], [False, False, False]]
    assert not gone[0, 0].any() and gone[0, 2].all()
    assert metrics.removed(torch.zeros(1, 1, 10), (0.3,)).sum() == 3  # 0.3 · 10 is less than 3 in binary


@pytest.mark.parametrize(
    "options",
    [{"direction": "up"}, {"eraser": "white"}, {"fractions": (1.5,)}, {"mean": None}, {"ties": "any"}],
)
def test_unknown_options_of_perturbation_are_refused(options):
    known = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    with pytest.raises(OptionError):
        metrics.perturbation(Looks(48), torch.rand(1, 3, 4, 4).double(), torch.rand(1, 4, 4), **{**known, **options})


def test_pixels_that_are_normalised_already_are_refused():
    with pytest.raises(InputError, match="no pixels"):
        metrics.perturbation(
            Looks(48), -torch.ones(1, 3, 4, 4).double(), torch.rand(1, 4, 4), mean=(0.0,) * 3, std=(1.0,) * 3
        )


# Curves


def test_every_number_of_a_curve_from_its_definition():
    torch.manual_seed(0)
    logits, clean = torch.randn(4, 3, 5, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)
    curves, classes = metrics.Curves((0.1, 0.4, 0.7, 1.0), logits, clean), torch.tensor([4, 0, 2])
    for s in range(4):
        for i in range(3):
            y, c, y0 = logits[s, i].tolist(), int(classes[i]), clean[i].tolist()
            e = [math.exp(v) for v in y]
            p = [v / sum(e) for v in e]
            best0 = max(range(5), key=lambda k, y0=y0: y0[k])
            assert curves.hits(classes)[s, i] == float(max(range(5), key=lambda k, y=y: y[k]) == c)
            assert curves.hits()[s, i] == float(max(range(5), key=lambda k, y=y: y[k]) == best0)
            assert float(curves.logit(classes)[s, i]) == y[c] and float(curves.logit()[s, i]) == y[best0]
            assert float(curves.probability(classes)[s, i]) == pytest.approx(p[c])
            some = [c, (c + 1) % 5]
            among = curves.probability(classes, among=[0, 1, 2, 4])[s, i]
            if c in (0, 1, 2, 4) and some:
                assert float(among) == pytest.approx(e[c] / (e[0] + e[1] + e[2] + e[4]))
            assert float(curves.log_odds(classes)[s, i]) == pytest.approx(math.log(p[c] / (1 - p[c])))
            assert float(curves.squared_error()[s, i]) == pytest.approx(sum((a - b) ** 2 for a, b in zip(y, y0)))  # noqa: B905
            one = curves.squared_error(classes, all_classes=False)[s, i]
            assert float(one) == pytest.approx((y[c] - y0[c]) ** 2)
            second = sorted(p)[-2]
            assert float(curves.log_ratio_to_second(classes)[s, i]) == pytest.approx(math.log(p[c] / second))
            assert float(curves.change_of_largest_logit()[s, i]) == pytest.approx(max(y) - max(y0))


def test_published_areas_of_one_curve():
    x = tuple(i / 10 for i in range(11))
    y = [0.8, 0.7, 0.62, 0.5, 0.45, 0.4, 0.3, 0.2, 0.15, 0.12, 0.1]

    def steps(values, points):
        return sum((values[k] + values[k + 1]) / 2 * 0.1 for k in range(points))

    assert metrics.auc(y, x) == pytest.approx(steps(y, 10))
    assert metrics.auc(y, x, span="chefer") == pytest.approx(steps(y[:10], 9))
    assert metrics.auc(y, x, span="beyond_intuition") == pytest.approx(steps([*y[:10], 0.0], 10))
    assert metrics.auc(y, x, span="pa_lrp") == pytest.approx(steps(y[1:10], 8))
    assert metrics.auc([1.0] * 11, x, span="pa_lrp") == pytest.approx(0.8)  # a perfect score under that range
    many = np.random.default_rng(0).random((4, 2, 11))
    assert metrics.auc(many, x)[3, 1] == pytest.approx(sklearn.metrics.auc(x, many[3, 1]))
    with pytest.raises(OptionError, match="no points"):
        metrics.auc(y[:5], x[:5], span="pa_lrp")
    assert metrics.area_between(np.ones(11), np.array(y), x) == pytest.approx(1 - steps(y, 10))
    assert metrics.srg(np.ones(11), np.array(y)) == pytest.approx(np.mean([1 - v for v in y]))


def test_curves_that_do_not_belong_together_are_refused():
    for wrong in (
        lambda: metrics.auc([0.5, 0.4, 0.3], (0.0, 1.0)),
        lambda: metrics.srg([0.5, 0.4, 0.3], [0.5, 0.4]),
        lambda: metrics.srg([0.5, 0.4, 0.3], [0.5]),  # a number is no curve
        lambda: metrics.srg([[0.5, 0.4]] * 2, [[0.5, 0.4]] * 3),
        lambda: metrics.srg([], []),
        lambda: metrics.area_between([0.5, 0.4, 0.3], [0.5], (0.0, 0.5, 1.0)),
    ):
        with pytest.raises(InputError, match="curve"):
            wrong()


# Flipping


@pytest.fixture(scope="module")
def bert():
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        num_labels=3, initializer_range=0.5, attn_implementation="eager",
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config).eval().double()


@pytest.fixture(scope="module")
def llama():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        initializer_range=0.5, pad_token_id=0,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config).eval().double()


IDS = torch.tensor([5, 7, 31, 12, 8, 22, 9, 3])


@pytest.mark.parametrize("mode", ["prune", "generate"])
@pytest.mark.parametrize("first", ["most", "least"])
@pytest.mark.parametrize("ranking", ["value", "magnitude"])
@pytest.mark.parametrize("eraser", [1, "mask", "zero"])
def test_each_copy_of_a_text_is_flipped_as_written(bert, mode, first, ranking, eraser):
    torch.manual_seed(2)
    scores = torch.randn(2, 8)
    keep = torch.tensor([True, False, False, False, True, False, False, True])
    options = {"mode": mode, "first": first, "ranking": ranking, "eraser": eraser, "keep": keep}
    found = metrics.flipping(bert, IDS, scores, fractions=(0.0, 0.3, 0.7, 1.0), internal_batch_size=3, **options)
    free = [1, 2, 3, 5, 6]
    for i in range(2):
        size = [abs(float(v)) if ranking == "magnitude" else float(v) for v in scores[i]]
        order = sorted(free, key=lambda k, size=size: -size[k] if first == "most" else size[k])
        for s, fraction in enumerate((0.0, 0.3, 0.7, 1.0)):
            some = order[: math.ceil(fraction * 5)]
            gone = some if mode == "prune" else [k for k in free if k not in some]
            embeddings, attention = bert.bert.embeddings.word_embeddings(IDS[None]).detach(), torch.ones(1, 8)
            for k in gone:
                if eraser == 1:
                    embeddings[0, k] = bert.bert.embeddings.word_embeddings.weight[1].detach()
                elif eraser == "zero":
                    embeddings[0, k] = 0
                else:
                    attention[0, k] = 0
            expected = bert(inputs_embeds=embeddings, attention_mask=attention).logits[0].detach()
            torch.testing.assert_close(found.logits[s, i], expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.clean[0], bert(input_ids=IDS[None]).logits[0].detach())
    assert not bert.bert.embeddings.word_embeddings._forward_hooks


def test_a_decoder_keeps_its_causal_mask_and_is_read_at_the_last_token(llama):
    scores, keep = torch.arange(8.0)[None], torch.zeros(8, dtype=torch.bool)
    found = metrics.flipping(llama, IDS, scores, first="least", eraser=1, fractions=(0.0, 0.5), keep=keep)
    flipped = torch.tensor([[1, 1, 1, 1, 8, 22, 9, 3]])
    torch.testing.assert_close(found.logits[1, 0], llama(input_ids=flipped).logits[0, -1].detach())
    # The token that is read sees what comes before it and nothing else: flipping padding behind it changes nothing.
    longer, mask = torch.cat([IDS, torch.tensor([0, 0])]), torch.tensor([1] * 8 + [0] * 2)
    padded = metrics.flipping(
        llama, longer, torch.arange(10.0)[None], first="most", eraser=1, fractions=(0.0, 0.2), attention_mask=mask,
        keep=torch.zeros(10, dtype=torch.bool),
    )  # fmt: skip
    torch.testing.assert_close(padded.logits[1], padded.logits[0])
    torch.testing.assert_close(padded.logits[0, 0], found.clean[0])


def test_padding_is_not_flipped_and_does_not_count(bert):
    mask = torch.tensor([1] * 6 + [0] * 2)
    gone = metrics.flipped_tokens(torch.arange(8.0)[None], mask == 0, (0.5,), first="most")
    assert gone[0, 0].tolist() == [False, False, False, True, True, True, False, False]
    short = metrics.flipping(bert, IDS[:6], torch.arange(6.0)[None], first="most", fractions=(0.5,))
    padded = metrics.flipping(bert, IDS, torch.arange(8.0)[None], first="most", fractions=(0.5,), attention_mask=mask)
    torch.testing.assert_close(padded.logits, short.logits)


@pytest.mark.parametrize(
    "options",
    [{"mode": "cut"}, {"first": "last"}, {"ranking": "rank"}, {"eraser": "black"}, {"rounding": "up"},
     {"keep": torch.ones(8, dtype=torch.bool)}],
)  # fmt: skip
def test_unknown_options_of_flipping_are_refused(bert, options):
    with pytest.raises((InputError, OptionError)):
        metrics.flipping(bert, IDS, torch.zeros(1, 8), **options)
    if "eraser" not in options:
        with pytest.raises((InputError, OptionError)):
            metrics.flipped_tokens(torch.zeros(1, 8), **{"keep": torch.zeros(8).bool(), "fractions": (0.5,), **options})


def test_scores_of_another_text_are_refused(bert, untyped):
    with pytest.raises(InputError, match="not of this text"):
        clew.metrics.flipping(bert, IDS, torch.zeros(1, 7))

"""Methods averaged over changed copies of an image, against copies made and mapped back by hand."""

from __future__ import annotations

import math

import pytest
import torch
from support import newer_twins, tiny, tiny_text

import clew
from clew.errors import OptionError
from clew.explainers.augmentations import drawn, warped, without_outliers

TARGETS = [1, 4, 0]
FEW = {"n_samples": 4}


@pytest.fixture(params=["timm_token", "timm_not_square", "hf_dinov2"])
def setting(request):
    return tiny.build(request.param), tiny.images(tiny.TINY[request.param].size)


def bilinear(image, matrix):
    """One channel (height, width), each pixel read where the matrix says, from -1 to 1 over the picture."""
    height, width = image.shape
    found = torch.zeros_like(image)
    for i in range(height):
        for j in range(width):
            across, down = (2 * j + 1) / width - 1, (2 * i + 1) / height - 1
            u, v = (float(matrix[k, 0] * across + matrix[k, 1] * down + matrix[k, 2]) for k in (0, 1))
            x, y = ((u + 1) * width - 1) / 2, ((v + 1) * height - 1) / 2
            for a in (math.floor(y), math.floor(y) + 1):
                for b in (math.floor(x), math.floor(x) + 1):
                    if 0 <= a < height and 0 <= b < width:
                        found[i, j] = found[i, j] + (1 - abs(y - a)) * (1 - abs(x - b)) * image[a, b]
    return found


def test_a_copy_is_read_bilinearly():
    matrices = drawn(["flip", "affine"], 3, (6, 9), (3.0, 3.0), 5)
    x = torch.randn(3, 2, 6, 9, dtype=torch.float64)
    for found, image, matrix in zip(warped(x, matrices), x, matrices, strict=True):
        for channel, own in zip(found, image, strict=True):
            torch.testing.assert_close(channel, bilinear(own, matrix), rtol=0, atol=1e-12)


def test_turning_keeps_angles_and_stays_within_its_bounds():
    height, width = 20, 50
    scale = torch.diag(torch.tensor([width / 2, height / 2], dtype=torch.float64))
    angles, zooms, moves, flips = list[float](), list[float](), list[float](), 0
    for matrix in drawn(["flip", "affine"], 400, (height, width), (5.0, 5.0), 0):
        A = scale @ matrix[:, :2] @ scale.inverse()  # of pixels
        size = float((A.T @ A)[0, 0]) ** 0.5
        torch.testing.assert_close(A.T @ A, size**2 * torch.eye(2, dtype=A.dtype))
        flips += float(torch.det(A)) < 0
        zooms.append(1 / size)
        angles.append(abs(math.degrees(math.asin(float(A[0, 1]) / size))))
        moves.append(float(matrix[:, 2].abs().max()) / 2)
    assert 0.9 <= min(zooms) < 0.91 and 1.09 < max(zooms) <= 1.1
    assert 19 < max(angles) <= 20 and 0.09 < max(moves) <= 0.1 and 150 < flips < 250


def shifted(x, down, across):
    """What was at (i + down, j + across) is at (i, j), with zeros outside."""
    found = torch.zeros_like(x)
    height, width = x.shape[-2:]
    found[..., : height - down, : width - across] = x[..., down:, across:]
    return found


def shifted_back(x, down, across):
    return shifted(x.flip(-1, -2), down, across).flip(-1, -2)


def mean_of_shifts(model, x, base, steps):
    total = 0
    for down in steps:
        for across in steps:
            one = clew.explain(model, shifted(x, down, across), target=TARGETS, **base)
            pixels = one.pixels
            if pixels is None:
                grown = one.scores.view(len(x), *one.patch_grid) / (one.patch_size[0] * one.patch_size[1])
                pixels = grown.repeat_interleave(one.patch_size[0], 1).repeat_interleave(one.patch_size[1], 2)
            total = total + shifted_back(pixels, down, across)
    return total / len(steps) ** 2


@pytest.mark.parametrize(
    ("base", "own"),
    [
        ("res_lrp(level='pixel')", {"method": "res_lrp", "level": "pixel"}),
        ("lrp(rules='pa_lrp_gamma', level='pixel', clamp=False)",
         {"method": "lrp", "rules": "pa_lrp_gamma", "level": "pixel", "clamp": False}),
        ("input_x_gradient", {"method": "input_x_gradient"}),
        ("integrated_gradients(n_steps=3)", {"method": "integrated_gradients", "n_steps": 3}),
        ("attention_rollout", {"method": "attention_rollout"}),
        ("le_grad", {"method": "le_grad"}),
    ],
)  # fmt: skip
def test_shifts_of_any_method(setting, base, own):
    """Half a patch is four pixels: copies, and the way back, are slices. The first is ResLRP+."""
    model, x = setting
    found = clew.explain(model, x, method="augmented", base=base, target=TARGETS)
    expected = mean_of_shifts(model, x, own, (0, 4))
    torch.testing.assert_close(found.pixels, expected, rtol=0, atol=1e-10 * float(expected.abs().max()))
    assert found.options["n_samples"] == 4


def test_nine_shifts_and_the_default():
    model, x = tiny.build("timm_token"), tiny.images((32, 32))
    default = clew.explain(model, x, method="augmented", target=TARGETS)
    named = clew.explain(model, x, method="augmented", base="res_lrp(level='pixel')", n_samples=4, target=TARGETS)
    assert torch.equal(default.pixels, named.pixels)
    twelve = torch.nn.functional.interpolate(x, size=(48, 48))  # patches of 8 in thirds are none of whole pixels
    nine = clew.explain(tiny.build("timm_dynamic_size"), twelve, method="augmented", n_samples=9)
    assert nine.pixels.isfinite().all()


def test_smoothgrad_is_one_of_them(setting):
    model, x = setting
    smooth = clew.explain(model, x, method="smoothgrad", absolute=False, n_samples=5, seed=3, target=TARGETS)
    options = {"base": "saliency(absolute=False)", "augmentations": "noise", "n_samples": 5, "seed": 3}
    found = clew.explain(model, x, method="augmented", target=TARGETS, **options)
    torch.testing.assert_close(found.pixels, smooth.pixels, rtol=1e-10, atol=1e-12)


def dave_twin(model, image, target, matrices, noise, alpha):
    """Before the filters, (channel, height, width)."""
    steps, found = len(matrices), list[torch.Tensor]()
    for k in range(steps):
        t = alpha * k / max(1, steps - 1)
        x = image.clone().requires_grad_()
        moved = torch.stack([bilinear(channel, matrices[k]) for channel in x])
        s = newer_twins.libra_score(model, (1 - t) * moved + (1 - (1 - t) ** 2) ** 0.5 * noise[k], target)
        found.append((image * torch.autograd.grad(s, x)[0]).detach())
    kept = torch.zeros_like(image)
    for place in torch.cartesian_prod(*map(torch.arange, image.shape)).tolist():
        values = [float(c[tuple(place)]) for c in found]
        middle = sorted(values)[(steps - 1) // 2]
        spread = sorted(abs(v - middle) for v in values)[(steps - 1) // 2]
        near = [v for v in values if abs(v - middle) <= 2.5 * (1.4826 * spread + 1e-8)]
        kept[tuple(place)] = sum(near) / len(near)
    return kept


def filtered(total):
    """DAVE's filters of a map, written out."""
    height, width = total.shape
    cut = total.clamp(min=0)

    def at(maps, i, j):
        return float(maps[i, j]) if 0 <= i < height and 0 <= j < width else 0.0

    line = [math.exp(-((k / 7) ** 2) / 2) for k in range(-5, 6)]
    blurred, found = torch.zeros_like(cut), torch.zeros_like(cut)
    for i in range(height):
        for j in range(width):
            mean = sum(line[a + 5] * line[b + 5] * at(cut, i + a, j + b) for a in range(-5, 6) for b in range(-5, 6))
            blurred[i, j] = (cut[i, j] + mean / sum(line) ** 2) / 2
    for i in range(height):
        for j in range(width):
            top = bottom = 0.0
            for a in range(-2, 3):
                for b in range(-2, 3):
                    other = at(blurred, i + a, j + b)
                    away = (other - float(blurred[i, j])) / 0.05
                    weight = math.exp(-(a * a + b * b) / 0.5 - away**2 / 2)
                    top, bottom = top + weight * other, bottom + weight
            found[i, j] = top / bottom
    return found


def test_dave():
    model, x = tiny.build("timm_not_square"), tiny.images((24, 40), 1)
    matrices = drawn(["flip", "affine"], 4, (24, 40), (8.0, 8.0), 1)
    noise = torch.randn(4, 3, 24, 40, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
    options = {"alpha": 0.6, "matrices": matrices, "noise": noise, "target": 1}
    found = clew.explain(model, x, method="dave", details=True, **options)
    expected = dave_twin(model, x[0], 1, matrices, noise, 0.6)
    size = float(expected.abs().max())
    torch.testing.assert_close(found.details["relevance"][0], expected, rtol=0, atol=1e-10 * size)
    torch.testing.assert_close(found.pixels[0], filtered(expected.sum(0)), rtol=1e-8, atol=1e-10 * size)
    plain = clew.explain(model, x, method="dave", filters=False, **options)
    torch.testing.assert_close(plain.pixels[0], expected.sum(0), rtol=0, atol=1e-9 * size)


def test_what_is_far_from_the_median_is_left_out():
    values = torch.tensor([1.0, 1.1, 0.9, 1.05, 50.0])[:, None, None].expand(-1, 2, 3)
    torch.testing.assert_close(without_outliers(values), torch.full((2, 3), (1.0 + 1.1 + 0.9 + 1.05) / 4))
    assert torch.equal(without_outliers(torch.full((4, 2), 3.0)), torch.full((2,), 3.0))
    model, x = tiny.build("timm_token"), tiny.images((32, 32))
    options = {"method": "augmented", "base": "saliency", "augmentations": ["affine", "noise"], "n_samples": 8}
    kept, all_of_them = (clew.explain(model, x, outliers=o, **options).pixels for o in (False, True))
    assert not torch.allclose(kept, all_of_them)


COPIES = [
    {"method": "dave", **FEW},
    {"method": "augmented"},
    {"method": "augmented", "base": "raw_attention", "augmentations": ["flip", "affine", "noise"], "outliers": False},
]


@pytest.mark.parametrize("options", COPIES)
def test_a_seed_gives_the_same_whatever_is_in_the_batch(setting, options):
    model, x = setting
    together = clew.explain(model, x, target=TARGETS, **options).pixels
    for size in (1, 5):
        other = clew.explain(model, x, target=TARGETS, internal_batch_size=size, **options).pixels
        torch.testing.assert_close(other, together, rtol=1e-9, atol=1e-12 * float(together.abs().max()))
    alone = clew.explain(model, x[1:2], target=TARGETS[1], **options).pixels
    torch.testing.assert_close(alone[0], together[1], rtol=1e-9, atol=1e-12 * float(together.abs().max()))
    assert torch.equal(clew.explain(model, x, target=TARGETS, **options).pixels, together)
    if options.get("augmentations") or options["method"] == "dave":
        assert not torch.allclose(clew.explain(model, x, target=TARGETS, seed=1, **options).pixels, together)


@pytest.mark.parametrize("options", COPIES)
def test_several_targets_of_each_image(options):
    model, x = tiny.build("timm_registers"), tiny.images((32, 32))
    each = clew.explain(model, x, target=clew.Each(1, 3), **options).pixels
    for i, target in enumerate((1, 3)):
        own = clew.explain(model, x, target=target, **options).pixels
        torch.testing.assert_close(each[i::2], own, rtol=1e-9, atol=1e-12 * float(own.abs().max()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_in_single_and_half_precision(dtype):
    model, x = tiny.build("timm_token"), tiny.images((32, 32))
    for options in COPIES:
        exact = clew.explain(model.double(), x, target=1, **options).pixels
        found = clew.explain(model.to(dtype), x, target=1, **options)
        assert found.pixels.dtype == torch.float32
        together = torch.stack([exact.flatten().float(), found.pixels.flatten()])
        assert torch.corrcoef(together)[0, 1] > (0.9999 if dtype == torch.float32 else 0.97)


def test_nothing_is_left_behind():
    model, x = tiny.build("timm_token"), tiny.images((32, 32))
    before = x.clone()
    for options in COPIES:
        clew.explain(model, x, **options)
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
    assert all(p.requires_grad and p.grad is None for p in model.parameters()) and torch.equal(x, before)


def test_progress_is_told(capsys):
    model, x = tiny.build("timm_token"), tiny.images((32, 32))
    told = list[tuple[int, int]]()

    def base(subject):
        assert subject.progress is None
        return clew.methods()["raw_attention"](subject).scores

    def outer(subject):
        subject.progress = lambda done, whole: told.append((done, whole))
        return clew.methods()["augmented"](subject, base=base, internal_batch_size=4)

    clew.explain(model, x, method=outer)
    assert told == [(4, 12), (8, 12), (12, 12)]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"method": "augmented", "base": "nothing"}, "no method"),
        ({"method": "augmented", "base": "dave"}, "copies of copies"),
        ({"method": "augmented", "base": lambda s: clew.methods()["augmented"](s)}, "copies of copies"),
        ({"method": "augmented", "base": "saliency(start_layer=1)"}, "no option"),
        ({"method": "augmented", "augmentations": "zoom"}, "no such augmentation"),
        ({"method": "augmented", "augmentations": ()}, "no such augmentation"),
        ({"method": "augmented", "n_samples": 3}, "square number"),
        ({"method": "augmented", "n_samples": 0}, "out of range"),
        ({"method": "augmented", "augmentations": "noise", "stdevs": -1.0}, "out of range"),
        ({"method": "augmented", "seed": -1}, "out of range"),
        ({"method": "augmented", "matrices": torch.eye(3)}, "matrices do not fit"),
        ({"method": "dave", "matrices": torch.eye(2, 3)[None], "n_samples": 2}, "matrices do not fit"),
        ({"method": "dave", "matrices": torch.full((1, 2, 3), math.nan)}, "matrices do not fit"),
        ({"method": "dave", "noise": torch.zeros(2, 3, 8, 8), "n_samples": 2}, "noise does not fit"),
        ({"method": "dave", "alpha": 2.0}, "out of range"),
    ],
)
def test_bad_options(options, says):
    with pytest.raises(OptionError, match=says):
        clew.explain(tiny.build("timm_token"), tiny.images((32, 32)), **options)


@pytest.mark.parametrize("method", ["augmented", "dave", "tis"])
def test_texts_are_refused(method):
    with pytest.raises(OptionError, match=f"{method} explains images"):
        clew.explain(tiny_text.build_text("bert"), torch.arange(5, 14)[None], method=method)

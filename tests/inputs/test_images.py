"""Pictures as people have them in hand: arrays, lists, grey stacks, batches of a DataLoader, raw pictures of 8 bits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from support import tiny
from torch.utils.data import DataLoader, TensorDataset

import clew
from clew.errors import InputError
from clew.inputs import images, picture_of, pictures_of


@pytest.fixture
def model():
    return tiny.build("timm_token")


@pytest.fixture
def grey():
    import timm

    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}
    return timm.create_model("vit_tiny_patch16_224", in_chans=1, **sizes).eval()


@pytest.fixture
def x():
    return tiny.images((32, 32))


@pytest.fixture(autouse=True)
def said_once():
    for say in (images._say_one_picture, images._say_order):
        say.cache_clear()


def loaded(module, **more):
    return clew.LoadedModel(module, clew.Preprocess((32, 32), (32, 32), "squash", **more))


def logits_of(module, inputs):
    return clew.explain(module, inputs, method="raw_attention").logits


def test_arrays_and_lists_are_what_tensors_are(model, x):
    with torch.no_grad():
        expected = model(x)
    forms = {
        "array": x.numpy(),
        "list of tensors": list(x),
        "list of arrays": [one.numpy() for one in x],
        "tuple of batches": (x[:1], x[1:]),
        "not contiguous": np.asfortranarray(x.numpy()),
        "doubles": x.numpy().astype(np.float64),
        "mapping": {"x": x.numpy()},
    }
    for name, given in forms.items():
        torch.testing.assert_close(logits_of(model, given), expected, msg=name)


def test_one_picture_without_a_batch_is_said_to_be_one(model, x, caplog):
    with torch.no_grad():
        torch.testing.assert_close(logits_of(model, x[0].numpy()), model(x[:1]))
    assert "(3, 32, 32) is taken as one picture of 3 channels" in caplog.text


def test_grey_stacks_of_a_model_of_one_channel(grey):
    stack = torch.randn(4, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = grey(stack[:, None])
    for given in (stack, stack.numpy(), stack[:, None], list(stack), list(stack[:, None])):
        torch.testing.assert_close(logits_of(grey, given), expected)
    torch.testing.assert_close(logits_of(grey, stack[0]), expected[:1])
    torch.testing.assert_close(logits_of(grey, stack[:1]), expected[:1])
    three = logits_of(grey, stack[:3])  # as many as colours
    torch.testing.assert_close(three, expected[:3])


def test_raw_pictures_of_eight_bits(model, grey, caplog):
    colours = np.random.default_rng(0).integers(0, 256, (2, 40, 50, 3), dtype=np.uint8)
    ours = loaded(model)
    images = [Image.fromarray(one) for one in colours]
    with torch.no_grad():
        expected = model(torch.stack([ours.preprocess(one)[0] for one in images]).double())
    forms = {
        "stack": colours,
        "list": list(colours),
        "beside a PIL image": [colours[0], images[1]],
        "tensor, channels last": torch.from_numpy(colours),
        "tensor, channels first": torch.from_numpy(colours).permute(0, 3, 1, 2),
        "list of tensors": list(torch.from_numpy(colours).permute(0, 3, 1, 2)),
    }
    for name, given in forms.items():
        torch.testing.assert_close(logits_of(ours, given), expected, msg=name)
    torch.testing.assert_close(logits_of(ours, colours[0]), expected[:1])
    assert caplog.text.count("cv2.imread gives BGR") == 1
    stack = np.stack([np.asarray(one.convert("L")) for one in images])
    plain = loaded(grey)
    with torch.no_grad():
        scaled = [plain.preprocess.with_channels(1)(one)[0] for one in images]
        expected = grey(torch.stack(scaled))
    for given in (images, stack, list(stack), stack.astype(np.uint16) * 257, torch.from_numpy(stack)):
        torch.testing.assert_close(logits_of(plain, given), expected)


def test_labels_of_a_data_loader_are_named(model, x):
    batch = next(iter(DataLoader(TensorDataset(x, torch.tensor([1, 2, 3])), batch_size=3)))
    assert isinstance(batch, (list, tuple))
    with pytest.raises(InputError, match=r"DataLoader(.|\n)*\(3, 3, 32, 32\)(.|\n)*batch\[0\], target=batch\[1\]"):
        clew.explain(model, batch)
    for given in ((x, ["a", "b", "c"]), (x, torch.randn(3, 5)), ((x * 9).to(torch.uint8), torch.tensor([1, 2, 3]))):
        with pytest.raises(InputError, match="DataLoader"):
            clew.explain(model, given)
    for given in ((x[0], 2), (Image.new("RGB", (32, 32)), 2), (x[0], torch.tensor(2))):
        with pytest.raises(InputError, match=r"a picture with its label(.|\n)*target=batch\[1\]"):
            clew.explain(model, given)
    with pytest.raises(InputError, match="DataLoader"):
        clew.load("mini:digits-clip").encode((torch.randn(2, 3, 80, 80), torch.tensor([1, 2])))


WRONG = [
    (lambda x: (x * 9).to(torch.uint8), r"raw pictures(.|\n)*torch.uint8, shape \(3, 3, 32, 32\)(.|\n)*cv2"),
    (lambda x: np.zeros((40, 50, 3), np.uint8), r"raw pictures(.|\n)*shape \(40, 50, 3\)(.|\n)*cv2 has BGR"),
    (lambda x: x.permute(0, 2, 3, 1), r"\(3, 32, 32, 3\)(.|\n)*channels first: x.permute\(0, 3, 1, 2\)"),
    (lambda x: x[0].permute(1, 2, 0).numpy(), r"shape \(32, 32, 3\)(.|\n)*x.permute\(2, 0, 1\)"),
    (lambda x: x[:, :1], r"shape \(3, 1, 32, 32\)(.|\n)*repeat the grey channel"),
    (lambda x: torch.cat([x, x[:, :1]], 1), r"shape \(3, 4, 32, 32\)(.|\n)*fourth channel"),
    (lambda x: torch.randn(5, 32, 32), r"shape \(5, 32, 32\)(.|\n)*pass 3 channels(.|\n)*\(batch, 1, …\)"),
    (lambda x: x[:, None], r"shape \(3, 1, 3, 32, 32\)(.|\n)*frames"),
    (lambda x: x[0, 0], r"shape \(32, 32\)(.|\n)*four axes"),
    (lambda x: (x * 100).long(), r"torch.int64(.|\n)*whole numbers"),
    (lambda x: [x[0], x[0, :, :16]], r"one size(.|\n)*\(3, 16, 32\), \(3, 32, 32\)"),
    (lambda x: [x[0], "a.jpg"], r"'a.jpg'(.|\n)*open_image"),
    (lambda x: [[1.0, 2.0]], r"torch.tensor\(x\)"),
    (lambda x: np.array(["a", None]), "cannot be explained"),
    (lambda x: [Image.new("RGB", (8, 8)), x[0]], "pictures and something else"),
    (lambda x: {"x": [[1]]}, "holds the images as a tensor"),
    (lambda x: None, "NoneType"),
]


@pytest.mark.parametrize("case", range(len(WRONG)))
def test_errors_say_what_came(case, model, x, untyped):
    make, message = WRONG[case]
    with pytest.raises(InputError, match=message) as caught:
        clew.explain(loaded(model) if "something else" in message else model, make(x))
    assert "RGB" not in str(caught.value) or "raw" in message


def test_colours_for_a_model_of_one_channel(grey, x):
    with pytest.raises(InputError, match="turn it grey"):
        clew.explain(grey, x)
    with pytest.raises(InputError, match="colours have 8 bits"):
        clew.explain(loaded(grey), np.zeros((8, 8, 3), np.uint16))
    with pytest.raises(InputError, match="no pictures"):
        clew.explain(loaded(grey), np.zeros((2, 2, 8, 8, 3), np.uint8))


def test_pictures_for_more_channels_than_they_have(x):
    import timm

    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 5}
    bands = timm.create_model("vit_tiny_patch16_224", in_chans=6, **sizes).eval()
    with pytest.raises(InputError, match=r"takes 6 channels(.|\n)*a tensor \(batch, 6, height, width\)"):
        clew.explain(loaded(bands), Image.new("RGB", (32, 32)))
    assert len(clew.explain(loaded(bands), torch.cat([x, x], 1), method="raw_attention")) == 3


def test_image_text_models_take_the_same():
    clip = clew.load("mini:digits-clip")
    images = clew.captioned_scenes().images[:2]
    expected = clip.encode(images)
    raw = np.stack([np.asarray(image) for image in images])
    for given in (raw, list(raw), torch.from_numpy(raw), torch.from_numpy(raw).permute(0, 3, 1, 2)):
        torch.testing.assert_close(clip.encode(given), expected)
    ready = torch.stack([clip.preprocess(image)[0] for image in images])
    for given in (ready, ready.numpy(), list(ready), [one.numpy() for one in ready]):
        torch.testing.assert_close(clip.encode(given), expected)
    with pytest.raises(InputError, match=r"neither images nor texts(.|\n)*shape \(5, 80, 80\)"):
        clip.encode(torch.randn(5, 80, 80))


def test_dim_tensors_of_a_loaded_model_are_no_pictures_to_compare_with():
    """What is shown of a tensor is stretched to the full range, so its colours are not those of the input."""
    model = clew.load("mini:digits")
    x = 0.1 * model.preprocess.batch(clew.scenes().images[:2])[0]
    for given in (x, x.numpy(), list(x), {"pixel_values": x}):
        assert "pixels" not in clew.explain(model, given, method="raw_attention").checks["verified"]


def test_pictures_of_tensors_are_those_made_one_by_one():
    """In their own colours where mean and deviation fit; stretched where they were normalised by others."""
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
    colours = torch.rand(20, 3, 6, 9)
    scale, shift = (torch.tensor(v).view(-1, 1, 1) for v in (std, mean))
    batch = (colours - shift) / scale
    batch[7] *= 40
    found = pictures_of(batch, mean, std)
    for i, (picture, x) in enumerate(zip(found, batch, strict=True)):
        if i == 7:
            expected = ((x - x.min()) / (x.max() - x.min()) * 255).to(torch.uint8).permute(1, 2, 0).numpy()
        else:
            expected = clew.Picture.of(x, mean, std).pixels
        assert picture.pixels.shape == (6, 9, 3) and picture.box == (0, 0, 9, 6)
        assert np.abs(picture.pixels.astype(int) - expected).max() <= 1  # of a half float32 may round otherwise
    grey = pictures_of(torch.tensor([0.0, 1.0, 2.0, 4.0]).view(1, 1, 2, 2))[0].pixels
    assert grey[..., 0].tolist() == [[0, 63], [127, 255]] and (grey == grey[..., :1]).all()
    assert picture_of(torch.cat([batch[0], batch[0]])).pixels.shape == (6, 9, 3)

"""Several pictures in one argument: packed patches in the order of real processors, tiles, frames of videos."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from support.zoo import build
from support.zoo_common import NEWER

import clew
from clew.explaining.arrangements import Observed, arranged
from clew.places import Filled, Packed, Places, Tiles, Video, by_ratio, by_size, by_words, single
from clew.streams import ModelCall

WIDE, HIGH = (64, 96), (128, 64)  # height, width
BRIGHT = (1, 4), (6, 1)  # the bright patch of each, of 16 x 16 pixels


def common(batch: int = 1) -> dict[str, Any]:
    return {"method": "m", "options": {}, "target": ["t"], "score": torch.zeros(batch)}


def bright(size: tuple[int, int], place: tuple[int, int], side: int = 16) -> Image.Image:
    """A black picture with one white patch."""
    pixels = np.zeros((*size, 3), np.uint8)
    pixels[place[0] * side : (place[0] + 1) * side, place[1] * side : (place[1] + 1) * side] = 255
    return Image.fromarray(pixels)


class Takes(torch.nn.Module):
    """A model that takes anything."""

    def forward(self, **inputs: Any) -> Any:
        return inputs


def seen(given: dict[str, Any], scores: torch.Tensor, **more: Any) -> Places:
    found = arranged(Observed(ModelCall.of(Takes(), dict(given)), "pixel_values", scores, **more))
    assert found is not None
    return found


class Processor:
    """A processor of pictures and words, as far as pictures are concerned."""

    def __init__(self, image_processor: Any) -> None:
        self.image_processor = image_processor


def look(a: Any, tmp_path: Any) -> None:
    """A result is saved and loaded as it was, and drawn everywhere."""
    again = clew.Attribution.load(a.save(tmp_path / "a.safetensors"))
    assert torch.equal(again.scores, a.scores) and torch.equal(again.pixels, a.pixels)
    assert [[(f.name, f.size, f.patch) for f in row] for row in again.frames] == [
        [(f.name, f.size, f.patch) for f in row] for row in a.frames
    ]
    assert np.array_equal(again.frames[0][0].picture.pixels, a.frames[0][0].picture.pixels)
    assert again.to_png()[:4] == b"\x89PNG"
    names = [f.name for f in a.frames[0]]
    assert all(f"{name}: " in again.to_html() for name in names)
    assert str(a.to_rich()) and len(a.images(0)) == len(names)
    joined = clew.Attribution.concatenate([a, again])
    assert len(joined) == 2 * len(a) and torch.equal(joined[len(a) :].scores, a.scores)


@pytest.mark.skipif(not NEWER, reason="image processors have other classes in transformers 4")
def test_packed_patches_are_where_a_real_processor_takes_them_from(tmp_path):
    """The values of a black picture with one white patch, taken for scores, are a heatmap with that patch."""
    from transformers import Qwen2VLImageProcessor

    encode = Qwen2VLImageProcessor(patch_size=16, size={"shortest_edge": 32, "longest_edge": 10**6})
    given = encode(images=[bright(WIDE, BRIGHT[0]), bright(HIGH, BRIGHT[1])], return_tensors="pt")
    x = given["pixel_values"]
    scores = (x - x.amin(0))[None]
    places = seen(given, scores, processor=Processor(encode))
    assert isinstance(places, Packed) and places.merge == 2
    a = places.attribution(scores, common())
    assert [f.name for f in a.frames[0]] == ["picture 1", "picture 2"]
    assert [f.size for f in a.frames[0]] == [WIDE, HIGH]
    for image, size, (row, column) in zip(a.images(0), (WIDE, HIGH), BRIGHT, strict=True):
        assert image.patch_grid == (size[0] // 16, size[1] // 16)
        assert image.scores[0].argsort()[-1] == row * image.patch_grid[1] + column
        assert bool((image.scores[0].sort().values[:-1] < 1e-3).all())
        assert np.array_equal(image.pictures[0].pixels, np.asarray(bright(size, (row, column))))
        inside = image.heatmap()[0, row * 16 : row * 16 + 16, column * 16 : column * 16 + 16]
        torch.testing.assert_close(inside.sum(), image.heatmap().sum(), rtol=1e-5, atol=1e-3)
    keep = torch.ones(1, a.scores.shape[1], dtype=torch.bool)
    keep[0, int(a.scores.argmax())] = False
    changed = (places.erase(x, keep, -9.0) != x).all(1).nonzero().flatten().tolist()
    assert len(changed) == 1 and bool((x[changed] > 0).all())  # one patch was erased, and it was white
    look(a, tmp_path)


@pytest.mark.skipif(not NEWER, reason="image processors have other classes in transformers 4")
def test_packed_patches_that_a_processor_leaves_row_by_row():
    """Of one that names groups, too, but keeps the order of rows: what it does counts."""
    from transformers import Qwen2VLImageProcessor

    class ByRows(Qwen2VLImageProcessor):
        def patchify(self, images: Any, patch_size: int, merge_size: int, temporal_patch_size: int) -> Any:
            return super().patchify(images, patch_size, 1, temporal_patch_size)

    encode = ByRows(patch_size=16, size={"shortest_edge": 32, "longest_edge": 10**6})
    given = encode(images=[bright(WIDE, BRIGHT[0])], return_tensors="pt")
    scores = (given["pixel_values"] - given["pixel_values"].amin(0))[None]
    (image,) = seen(given, scores, processor=Processor(encode)).attribution(scores, common()).images()
    assert int(image.scores.argmax()) == 1 * 6 + 4
    assert np.array_equal(image.pictures[0].pixels, np.asarray(bright(WIDE, BRIGHT[0])))


@pytest.mark.skipif(not NEWER, reason="image processors have other classes in transformers 4")
def test_patches_in_rows_that_are_filled_up(tmp_path):
    from transformers import Siglip2ImageProcessor

    encode = Siglip2ImageProcessor(patch_size=16, max_num_patches=40, do_resize=False)
    pictures = [bright(size, place) for size, place in zip((WIDE, HIGH), BRIGHT, strict=True)]
    given = encode(images=pictures, return_tensors="pt")
    x = given["pixel_values"]
    scores = x.clamp(min=-1) + 1
    places = seen(given, scores, processor=Processor(encode))
    assert isinstance(places, Filled)
    a = places.attribution(scores, common(2))
    assert [[(f.name, f.grid) for f in row] for row in a.frames] == [[("picture", (4, 6))], [("picture", (8, 4))]]
    for i, one in enumerate(pictures):
        (image,) = a.images(i)
        assert int(image.scores.argmax()) == BRIGHT[i][0] * image.patch_grid[1] + BRIGHT[i][1]
        assert np.array_equal(image.pictures[0].pixels, np.asarray(one))
    both = seen(given, scores[None], processor=Processor(encode)).attribution(scores[None], common())
    assert [f.name for f in both.frames[0]] == ["picture 1", "picture 2"]
    look(a, tmp_path)


@pytest.mark.skipif(not NEWER, reason="image processors have other classes in transformers 4")
def test_packed_videos_are_frames():
    from transformers import Qwen2VLVideoProcessor

    encode = Qwen2VLVideoProcessor(patch_size=16, size={"shortest_edge": 32, "longest_edge": 10**6})
    frames = np.stack([np.asarray(bright(WIDE, (3, k))) for k in range(4)])
    given = encode(videos=[frames], do_sample_frames=False, return_tensors="pt")
    x = given["pixel_values_videos"]
    scores = (x - x.amin(0))[None]
    config = type("Config", (), {"patch_size": 16, "temporal_patch_size": 2, "spatial_merge_size": 2})()
    call = ModelCall.of(Takes(), {k: given[k] for k in ("pixel_values_videos", "video_grid_thw")})
    places = arranged(Observed(call, "pixel_values_videos", scores, config=config))
    assert isinstance(places, Packed)
    a = places.attribution(scores, common())
    assert [f.name for f in a.frames[0]] == ["frame 1", "frame 3"]  # two frames are a patch
    for k, image in enumerate(a.images()):
        found = image.scores[0].topk(2).indices.sort().values.tolist()
        assert found == [3 * 6 + 2 * k, 3 * 6 + 2 * k + 1]


def test_each_example_has_its_own_packed_pictures(tmp_path):
    """Of two examples with two pictures and one picture."""
    grids = [[1, 4, 6], [1, 2, 2], [1, 4, 4]]
    rows = torch.randn(24 + 4 + 16, 3 * 2 * 2 * 2)
    scores = torch.zeros(2, *rows.shape)
    scores[0, :28], scores[1, 28:] = rows[:28], rows[28:]
    config = type("Config", (), {"patch_size": 2, "temporal_patch_size": 2, "spatial_merge_size": 2})()
    places = seen({"pixel_values": rows, "image_grid_thw": torch.tensor(grids)}, scores, config=config)
    a = places.attribution(scores, common(2))
    assert [[f.grid for f in row] for row in a.frames] == [[(4, 6), (2, 2)], [(4, 4)]]
    torch.testing.assert_close(a.scores.sum(1), scores.sum((1, 2)))
    first = rows[:24].sum(1).view(2, 3, 2, 2).transpose(1, 2).reshape(4, 6)  # groups of 2 x 2
    torch.testing.assert_close(a.images(0)[0].scores[0].view(4, 6), first)
    assert a[1].images()[0].patch_grid == (4, 4) and a.scores.shape == (2, 28)
    look(a, tmp_path)
    scores[0] += scores[1]
    scores[1] = 0
    places = seen({"pixel_values": rows, "image_grid_thw": torch.tensor(grids)}, scores, config=config)
    none = places.attribution(scores, common(2))  # an example without a picture
    assert [len(row) for row in none.frames] == [3, 0] and none.images(1) == []
    look(none, tmp_path)


@pytest.mark.skipif(not NEWER, reason="image processors have other classes in transformers 4")
def test_tiles_of_a_size_are_put_together(tmp_path):
    from transformers import LlavaNextImageProcessor

    grids = [[32, 64], [64, 32], [64, 64], [96, 32], [32, 96]]
    encode = LlavaNextImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_grid_pinpoints=grids
    )
    pictures = [bright((32, 96), (1, 5)), bright((64, 64), (3, 0))]
    given = encode(images=pictures, return_tensors="pt")
    x = given["pixel_values"]
    scores = x - x.amin((1, 2, 3, 4), keepdim=True)
    config = type("Config", (), {"image_grid_pinpoints": grids})()
    places = seen(given, scores, config=config, patch=(16, 16), processor=Processor(encode))
    assert isinstance(places, Tiles)
    a = places.attribution(scores, common(2))
    assert [[(f.name, f.size) for f in row] for row in a.frames] == [
        [("overview", (32, 32)), ("tiles", (32, 96))],
        [("overview", (32, 32)), ("tiles", (64, 64))],
    ]
    wide, square = (row[1] for row in (a.images(0), a.images(1)))
    assert (int(wide.scores.argmax()), int(square.scores.argmax())) == (1 * 6 + 5, 3 * 4 + 0)
    for image, given_picture in zip((wide, square), pictures, strict=True):
        assert np.array_equal(image.pictures[0].pixels, np.asarray(given_picture))
    look(a, tmp_path)


@pytest.mark.skipif(not NEWER, reason="image processors have other classes in transformers 4")
def test_tiles_of_an_aspect_ratio_are_put_together(tmp_path):
    from transformers import MllamaImageProcessor

    encode = MllamaImageProcessor(size={"height": 32, "width": 32}, max_image_tiles=4)
    pictures = [[bright((32, 96), (0, 4))], [bright((64, 64), (3, 1)), bright((64, 32), (2, 1))]]
    given = encode(images=pictures, return_tensors="pt")
    x = given["pixel_values"]
    ratios = [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]]
    config = type("Config", (), {"vision_config": type("Vision", (), {"supported_aspect_ratios": ratios})()})()
    given = {k: torch.as_tensor(given[k]) for k in ("pixel_values", "aspect_ratio_ids", "aspect_ratio_mask")}
    places = seen(given, x, config=config, patch=(16, 16), processor=Processor(encode))
    a = places.attribution(x.clamp(min=0), common(2))
    assert [[(f.name, f.size) for f in row] for row in a.frames] == [
        [("picture", (32, 96))],
        [("picture 1", (64, 64)), ("picture 2", (64, 32))],
    ]
    assert int(a.images(0)[0].scores.argmax()) == 4
    assert [int(image.scores.argmax()) for image in a.images(1)] == [3 * 4 + 1, 2 * 2 + 1]
    look(a, tmp_path)


def test_tiles_that_a_prompt_tells_of(tmp_path):
    """As Idefics3 and SmolVLM have them: rows, columns, then the whole; a smaller example is filled up."""
    x = torch.rand(2, 7, 3, 8, 8) + 0.1
    x[1, 3:] = 0
    mask = (x.sum(2) > 0).long()
    places = [f"<row_{i}_col_{j}>" for i in (1, 2) for j in (1, 2, 3)]
    words = [["<s>", *places, "<global-img>"], ["<s>", "<row_1_col_1>", "<row_1_col_2>", "a"]]

    class Words:
        def convert_ids_to_tokens(self, row: list[int]) -> list[str]:
            return words[row[0]]

    given = {"pixel_values": x, "pixel_attention_mask": mask, "input_ids": torch.tensor([[0], [1]])}
    a = seen(given, x, tokenizer=Words(), patch=(4, 4)).attribution(x, common(2))
    assert [[(f.name, f.size) for f in row] for row in a.frames] == [
        [("tiles", (16, 24)), ("overview", (8, 8))],
        [("tiles", (8, 16)), ("overview", (8, 8))],
    ]
    torch.testing.assert_close(a.images(0)[0].heatmap()[0, 8:, 16:], x[0, 5].sum(0))
    torch.testing.assert_close(a.scores.sum(1), x.flatten(1).sum(1))
    del given["input_ids"]
    mask[1, 2, 5:] = 0  # what is no part of the picture
    alone = seen({**given, "pixel_attention_mask": mask}, x, patch=(4, 4)).attribution(x, common(2))
    assert [len(row) for row in alone.frames] == [7, 3]
    assert [f.size for f in alone.frames[1]] == [(8, 8), (8, 8), (5, 8)]
    look(a, tmp_path)


def test_parts_that_do_not_fit_are_not_put_together():
    x = torch.ones(1, 3, 3, 4, 4)
    assert by_words([["<row_1_col_1>", "<row_1_col_2>"]], None, x) is not None
    assert by_words([["<row_1_col_1>", "<row_2_col_2>"]], None, x) is None
    assert by_words([["<row_1_col_1>"]], None, x) is None
    assert [p.name for p in single(x)] == ["tile 1", "tile 2", "tile 3"]
    assert [(p.first, p.rows, p.columns) for p in by_size([(1, 2), (2, 1)], 3)] == [
        (0, 1, 1), (1, 1, 2), (3, 1, 1), (4, 2, 1),
    ]  # fmt: skip
    assert [(p.picture, p.first) for p in by_ratio([[(1, 1), None], [(1, 2)]], 4)] == [(0, 0), (2, 8)]


@pytest.mark.parametrize("channels_first", [False, True])
def test_a_video_is_a_picture_for_each_frame(channels_first, tmp_path):
    x = torch.zeros(2, 5, 3, 8, 12)
    x[0, 3, :, 4:, 8:] = 1.0
    given = x.transpose(1, 2).contiguous() if channels_first else x
    said = {"tubelet_size": [2, 4, 4]} if channels_first else {"patch_size": 4}
    config = type("Config", (), {"num_frames": 5, **said})()
    places = seen({"pixel_values": given}, given, config=config)
    assert isinstance(places, Video) and places.channels_first == channels_first
    a = places.attribution(given, common(2))
    assert [f.name for f in a.frames[0]] == [f"frame {t}" for t in range(1, 6)]
    assert int(a.scores[0].argmax()) == 3 * 6 + 5
    keep = a.scores <= 0
    assert float(places.erase(given, keep, 0.0).abs().sum()) == 0
    look(a, tmp_path)


@pytest.mark.parametrize(
    ("name", "sizes"),
    [
        ("qwen2_vl", [(32, 32)]),
        ("llava_next", [(32, 32), (32, 64)]),
        ("idefics3", [(32, 32), (32, 32)]),
        ("mllama", [(32, 64)]),
        ("videomae", [(16, 16)] * 4),
    ],
)
def test_scores_of_a_model_keep_their_sums(name, sizes):
    """Of two examples, which share rows or do not; LRP's account closes over what is shown."""
    specimen = build(name)
    a = clew.explain(specimen.model, specimen.inputs, method="attn_lrp")
    image = a["image"]
    assert [[f.size for f in row] for row in image.frames] == [sizes, sizes]
    total = torch.stack(list(a.shares().values())).sum(0)
    torch.testing.assert_close(total, a.score)
    torch.testing.assert_close(image.pixels.sum(1), image.scores.sum(1))
    assert image.to_png()[:4] == b"\x89PNG"
    if len(a.streams) > 1:
        assert "data:image/png" in a.to_html() and str(a.to_rich())


def test_several_pictures_in_one_prompt():
    """A chat model that gets each picture as a row of its own, however many belong to an example."""
    specimen = build("llava")
    ids = torch.cat([specimen.inputs["input_ids"][:1, :18], specimen.inputs["input_ids"][1:, 1:]], 1)
    given = {**specimen.inputs, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
    a = clew.explain(specimen.model, given, method="input_x_gradient")["image"]
    assert [f.name for f in a.frames[0]] == ["picture 1", "picture 2"] and len(a) == 1
    both = [image.heatmap() for image in a.images()]
    assert bool(both[0].abs().sum() > 0) and bool(both[1].abs().sum() > 0)

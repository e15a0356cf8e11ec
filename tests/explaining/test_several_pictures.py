"""Chat models of which nothing is declared, with their real processors: several pictures, from question to heatmaps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image
from support.zoo_common import LLAMA, NEWER, TOWER, rotary
from tokenizers import Tokenizer, models, pre_tokenizers

import clew
from clew.errors import ClewError

pytestmark = pytest.mark.skipif(not NEWER, reason="image processors have other classes in transformers 4")
QUESTION = ["what", "is", "this", "?", "cat"]


def words(*special: str) -> Any:
    import transformers

    names = ["<pad>", "<s>", "</s>", "<unk>", *special, *QUESTION]
    inner = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        additional_special_tokens=list(special),
    )  # fmt: skip


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_packed_patches(tmp_path):
    import transformers

    tokenizer = words("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
    pictures = transformers.Qwen2VLImageProcessor(patch_size=16, size={"shortest_edge": 32, "longest_edge": 10**6})
    videos = transformers.Qwen2VLVideoProcessor(patch_size=16)
    processor = transformers.Qwen2VLProcessor(pictures, tokenizer, video_processor=videos)
    tower = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2, "num_heads": 4, "patch_size": 16}
    config = transformers.Qwen2VLConfig(
        text_config={**LLAMA, **rotary(mrope_section=[1, 1, 2])}, vision_config=tower, image_token_id=4,
        video_token_id=5, vision_start_token_id=6, vision_end_token_id=7,
    )  # fmt: skip
    model = transformers.Qwen2VLForConditionalGeneration(config).eval()
    loaded = clew.LoadedModel(model, name="tiny-qwen", tokenizer=tokenizer, processor=processor)
    given = [picture(64, 96), picture(128, 64, seed=1)]
    text = "<|vision_start|> <|image_pad|> <|vision_end|> " * 2 + "what is this ?"
    found = clew.explain(loaded, {"images": given, "text": text}, method="attn_lrp", target="cat")
    images = found["image"].images()
    assert [image.patch_grid for image in images] == [(4, 6), (8, 4)]
    for image, one in zip(images, given, strict=True):
        assert np.array_equal(image.pictures[0].pixels, np.asarray(one))
    shown = [piece.text for piece in found["prompt"].pieces(0)]
    assert "<|image_pad|> × 6" in shown and "<|image_pad|> × 8" in shown
    places = found["prompt"].input_ids[0] == 4
    assert found["prompt"].scores[0, places].abs().max() == 0  # they belong to the pictures
    assert clew.figure([images[1]], tmp_path / "figure.png").exists()
    for whole in (found, found["image"]):
        with pytest.raises(ClewError, match="choose one stream"):
            clew.figure([whole], tmp_path / "figure.png")
    assert found.to_html() and "picture 2  8 x 4 patches" in found["image"].to_rich().renderables[2].plain


def test_tiles():
    import transformers

    rows = [f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7)]
    tokenizer = words("<image>", "<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *rows)
    pictures = transformers.Idefics3ImageProcessor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    processor = transformers.Idefics3Processor(pictures, tokenizer, image_seq_len=4)
    config = transformers.Idefics3Config(
        vision_config=dict(TOWER), text_config=transformers.LlamaConfig(**LLAMA), image_token_id=4, scale_factor=2,
        pad_token_id=0,
    )  # fmt: skip
    model = transformers.Idefics3ForConditionalGeneration(config).eval()
    loaded = clew.LoadedModel(model, name="tiny-idefics", tokenizer=tokenizer, processor=processor)
    given = picture(32, 64)
    question = {"images": [given], "text": "<image> what is this ?"}
    found = clew.explain(loaded, question, method="input_x_gradient", target="cat")
    tiles, overview = found["image"].images()
    assert [f.name for f in found["image"].frames[0]] == ["tiles", "overview"]
    assert (tiles.patch_grid, overview.patch_grid) == ((4, 8), (4, 4))
    assert np.array_equal(tiles.pictures[0].pixels, np.asarray(given))

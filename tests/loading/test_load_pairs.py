"""Loading image–text models: folders of Hugging Face, and open_clip with its tokenizer and preprocessing."""

from __future__ import annotations

import json

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from support import tiny_pairs
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import clew
from clew.errors import LoadError
from clew.inputs.preprocessing import Preprocess
from clew.loading.open_clip_models import OpenClipTokenizer, aligned


def word_tokenizer():
    words = ["<pad>", "<unk>", "<s>", "</s>", "a", "dog", "cat"]
    tokens = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokens.pre_tokenizer = pre_tokenizers.Whitespace()
    tokens.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 2), ("</s>", 3)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokens, pad_token="<pad>", unk_token="<unk>", eos_token="</s>")


@pytest.mark.parametrize("name", ["clip", "siglip", "siglip2", "chinese_clip"])
def test_a_folder_of_hugging_face_is_loaded_with_all_that_belongs_to_it(name, tmp_path):
    tiny_pairs.build_pair(name).float().save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    processor = {"image_processor_type": "CLIPImageProcessor", "size": 32, "crop_size": 32, "do_center_crop": True}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor if name == "clip" else {}))
    model = clew.load(tmp_path)
    assert isinstance(model, clew.LoadedPair)
    assert model.preprocess.size == (32, 32)
    assert model.preprocess.mode == ("cover" if name == "clip" else "squash")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8))
    both = clew.explain(model, picture, target=clew.Similarity("a dog", "a cat"), side="both", n_steps=2)
    assert both.target == ["a dog", "a cat"] and both.text.target == ["image 0"] * 2
    zero_shot = model.zero_shot(["dog", "cat"])
    assert clew.explain(zero_shot, picture, n_steps=2).labels == ["dog", "cat"]


def test_old_configurations_of_clip_keep_the_aspect_ratio():
    written = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 224, "crop_size": 224}
    old = Preprocess.from_hf(written, (224, 224))
    assert (old.mode, old.size) == ("cover", (224, 224))
    other = Preprocess.from_hf({"feature_extractor_type": "ViTFeatureExtractor", "size": 224}, (224, 224))
    assert other.mode == "squash"


def test_clipseg_as_it_is_published(tmp_path):
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation

    config = CLIPSegConfig(
        text_config=tiny_pairs.TEXT, vision_config=tiny_pairs.VISION, projection_dim=16, extract_layers=[0, 1],
        reduce_dim=8, decoder_num_attention_heads=2, decoder_intermediate_size=8,
    )  # fmt: skip
    CLIPSegForImageSegmentation(config).save_pretrained(tmp_path)
    assert type(clew.load(tmp_path).model).__name__ == "CLIPSegModel"


def test_what_is_no_image_text_model_is_told(tmp_path):
    from transformers import BertConfig, BertForSequenceClassification

    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertForSequenceClassification(BertConfig(vocab_size=20, **sizes)).save_pretrained(tmp_path)
    with pytest.raises(LoadError, match="no image–text model"):
        clew.load(tmp_path, task="image-text")


def test_weights_that_were_trained_with_quick_gelu_get_it(monkeypatch):
    asked = {}

    def create_model(name, **options):
        asked.update(options)
        raise RuntimeError("no network here")

    monkeypatch.setattr(open_clip, "create_model", create_model)
    with pytest.raises(LoadError):
        clew.load("open_clip:ViT-B-32/openai")
    assert asked["force_quick_gelu"] is True
    asked.clear()
    with pytest.raises(LoadError):
        clew.load("open_clip:ViT-B-32/laion2b_s34b_b79k")
    assert "force_quick_gelu" not in asked


@pytest.fixture
def tiny_open_clip(tmp_path):
    """A configuration that open_clip knows by name, and a file of weights for it."""
    config = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 16, "head_width": 8, "patch_size": 8},
        "text_cfg": {"context_length": 20, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
    }
    (tmp_path / "clew-tiny.json").write_text(json.dumps(config))
    open_clip.add_model_config(tmp_path)
    model = open_clip.create_model("clew-tiny")
    torch.save({"state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, tmp_path / "weights.pt")
    return tmp_path / "weights.pt"


def test_open_clip_by_name_with_a_checkpoint(tiny_open_clip):
    model = clew.load("open_clip:clew-tiny", checkpoint=tiny_open_clip)
    assert isinstance(model, clew.LoadedPair) and model.preprocess.size == (32, 32)
    assert model.preprocess.mode == "cover"
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 60, 3), dtype=np.uint8))
    both = clew.explain(model, picture, target="a photo of a Dog!", side="both", method="attn_lrp")
    assert [w.text for w in both.text.words()[0]] == ["a", "photo", "of", "a", "Dog!"]
    assert both.text.scores.shape == (1, 8)  # the end and the beginning, five words and the exclamation mark
    with torch.no_grad():
        own = model.model.get_logits(
            model.preprocess(picture)[0][None], open_clip.get_tokenizer("clew-tiny")(["a photo of a Dog!"], 20)
        )
    torch.testing.assert_close(both.score, own[0][0], rtol=1e-5, atol=1e-5)
    with pytest.raises(clew.ClewError, match="longer than"):
        clew.explain(model, picture, target="a dog " * 30)
    short = clew.explain(model, picture, target="a dog " * 30, side="text", truncate=True, method="raw_attention")
    assert short.scores.shape == (1, 20)


def test_what_open_clip_does_not_have_is_told(tiny_open_clip):
    with pytest.raises(LoadError, match="did you mean"):
        clew.load("open_clip:ViT-B-23/openai")
    with pytest.raises(LoadError, match="ViT-B-32/laion2b_s34b_b79k"):
        clew.load("open_clip:ViT-B-32")
    with pytest.raises(LoadError, match="as none are published"):
        clew.load("open_clip:clew-tiny")
    with pytest.raises(LoadError, match="does not take task"):
        clew.load("open_clip:ViT-B-32/openai", task="image-text")


def test_pieces_are_found_in_the_text():
    assert aligned("A  dog, a cat", ["a", "dog", "a", "cat"]) == [(0, 1), (3, 6), (8, 9), (10, 13)]
    assert aligned("a dog", ["", "a", "cat", "dog", ""]) == [(0, 0), (0, 1), (0, 0), (2, 5), (0, 0)]
    assert aligned("a&amp;b dog", ["a", "&", "b", "dog"])[3] == (8, 11)
    assert aligned("İstanbul dog", ["i̇stanbul", "dog"])[1] == (9, 12)
    tokens = OpenClipTokenizer(open_clip.get_tokenizer("ViT-B-32"))
    found = tokens("a dog", add_special_tokens=False)
    assert tokens.decode(found["input_ids"]) == "a dog" and found["special_tokens_mask"] == [0, 0]

"""What people give loaded models of several inputs: pictures with words, chats, a source with an answer, sound."""

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from support.zoo import build
from tokenizers import Tokenizer, models, pre_tokenizers

import clew
from clew.errors import InputError, TargetError

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<image>"]
WORDS = [*SPECIAL, "USER:", "ASSISTANT:", "what", "is", "this", "?", "cat", "dog", "a"]
TEMPLATE = (
    "{% for m in messages %}{{ 'USER: ' if m['role'] == 'user' else 'ASSISTANT: ' }}"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}{% for c in m['content'] %}"
    "{{ '<image> ' if c['type'] == 'image' else c['text'] }}{% endfor %}{% endif %} {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def words(extra=()):
    vocabulary = {word: i for i, word in enumerate([*WORDS, *extra])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        additional_special_tokens=["<image>"],
    )  # fmt: skip


@pytest.fixture(scope="module")
def chat():
    """A tiny LLaVA with its processor; placeholders have the number 4."""
    torch.manual_seed(0)
    vision = transformers.CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, image_size=32, patch_size=8
    )
    text = transformers.LlamaConfig(
        vocab_size=len(WORDS), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4
    )
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_id=4, vision_feature_layer=-1)
    model = transformers.LlavaForConditionalGeneration(config).eval()
    pictures = transformers.CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    processor = transformers.LlavaProcessor(
        pictures, words(), patch_size=8, vision_feature_select_strategy="default", chat_template=TEMPLATE,
        num_additional_image_tokens=1,
    )  # fmt: skip
    return clew.LoadedModel(model, name="tiny-llava", tokenizer=processor.tokenizer, processor=processor)


def picture(seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 32, 3), dtype=np.uint8))


def test_a_picture_and_a_question(chat):
    found = clew.explain(chat, {"images": [picture()], "text": "what is this ?"}, method="attn_lrp", target="cat")
    assert found["image"] is found["pixel_values"]
    assert found["image"].patch_grid == (4, 4)
    said = list(found["prompt"].tokens[0])
    assert said == ["USER:", "<image> × 16", *[""] * 15, "what", "is", "this", "?", "ASSISTANT:"]
    assert found.target == ["'cat'"]
    places = found["prompt"].input_ids[0] == WORDS.index("<image>")
    assert found["prompt"].all_scores[0, places].abs().max() == 0  # they belong to the picture
    assert found["prompt"].special[0, places].all()
    shown = [piece for piece in found["prompt"].pieces(0) if piece.columns]
    assert [piece.text for piece in shown][1] == "<image> × 16"
    assert sorted(column for piece in shown for column in piece.columns) == list(range(len(said)))


def test_the_same_in_three_ways(chat):
    image = picture()
    question = [
        {"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "what is this ?"}]}
    ]
    ways = [
        {"images": [image], "text": "USER: <image> what is this ? ASSISTANT:"},
        {"images": image, "text": "what is this ?"},
        question,
        {
            "messages": [{"role": "user", "content": [{"type": "image"}, *question[0]["content"][1:]]}],
            "images": [image],
        },
    ]
    found = [clew.explain(chat, one, method="input_x_gradient", target="dog") for one in ways]
    for one in found[1:]:
        torch.testing.assert_close(one["image"].all_scores, found[0]["image"].all_scores)
    contrast = clew.explain(chat, question, method="generic_attribution", target=clew.Contrast("cat", "dog"))
    assert contrast.target == ["'cat' rather than 'dog'"]


def test_attention_of_a_chat_model_points_at_picture_and_words(chat):
    found = clew.explain(chat, {"images": [picture()], "text": "what is this ?"}, method="beyond_intuition_head")
    assert "pixel_values" in found["image"].checks["feedback"]
    assert float(found["image"].checks["unaccounted"]) < 1e-4


@pytest.mark.parametrize(("inputs", "words"), [
    ({"images": [0, 1], "text": "<image> what"}, "not as many pictures"),
    ({"text": "USER: <image> what is this ?"}, "without its picture"),
    ({"audio": np.zeros(100), "sampling_rate": 16000}, "takes no sound"),
    ({"source": "what is this"}, "takes no source text"),
    ({"images": [0], "text": "what", "answer": "cat"}, "no decoder of its own"),
    ([{"role": "user", "content": [{"type": "image"}]}], "without its picture"),
    ([{"role": "user", "content": [{"type": "image", "url": "https://x.org/cat.jpg"}]}], "not fetched"),
    ({"messages": [{"role": "user", "content": "what"}], "images": [0]}, "without a place"),
])  # fmt: skip
def test_what_does_not_fit_is_told(chat, inputs, words):
    if isinstance(inputs, dict) and "images" in inputs:
        inputs = {**inputs, "images": [picture(i) for i in inputs["images"]]}
    with pytest.raises(InputError, match=words):
        clew.explain(chat, inputs, method="attn_lrp")


def test_words_that_are_several_tokens(chat):
    with pytest.raises(TargetError, match="not one token"):
        clew.explain(chat, {"images": [picture()], "text": "what"}, method="attn_lrp", target="cat dog")


@pytest.fixture(scope="module")
def translator():
    torch.manual_seed(0)
    sizes = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
    config = transformers.BartConfig(
        vocab_size=len(WORDS), d_model=32, encoder_ffn_dim=48, decoder_ffn_dim=48, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, decoder_start_token_id=2, max_position_embeddings=64, **sizes,
    )  # fmt: skip
    model = transformers.BartForConditionalGeneration(config).eval()
    return clew.LoadedModel(model, name="tiny-bart", tokenizer=words())


def test_a_source_and_the_beginning_of_its_answer(translator):
    first = clew.explain(translator, "what is this", method="attn_lrp", target="cat")
    assert first["prefix"].input_ids.tolist() == [[2]]
    assert list(first["source"].tokens[0]) == ["what", "is", "this"]
    later = clew.explain(translator, {"source": "what is this", "answer": "a cat"}, method="attn_lrp", target="dog")
    assert later["prefix"].input_ids.tolist() == [[2, WORDS.index("a"), WORDS.index("cat")]]
    own = {"input_ids": first["source"].input_ids, "decoder_input_ids": later["prefix"].input_ids}
    expected = clew.explain(translator.model, own, method="attn_lrp", target=WORDS.index("dog"))
    torch.testing.assert_close(later["source"].all_scores, expected["input_ids"].all_scores)


def test_sound():
    specimen = build("whisper")
    frames = int(specimen.inputs["input_features"].shape[-1])
    bins = int(specimen.inputs["input_features"].shape[1])
    extractor = transformers.WhisperFeatureExtractor(feature_size=bins, hop_length=160, chunk_length=frames // 100 or 1)
    loaded = clew.LoadedModel(specimen.model, name="tiny-whisper", processor=extractor)
    with pytest.raises(InputError, match="16000 samples a second"):
        clew.explain(loaded, {"audio": np.zeros(8000), "sampling_rate": 8000}, method="input_x_gradient", target=1)
    with pytest.raises(InputError, match="finite samples"):
        clew.explain(loaded, {"audio": np.full(100, np.nan), "sampling_rate": 16000}, method="saliency", target=1)
    with pytest.raises(InputError, match="takes no pictures"):
        clew.explain(loaded, {"images": [picture()]}, method="saliency", target=1)

"""`mini:digits-chat`: as small and as accurate as recorded, and what decides its answer is found."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from transformers import set_seed

import clew
from clew.minis.asked_digits import QUARTERS, SIZE, compose_asked, quarter_mask
from clew.minis.train_chat import (
    FOLDER,
    PLACES,
    TEST_PICTURES,
    Questions,
    accuracy,
    build_tokenizer,
    main,
    pixels_of,
    prompt_of,
)


@pytest.fixture(scope="module")
def model():
    return clew.load("mini:digits-chat")


def inputs_of(one):
    return {"images": [Image.fromarray(one.image)], "text": one.question}


def processed(model, one):
    text = prompt_of(one).replace("<image>" * PLACES, "<image>")
    return model.processor(images=[Image.fromarray(one.image)], text=text, return_tensors="pt")


def found(model, method, asked, **options):
    """The share of pictures whose highest patch is in the quarter that is asked for."""
    hits = []
    for one in asked:
        a = clew.explain(model, inputs_of(one), method=method, target=one.answer, **options)["image"]
        row, column = divmod(int(a.scores[0].argmax()), a.patch_grid[1])
        hits.append(one.mask[row * SIZE // a.patch_grid[0], column * SIZE // a.patch_grid[1]])
    return float(np.mean(hits))


def test_it_is_small_and_as_accurate_as_recorded(model):
    folder = resources.files("clew.minis").joinpath("digits-chat")
    assert sum(len(file.read_bytes()) for file in folder.iterdir()) < 1_500_000
    recorded = json.loads(folder.joinpath("measured.json").read_text())
    assert model.facts == recorded
    assert recorded["test_pictures"] == TEST_PICTURES
    assert recorded["test_accuracy"] > 0.95
    assert accuracy(model.model, model.tokenizer, "test", 200) > 0.93


def test_its_processor_makes_what_it_was_trained_on(model):
    one = clew.chat_scenes()[0]
    made = processed(model, one)
    torch.testing.assert_close(made["pixel_values"][0], pixels_of(one), rtol=0, atol=1e-6)
    assert made["input_ids"][0].tolist() == build_tokenizer()(prompt_of(one))["input_ids"]
    parts = [{"type": "image", "image": Image.fromarray(one.image)}, {"type": "text", "text": one.question}]
    chat = model.processor.apply_chat_template(
        [{"role": "user", "content": parts}], add_generation_prompt=True, tokenize=True, return_dict=True,
        return_tensors="pt",
    )  # fmt: skip
    assert chat["input_ids"].tolist() == made["input_ids"].tolist()


def test_the_template_writes_chats_as_it_was_trained_on(model):
    one = compose_asked("test", 0)
    messages = []
    for quarter in np.random.default_rng(one.seed).permutation(4).tolist():
        asked = replace(one, quarter=quarter)
        parts = [{"type": "text", "text": asked.question}]  # a picture stands first, wherever it is given
        parts += [] if messages else [{"type": "image", "image": Image.fromarray(one.image)}]
        messages += [{"role": "user", "content": parts}, {"role": "assistant", "content": asked.answer}]
    chat = model.processor.apply_chat_template(messages, tokenize=True, return_dict=True, return_tensors="pt")
    trained = Questions("test", 1, model.tokenizer)[0]
    assert chat["input_ids"][0].tolist() == trained["input_ids"].tolist()
    torch.testing.assert_close(chat["pixel_values"][0], trained["pixel_values"], rtol=0, atol=1e-6)


def test_a_question_mark_may_touch_its_word(model):
    read = model.tokenizer
    assert read("which upper left digit?")["input_ids"] == read("which upper left digit ?")["input_ids"]


def readable_by_both(folder):
    """Assert what transformers 4 reads, and 5 would write otherwise: the tower's names, and named tokens."""
    with safe_open(str(folder / "model.safetensors"), "pt") as weights:
        tower = [name for name in weights.keys() if name.startswith("vision_tower.")]  # noqa: SIM118
    assert tower and all(name.startswith("vision_tower.vision_model.") for name in tower)
    told = json.loads((folder / "tokenizer_config.json").read_text())
    assert told["extra_special_tokens"] == {"image_token": "<image>"}
    assert told["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_its_files_are_read_by_both_transformers():
    readable_by_both(FOLDER)


def test_it_answers_and_ends(model):
    for one in clew.chat_scenes()[:4]:
        given = processed(model, one)
        written = model.model.generate(**given, max_new_tokens=4, do_sample=False)[0, given["input_ids"].shape[1] :]
        assert len(written) == 2
        assert written[1] == model.tokenizer.eos_token_id


def test_shipped_pictures_are_as_composed():
    bundled = clew.chat_scenes()
    assert len(bundled) == 48
    assert {one.quarter for one in bundled} == set(range(len(QUARTERS)))
    for i in (0, 17, 47):
        one = compose_asked("test", TEST_PICTURES + i)
        assert np.array_equal(bundled[i].image, one.image)
        assert (bundled[i].labels, bundled[i].question, bundled[i].answer) == (one.labels, one.question, one.answer)
    assert sum(quarter_mask(q).astype(int) for q in range(4)).tolist() == np.ones((SIZE, SIZE), int).tolist()


@pytest.mark.parametrize("method", ["generic_attribution", "attn_lrp"])
def test_the_quarter_that_is_asked_for_is_found(model, method):
    assert found(model, method, clew.chat_scenes()) >= 0.95


def test_without_training_it_is_found_by_chance(model):
    set_seed(0)
    own = type(model.model)(model.model.config).eval()
    untrained = clew.LoadedModel(own, tokenizer=model.tokenizer, processor=model.processor)
    assert found(untrained, "generic_attribution", clew.chat_scenes()) < 0.5


def test_the_script_trains_and_writes(tmp_path):
    main(tmp_path / "chat", train_pictures=64, test_pictures=20)
    made = clew.load(str(tmp_path / "chat"))
    assert made.processor is not None
    assert not hasattr(made.model, "reader")
    readable_by_both(tmp_path / "chat")
    assert json.loads((tmp_path / "chat" / "measured.json").read_text())["test_pictures"] == 20

"""Prompts as people have them, answers as tokens of the whole text, and models with settings of their own.

Right values: the tokenizer on prompt and answer together, a greedy loop over the model, the text itself.
"""

from __future__ import annotations

import pytest
import torch
from support.commands import run
from support.tiny_tokenizers import tokenizer, with_bytes
from support.tokenized_models import Slow, writer
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

import clew
from clew.errors import ClewError, InputError
from clew.inputs.token_texts import decode_incrementally, spans_of, split_by_spans

CHAT = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}"
CHAT += "{% if add_generation_prompt %}[assistant] {% endif %}"
MESSAGES = [{"role": "user", "content": "once upon a time"}]


def generation(model, prompt, **options):
    return clew.explain_generation(model, prompt, method="saliency", **options)


@torch.no_grad()
def greedy(model, ids, count, ends=()):
    """Greedy decoding by the definition."""
    ids = list(ids)
    for _ in range(count):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] in ends:
            return ids[:-1]
    return ids


def gpt2(kind="byte-level"):
    tokens = tokenizer(kind)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokens), n_embd=24, n_layer=2, n_head=2, n_positions=128, initializer_range=0.3,
                        bos_token_id=2, eos_token_id=3)  # fmt: skip
    return clew.LoadedModel(GPT2LMHeadModel(config).eval(), name="gpt2", tokenizer=tokens)


# Answers


@pytest.mark.parametrize("make", [writer, gpt2, lambda: writer(tokens=with_bytes(ends=True))])
@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("once upon a", " time"),
        ("once upon a ti", "me there"),
        ("hello ", "cat"),
        ('he said "', 'hello"'),
        ("a", "日本"),
    ],
)
def test_an_answer_is_tokens_of_the_whole_text(make, prompt, answer):
    model = make()
    g = generation(model, prompt, answer=answer)
    encoded = model.tokenizer(prompt + answer, return_offsets_mapping=True, return_special_tokens_mask=True)
    ids, added = encoded["input_ids"], encoded["special_tokens_mask"]
    inner = [i for i, one in enumerate(added) if not one]
    assert g.input_ids.tolist() == ids[: inner[-1] + 1]  # without what ends a text
    spans = encoded["offset_mapping"]
    assert g.prompt == next(i for i in inner if spans[i][1] > len(prompt))
    assert "".join(g.tokens) == "".join(model.tokenizer.decode([i]) for i in ids[: inner[0]]) + prompt + answer
    with torch.no_grad():
        logits = model.model(g.input_ids[None]).logits[0]
    expected = torch.stack([logits[p - 1, g.input_ids[p]] for p in range(g.prompt, len(g.input_ids))])
    torch.testing.assert_close(g.score, expected)
    assert g.scores.shape == (len(g.input_ids) - g.prompt, len(g.input_ids))


def test_an_answer_after_numbers_has_no_space_of_its_own():
    model = writer()
    for prompt, answer in (("once upon a", " time there"), ("a cat", "日"), ("hello", " hello")):
        whole = model.tokenizer(prompt + answer)["input_ids"]
        count = len(model.tokenizer(prompt)["input_ids"])
        if whole[:count] != model.tokenizer(prompt)["input_ids"]:
            continue  # how the tokenizer merges differs from training to training
        for given in (whole[:count], torch.tensor([whole[:count]]), model.tokenizer(prompt)):
            g = generation(model, given, answer=answer)
            assert g.input_ids.tolist() == whole
            assert g.prompt == count
    numbers = generation(model, whole[:count], answer=torch.tensor([whole[count:]]))
    torch.testing.assert_close(numbers.scores, g.scores)
    with pytest.raises(InputError, match="no answer"):
        generation(model, prompt, answer=[0.5])


def test_a_tokenizer_without_offsets_is_split_where_tokens_differ():
    model = writer()
    whole = model.tokenizer("once upon a time")["input_ids"]
    alone = model.tokenizer("once upon a ti")["input_ids"]
    model.tokenizer = Slow(model.tokenizer)
    g = generation(model, "once upon a ti", answer="me")
    assert g.input_ids.tolist() == whole
    assert g.prompt == next(i for i, (a, b) in enumerate(zip(whole, alone, strict=False)) if a != b)


# Prompts


def test_chats_in_every_form_are_one_prompt():
    model = writer()
    model.tokenizer.chat_template = CHAT
    text = model.tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    given = model.tokenizer.apply_chat_template(
        MESSAGES, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    ids = given["input_ids"][0].tolist()
    assert ids.count(1) == 1
    expected = greedy(model.model, ids, 4, (2,))
    padded = {"input_ids": torch.tensor([[0, 0, *ids]]), "attention_mask": torch.tensor([[0, 0] + [1] * len(ids)])}
    first = None
    for prompt in (text, given, dict(given), ids, given["input_ids"], MESSAGES, [MESSAGES], padded):
        g = generation(model, prompt, max_new_tokens=4)
        assert g.prompt == len(ids)
        assert g.input_ids.tolist() == expected
        first = first or g
        torch.testing.assert_close(g.scores, first.scores)
    assert clew.explain(model, MESSAGES, method="saliency").input_ids[0].tolist() == ids
    begun = [*MESSAGES, {"role": "assistant", "content": "there was"}]
    goes_on = model.tokenizer.apply_chat_template(begun, continue_final_message=True)["input_ids"]
    assert generation(model, begun, max_new_tokens=1).input_ids[:-1].tolist() == goes_on
    answered = generation(model, MESSAGES, answer="there was")
    assert answered.input_ids.tolist() == model.tokenizer(text + "there was", add_special_tokens=False)["input_ids"]


def test_what_ends_a_text_is_no_part_of_a_prompt():
    model = writer(tokens=with_bytes(ends=True))
    ids = model.tokenizer("once upon")["input_ids"]
    assert ids[-1] == 2
    g = generation(model, "once upon", max_new_tokens=3)
    assert g.input_ids.tolist() == greedy(model.model, ids[:-1], 3, (2,))
    assert "</s> at the end of the prompt" in g.checks["left_out"]


@pytest.mark.parametrize(
    "prompt",
    [["a", "b"], [[1, 5], [1, 6]], torch.tensor([[1, 5], [1, 6]]), ("a", "b"), 3, [],
     {"input_ids": torch.tensor([[0.5]])}, [[{"role": "user", "content": "a"}]] * 2],
)  # fmt: skip
def test_several_prompts_and_none(prompt):
    model = writer()
    model.tokenizer.chat_template = CHAT
    with pytest.raises(InputError, match="this is no prompt"):
        generation(model, prompt)
    with pytest.raises(InputError, match="leave out position_ids"):
        generation(model, {"input_ids": torch.tensor([[1, 5]]), "position_ids": torch.tensor([[4, 5]])})


# Characters


@pytest.mark.parametrize("make", [writer, gpt2])
@pytest.mark.parametrize(
    "prompt",
    ["Lily (リリー) went to 日本 😀 and", "naïve  café\n\n電影", "a 日本 cat 😀 " * 6, "👩‍👩‍👧 é a\u3000\u3000b"],
)
def test_the_tokens_are_the_text(make, prompt):
    model = make()
    g = generation(model, prompt, max_new_tokens=3)
    begins = model.tokenizer.decode(model.tokenizer(prompt)["input_ids"][:1])
    assert "".join(g.tokens[: g.prompt]) == begins + prompt
    assert "".join(g.tokens).startswith(begins + prompt)
    assert len(g.tokens) == len(g.input_ids) == g.scores.shape[1]
    numbers = generation(model, g.input_ids[: g.prompt], max_new_tokens=3)
    assert "�" not in "".join(numbers.tokens[: g.prompt])
    assert "".join(numbers.tokens[: g.prompt]) == begins + prompt


def test_spelling_by_hand():
    text = "aé日b"
    pieces = [b"a\xc3", b"\xa9\xe6", b"\x97", b"\xa5b"]
    assert b"".join(pieces).decode() == text

    def decode(ids):
        return b"".join(pieces[i] for i in ids).decode(errors="replace")

    assert decode_incrementally(range(4), decode) == ["aé", "日", "", "b"]
    bytes_of = text.encode()

    def left_out(ids):  # as tokenizers of bytes do
        return bytes(bytes_of[i] for i in ids).decode(errors="ignore")

    assert decode_incrementally(range(len(bytes_of)), left_out) == ["a", "é", "", "日", "", "", "b"]
    assert spans_of(text, decode_incrementally(range(len(bytes_of)), left_out)) == [
        (0, 1),
        *[(1, 2)] * 2,
        *[(2, 3)] * 3,
        (3, 4),
    ]
    assert spans_of(text, ["a", "e"]) is None
    assert "".join(decode_incrementally([0, 1, 2], decode)).startswith("aé")  # the last character is not there
    assert decode_incrementally([3, 0, 1, 2, 3], decode, {3})[1:] == ["aé", "�", "", decode([3])]
    assert split_by_spans("a  b", [(0, 0), (0, 1), (3, 4)], ["<s>", "", ""], [True, False, False], 4) == [
        "<s>",
        "a",
        "  b",
    ]


# Settings of the model's own


@pytest.mark.parametrize(
    "settings",
    [
        {"num_return_sequences": 2},
        {"return_dict_in_generate": True, "output_scores": True, "output_attentions": True},
        {"do_sample": True, "temperature": 3.0, "top_k": 5, "top_p": 0.2, "num_return_sequences": 3},
        {"num_beams": 4, "num_return_sequences": 4, "early_stopping": True, "length_penalty": 2.0},
        {"penalty_alpha": 0.6, "top_k": 4},
        {"stop_strings": ["a"]},
        {"min_new_tokens": 9, "min_length": 40},
        {"max_length": 2},
        {"dola_layers": "high"},
        {"prompt_lookup_num_tokens": 3},
        {"guidance_scale": 2.0},
        {"max_time": 0.0},
        {"cache_implementation": "static"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_one_greedy_sequence_whatever_the_model_is_set_to(settings):
    model = writer()
    ids = model.tokenizer("once upon a time")["input_ids"]
    before = model.model.generation_config
    for name, value in settings.items():
        if not hasattr(before, name):
            pytest.skip(f"this transformers has no {name}")
        setattr(before, name, value)
    g = generation(model, "once upon a time", max_new_tokens=5)
    assert g.input_ids.tolist() == greedy(model.model, ids, 5, (2,))
    assert model.model.generation_config is before
    assert all(getattr(before, name) == value for name, value in settings.items())


def test_the_token_that_ends_a_text_is_no_part_of_the_answer():
    model = writer()
    ids = model.tokenizer("once upon a time")["input_ids"]
    free = greedy(model.model, ids, 6)
    new = free[len(ids) :]
    cut = next(i for i in range(1, 6) if new[i] not in new[:i])  # a token that is new there
    for ends in (new[cut], [250, new[cut]]):
        model.model.generation_config.eos_token_id = ends
        g = generation(model, "once upon a time", max_new_tokens=6)
        assert g.input_ids.tolist() == free[: len(ids) + cut]
    model.model.generation_config.eos_token_id = new[0]
    with pytest.raises(InputError, match="ended the text at once"):
        generation(model, "once upon a time")
    kept = generation(model, "once upon a time", answer=new[: cut + 1])  # what was given is explained
    assert kept.input_ids.tolist() == free[: len(ids) + cut + 1]


def test_models_that_do_not_write():
    class NoGenerate(LlamaForCausalLM):
        generate = property()

    model = writer(NoGenerate)
    with pytest.raises(InputError, match="does not generate"):
        generation(model, "once")
    assert len(generation(model, "once", answer=" upon").scores)

    class Breaks(LlamaForCausalLM):
        def generate(self, *args, **kwargs):
            raise ValueError("no such luck")

    with pytest.raises(InputError, match="cannot write") as error:
        generation(writer(Breaks), "once")
    assert "answer=" in str(error.value)
    with pytest.raises(ClewError):
        generation(clew.load("mini:reviews-bert"), "a superb plot", answer="so")


def test_a_chat_on_the_command_line(tmp_path):
    model = writer()
    model.tokenizer.chat_template = CHAT
    model.model.save_pretrained(tmp_path / "writer")
    model.tokenizer.save_pretrained(tmp_path / "writer")
    done = run(
        "generate", "once upon", "-m", tmp_path / "writer", "--chat", "--answer", "a time", "-o", tmp_path / "g.html"
    )
    assert done.exit_code == 0, done.output
    assert "<s>[user] once upon</s>[assistant] a time" in done.output.replace("\n", "")


# Through a reasoning


def test_each_written_token_through_those_before_it():
    """By default what was written is the reasoning; each row is a call of its own, and so are words of it."""
    model, words = writer(), " time there was a cat"
    g = clew.explain_generation(model, "once upon a", answer=words, method="flash_trace", batch_size=2)
    count = len(g.input_ids)
    assert g.options["reasoning"] == (g.prompt, count)
    assert not g.scores[:, g.prompt :].any()
    assert g.scores[:, : g.prompt].all()
    for i, place in enumerate(range(g.prompt, count)):
        options = {"method": "flash_trace", "reasoning": (g.prompt, count), "target": clew.Span(place, place + 1)}
        alone = clew.explain(model, g.input_ids[None], **options)
        torch.testing.assert_close(g.scores[i], alone.scores[0])
    asked = {"method": "flash_trace(hops=2)", "reasoning": clew.Span("there was")}
    by_words = clew.explain_generation(model, "once upon a", answer=words, **asked)
    start, stop = by_words.options["reasoning"]
    assert "there was" in "".join(by_words.tokens[start:stop])
    assert "there was" not in "".join(by_words.tokens[start + 1 : stop])
    assert "there was" not in "".join(by_words.tokens[start : stop - 1])
    assert by_words.options["hops"] == 2
    options = {"method": "flash_trace", "reasoning": (start, stop), "hops": 2, "target": clew.Span(count - 1, count)}
    torch.testing.assert_close(by_words.scores[-1], clew.explain(model, g.input_ids[None], **options).scores[0])
    with pytest.raises(ClewError, match="not in the text"):
        clew.explain_generation(model, "once upon a", answer=" cat", method="flash_trace", reasoning=clew.Span("dog"))


@pytest.mark.parametrize("method", ["ifr", "flash_trace"])
def test_information_flow_saves_and_loads(method, tmp_path):
    g = clew.explain_generation(writer(), "once upon a", answer=" time there", method=method)
    again = clew.Attribution.load(g.save(tmp_path / "g.safetensors"))
    torch.testing.assert_close(again.scores, g.scores.float())

"""Sources of a prompt: split, left out and scored. Right values: a literal twin, and texts joined by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from support import context_cite_twin as twin
from support.commands import run
from support.tiny_text import TINY_TEXT, build_text, texts
from support.tiny_tokenizers import tokenizer, with_bytes
from support.tokenized_models import Slow, writer
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

import clew
from clew.errors import ClewError, InputError, OptionError, TargetError
from clew.explaining.ablations import context_cite, log_odds_of, log_odds_together, log_prob_together
from clew.inputs import places_of, source_spans

CONTEXT = "once upon a time.  there was a cat.\nthe cat said: hello! and then a time?"
SOURCES = ["once upon a time.", "there was a cat.", "the cat said: hello!", "and then a time?"]
SEPARATORS = ["", "  ", "\n", " "]
BEFORE, AFTER, ANSWER = "context: ", "\n\nwhat was there?", " a cat was there"
PROMPT = BEFORE + CONTEXT + AFTER


def gpt2():
    tokens = tokenizer("byte-level")
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(tokens), n_embd=24, n_layer=2, n_head=2, n_positions=256, initializer_range=0.3,
                        bos_token_id=2, eos_token_id=3)  # fmt: skip
    return clew.LoadedModel(GPT2LMHeadModel(config).eval(), name="gpt2", tokenizer=tokens)


def in_double(make):
    model = make()
    model.model.double()
    return model


def asked(model=None, **options):
    model = in_double(writer) if model is None else model
    return clew.Sources(model, PROMPT, **{"context": CONTEXT, "answer": ANSWER, **options})


def ids_of(text, model):
    """Tokens of a prompt, without what ends a text."""
    ids = model.tokenizer(text)["input_ids"]
    ends = model.tokenizer.convert_tokens_to_ids(["</s>", "[SEP]"])
    return ids[:-1] if ids[-1] in ends else ids


# Splitting


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ('He said "No." He left (at 3.5 p.m. sharp). Bye…', ['He said "No."', "He left (at 3.5 p.m. sharp).", "Bye…"]),
        ("Dr. A. Smith of the U.S. did. See a.com. End", ["Dr. A. Smith of the U.S. did.", "See a.com.", "End"]),
        ("A title\n\n- a point\n1. another", ["A title", "- a point", "1. another"]),
        ("彼は来た。「行く！」と言った。終わり", ["彼は来た。", "「行く！」", "と言った。", "終わり"]),
        ("  \n ", []),
    ],
)  # fmt: skip
def test_sentences(text, expected):
    assert [text[a:b] for a, b in source_spans(text, [(0, len(text))], "sentence")] == expected


def test_other_ways_to_split():
    text = " a b\nc \n\n \nd. e\n"
    for split, expected in {
        "word": ["a", "b", "c", "d.", "e"],
        "line": ["a b", "c", "d. e"],
        "paragraph": ["a b\nc", "d. e"],
        None: ["a b\nc \n\n \nd. e"],
    }.items():
        assert [text[a:b] for a, b in source_spans(text, [(0, len(text))], split)] == expected
    assert source_spans("one two one", [(0, 3), (8, 11)], "word") == [(0, 3), (8, 11)]
    with pytest.raises(OptionError, match="sentence, line, paragraph, word, or None"):
        source_spans("a", [(0, 1)], "chapter")


def test_places_are_where_words_are():
    assert places_of(["a", "b", "a"], "a b a") == [(0, 1), (2, 3), (4, 5)]
    for words, text, said in ((["a"], "b", "not in the prompt"), (["b", "a"], "a b", "not in the prompt"),
                              ([" "], "a b", "not in the prompt"), (["a"], "a a", "2 times")):  # fmt: skip
        with pytest.raises(InputError, match=said):
            places_of(words, text)


# Numbers


def test_log_odds_of_tokens_and_answers():
    logits = torch.randn(4, 9, dtype=torch.float64)
    p = logits.softmax(-1)[torch.arange(4), [0, 3, 8, 2]]
    found = log_odds_of(logits, torch.tensor([0, 3, 8, 2]))
    torch.testing.assert_close(found, (p / (1 - p)).log())
    torch.testing.assert_close(log_prob_together(found[None]), p.log().sum()[None])
    torch.testing.assert_close(log_odds_together(found[None]), torch.tensor([twin.log_odds(p)], dtype=torch.float64))
    sure = log_odds_of(torch.tensor([[100.0, 0.0]]), torch.tensor([0]))
    torch.testing.assert_close(log_odds_together(sure[None]), torch.tensor([100.0], dtype=torch.float64))


# The twin


@pytest.mark.parametrize("make", [writer, gpt2, lambda: writer(tokens=with_bytes(ends=True))])
@pytest.mark.parametrize("options", [{}, {"num_ablations": 20, "ablation_keep_prob": 0.7, "lasso_alpha": 0.2}])
def test_context_cite_is_its_twin(make, options):
    model = in_double(make)
    sources = asked(model)
    assert sources.texts == SOURCES
    assert (sources.prompt, sources.answer) == (PROMPT, ANSWER)
    a = sources.explain(**options)
    ids = clew.explain_generation(model, PROMPT, answer=ANSWER, method="saliency").input_ids.tolist()
    answer = ids[len(ids_of(PROMPT, model)) :]
    count, keep, alpha = (options.get(k, d) for k, d in
                          (("num_ablations", 64), ("ablation_keep_prob", 0.5), ("lasso_alpha", 0.01)))  # fmt: skip
    scores, intercept, y = twin.context_cite(model.model, lambda text: ids_of(text, model), BEFORE, SOURCES, SEPARATORS,
                                             AFTER, answer, count, keep, alpha)  # fmt: skip
    torch.testing.assert_close(a.details["log_odds"], torch.tensor([y], dtype=torch.float64), rtol=0, atol=1e-9)
    largest = np.abs(scores).max()
    assert np.abs(a.scores[0].numpy() - scores).max() <= 2e-3 * largest  # how near scikit-learn goes
    assert float(a.checks["intercept"]) == pytest.approx(intercept, abs=2e-3 * largest)
    m = a.details["masks"][0].double()
    left = torch.tensor(y) - m @ a.scores[0] - a.checks["intercept"]
    assert float(a.checks["r2"]) == pytest.approx(float(1 - left.var() / torch.tensor(y).var()), abs=2e-3)
    whole = twin.log_odds(twin.probabilities(model.model, ids_of(PROMPT, model), answer))
    assert float(a.score) == pytest.approx(whole, abs=1e-9)


def test_leave_one_out_is_its_definition():
    model = in_double(writer)
    sources = asked(model)
    answer = ids_of(PROMPT + ANSWER, model)[len(ids_of(PROMPT, model)) :]

    def y(kept):
        text = twin.text_of(BEFORE, SOURCES, SEPARATORS, AFTER, kept)
        return twin.log_odds(twin.probabilities(model.model, ids_of(text, model), answer))

    expected = [y([True] * 4) - y([i != gone for i in range(4)]) for gone in range(4)]
    found = sources.explain("leave_one_out")
    torch.testing.assert_close(found.scores, torch.tensor([expected], dtype=torch.float64), rtol=0, atol=1e-9)
    assert found.options == {}


def test_methods_of_tokens_are_added_up():
    """A token that has characters of a source is that source's; the answer is one span."""
    model = in_double(writer)
    sources = asked(model)
    found = sources.explain("input_x_gradient", score="log_probability")
    ids = torch.tensor([ids_of(PROMPT + ANSWER, model)])
    first = len(ids_of(PROMPT, model))
    span = clew.Span(first, ids.shape[1])
    alone = clew.explain(model, ids, method="input_x_gradient", target=span, score="log_probability")
    spans = model.tokenizer(PROMPT, return_offsets_mapping=True)["offset_mapping"]
    starts = [PROMPT.index(source) for source in SOURCES]
    expected = [
        sum(float(s) for s, (a, b) in zip(alone.scores[0], spans, strict=False) if a < start + len(words) and b > start)
        for start, words in zip(starts, SOURCES, strict=True)
    ]
    torch.testing.assert_close(found.scores, torch.tensor([expected], dtype=torch.float64), rtol=0, atol=1e-9)
    torch.testing.assert_close(found.score, alone.score)
    assert found.method == "input_x_gradient"
    model.tokenizer = Slow(model.tokenizer)
    assert asked(model).explain("leave_one_out").scores.shape == (1, 4)


class Planted(torch.nn.Module):
    """A language model that says word 3 where word 9 came before, and nothing in particular elsewhere."""

    def __init__(self):
        super().__init__()
        self.odds = torch.nn.Parameter(torch.tensor(4.0))

    def forward(self, input_ids, attention_mask=None):
        seen = (input_ids == 9).cumsum(1) > 0
        return torch.nn.functional.one_hot(torch.full_like(input_ids, 3), 12) * (seen * self.odds)[..., None]


def test_the_planted_source_is_found_and_the_others_get_nothing():
    prompt, context = [5, 6, 7, 9, 8, 8, 5], [(0, 2), (2, 4), (4, 5), (5, 6)]
    sources = clew.Sources(Planted().eval(), prompt, answer=[3, 3], context=context)
    for method in ("context_cite", "leave_one_out"):
        scores = sources.explain(method).scores[0]
        assert scores[1] > 3
        assert scores[[0, 2, 3]].tolist() == [0.0] * 3
    assert float(sources.explain().checks["r2"]) > 0.999


def test_more_sources_than_ablations():
    """The Lasso converges, or warns, which is an error here; what is sparse is found."""
    torch.manual_seed(0)
    weights = 30 * torch.randn(200, dtype=torch.float64) * (torch.rand(200) < 0.05)
    scores, checks, details = context_cite(lambda masks: masks.double() @ weights, 200, 5, num_ablations=128)
    assert details["masks"].shape == (1, 128, 200)
    torch.testing.assert_close(scores, weights, rtol=0, atol=1.0)
    assert float(checks["r2"]) > 0.99


# What is asked


def test_ablations_together_are_ablations_alone():
    model = in_double(gpt2)
    masks = asked(model).random_masks(9, seed=3)
    expected = asked(model, batch_size=1).token_log_odds(masks)
    for size in (2, 4, 100):
        torch.testing.assert_close(asked(model, batch_size=size).token_log_odds(masks), expected, rtol=0, atol=1e-9)
    single = writer()
    together, alone = (asked(single, batch_size=size).log_probs(masks) for size in (4, 1))
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-4)


WRITERS = [name for name, tiny in TINY_TEXT.items() if tiny.head in ("ForCausalLM", "LMHeadModel")]


@pytest.mark.parametrize("name", WRITERS)
def test_every_language_model_by_passes_of_each_ablation_alone(name):
    model = build_text(name, TINY_TEXT[name].kernels[0])
    model = model.float() if name in ("mixtral", "qwen3_moe") else model  # grouped products know no double precision
    ids, answer = texts()[2].tolist(), [7, 8, 9]
    sources = clew.Sources(model, ids, answer=answer, context=[(1, 3), (3, 8), (9, 10)])
    masks = torch.tensor([[True, True, True], [False, True, False], [True, False, True], [False] * 3])
    for row, kept in zip(sources.token_log_odds(masks), masks.tolist(), strict=True):
        gone = {
            i for (a, b), keep in zip([(1, 3), (3, 8), (9, 10)], kept, strict=True) if not keep for i in range(a, b)
        }
        p = twin.probabilities(model, [number for i, number in enumerate(ids) if i not in gone], answer)
        torch.testing.assert_close(row, (p / (1 - p)).log(), rtol=1e-5, atol=1e-5)  # norms are in single precision


def test_nothing_is_left_behind_and_nothing_is_passed_twice():
    model = in_double(writer)
    passes = []
    model.model.register_forward_hook(lambda *_: passes.append(1))
    hooks = {name: len(part._forward_hooks) for name, part in model.model.named_modules()}
    sources = asked(model)
    sources.explain(num_ablations=16)
    before = len(passes)
    a, b = sources.explain(num_ablations=16), sources.explain(num_ablations=16, part=(0, 2))
    assert len(passes) == before
    assert not torch.equal(a.scores, b.scores)
    assert {name: len(part._forward_hooks) for name, part in model.model.named_modules()} == hooks
    assert all(p.requires_grad and p.grad is None for p in model.model.parameters())
    assert not model.model.training


def test_masks_follow_their_seed():
    sources = asked()
    np.testing.assert_array_equal(sources.random_masks(5, 0.3).numpy(), twin.masks(4, 5, 0.3))
    assert torch.equal(sources.random_masks(6, seed=1), sources.random_masks(6, seed=1))
    assert not torch.equal(sources.random_masks(6, seed=1)[:-1], sources.random_masks(6)[1:])
    assert sources.random_masks(3, 1.0).all()
    assert sources.explain(num_ablations=4, ablation_keep_prob=1.0).scores.tolist() == [[0.0] * 4]


def test_a_part_of_the_answer():
    sources = asked()
    masks = sources.random_masks(3)
    every = sources.token_log_odds(masks)
    torch.testing.assert_close(sources.log_probs(masks, (1, 3)), log_prob_together(every[:, 1:3]))
    cat = sources.explain("leave_one_out", part=clew.Span(" cat"))
    assert "cat" in cat.target[0]
    for part in ((2, 1), (90, 99), "cat", clew.Span("dog"), 3):
        with pytest.raises((TargetError, InputError)):
            sources.explain(part=part)


def test_the_context_is_named_in_several_ways():
    model = writer()
    first = PROMPT.index(CONTEXT)
    for context, split in (
        (CONTEXT, "sentence"), ([CONTEXT], "sentence"), (SOURCES, None), (SOURCES, "sentence"),
        ([(first, first + len(CONTEXT))], "sentence"), (torch.tensor([[first, first + len(CONTEXT)]]), "sentence"),
    ):  # fmt: skip
        assert asked(model, context=context, split=split).texts == SOURCES
    assert asked(model, context=None).texts == ["context: once upon a time.", *SOURCES[1:], "what was there?"]
    assert asked(model, context=[SOURCES[0], SOURCES[2]], split=None).texts == SOURCES[::2]


def test_words_between_sources_stay():
    model = writer()
    prompt = "a: once upon.\nb: a time.\nthere was"
    sources = clew.Sources(model, prompt, answer=" a cat", context=["once upon.", "a time."])
    for kept, text in {
        (True, True): prompt,
        (False, True): "a: \nb: a time.\nthere was",
        (True, False): "a: once upon.\nb: \nthere was",
    }.items():
        expected = model.tokenizer(text)["input_ids"]
        assert sources._parts.ids_with(kept) == expected


def test_a_chat_and_what_the_model_writes():
    model = writer()
    model.tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}{% endfor %}"
        "{% if add_generation_prompt %}[assistant] {% endif %}"
    )
    chat = [{"role": "user", "content": " " + CONTEXT + AFTER}]
    sources = clew.Sources(model, chat, max_new_tokens=4)
    assert sources.texts == [*SOURCES, "what was there?"]
    written = clew.explain_generation(model, chat, max_new_tokens=4, method="saliency")
    assert sources.answer == "".join(written.outputs)
    ids = model.tokenizer("<s>[user]   a time</s>[assistant]", add_special_tokens=False)["input_ids"]
    only = clew.Sources(model, [{"role": "user", "content": " once. a time"}], answer="a", context="once.")
    assert only._parts.ids_with([False]) == ids
    parts = [{"role": "user", "content": [{"type": "text", "text": CONTEXT}]}]
    model.tokenizer.chat_template = "{% for m in messages %}[{{ m.content[0].text }}]{% endfor %}"
    assert clew.Sources(model, parts, answer="a").texts == SOURCES


def test_token_numbers():
    model = in_double(writer).model
    ids, answer = torch.arange(5, 17), [20, 21, 22]
    sources = clew.Sources(model, ids, answer=answer, context=[(0, 3), (3, 7)])
    masks = torch.tensor([[True, False], [False, True], [True, True]])
    for row, kept in zip(sources.token_log_odds(masks), ([0, 1, 2], [3, 4, 5, 6], range(7)), strict=True):
        p = twin.probabilities(model, [*ids[list(kept)].tolist(), *ids[7:].tolist()], answer)
        torch.testing.assert_close(row, (p / (1 - p)).log(), rtol=0, atol=1e-9)
    a = sources.explain("leave_one_out")
    assert a.scores.shape == (1, 2)
    assert (sources.prompt, a.texts, a.offsets) == ("", (), None)
    alone = clew.explain(
        model, torch.cat([ids, torch.tensor(answer)])[None], method="saliency", target=clew.Span(12, 15)
    )
    expected = torch.stack([alone.scores[0, :3].sum(), alone.scores[0, 3:7].sum()])
    torch.testing.assert_close(sources.explain("saliency").scores[0], expected)


def test_a_result_is_a_text_of_sources(tmp_path):
    a = asked(writer()).explain("context_cite(num_ablations=8)", seed=2)
    assert a.scores.dtype == torch.float32
    assert a.options == {"num_ablations": 8, "ablation_keep_prob": 0.5, "lasso_alpha": 0.01, "seed": 2}
    assert a.target == [ANSWER]
    best = a.top(1)[0][0]
    assert best.token == SOURCES[best.column]
    for suffix in (".html", ".png", ".csv", ".json", ".npy", ".tex", ".safetensors"):
        assert a.save(tmp_path / f"a{suffix}").stat().st_size
    again = clew.Attribution.load(tmp_path / "a.safetensors")
    torch.testing.assert_close(again.scores, a.scores)
    assert torch.equal(again.details["masks"], a.details["masks"])
    assert again.tokens == [SOURCES]
    assert SOURCES[2] in (tmp_path / "a.csv").read_text()
    assert [piece.text for piece in a.pieces(0) if piece.columns] == SOURCES


def test_a_token_of_prompt_and_answer_is_the_answers():
    """The prompt ends before it."""
    model = writer()
    whole = model.tokenizer("hello. once upon a time")["input_ids"]
    sources = clew.Sources(model, "hello. once upon a ti", answer="me", context="hello.")
    assert [*sources._parts.ids_with([True]), *sources._answer] == whole


def test_on_the_command_line(tmp_path):
    model = writer()
    model.model.save_pretrained(tmp_path / "writer")
    model.tokenizer.save_pretrained(tmp_path / "writer")
    given = ("generate", PROMPT, "-m", tmp_path / "writer", "--answer", ANSWER)
    done = run(
        *given, "--context", CONTEXT, "--method", "context_cite(num_ablations=8)", "-o", tmp_path / "a.safetensors"
    )
    assert done.exit_code == 0, done.output
    assert all(source in done.output for source in SOURCES)
    found = clew.Attribution.load(tmp_path / "a.safetensors")
    torch.testing.assert_close(found.scores, asked(model).explain(num_ablations=8).scores)
    done = run(*given, "--context", SOURCES[0], "--context", SOURCES[3], "--split", "none", "--method", "saliency",
               "--score", "probability", "--json")  # fmt: skip
    columns = json.loads(done.stdout)["examples"][0]["streams"]["sources"]["columns"]
    assert columns["token"] == [SOURCES[0], SOURCES[3]]
    with pytest.raises(OptionError, match="log odds"):
        run(*given, "--method", "leave_one_out", "--score", "probability")


def test_elsewhere_it_is_told_where_to_find():
    model = writer()
    for call in (clew.explain, clew.explain_generation):
        with pytest.raises(OptionError, match="Sources"):
            call(model, PROMPT, method="context_cite")


# What is refused


def test_what_is_refused():
    model = writer()
    for options, error, said in (
        ({"context": "a dog"}, InputError, "not in the prompt"),
        ({"context": []}, InputError, "no source"),
        ({"context": 3}, InputError, "parts of the prompt"),
        ({"context": [(0, 5), (3, 8)]}, InputError, "apart from each other"),
        ({"context": [(0, 9999)]}, InputError, "apart from each other"),
        ({"context": [(0.5, 2.0)]}, InputError, "parts of the prompt"),
        ({"context": [(1, 2, 3)]}, InputError, "parts of the prompt"),
        ({"split": "chapter"}, OptionError, "sentence"),
        ({"answer": ""}, InputError, "no answer"),
        ({"batch_size": 0}, OptionError, "batch_size"),
        ({"max_new_tokens": 0}, OptionError, "max_new_tokens"),
    ):
        with pytest.raises(error, match=said):
            asked(model, **options)
    with pytest.raises(InputError, match="positions of each source"):
        clew.Sources(model, [1, 5, 6], answer=[7])
    with pytest.raises(InputError, match="nothing is left"):
        clew.Sources(model.model, [1, 5, 6], answer=[7], context=[(0, 3)])
    typed = {"input_ids": torch.tensor([[1, 5, 6]]), "token_type_ids": torch.tensor([[0, 0, 1]])}
    with pytest.raises(InputError, match="no token types"):
        clew.Sources(model, typed, answer=[7], context=[(0, 1)])
    with pytest.raises(InputError, match="several inputs"):
        clew.Sources(clew.load("mini:digits-chat"), {"images": [clew.scenes().images[0]], "text": "which?"}, answer="a")


def test_options_that_are_refused():
    sources = asked(writer())
    for method, options, error in (
        ("context_site", {}, OptionError),
        ("context_cite", {"n_samples": 3}, OptionError),
        ("context_cite", {"num_ablations": 1}, OptionError),
        ("context_cite", {"num_ablations": 2.5}, OptionError),
        ("context_cite", {"ablation_keep_prob": 1.5}, OptionError),
        ("context_cite", {"lasso_alpha": 0.0}, OptionError),
        ("context_cite", {"seed": -1}, OptionError),
        ("leave_one_out", {"seed": 1}, OptionError),
        ("saliency", {"seed": 1}, ClewError),
    ):
        with pytest.raises(error):
            sources.explain(method, **options)
    for masks in (torch.ones(4, dtype=torch.bool), torch.ones(1, 4), torch.ones(1, 3, dtype=torch.bool), ["a"],
                  torch.ones(0, 4, dtype=torch.bool)):  # fmt: skip
        with pytest.raises(ClewError):
            sources.token_log_odds(masks)


def test_models_that_are_refused():
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    masked = BertForMaskedLM(BertConfig(vocab_size=30, **sizes)).eval()
    with pytest.raises(InputError, match="reads later tokens too"):
        clew.Sources(masked, [1, 5, 6], answer=[7], context=[(0, 1)])
    with pytest.raises(ClewError, match="no causal language model"):
        clew.Sources(
            clew.load("mini:reviews-bert"), "a superb plot. so", answer=" it is", context="a superb plot."
        ).explain()
    with pytest.raises(ClewError):
        clew.Sources(
            LlamaForCausalLM(LlamaConfig(vocab_size=30, **sizes)).train(), [1, 5], answer=[7], context=[(0, 1)]
        )

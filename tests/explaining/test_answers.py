"""Answers of models of several inputs: the matrix of all written tokens, against a call of its own for each of them."""

from __future__ import annotations

import pytest
import torch
import transformers
from support.zoo import build

import clew
from clew.errors import InputError
from clew.explaining.greedy import written_by
from clew.lrp import several_targets

WRITERS = [
    "llava", "llava_next", "llava_onevision", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "qwen3_5", "idefics3", "smolvlm",
    "paligemma", "internvl", "gemma3", "mllama", "blip2", "florence2", "t5_gated", "t5_tied", "bart", "mbart",
    "pegasus", "marian", "m2m100", "trocr", "donut", "whisper", "qwen2_audio",
]  # fmt: skip
METHODS = ["input_x_gradient", "attn_lrp", "attention_rollout", "generic_attribution"]
ANSWER = [7, 9, 11]
ONE = torch.arange(3, 9)[None]


def one_example(name):
    """A model with the first of its two examples; packed patches are those of both, in order."""
    specimen = build(name)
    given = {k: v[: max(1, len(v) // 2)] for k, v in specimen.inputs.items()}
    tokens = "decoder_input_ids" if "decoder_input_ids" in given else "input_ids"
    return specimen.model.double(), {k: v.double() if v.is_floating_point() else v for k, v in given.items()}, tokens


def with_tokens(given, name, more):
    """The call with tokens after its own; what has an entry for each of them goes on."""
    found, shape = dict(given), given[name].shape
    for k, v in given.items():
        if (
            v.shape[:2] == shape
            and not v.is_floating_point()
            and k.startswith("decoder_") == name.startswith("decoder_")
        ):
            new = torch.tensor([more]) if k == name else v[:, -1:].expand(1, len(more), *v.shape[2:])
            found[k] = torch.cat([v, new.to(v.dtype)], 1)
    return found


@pytest.mark.sampled(0.25)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", WRITERS)
def test_a_row_of_the_matrix_is_a_call_of_its_own(name, method):
    model, given, tokens = one_example(name)
    if method in METHODS[2:] and name == "qwen3_5":
        pytest.skip("linear attention, which is refused")
    g = clew.explain_generation(model, given, answer=ANSWER, method=method, batch_size=2)
    first = given[tokens].shape[1]
    assert g.input_ids.tolist() == given[tokens][0].tolist() + ANSWER
    assert g.prompt == first
    assert len(g) == len(ANSWER)
    assert g.streams[tokens] is g
    for i, written in enumerate(ANSWER):
        prefix = with_tokens(given, tokens, ANSWER[:i]) if i else given
        own = clew.explain(model, prefix, method=method, target=lambda o, token=written: o.logits[:, -1, token])
        torch.testing.assert_close(g.score[i], own.score[0], rtol=1e-9, atol=1e-9)
        for stream, part in own.streams.items():
            found, expected = g.streams[stream].all_scores[i], part.all_scores[0]
            if stream == tokens:
                assert not found[first + i :].any()
                found = found[: first + i]
            size = float(expected.abs().max())
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 * max(size, 1e-12))


@pytest.mark.parametrize("beginning", [[2, 45, 19], [45, 19]])  # as `generate` begins, or not
def test_what_the_model_writes_is_what_it_would(beginning):
    model, given, tokens = one_example("bart")
    given[tokens] = ids = torch.tensor([beginning])
    g = clew.explain_generation(model, given, max_new_tokens=4, method="saliency")
    for expected in g.input_ids[g.prompt :].tolist():
        with torch.no_grad():
            best = int(model(**given | {tokens: ids}).logits[0, -1].argmax())
        assert best == expected
        ids = torch.cat([ids, torch.tensor([[best]])], 1)
    assert (written_by(model, given, tokens, 4) is None) == (beginning[0] != 2)


def test_pictures_and_question_of_a_loaded_model():
    loaded, scene = clew.load("mini:digits-chat"), next(iter(clew.chat_scenes()))
    g = clew.explain_generation(loaded, {"images": [scene.image], "text": scene.question}, max_new_tokens=3)
    assert g.outputs[0].strip() == scene.answer
    assert g["image"].heatmap().shape == (len(g), 48, 48)
    assert any("× 36" in token for token in g.tokens)  # the places of the picture, once
    kept = g["prompt"].scores.sum(1) + g["image"].scores.sum(1)
    torch.testing.assert_close(kept, torch.stack(list(g.shares().values())[:2]).sum(0).to(kept))


def test_a_source_and_its_answer(tmp_path):
    loaded, one = clew.load("mini:reverse"), clew.reversals(1)[0]
    g = clew.explain_generation(loaded, {"source": one.source}, max_new_tokens=12, method="attn_lrp")
    assert "".join(g.outputs).split() == one.answer.split()
    best = g["source"].scores[:, :10].argmax(1).tolist()
    assert best == [9 - i for i in range(10)]  # letter by letter, backwards
    back = clew.Attribution.load(g.save(tmp_path / "g.safetensors"))
    torch.testing.assert_close(back["source"].scores, g["source"].scores)
    assert back["prefix"].tokens == g.tokens


@pytest.mark.parametrize("answer", ["j h", " j h", "j  h"])
def test_words_of_an_answer_are_not_glued_to_what_comes_before(answer):
    loaded = clew.load("mini:reverse")
    g = clew.explain_generation(loaded, {"source": "a b h j"}, answer=answer, method="saliency")
    assert "".join(g.outputs).split() == ["j", "h"]


def test_targets_that_cannot_go_together_go_one_by_one():
    """An operation that asks what a gradient holds: the passes go one after the other, with the same result."""

    class Asks(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, g):
            return g if bool(g.isfinite().all()) else torch.zeros_like(g)

    model, given, _ = one_example("bart")
    plain = clew.explain_generation(model, given, answer=ANSWER)
    norm = model.model.decoder.layernorm_embedding
    norm.register_forward_hook(lambda module, args, output: Asks.apply(output))
    asked = clew.explain_generation(model, given, answer=ANSWER)
    assert model in several_targets._one_by_one
    torch.testing.assert_close(asked.scores, plain.scores, rtol=0, atol=1e-12)


def test_torch_warns_as_before_where_it_has_no_batch_of_an_operation():
    """Several targets at a time leave no setting of torch changed."""
    model, given, _ = one_example("bart")
    clew.explain_generation(model, given, answer=ANSWER)
    x = torch.randn(3, 4)
    with pytest.warns(UserWarning, match="performance drop"):
        torch.vmap(lambda x: torch.zeros_like(x).index_copy_(0, torch.tensor([1]), x[:1]))(x)


@pytest.mark.parametrize(
    "prompt",
    [{"input_ids": ONE}, {"input_ids": ONE.expand(2, -1), "decoder_input_ids": ONE.expand(2, -1)}],
)
def test_no_prompt(prompt):
    with pytest.raises(InputError, match="no prompt"):
        clew.explain_generation(build("bart").model, prompt, answer=[3])


def test_what_was_explained_is_kept_where_it_is_interrupted(monkeypatch):
    model, given, _ = one_example("bart")
    whole = clew.explain_generation(model, given, answer=ANSWER, batch_size=1, method="saliency")
    explain, calls = clew.explaining.generation.explain, []

    def interrupted(*args, **kwargs):
        calls.append(0)
        if len(calls) > 2:
            raise KeyboardInterrupt
        return explain(*args, **kwargs)

    monkeypatch.setattr(clew.explaining.generation, "explain", interrupted)
    g = clew.explain_generation(model, given, answer=ANSWER, batch_size=1, method="saliency")
    assert len(g) == 2
    assert "2 of 3" in g.checks["advice"]
    torch.testing.assert_close(g["source"].scores, whole["source"].scores[:2])
    torch.testing.assert_close(g.scores, whole.scores[:2, : g.prompt + 2])
    calls += [0, 0]
    with pytest.raises(KeyboardInterrupt):
        clew.explain_generation(model, given, answer=ANSWER, batch_size=1, method="saliency")


def small_gpt2(positions):
    torch.manual_seed(0)
    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 30, "n_positions": positions}
    config = transformers.GPT2Config(**sizes, bos_token_id=None, eos_token_id=None)
    return transformers.GPT2LMHeadModel(config).eval()


def test_an_answer_ends_where_the_positions_of_the_model_do():
    mini = clew.load("mini:reverse")  # of 32 positions; it goes on and on after a letter that it does not know
    for model, prompt, most in ((small_gpt2(16), [1, 2, 3], 16), (mini, {"source": "x"}, 32)):
        found = clew.explain_generation(model, prompt, method="saliency")
        assert len(found.tokens) == most and f"after {most} tokens" in found.checks["advice"]
    short = clew.explain_generation(small_gpt2(16), [1, 2, 3], method="saliency", max_new_tokens=13)
    assert len(short.tokens) == 16 and "advice" not in short.checks


def test_an_answer_beyond_the_positions_is_refused():
    letters = " ".join("abcdefgh" * 5)
    with pytest.raises(InputError, match="does not take this input"):
        clew.explain_generation(clew.load("mini:reverse"), letters, answer=letters, method="saliency")
    with pytest.raises(InputError, match="check token numbers and lengths"):
        clew.explain_generation(small_gpt2(16), list(range(20)), method="saliency")
    with pytest.raises(InputError, match="does not take this input"):
        clew.Sources(small_gpt2(16), list(range(20)), answer=[1], context=[(0, 3)])

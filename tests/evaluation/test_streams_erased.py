"""Perturbation and flipping of one stream, literally: the highest places erased by hand, the model called."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from support.bench_twins import evaluated

import clew
from clew.datasets import Example
from clew.errors import ClewError, InputError, OptionError
from clew.evaluation.benchmarks.streams import StreamBatch, arguments_of

METHODS = ("saliency", "attention_rollout")


@pytest.fixture(scope="module")
def reverse():
    return clew.load("mini:reverse")


@pytest.fixture(scope="module")
def chat():
    return clew.load("mini:digits-chat")


@pytest.fixture(scope="module")
def pictures():
    data = clew.open_dataset("mini:digits-chat")
    return [data.read(i) for i in range(2)]


def prompt_of(model, example):
    """What the processor makes of a question about a picture."""
    parts = [{"type": "image", "image": example.image}, {"type": "text", "text": example.text}]
    return model.processor.apply_chat_template(
        [{"role": "user", "content": parts}], add_generation_prompt=True, tokenize=True, return_dict=True,
        return_tensors="pt",
    )  # fmt: skip


def logits_after(model, **given):
    with torch.no_grad():
        return model.model(**given).logits[0, -1]


def explained(model, example, method, target=None):
    inputs = {"images": [example.image], "text": example.text}
    return clew.explain(model, inputs, method=method, target=target)


@pytest.mark.parametrize("units", ["pixels", "patches"])
def test_pictures_of_a_chat_are_erased_by_hand(chat, pictures, units):
    fractions = (0.0, 0.3, 1.0)
    rows, numbers = evaluated(
        "perturbation", chat, pictures, METHODS, stream="image", units=units, fractions=fractions,
        explain=("predicted", "given"), eraser=("black", "image_mean"),
    )  # fmt: skip
    for example in pictures:
        prompt = prompt_of(chat, example)
        raw = np.asarray(example.image.resize((48, 48), Image.Resampling.BICUBIC)) / 255
        x = torch.tensor((raw - 0.5) / 0.5, dtype=torch.float32).permute(2, 0, 1)
        torch.testing.assert_close(prompt["pixel_values"][0], x, rtol=0, atol=1e-6)
        clean = logits_after(chat, **prompt)
        for method in METHODS:
            for what, token in (
                ("predicted", int(clean.argmax())),
                ("given", chat.tokenizer(example.label).input_ids[-1]),
            ):
                part = explained(chat, example, method, example.label if what == "given" else None)["image"]
                heat = part.heatmap()[0] if units == "pixels" else part.scores.view(6, 6)
                for eraser, colour in (("black", -1.0), ("image_mean", x.mean((1, 2), keepdim=True))):
                    for direction in ("positive", "negative"):
                        order = sorted(
                            range(heat.numel()),
                            key=lambda k: float(heat.flatten()[k]) * (-1 if direction == "positive" else 1),
                        )
                        probability, hits = [], []
                        for fraction in fractions:
                            gone = torch.zeros(heat.numel(), dtype=torch.bool)
                            gone[order[: int(fraction * heat.numel() + 1e-9)]] = True
                            gone = gone.view(heat.shape)
                            if units == "patches":
                                gone = gone.repeat_interleave(8, 0).repeat_interleave(8, 1)
                            said = logits_after(chat, **{**prompt, "pixel_values": torch.where(gone, colour, x)[None]})
                            probability.append(float(said.softmax(-1)[token]))
                            hits.append(float(said.argmax() == token))
                        row, key = rows[example.id, method], f"{what}/{eraser}/{direction}"
                        assert row[f"{key}/probability"] == pytest.approx(probability, abs=2e-4)
                        assert row[f"{key}/hits"] == hits
    for method in METHODS:
        drawn = [rows[e.id, method]["given/black/positive/hits"] for e in pictures]
        area = np.trapezoid(np.mean(drawn, axis=0), fractions)
        assert numbers["given/black/positive: hits AUC", method] == pytest.approx(area)


# Words


def literal_curves(model, given, name, columns, scores, mode, order, fractions, by):
    """Logits of the next token while `ceil(fraction * n)` words are pruned, or put back."""
    ranked = sorted(columns, key=lambda c: float(scores[c]) * (1 if order == "least" else -1))
    found = []
    for fraction in fractions:
        first = ranked[: int(np.ceil(fraction * len(columns)))]
        gone = first if mode == "prune" else [c for c in columns if c not in first]
        ids = given[name].clone()
        ids[0, gone] = by
        found.append(logits_after(model, **{**given, name: ids}))
    return torch.stack(found)


@pytest.mark.parametrize("eraser", ["token", "mask"])
def test_letters_of_a_source_are_flipped_by_hand(reverse, eraser):
    data, fractions = clew.open_dataset("mini:reverse", count=2), (0.0, 0.25, 0.5, 1.0)
    examples = [data.read(i) for i in (0, 1, 6)]
    rows, numbers = evaluated(
        "flipping", reverse, examples, METHODS, stream="source", eraser=eraser, fractions=fractions, batch_size=2
    )
    for example in examples:
        written = reverse.tokenizer(example.prefix or "", add_special_tokens=False).input_ids
        given = dict(reverse.tokenizer(example.text, return_tensors="pt"))
        given = {k: given[k] for k in ("input_ids", "attention_mask")}
        given["decoder_input_ids"] = torch.tensor([[reverse.model.config.decoder_start_token_id, *written]])
        clean = logits_after(reverse, **given)
        token = int(clean.argmax())
        for method in METHODS:
            inputs = {"source": example.text} | ({"answer": example.prefix} if written else {})
            scores = clew.explain(reverse, inputs, method=method)["source"].scores[0]
            name, by = ("input_ids", reverse.tokenizer.unk_token_id) if eraser == "token" else ("attention_mask", 0)
            for run in ("generate/most", "generate/least", "prune/least"):
                mode, order = run.split("/")
                said = literal_curves(reverse, given, name, range(10), scores, mode, order, fractions, by)
                row = rows[example.id, method]
                assert row[f"{run}/logit"] == pytest.approx(said[:, token].tolist(), abs=1e-4)
                assert row[f"{run}/evidence"] == pytest.approx(said.softmax(-1)[:, token].tolist(), abs=1e-5)
                error = (said[:, token] - clean[token]).square().tolist()
                assert row[f"{run}/squared_error"] == pytest.approx(error, abs=1e-3)
    for method in METHODS:
        mean = np.mean([rows[e.id, method]["prune/least/evidence"] for e in examples], axis=0)
        assert numbers["prune AUAC", method] == pytest.approx(np.trapezoid(mean, fractions))


def test_of_a_chat_only_the_words_of_the_question_are_flipped(chat, pictures):
    rows, _ = evaluated("flipping", chat, pictures, ["saliency"], stream="prompt", fractions=(0.0, 0.5, 1.0))
    for example in pictures:
        prompt = dict(prompt_of(chat, example))
        names = chat.tokenizer.convert_ids_to_tokens(prompt["input_ids"][0].tolist())
        columns = [len(names) - 6 + k for k in range(5)]
        assert [names[c] for c in columns] == example.text.split()
        scores = explained(chat, example, "saliency")["prompt"].scores[0]
        token = int(logits_after(chat, **prompt).argmax())
        said = literal_curves(
            chat, prompt, "input_ids", columns, scores, "generate", "most", (0.0, 0.5, 1.0), chat.tokenizer.unk_token_id
        )
        assert rows[example.id, "saliency"]["generate/most/logit"] == pytest.approx(said[:, token].tolist(), abs=1e-4)


def test_what_is_written_already_is_a_stream_too(reverse):
    data = clew.open_dataset("mini:reverse", count=1)
    examples = [data.read(i) for i in (0, 5)]
    rows, _ = evaluated("flipping", reverse, examples, ["saliency"], stream="prefix", fractions=(0.0, 1.0))
    assert rows["0#0", "saliency"]["error"] == "left out: it has no words"
    given = {"source": examples[1].text, "answer": examples[1].prefix}
    ids = reverse.tokenizer(examples[1].text, return_tensors="pt").input_ids
    written = torch.tensor([[reverse.model.config.decoder_start_token_id, *[reverse.tokenizer.unk_token_id] * 5]])
    clean = clew.explain(reverse, given, method="saliency").logits[0]
    said = logits_after(reverse, input_ids=ids, decoder_input_ids=written)[int(clean.argmax())]
    assert rows["0#5", "saliency"]["prune/least/logit"] == pytest.approx([float(clean.max()), float(said)], abs=1e-4)


@pytest.mark.parametrize(
    ("benchmark", "options", "said"),
    [
        ("perturbation", {"stream": "prompt"}, "flipping erases words"),
        ("perturbation", {"stream": "sound"}, "no stream 'sound'[\\s\\S]*pixel_values or input_ids or image"),
        ("perturbation", {"stream": "image", "variant": "pa_lrp"}, "no option of streams"),
        ("flipping", {"stream": "image"}, "perturbation erases pictures"),
        ("flipping", {"stream": "prompt", "eraser": "zero"}, "no such eraser"),
        ("flipping", {"stream": "prompt", "protocol": "imdb"}, "imdb"),
    ],
)
def test_what_cannot_be_erased_is_told(chat, pictures, benchmark, options, said):
    with pytest.raises(ClewError, match=said):
        _, _ = evaluated(benchmark, chat, pictures[:1], ["saliency"], **options)


@pytest.mark.parametrize(("benchmark", "model"), [("perturbation", "mini:digits"), ("flipping", "mini:reviews-bert")])
def test_declared_models_have_no_streams(benchmark, model):
    with pytest.raises(OptionError, match="leave stream out"):
        clew.evaluate(benchmark, clew.load(model), stream="image", show_progress=False)


def test_patches_of_all_pictures_in_a_row_go_with_their_picture(chat, pictures):
    whole = StreamBatch.of(chat, arguments_of(chat, pictures))
    assert whole.count == 2 and sorted(whole.arguments) == ["attention_mask", "input_ids", "pixel_values"]
    packed = torch.arange(12).view(6, 2)  # three patches each
    assert torch.equal(whole.rows(packed, torch.tensor([1, 0, 1])), torch.cat([packed[3:], packed[:3], packed[3:]]))
    with pytest.raises(InputError, match="belongs to which example"):
        whole.rows(packed[:5], torch.tensor([0]))


def test_a_run_without_a_stream_is_as_before():
    assert "stream" not in clew.benchmarks()["perturbation"]().options()
    assert clew.benchmarks()["flipping"](stream="source").options()["stream"] == "source"


# Sound


def sounds(count, samples):
    wave = np.random.default_rng(0).standard_normal((count, samples)).astype(np.float32)
    return [Example(id=str(i), audio=wave[i], sampling_rate=16000, label=i % 2) for i in range(count)]


def listener(kind):
    """A tiny random classifier of sound, and how its frames lie in what it takes."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    if kind == "waveform":
        config = transformers.Wav2Vec2Config(
            conv_dim=(8, 8), conv_kernel=(10, 4), conv_stride=(8, 4), num_feat_extract_layers=2, num_labels=3,
            classifier_proj_size=8, num_conv_pos_embeddings=4, num_conv_pos_embedding_groups=2, **sizes,
        )  # fmt: skip
        processor = transformers.Wav2Vec2FeatureExtractor()
        model = transformers.Wav2Vec2ForSequenceClassification(config)
        return clew.LoadedModel(model.eval(), name=kind, processor=processor), lambda frames: frames.repeat(32)
    config = transformers.ASTConfig(
        max_length=32, num_mel_bins=16, patch_size=8, frequency_stride=8, time_stride=8, num_labels=3, **sizes
    )
    processor = transformers.ASTFeatureExtractor(num_mel_bins=16, max_length=32, mean=-4.0, std=4.0)
    model = transformers.ASTForAudioClassification(config)
    return clew.LoadedModel(model.eval(), name=kind, processor=processor), lambda frames: frames[:, None]


@pytest.mark.parametrize("kind", ["waveform", "spectrogram"])
def test_frames_of_sound_are_erased_by_hand(kind):
    model, over = listener(kind)
    examples, fractions = sounds(2, 2048 if kind == "waveform" else 5200), (0.0, 0.4, 1.0)
    rows, _ = evaluated(
        "perturbation", model, examples, ("saliency",), stream="audio", fractions=fractions,
        explain=("given",), eraser=("channel_mean",),
    )  # fmt: skip
    for example in examples:
        x = model.processor(example.audio, sampling_rate=16000, return_tensors="pt")["input_values"]
        given = {"audio": example.audio, "sampling_rate": 16000}
        heat = clew.explain(model, given, target=example.label, method="saliency").scores[0].numpy()
        assert len(heat) == (2048 // 32 if kind == "waveform" else 32)
        for direction, sign in (("positive", -1), ("negative", 1)):
            order = np.argsort(sign * heat, kind="stable")
            expected = []
            for fraction in fractions:
                gone = np.zeros(len(heat), dtype=bool)
                gone[order[: int(fraction * len(heat) + 1e-9)]] = True
                erased = np.where(over(gone), 0, x[0].numpy())
                with torch.no_grad():
                    said = model.model(torch.from_numpy(erased)[None]).logits[0].softmax(-1)
                expected.append(float(said[example.label]))
            row = rows[example.id, "saliency"]
            assert row[f"given/channel_mean/{direction}/probability"] == pytest.approx(expected, abs=1e-5)
        assert len({round(v, 5) for v in expected}) == 3  # it matters what is erased

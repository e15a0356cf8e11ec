"""Sound: scores of frames over spectrograms and waveforms, in seconds where the processor says how long a frame is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from support.zoo import build

import clew
from clew.explaining.arrangements import Observed, arranged
from clew.places import Places, Spectrogram, Waveform
from clew.streams import ModelCall


class Takes(torch.nn.Module):
    """A model that takes anything."""

    def forward(self, **inputs: Any) -> Any:
        return inputs


def seen(name: str, x: torch.Tensor, **more: Any) -> Any:
    found = arranged(Observed(ModelCall.of(Takes(), {name: x}), name, x, **more))
    assert isinstance(found, Places)
    return found


def common(batch: int = 1) -> dict[str, Any]:
    return {"method": "m", "options": {}, "target": ["t"], "score": torch.zeros(batch)}


def noise_between(start: float, stop: float, seconds: float = 3.0, rate: int = 16000) -> np.ndarray:
    """Silence with noise in it."""
    wave = np.zeros(int(seconds * rate), np.float32)
    wave[int(start * rate) : int(stop * rate)] = np.random.default_rng(0).normal(
        size=int(stop * rate) - int(start * rate)
    )
    return wave


def look(a: Any, tmp_path: Any) -> None:
    """A result is saved and loaded as it was, and drawn everywhere."""
    again = clew.Attribution.load(a.save(tmp_path / "a.safetensors"))
    assert torch.equal(again.scores, a.scores) and torch.equal(again.sound, a.sound)
    assert (again.step, again.seconds, again.top()) == (a.step, a.seconds, a.top())
    assert again.to_png()[:4] == b"\x89PNG" and "data:image/png" in again.to_html()
    assert len(a.to_rich().renderables) == 2
    half = a.scores.shape[1] // 2
    short = type(a)(
        **{**common(len(a)), "all_scores": a.scores[:, :half], "sound": a.sound[..., : half * a.step]},
        bands=None if a.bands is None else a.bands[..., :half], step=a.step, seconds=a.seconds,
    )  # fmt: skip
    joined = clew.Attribution.concatenate([a, short])
    assert joined.scores.shape == (2 * len(a), a.scores.shape[1]) and bool((joined[-1].scores[:, half:] == 0).all())


def test_a_spectrogram_of_a_real_processor_in_seconds(tmp_path):
    """The spectrogram of noise in silence, taken for scores: the span is where the noise was."""
    from transformers import WhisperFeatureExtractor

    encode = WhisperFeatureExtractor(feature_size=20, chunk_length=3)
    x = encode(noise_between(1.2, 1.5), sampling_rate=16000, return_tensors="pt")["input_features"]
    places = seen("input_features", x, processor=encode)
    assert isinstance(places, Spectrogram) and places.bands_first and places.seconds == 0.01
    scores = x - x.amin()
    a = places.attribution(scores, common())
    assert a.scores.shape == (1, 300) and torch.equal(a.bands, scores)
    first = a.top(1, width=30)[0][0]
    assert first.seconds == pytest.approx((1.2, 1.5), abs=0.02) and first.frames[1] - first.frames[0] == 30
    assert first.score == pytest.approx(float(scores[0, :, first.frames[0] : first.frames[1]].sum()), rel=1e-5)
    spans = a.top(6, width=30)[0]
    assert all(one.frames[1] <= two.frames[0] for one, two in zip(sorted(spans), sorted(spans)[1:], strict=False))
    keep = torch.ones(1, 300, dtype=torch.bool)
    keep[:, first.frames[0] : first.frames[1]] = False
    erased = places.erase(x, keep, float(x.amin()))
    assert torch.equal((erased != x).any(1)[0].nonzero().flatten(), torch.arange(*first.frames))
    look(a, tmp_path)


def test_frames_may_come_first(tmp_path):
    """As the spectrogram transformer has them."""
    x = torch.rand(2, 24, 16)
    x[1, 5:8] += 4
    config = type("Config", (), {"num_mel_bins": 16})()
    places = seen("input_values", x, config=config)
    a = places.attribution(x, common(2))
    assert not places.bands_first and torch.equal(a.bands, x.mT)
    assert a.top(1, width=3)[1][0].frames == (5, 8) and a.seconds is None
    keep = torch.ones(2, 24, dtype=torch.bool)
    keep[1, 5:8] = False
    erased = places.erase(x, keep, 0.0)
    assert float(erased[1, 5:8].abs().sum()) == 0 and torch.equal(erased[0], x[0])
    look(a, tmp_path)


@pytest.mark.parametrize(
    ("name", "options", "seconds", "bands"),
    [
        ("ASTFeatureExtractor", {"num_mel_bins": 32, "max_length": 160}, 0.01, 32),
        ("SeamlessM4TFeatureExtractor", {"num_mel_bins": 80}, 0.02, 160),  # two frames are put together
        ("ClapFeatureExtractor", {"truncation": "rand_trunc", "max_length_s": 2}, 0.01, 64),
    ],
)
def test_how_long_a_frame_is_may_be_heard(name, options, seconds, bands):
    """Of processors that do not say it: what they make of clicks says it."""
    import transformers

    encode = getattr(transformers, name)(**options)
    rate = encode.sampling_rate
    made = encode(noise_between(0.8, 1.0, 1.3, rate), sampling_rate=rate, return_tensors="pt")
    argument = next(key for key in made if key.startswith("input_"))
    x = made[argument]
    places = seen(argument, x, processor=encode)
    assert not places.bands_first and places.seconds == pytest.approx(seconds)
    a = places.attribution(x - x.amin(), common())
    assert a.bands.shape[1] == bands
    assert a.scores.shape[1] * seconds >= 1.25


def test_a_waveform_by_the_frames_of_the_model(tmp_path):
    from transformers import Wav2Vec2Config, Wav2Vec2FeatureExtractor

    encode = Wav2Vec2FeatureExtractor()
    x = encode(noise_between(1.0, 1.2), sampling_rate=16000, return_tensors="pt")["input_values"]
    places = seen("input_values", x, processor=encode, config=Wav2Vec2Config())
    assert isinstance(places, Waveform) and (places.step, places.seconds) == (320, 0.02)
    a = places.attribution(x.abs(), common())
    assert a.scores.shape == (1, 150)
    torch.testing.assert_close(a.scores[0, 7], x[0, 7 * 320 : 8 * 320].abs().sum())
    first = a.top(1, width=10)[0][0]
    assert first.seconds == pytest.approx((1.0, 1.2))
    keep = torch.ones(1, 150, dtype=torch.bool)
    keep[:, slice(*first.frames)] = False
    assert float(places.erase(x, keep, float(x[0, 0])).std()) < 1e-6
    look(a, tmp_path)


@pytest.mark.parametrize(
    ("name", "frames", "bands"),
    [("whisper", 40, 8), ("wav2vec2", 30, 0), ("spectrogram", 24, 16), ("qwen2_audio", 40, 8)],
)
def test_scores_of_a_model_keep_their_sums(name, frames, bands):
    specimen = build(name)
    a = clew.explain(specimen.model, specimen.inputs, method="attn_lrp", normalize="max")
    assert float(a["audio"].scores.abs().max()) == 1.0
    a = clew.explain(specimen.model, specimen.inputs, method="attn_lrp")
    sound = a["audio"]
    assert sound.scores.shape == (2, frames) and (sound.bands.shape[1] == bands if bands else sound.bands is None)
    torch.testing.assert_close(torch.stack(list(a.shares().values())).sum(0), a.score)
    assert "data:image/png" in a.to_html() and a.to_rich() is not None

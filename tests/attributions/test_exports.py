"""What other programs read: arrays, tables, CSV, JSON by its schema, and pictures, of every kind of result."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch
from attributions.test_generation_page import answer, frames, image, sound, source, table
from jsonschema import Draft202012Validator, validate
from PIL import Image
from support import tiny

import clew
from clew.attributions import PairAttribution, StreamsAttribution
from clew.errors import ClewError, InputError, MissingDependency, OptionError

STORED = Path(__file__).parents[1] / "stored"


def spectrogram():
    bands = torch.rand(3, 4, 6)
    scores = {"all_scores": bands.sum(1), "sound": torch.rand(3, 4, 6), "bands": bands, "step": 1, "seconds": None}
    return replace(sound(), **scores)


def pair():
    return PairAttribution.of(image(), source())


def streams():
    return StreamsAttribution.of({"pixel_values": image(), "input_ids": source(), "rows": table()})


def cube():
    scores = torch.arange(72.0).view(3, 24)
    return replace(table(), all_scores=scores, shape=(2, 3, 4), columns=["a", "b", "c", "d"])


def reviews():
    model = clew.load("mini:reviews-bert")
    return clew.explain(model, [review.text for review in clew.reviews(2)], method="attn_lrp")


def everything():
    return answer(pixel_values=image(), decoder_ids=source(), tiles=frames(), input_values=sound(), rows=table())


KINDS = [
    image, source, frames, sound, spectrogram, table, cube, pair, streams, answer, everything, reviews,
    *(lambda name=name: clew.Attribution.load(STORED / f"{name}.safetensors") for name in ("image", "pair")),
]  # fmt: skip
IDS = [made.__name__ if made.__name__ != "<lambda>" else f"stored-{i}" for i, made in enumerate(KINDS)]


@pytest.fixture(params=KINDS, ids=IDS)
def result(request):
    return request.param()


def strict(schema):
    """The schema with all names that it does not know refused, so that it tells of each that is written."""
    if isinstance(schema, list):
        return [strict(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    found = {k: strict(v) for k, v in schema.items() if k != "if"} | ({"if": schema["if"]} if "if" in schema else {})
    if "properties" in schema and "required" in schema:
        found.setdefault("additionalProperties", False)
    return found


SCHEMA = clew.Attribution.json_schema()


def said(result, **options):
    """What JSON says, by the schema; its reader takes no NaN."""

    def refuse(name):
        raise AssertionError(name)

    found = json.loads(result.to_json(**options), parse_constant=refuse)
    Draft202012Validator(strict(SCHEMA)).validate(found)
    return found


def literal(result, example):
    """All scores of one example that a place of its own has, one after the other, as plainly as can be said."""
    found = []
    for part in result.streams.values():
        if part.kind == "text":
            found += [s for s, m in zip(part.scores[example], part.mask[example], strict=True) if m]
        elif part.kind == "generation":
            found += list(part.scores[example][: part.prompt + example])
        elif part.kind == "pictures":
            found += [s for one in part.images(example) for s in one.scores[0]]
        else:
            found += list(part.scores[example].flatten())
    return [float(s) for s in found]


def test_the_schema_is_one():
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["properties"]["version"]["const"] == 1


def test_json_says_every_score_with_what_it_is_of(result):
    found = said(result)
    assert len(found["examples"]) == len(result)
    for i, example in enumerate(found["examples"]):
        scores = [s for stream in example["streams"].values() for s in stream["columns"]["score"]]
        assert scores == literal(result, i)
        assert example["target"] == result.name_of_target(i)
        assert example["score"] == float(result.score[i])
        assert list(example["streams"]) == list(result.streams)
        for name, stream in example["streams"].items():
            assert len({len(column) for column in stream["columns"].values()}) == 1
            assert stream["share"] == pytest.approx(float(result.streams[name].all_scores[i].sum()), rel=1e-5, abs=1e-5)


def test_csv_and_data_frame_hold_the_same_rows(result, tmp_path):
    frame = result.to_dataframe()
    assert frame["score"].tolist() == [s for i in range(len(result)) for s in literal(result, i)]
    rows = list(csv.DictReader(io.StringIO(result.save(tmp_path / "a.csv").read_text("utf-8"))))
    assert [float(row["score"]) for row in rows] == frame["score"].tolist()
    assert list(rows[0]) == list(frame.columns)
    for name in frame.columns:
        told = ["" if pandas.isna(v) else str(v) for v in frame[name]]
        assert told == [row[name] for row in rows], name
    assert ("stream" in frame.columns) == (len(result.streams) > 1)
    named = result.to_dataframe(inputs=[f"file {i}" for i in range(len(result))])
    assert named["input"].tolist() == [f"file {i}" for i in frame["example"]]
    assert named["target_score"].tolist() == [float(result.score[i]) for i in frame["example"]]
    assert named.drop(columns="input").equals(frame)


def test_names_of_inputs_are_in_the_files_that_have_a_place_for_them(result, tmp_path):
    names = [f"é{i}.png" for i in range(len(result))]
    rows = list(csv.DictReader(io.StringIO(result.save(tmp_path / "a.csv", inputs=names).read_text("utf-8"))))
    assert [row["input"] for row in rows] == [names[int(row["example"])] for row in rows]
    found = json.loads(result.save(tmp_path / "a.json", inputs=names).read_text("utf-8"))
    validate(found, clew.Attribution.json_schema())
    assert [example["input"] for example in found["examples"]] == names
    result.save(tmp_path / "a.npy", inputs=names)
    with pytest.raises(OptionError, match=f"{len(result)} names"):
        result.to_csv(inputs=[*names, "one more"])


def test_arrays_are_the_scores(result, tmp_path):
    found = np.load(result.save(tmp_path / "a.npy"))
    assert np.array_equal(found, result.scores.numpy()) and found.shape == tuple(result.scores.shape)


def test_every_result_is_a_picture(result, tmp_path):
    with Image.open(result.save(tmp_path / "a.png")) as shown:
        assert min(shown.size) > 40
        assert len(shown.convert("RGB").getcolors(2**20)) > 2


def test_patches_tokens_frames_and_entries_are_named():
    assert image().table()["row"][:4] == [0, 0, 1, 1] and image().table()["column"][:4] == [0, 1, 0, 1]
    assert frames().table()["picture"][:5] == ["tile 0"] * 4 + ["tile 1"]
    assert sound().table()["stop_seconds"][:2] == pytest.approx([0.1, 0.2])
    assert "start_seconds" not in spectrogram().table()
    found = cube().table()
    place = [i for i, s in enumerate(found["score"][:24]) if s == float(cube().scores[0, 1, 2, 3])]
    assert [found[name][place[0]] for name in ("axis_0", "axis_1", "axis_2", "name")] == [1, 2, 3, "d"]
    assert answer().table()["token"][:6] == ["what ", answer().tokens[1], "", "what ", answer().tokens[1], ""]
    found = said(reviews())
    text, columns = clew.reviews(1)[0].text, found["examples"][0]["streams"]["text"]["columns"]
    kept = [i for i, special in enumerate(columns["special"]) if not special]
    assert [text[columns["start"][i] : columns["stop"][i]] for i in kept] == [columns["token"][i] for i in kept]
    assert pair().table()["stream"][:7] == ["image"] * 4 + ["text"] * 3


def test_padding_has_no_rows():
    model = clew.load("mini:reviews-bert")
    found = clew.explain(model, ["a graceful film", "a film"], method="attn_lrp").table()
    assert found["example"].count(0) == found["example"].count(1) + 1


def test_checks_of_examples_are_theirs_and_the_others_are_said_once():
    found = said(clew.explain(tiny.build("timm_not_square"), tiny.images((24, 40)), target=[0, 1, 2], n_steps=2))
    assert all("integration_error" in example["checks"] for example in found["examples"])
    assert "integration_error" not in found["checks"] and "verified" in found["checks"]
    stored = clew.Attribution.load(STORED / "pair.safetensors")
    assert said(stored)["examples"][0]["streams"]["text"].get("checks", {}).keys() <= stored.text.checks.keys()


def test_what_json_cannot_say_is_null_or_words():
    scores = torch.tensor([[math.nan, math.inf, -1.0, 0.1]] * 3)
    odd = replace(
        image(), all_scores=scores, checks={"gap": torch.tensor([math.nan, 1.0, 2.0]), "gone": math.inf},
        options={"baselines": torch.zeros(2, 2), "seed": 1}, target=["a\ud800"] * 3, provenance={"path": Path("x")},
    )  # fmt: skip
    found = said(odd, inputs=["é.png", "b", "c"])
    first = found["examples"][0]
    assert first["streams"]["image"]["columns"]["score"] == [None, None, -1.0, float(scores[0, 3])]
    assert (first["checks"]["gap"], found["checks"]["gone"], first["target"]) == (None, None, "a\ufffd")
    assert "tensor" in found["options"]["baselines"] and found["options"]["seed"] == 1
    assert first["input"] == "é.png"
    escaped = odd.to_json(inputs=["é.png", "b", "c"], ascii_only=True)
    assert escaped.isascii() and json.loads(escaped)["examples"] == found["examples"]
    assert odd.to_json().count("\n") == 1


def test_words_with_commas_and_lines_stay_in_their_cells():
    odd = replace(source(), tokens=[["a,b", 'say "x"\n', "=1+1"]] * 3)
    rows = list(csv.DictReader(io.StringIO(odd.to_csv())))
    assert [row["token"] for row in rows[:3]] == ["a,b", 'say "x"\n', "=1+1"]


def test_whole_numbers_stay_whole_where_some_rows_have_none():
    frame = everything().to_dataframe()
    assert str(frame["row"].dtype) == "Int64" and str(frame["score"].dtype) == "float64"


def test_half_precision_has_arrays():
    half = replace(table(), all_scores=torch.tensor([[1.0, -2.0]] * 3, dtype=torch.bfloat16))
    assert half.to_numpy().dtype == np.float32
    assert half.table()["score"][:2] == [1.0, -2.0]


def test_without_pandas_it_is_said_what_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingDependency, match=r"clew\[tables\]"):
        image().to_dataframe()
    assert image().to_csv()


@pytest.mark.parametrize("suffix", [".csv", ".json", ".npy", ".png"])
def test_files_are_whole_or_as_they_were(suffix, tmp_path, monkeypatch):
    written = source().save(tmp_path / f"a{suffix}")
    before = written.read_bytes()
    monkeypatch.setattr("os.replace", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        source().save(written)
    assert written.read_bytes() == before and [f.name for f in tmp_path.iterdir()] == [written.name]


def test_texts_side_by_side_are_a_picture(tmp_path):
    sizes = []
    for n in (1, 2):
        with Image.open(clew.compare([source()] * n, tmp_path / f"{n}.png")) as shown:
            sizes.append(shown.size)
    assert sizes[0] != sizes[1] and sizes[0][0] > 100


# Pictures beneath


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def photograph(height=24, width=40):
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def normalised(pixels):
    values = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    return (values - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def test_a_tensor_has_its_own_colours_again():
    photo = photograph()
    assert np.array_equal(clew.Picture.of(normalised(photo), MEAN, STD).pixels, photo)
    assert np.array_equal(clew.Picture.of(normalised(photo).numpy(), MEAN, STD).pixels, photo)
    assert np.array_equal(clew.Picture.of(torch.from_numpy(photo).permute(2, 0, 1) / 255).pixels, photo)
    assert np.array_equal(clew.Picture.of(Image.fromarray(photo)).pixels, photo)
    assert clew.Picture.of(photo).box == (0, 0, 40, 24)
    grey = clew.Picture.of(torch.full((1, 2, 2), 0.5), box=(1, 0, 2, 2))
    assert grey.pixels.tolist() == [[[128] * 3] * 2] * 2 and grey.box == (1, 0, 2, 2)


@pytest.mark.parametrize(("given", "more", "words"), [
    (normalised(photograph()), {}, "pass the mean= and std="),
    (normalised(photograph())[None], {"mean": MEAN, "std": STD}, "one picture at a time"),
    (torch.zeros(5, 2, 2), {}, "is no picture"),
    (torch.zeros(3, 2, 2), {"mean": (0.5, 0.5)}, "one number, or 3"),
    (torch.full((3, 2, 2), torch.nan), {}, "not the colours"),
    (torch.zeros(3, 2, 2, dtype=torch.int64), {}, "is no picture"),
])  # fmt: skip
def test_what_is_no_picture_is_refused(given, more, words):
    with pytest.raises(InputError, match=words):
        clew.Picture.of(given, **more)


def test_results_of_tensors_are_drawn_over_pictures():
    x = torch.stack([normalised(photograph()), normalised(photograph()[::-1].copy())])
    found = clew.explain(tiny.build("timm_not_square"), x, method="raw_attention")
    over = found.drawn_over([clew.Picture.of(one, MEAN, STD) for one in x])
    assert np.array_equal(over.pictures[0].pixels, photograph())
    assert np.array_equal(over.pictures[1].pixels, photograph()[::-1])
    assert torch.equal(over.scores, found.scores) and over.to_png() != found.to_png()
    assert np.array_equal(found.drawn_over(photograph()).pictures[1].pixels, photograph())
    each = clew.explain(tiny.build("timm_not_square"), x, method="raw_attention", target=clew.Each(0, 1))
    shown = each.drawn_over([clew.Picture.of(one, MEAN, STD) for one in x]).pictures
    assert [np.array_equal(p.pixels, photograph()) for p in shown] == [True, True, False, False]
    with pytest.raises(InputError, match="one, or 2"):
        found.drawn_over([photograph()] * 3)


def test_the_image_among_several_inputs_is_drawn_over_a_picture():
    photo = photograph(20, 40)
    for whole in (streams(), answer(pixel_values=image())):
        assert np.array_equal(whole.drawn_over(photo)["image"].pictures[2].pixels, photo)
    assert np.array_equal(pair().drawn_over(photo).pictures[0].pixels, photo)
    for other in (source(), answer(), table()):
        with pytest.raises(ClewError, match="images"):
            other.drawn_over(photo)


def test_a_loaded_model_knows_the_colours_of_its_tensors():
    model, scene = clew.load("mini:digits"), clew.scenes().images[0]
    x = model.preprocess(scene)[0][None]
    shown = clew.explain(model, x, method="raw_attention").pictures[0].pixels
    assert np.array_equal(shown, np.asarray(scene.resize(shown.shape[1::-1]).convert("RGB")))
    far = clew.explain(model, x * 9, method="raw_attention").pictures[0].pixels
    assert (far.min(), far.max()) == (0, 255)  # these were not normalised so

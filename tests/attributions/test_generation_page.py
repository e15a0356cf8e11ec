"""The page of an answer whose model has several inputs: a panel for each, and the terminal."""

import io
import re

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console
from support.browser import started
from support.zoo import build

import clew
from clew.attributions import (
    GenerationAttribution,
    ImageAttribution,
    PicturesAttribution,
    SoundAttribution,
    TensorAttribution,
    TextAttribution,
)
from clew.attributions.pictures import Frame
from clew.draw import Picture, output_panels

COUNT = 3  # outputs
HOSTILE = "<img src=x onerror=alert(1)></script>"
RED, BLUE = (178, 24, 43), (33, 102, 172)


def common(**fields):
    return {
        "method": "attn_lrp",
        "options": {},
        "target": ["b"] * COUNT,
        "score": torch.arange(1.0, 1.0 + COUNT),
    } | fields


def picture():
    pixels = np.full((20, 40, 3), 200, np.uint8)
    return Picture(pixels, (10.0, 0.0, 30.0, 20.0))  # the model saw the middle


def image():
    scores = torch.zeros(COUNT, 4)
    scores[torch.arange(COUNT), torch.arange(COUNT)] = torch.tensor([1.0, -2.0, 4.0])
    return ImageAttribution(
        **common(all_scores=scores), prefix=0, patch_grid=(2, 2), patch_size=(10, 10), input_size=(20, 20),
        pictures=[picture()] * COUNT, pixels=scores.view(COUNT, 2, 2).repeat_interleave(10, 1).repeat_interleave(10, 2),
    )  # fmt: skip


def source():
    tokens = ["ab", HOSTILE, "</s>"]
    scores = torch.tensor([[1.0, -2.0, 0.0], [3.0, 0.0, 0.0], [0.0, 0.5, 1.0]])
    return TextAttribution(
        **common(all_scores=scores), input_ids=torch.arange(3).expand(COUNT, 3),
        mask=torch.ones(COUNT, 3, dtype=torch.bool), special=torch.tensor([[False, False, True]] * COUNT),
        tokens=[tokens] * COUNT,
    )  # fmt: skip


def frames():
    frame = [
        Frame(f"tile {k}", (4, 4), (2, 2), Picture(np.zeros((4, 4, 3), np.uint8), (0.0, 0.0, 4.0, 4.0)))
        for k in range(2)
    ]
    return PicturesAttribution(
        **common(all_scores=torch.rand(COUNT, 8)), pixels=torch.rand(COUNT, 32), frames=[frame] * COUNT
    )


def sound():
    scores = torch.rand(COUNT, 6)
    return SoundAttribution(**common(all_scores=scores), sound=torch.rand(COUNT, 12), step=2, seconds=0.1)


def table():
    return TensorAttribution(
        **common(all_scores=torch.tensor([[1.0, -2.0]] * COUNT)), shape=(2,), columns=["age", "sex"]
    )


def answer(**inputs):
    tokens = ["what ", HOSTILE, "", "a", "b", "c"]
    scores = torch.tril(torch.ones(COUNT, 6), 2)
    return GenerationAttribution(
        **common(all_scores=scores),
        input_ids=torch.arange(6),
        tokens=tokens,
        prompt=3,
        inputs=inputs,
        stream="input_ids",
    )


KINDS = {"pixel_values": image, "decoder_ids": source, "tiles": frames, "input_values": sound, "rows": table}


def every():
    return answer(**{name: made() for name, made in KINDS.items()})


def test_every_kind_of_input_has_a_panel_and_nothing_is_fetched():
    page = every().to_html()
    assert re.findall("<h2>(.*?)</h2>", page) == [
        "image (pixel_values)", "decoder_ids", "tiles", "audio (input_values)", "rows",
    ]  # fmt: skip
    assert "<img src=x" not in page
    assert not re.search(r"""(?:src|href)=["'](?!data:)""", page)
    assert page.count("data:image/png;base64") == 1 + 2 + (COUNT + 1) + (COUNT + 1)  # picture, tiles, charts


def test_a_notebook_shows_pictures_and_words_of_the_whole_answer():
    shown = answer(pixel_values=image(), source=source())._repr_html_()
    assert shown.count("<img alt") == 2  # the matrix and the picture
    assert "</script>" not in shown
    assert 'title="4"' in shown  # of "ab", by all outputs


def test_the_terminal_shows_all_inputs_of_a_token():
    shown = io.StringIO()
    Console(file=shown, width=200).print(every().to_rich(2))
    assert "image (pixel_values) (+4)" in shown.getvalue()
    assert "decoder_ids (+1.5)" in shown.getvalue()
    assert "text (+5)" in shown.getvalue()
    for words in ("▀", "ab", "tile 1", "age", "what "):
        assert words in shown.getvalue()
    assert "▀" not in str(answer().to_rich(0))


def test_a_page_of_many_pictures_stays_small():
    heats = np.random.default_rng(0).normal(size=(500, 500)).astype(np.float32)
    blank = Picture(np.zeros((500, 500, 3), np.uint8), (0.0, 0.0, 500.0, 500.0))
    shown = output_panels.PicturesOfOutputs([("", blank)], ([heats] for _ in range(2_000)))
    (drawn,) = output_panels.drawn_panels([output_panels.StreamPanel("image", [0.0] * 2_000, shown)])
    assert len(drawn["data"]) < 1.5 * output_panels.MOST_CELLS


@pytest.mark.sampled(0.5)
@pytest.mark.parametrize(("name", "words"), [
    ("llava_next", ["overview", "tiles"]), ("qwen2_vl", ["image (pixel_values)"]),
    ("whisper", ["audio (input_features)"]),
    ("florence2", ["image (pixel_values)", "source (input_ids)"]), ("mllama", ["image (pixel_values)"]),
])  # fmt: skip
def test_answers_of_any_model_can_be_drawn(name, words):
    specimen = build(name)
    given = {k: v[: max(1, len(v) // 2)] for k, v in specimen.inputs.items()}
    g = clew.explain_generation(specimen.model, given, answer=[7, 9], method="input_x_gradient")
    assert g.target == ["token 7", "token 9"]
    assert all(part.target == g.target for part in g.inputs.values())
    page = g.to_html()
    assert all(one in page for one in words)
    Console(file=io.StringIO(), width=80).print(g.to_rich(1))
    assert g._repr_html_().count("<img alt") == 1 + sum(not isinstance(p, TextAttribution) for p in g.inputs.values())


@pytest.fixture(scope="module")
def browser():
    with started() as found:
        yield found


@pytest.fixture(params=[(1280, 800), (390, 844)])
def page(browser, request, tmp_path):
    every().save(tmp_path / "answer.html")
    context = browser.new_context(viewport={"width": request.param[0], "height": request.param[1]})
    found, trouble, asked = context.new_page(), [], []
    found.on("pageerror", lambda error: trouble.append(str(error)))
    found.on("dialog", lambda dialog: (trouble.append("dialog"), dialog.dismiss()))
    found.on("request", lambda one: asked.append(one.url))
    found.goto((tmp_path / "answer.html").as_uri())
    yield found
    assert not trouble
    assert not [url for url in asked if not url.startswith(("file:", "data:"))]
    assert found.evaluate("document.documentElement.scrollWidth") <= request.param[0]
    context.close()


def shares(page):
    return [float(words.split()[1]) for words in page.locator(".share").all_inner_texts()]


def pixel(page, x, y):
    """The colour of the heatmap at a place (shares of its width and height)."""
    return page.evaluate(
        """([x, y]) => { const c = document.querySelector(".panel canvas");
        return [...c.getContext("2d").getImageData(x * c.width, y * c.height, 1, 1).data]; }""",
        [x, y],
    )


def colour(page, word):
    return page.locator(".panel .text .t", has_text=word).evaluate("e => getComputedStyle(e).backgroundColor")


def test_a_word_shows_its_panels(page):
    words = page.locator("#text .out")
    assert shares(page)[:2] == [1.0, -1.0]  # of the first, which is chosen
    red = pixel(page, 0.25, 0.25)
    assert red[0] > red[2] + 60 and red[3] > 200
    assert colour(page, "ab") != colour(page, HOSTILE)
    words.nth(1).hover()
    assert shares(page)[:2] == [-2.0, 3.0]
    blue = pixel(page, 0.75, 0.25)
    assert blue[2] > blue[0] + 60
    assert colour(page, HOSTILE) == "rgb(255, 255, 255)"
    page.locator("h1").hover()
    assert shares(page)[:2] == [1.0, -1.0]  # as before
    words.nth(1).click()
    page.locator("h1").hover()
    assert shares(page)[:2] == [-2.0, 3.0]
    chart = page.locator(".chart").first.get_attribute("src")
    words.nth(1).press("ArrowRight")
    assert shares(page)[:2] == [4.0, 1.5]
    assert page.locator(".chart").first.get_attribute("src") != chart
    assert page.evaluate("document.activeElement.textContent") == "c"
    page.locator("#scale").select_option("all")
    words.nth(0).press("Enter")
    faint = pixel(page, 0.25, 0.25)  # 1 of 4
    assert faint[3] < red[3] and faint[2] > red[2]
    box, picture = page.locator(".picture canvas").first.bounding_box(), page.locator(".picture").first.bounding_box()
    assert box["width"] == pytest.approx(picture["width"] / 2, abs=1)
    assert box["x"] == pytest.approx(picture["x"] + picture["width"] / 4, abs=1)


def test_a_bundled_model_goes_back_to_the_right_letter(browser, tmp_path):
    one = clew.reversals(1)[0]
    g = clew.explain_generation(clew.load("mini:reverse"), {"source": one.source}, max_new_tokens=4, method="attn_lrp")
    page = browser.new_page()
    page.goto(g.save(tmp_path / "answer.html").as_uri())
    for i in range(4):
        page.locator("#text .out").nth(i).click()
        strength = [255 - int(re.findall(r"\d+", s.evaluate("e => getComputedStyle(e).backgroundColor"))[1])
                    for s in page.locator(".panel .text .t").all()]  # fmt: skip
        assert strength.index(max(strength)) == 9 - i
    page.close()


def test_pictures_and_question_of_a_loaded_model_can_be_drawn(tmp_path):
    picture = Image.fromarray(np.full((48, 48, 3), 90, np.uint8))
    g = clew.explain_generation(
        clew.load("mini:digits-chat"), {"images": [picture], "text": "which upper left digit ?"}, answer="two"
    )
    assert "image (pixel_values)" in g.to_html()
    assert "<image> × 36" in g.to_html() or "&lt;image&gt; × 36" in g.to_html()

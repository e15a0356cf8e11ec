"""The web page in a real browser: what a person does on it, and what nobody should be able to do."""

from __future__ import annotations

import io
import json
import struct
import urllib.error
import urllib.request
import zipfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from support.browser import Page, chromium, served

import clew

BOXES = """Array.from(document.querySelectorAll('#maps .clew-card')).map(card => {
    const box = card.getBoundingClientRect();
    return [box.x, box.y, box.width, box.height];
})"""
TARGET = "#target textarea, #target input"
HOSTILE = [
    "<img src=x onerror=alert(1)>", "<script>alert(1)</script>", "\"><svg onload=alert(1)>", "{{7*7}} ${7*7} <%= 7 %>",
    "'; DROP TABLE runs; --", "../../../../etc/passwd", "\u202eevil \u0000 \ufffe", "A" * 19_000, "🙂" * 500,
    "<style>*{display:none}</style>",
]  # fmt: skip


@pytest.fixture(scope="module")
def server(folder):
    chromium()
    run = clew.evaluate(
        "segmentation", clew.load("mini:digits"), "mini:digits", methods=["raw_attention", "random"],
        out=folder / "runs" / "first", limit=5, show_progress=False,
    )  # fmt: skip
    with served(folder, "--runs", str(folder / "runs")) as (address, process):
        yield address, process, run


@pytest.fixture
def page(server, browser):
    context = browser.new_context(viewport={"width": 1280, "height": 800}, accept_downloads=True)
    found = Page(context.new_page(), server[0])
    yield found
    assert not found.trouble
    assert not [u for u in found.requests if not u.startswith((server[0], "data:", "blob:"))]  # nothing from elsewhere
    assert server[1].poll() is None
    context.close()


@pytest.fixture
def scene(folder):
    path = folder / "scene.png"
    clew.scenes().images[3].save(path)
    return path


def test_upload_choose_explain_hover_download(page, scene, folder, monkeypatch):
    page.upload(str(scene))
    page.page.locator("#explain-preview img").wait_for()
    page.methods("attn_lrp")
    page.page.locator(TARGET).fill("seven")
    page.explain()
    assert page.cards() == ["attn_lrp"] and "seven" in page.text("#maps .clew-sub >> nth=1")
    result = clew.explain(clew.load("mini:digits"), Image.open(scene), method="attn_lrp", target="seven")
    cells = page.page.locator("#maps .clew-grid i")
    assert cells.count() == result.scores.shape[1] == 64
    cells.nth(27).hover()
    assert page.text("#maps .clew-reading").startswith("row 4, column 4, rank ")
    number = float(page.text("#maps .clew-reading").rpartition(": ")[2])
    assert number == pytest.approx(float(result.scores[0, 27]), rel=1e-3)

    page.page.locator("#maps summary").click()
    assert "by how much the model, called by itself, says something else" in page.text("#maps dl")
    page.page.locator("#code button").first.click()
    written = page.page.locator("#snippet .cm-content").inner_text()
    names: dict = {}
    monkeypatch.chdir(folder)
    exec(written.replace('"picture.png"', repr(str(scene))).replace("print(", "str("), names)
    assert (folder / "clew.html").is_file()
    torch.testing.assert_close(names["a0"].scores, result.scores)

    saved = {}
    for kind in ("html", "png", "csv", "json", "npy", "numbers"):
        with page.page.expect_download() as found:
            page.page.locator(f"#download-{kind}").click()
        saved[kind] = folder / found.value.suggested_filename
        found.value.save_as(saved[kind])
    assert "attn_lrp" in saved["html"].read_text()
    with Image.open(saved["png"]) as picture:
        assert picture.width > 300
    torch.testing.assert_close(clew.Attribution.load(saved["numbers"]).scores, result.scores)
    assert np.allclose(np.load(saved["npy"]), result.scores)
    assert json.loads(saved["json"].read_text())["examples"][0]["target"] == "seven"
    assert saved["csv"].read_text().count("\n") == 65


def test_sliders_work_in_the_browser_alone(page, scene):
    page.page.get_by_role("button", name="A digit among clutter").click()
    page.said("done")
    page.page.locator("#download-png").is_enabled()
    before = len(page.requests)
    cells = "Array.from(document.querySelectorAll('#maps .clew-grid i'))"
    visible = f"{cells}.filter(e => +getComputedStyle(e).opacity > 0).length"
    every = page.page.evaluate(visible)
    page.page.locator("#threshold input[type=number]").fill("0.5")
    page.page.locator("#threshold input[type=number]").press("Enter")
    page.page.wait_for_function(f"{visible} < {every} / 4")
    page.page.locator("#opacity input[type=number]").fill("0")
    page.page.locator("#opacity input[type=number]").press("Enter")
    page.page.wait_for_function(f"{visible} == 0")
    assert not [u for u in page.requests[before:] if "queue" in u or "run" in u]


def test_a_text_with_html_in_it_stays_a_text(page):
    page.choose("model", "mini:reviews-bert")
    page.page.locator("#explain-text textarea").fill(f"a dull film {HOSTILE[0]}")
    page.methods("raw_attention")
    page.explain()
    words = page.page.locator("#maps .clew-words")
    assert HOSTILE[0] in words.inner_text() and not words.locator("img").count()
    words.locator("i", has_text="dull").hover()
    assert page.text("#maps .clew-reading").startswith("dull, rank ")


def test_parts_of_pa_lrp_are_switches(page, scene):
    page.upload(str(scene))
    page.methods("pa_lrp")
    for part in ("content alone", "positions alone"):
        page.page.locator("#parts").get_by_label(part).check()
    page.explain()
    assert page.cards() == ["pa_lrp", "pa_lrp (content alone)", "pa_lrp (positions alone)"]
    values = [np.array([float(i.get_attribute("data-n")) for i in card.locator("i").all()])
              for card in page.page.locator("#maps .clew-card").all()]  # fmt: skip
    assert np.allclose(values[0], values[1] + values[2], atol=2e-3 * np.abs(values[0]).max())


def test_captions_and_a_picture(page):
    page.page.get_by_role("button", name="Which caption, where").click()
    page.said("done")
    assert page.cards() == ["beyond_intuition_token"] * 2 + ["attn_lrp"] * 2
    assert not page.page.locator("#target").is_visible() and page.page.locator("#explain-texts").is_visible()


def test_what_is_wrong_is_said(page, folder, scene):
    page.explain("not explained")
    assert "there is no picture" in page.text("#maps")
    page.upload({"name": "broken.png", "mimeType": "image/png", "buffer": b"\x89PNG\r\n\x1a\nnothing"})
    page.explain("not explained")
    assert "this file" in page.text("#maps") and str(folder) not in page.text("#maps")
    page.upload({"name": "huge.png", "mimeType": "image/png", "buffer": bomb()})
    page.explain("not explained")
    assert "too large" in page.text("#maps") and "at most 40 million pixels" in page.text("#maps")
    page.upload(str(scene))
    page.page.locator(TARGET).fill("no such class")
    page.explain("0 of 3 methods")
    assert "no such class" in page.text("#maps") and not page.cards()
    page.choose("model", "mini:reviews-llama")
    page.page.locator("#explain-text textarea").fill("word " * 4_100)
    page.explain("not explained")
    assert "20,000 characters" in page.text("#maps")


def bomb() -> bytes:
    """A PNG of a few bytes that says it has 900 million pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    data = zlib.compress(b"\0" * 1000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def malformed(scene) -> list[tuple[str, bytes]]:
    whole = scene.read_bytes()
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.png", whole)
    return [
        ("empty.png", b""),
        ("half.png", whole[: len(whole) // 2]),
        ("text.png", b"no picture at all"),
        ("huge.png", bomb()),
        ("zip.png", packed.getvalue()),
        ("page.jpg", b"<html><script>alert(1)</script>"),
        ("zeros.gif", b"GIF89a" + bytes(50)),
        ("../../up.png", whole[:100]),
        ("svg.webp", b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>"),
        ("x" * 180 + ".png", bytes(range(256)) * 10),
    ]


def test_ten_malformed_uploads_and_ten_hostile_strings(page, scene):
    page.methods("raw_attention")
    for name, data in malformed(scene):
        page.upload({"name": name, "mimeType": "image/png", "buffer": data})
        page.explain("not explained")
        assert page.page.locator("#maps .clew-error").count()
    page.choose("model", "mini:reviews-bert")
    for text in HOSTILE:
        page.page.locator("#explain-text textarea").fill(text)
        page.page.locator(TARGET).fill(text[:900])
        page.explain("0 of 1 methods")  # no class is called so
        page.page.locator(TARGET).fill("")
        page.explain("done|0 of 1 methods")  # the longest are longer than the model's positions
    page.choose("model", "mini:digits")
    page.upload(str(scene))
    page.explain()
    assert page.cards() == ["raw_attention"]


def test_compare_two_methods_and_two_models(page, scene):
    page.page.get_by_role("tab", name="Compare").click()
    page.upload(str(scene), "compare")
    page.page.locator("#compare").click()
    page.said("done", "compare-status")
    assert page.cards("compare-maps")[-1] == "A − B"
    shown = np.array(
        [float(i.get_attribute("data-n")) for i in page.page.locator("#compare-maps .clew-card >> nth=2 >> i").all()]
    )
    model, image = clew.load("mini:digits"), Image.open(scene)
    a, b = (clew.explain(model, image, method=m).scores[0] for m in ("beyond_intuition_token", "attn_lrp"))
    assert np.allclose(shown, (a / a.abs().max() - b / b.abs().max()).numpy(), atol=1e-3)
    page.choose("model-B", "mini:reviews-bert")
    page.page.locator("#compare").click()
    page.said("not compared", "compare-status")
    assert "there is no text" in page.text("#compare-maps")


def test_results_of_a_run(page, server):
    run = server[2]
    page.page.get_by_role("tab", name="Results of clew bench").click()
    rows = page.page.locator("#table .virtual-row")
    rows.first.wait_for()
    values = {
        row["example"]: row["average_precision"] for row in run.table.to_pylist() if row["method"] == "raw_attention"
    }
    best = sorted(values, key=lambda name: -values[name])
    assert [row.inner_text().split()[0] for row in rows.all()] == best
    page.page.locator("#worst input").check()
    page.page.locator("#table .virtual-row >> nth=0").get_by_text(best[-1], exact=True).wait_for()
    page.page.locator("[data-testid='cell-0-1']").click()
    page.page.locator("#example .clew-card").first.wait_for()
    assert page.cards("example") == ["raw_attention", "random"]
    assert page.text("#example h3") == best[-1]
    assert page.page.locator("#example img").count() == 2


def test_cancelling_stops_before_the_next_method(page, scene):
    page.upload(str(scene))
    page.methods(
        "smoothgrad", "integrated_gradients", "beyond_intuition_head", "transformer_attribution", "partial_lrp"
    )
    page.page.locator("#explain").click()
    page.said("…")  # Gradio can cancel what its server has answered once
    page.page.locator("#cancel").click()
    page.said("stopped")
    page.page.wait_for_timeout(3_000)
    assert len(page.cards()) < 5
    page.methods("raw_attention")
    page.explain()
    assert page.cards() == ["raw_attention"]


@pytest.mark.parametrize("size", [(1280, 800), (390, 844)])
def test_nothing_overlaps_or_is_wider_than_the_screen(page, size):
    page.page.set_viewport_size({"width": size[0], "height": size[1]})
    for name in ("A digit among clutter", "Words of a review", "Which caption, where"):
        page.forget()
        page.page.get_by_role("button", name=name).click()
        page.said("done")
        assert page.page.evaluate("document.documentElement.scrollWidth") <= size[0]
        boxes = page.page.evaluate(BOXES)  # at once: the page may draw them anew
        assert boxes
        for i, (x, y, width, height) in enumerate(boxes):
            assert width > 200
            for u, v, wide, high in boxes[:i]:
                assert x + 1 > u + wide or u + 1 > x + width or y + 1 > v + high or v + 1 > y + height


def test_no_path_of_the_server_is_read(server, folder):
    """Neither as a file of the page, nor as an upload that nobody made, nor as a model that is not offered."""
    address = server[0]
    secret = folder / "secret.txt"
    secret.write_text("secret words")
    for path in (
        f"/gradio_api/file={secret}",
        "/gradio_api/file=/etc/passwd",
        "/file=/etc/passwd",
        "/../../etc/passwd",
    ):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(address + path, timeout=20)
        assert refused.value.code in (403, 404)
    config = json.loads(urllib.request.urlopen(f"{address}/config", timeout=20).read())
    explain = next(d for d in config["dependencies"] if len(d["inputs"]) == 10)
    picture = {"path": str(secret), "meta": {"_type": "gradio.FileData"}, "orig_name": "a.png"}
    for data in (
        ["mini:digits", picture, "", "", "", ["raw_attention"], [], "say so", None, None],
        [str(folder), None, "words", "", "", ["raw_attention"], [], "say so", None, None],
    ):
        answer = call(address, explain["id"], data)
        assert "secret words" not in answer and '"success":false' in answer.replace(" ", "")


def call(address: str, number: int, data: list) -> str:
    """An event as the page sends it, and all that comes back."""
    body = json.dumps({"data": data, "fn_index": number, "session_hash": "abc", "trigger_id": None, "event_data": None})
    asked = urllib.request.Request(
        f"{address}/gradio_api/queue/join", body.encode(), {"Content-Type": "application/json"}
    )
    urllib.request.urlopen(asked, timeout=20).close()
    answer = ""
    with urllib.request.urlopen(f"{address}/gradio_api/queue/data?session_hash=abc", timeout=60) as stream:
        for line in stream:
            answer += line.decode()
            if "process_completed" in answer or "close_stream" in answer:
                break
    return answer

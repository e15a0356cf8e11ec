"""Texts on a page, in a document, on a terminal, in a file; the matrix of generated text; the command line."""

from __future__ import annotations

import json
import re

import pytest
import torch
from support.commands import run
from support.tokenized_models import TEXT
from transformers import LlamaForCausalLM

import clew
from clew.draw.text_html import Piece, latex, scale_of, shade, terminal, text_page
from clew.errors import ClewError, InputError, OptionError

EVIL = 'a superb <script>alert("x")</script> & {plot} \\end 50% of_it'


@pytest.fixture(scope="module")
def model():
    return clew.load("mini:reviews-bert")


@pytest.fixture(scope="module")
def reviews():
    return [r.text for r in clew.reviews(3)]


# Pages


def test_the_page_holds_every_token_with_its_number_and_nothing_from_outside(model, reviews):
    a = clew.explain(model, reviews, method="attn_lrp")
    page = a.to_html()
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", page)
    assert 'type="range"' in page
    for score in a.scores[0][a.mask[0]].tolist():
        assert f"{score:.4g}" in page
    shown = re.sub(r"<[^>]+>", "", page)
    assert all(word in shown for text in reviews for word in text.split())


def test_texts_are_escaped(model):
    a = clew.explain(model, EVIL, method="attn_lrp")
    for page in (a.to_html(), a._repr_html_()):
        assert "<script>alert" not in page
        assert "alert(" in re.sub(r"<[^>]+>", "", page.split("<script>")[0])
    document = a.to_latex()
    body = document.split(r"\begin{document}")[1].replace(r"\end{document}", "")
    assert r"\{" in body
    assert r"\%" in body
    assert r"\_" in body
    assert r"\textbackslash{}" in body
    assert r"\end" not in body.replace(r"\textbackslash{}", "")


def test_colours_say_sign_and_size():
    assert shade(0.0, 1.0) == (255, 255, 255)
    (r, _, b), (r2, _, b2) = shade(1.0, 1.0), shade(-1.0, 1.0)
    assert r > b
    assert b2 > r2
    assert shade(5.0, 1.0) == shade(1.0, 1.0)
    assert shade(float("nan"), 1.0) == (255, 255, 255)
    pieces = [Piece("[CLS]", 100.0, True), Piece("a", -2.0), Piece("b", 0.5), Piece(" ")]
    assert scale_of(pieces) == 2.0
    assert scale_of([Piece("a", 0.0)]) == 1.0
    assert "colorbox" in latex([]) and r"\begin{document}" in latex([])
    assert str(terminal(pieces)) == "[CLS]ab "
    assert "<main" in text_page("t", []) or "<body" in text_page("t", [])


def test_the_terminal_shows_the_text(model, reviews):
    shown = clew.explain(model, reviews, method="attn_lrp").to_rich(1)
    assert reviews[1] in str(shown)
    assert any("rgb(" in str(span.style) for span in shown.spans)


def test_methods_side_by_side(model, reviews, tmp_path):
    llama = clew.load("mini:reviews-llama")
    results = [clew.explain(llama, reviews, method=m, details=True) for m in ("pa_lrp", "beyond_intuition_token")]
    written = clew.compare(results, tmp_path / "a.html").read_text()
    assert written.count("pa_lrp") >= 3
    assert "data:image/png;base64" in written  # relevance of positions by block
    assert written.count("<summary>relevance by stage</summary>") == 3 and "from the input (below)" in written
    layers = results[0].position_by_layer()
    assert layers.shape == (3, llama.model.config.num_hidden_layers, results[0].scores.shape[1])
    assert clew.explain(model, reviews, method="pa_lrp", details=True).position_by_layer() is None  # learned once


# Files


@pytest.mark.parametrize("suffix", [".html", ".tex", ".safetensors"])
def test_results_are_written_and_read(model, reviews, suffix, tmp_path):
    a = clew.explain(model, reviews, method="pa_lrp", details=True)
    path = a.save(tmp_path / f"a{suffix}")
    assert path.stat().st_size > 500
    if suffix == ".safetensors":
        b = clew.Attribution.load(path)
        assert isinstance(b, clew.TextAttribution)
        torch.testing.assert_close(b.scores, a.scores, rtol=0, atol=0)
        assert [w.text for w in b.words()[1]] == reviews[1].split()
        assert b.to_html() == a.to_html()
        assert b.checks.keys() == a.checks.keys()


def test_results_of_different_lengths_are_joined(model, reviews):
    parts = [clew.explain(model, text, method="attn_lrp") for text in reviews]
    whole = clew.Attribution.concatenate(parts)
    together = clew.explain(model, reviews, method="attn_lrp")
    torch.testing.assert_close(whole.scores, together.scores, rtol=1e-4, atol=1e-6)
    assert [[w.text for w in words] for words in whole.words()] == [t.split() for t in reviews]
    assert len(whole[1:]) == 2
    assert whole[1].texts == reviews[1:2]


# Generation


def test_each_generated_token_is_explained_like_a_span(writer):
    g = clew.explain_generation(
        writer, "they don't", max_new_tokens=5, method="pa_lrp", batch_size=2, compute_dtype=torch.float64
    )
    with torch.no_grad():
        # The tokenizer ends a text by [SEP], which a text that goes on has not reached.
        prompt = torch.tensor([writer.tokenizer("they don't")["input_ids"][:-1]])
        expected = writer.model.generate(prompt, max_new_tokens=5, do_sample=False, pad_token_id=0)[0]
    assert g.input_ids.tolist() == expected.tolist()
    assert g.scores.shape == (len(expected) - prompt.shape[1], len(expected))
    assert list(g.outputs) == list(g.tokens[g.prompt :])
    for i in range(len(g.scores)):
        place = g.prompt + i
        alone = clew.explain(
            writer.model, expected[: place + 1], method="pa_lrp", target=clew.Span(place, place + 1),
            compute_dtype=torch.float64,
        )  # fmt: skip
        torch.testing.assert_close(g.scores[i, :place], alone.scores[0, :place], rtol=0, atol=1e-10)
        assert not g.scores[i, place:].any()
    torch.testing.assert_close(g.total(), g.scores.sum(0))


def test_a_given_answer_is_explained(writer):
    answer = writer.tokenizer(" café", add_special_tokens=False)["input_ids"]
    g = clew.explain_generation(writer, TEXT, answer=" café", method="input_x_gradient")
    assert g.input_ids[g.prompt :].tolist() == answer
    h = clew.explain_generation(writer.model, g.input_ids[: g.prompt], answer=answer, method="input_x_gradient")
    torch.testing.assert_close(g.scores, h.scores)
    assert len(h.outputs) == len(answer)


def test_the_matrix_is_shown_and_kept(writer, tmp_path):
    g = clew.explain_generation(writer, "<b>don't", max_new_tokens=4)
    page = g.to_html()
    assert "<b>do" not in page
    numbers = json.loads(re.search(r"\[\[.*?\]\]", page, re.S).group())
    assert torch.allclose(torch.tensor(numbers, dtype=torch.float64), g.scores.double(), rtol=1e-3, atol=1e-12)
    assert g.to_png()[:4] == b"\x89PNG"
    assert str(g.to_rich(1)).startswith(g.tokens[0])
    back = clew.Attribution.load(g.save(tmp_path / "g.safetensors"))
    assert isinstance(back, clew.GenerationAttribution)
    assert back.to_html() == page
    assert g.save(tmp_path / "g.html").read_text() == page


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ("  ", {}, "prompt is empty"),
        (["a", "b"], {}, "this is no prompt"),
        ("so", {"max_new_tokens": 0}, "1 to 10,000"),
        ("so", {"answer": []}, "no generated token"),
    ],
)
def test_prompts_that_are_none(writer, prompt, options, message):
    with pytest.raises((InputError, OptionError), match=message):
        clew.explain_generation(writer, prompt, **options)


def test_a_classifier_writes_nothing(model):
    with pytest.raises(ClewError):
        clew.explain_generation(model, "a superb plot")
    with pytest.raises(InputError, match="needs the model's tokenizer"):
        clew.explain_generation(model.model, "a superb plot")


# The command line


def test_words_files_and_folders(tmp_path, reviews):
    folder = tmp_path / "texts"
    folder.mkdir()
    for i, text in enumerate(reviews):
        (folder / f"{i}.txt").write_text(text)
    (folder / "notes.csv").write_text("not a text")
    out = tmp_path / "a.html"
    arguments = ["-m", "mini:reviews-bert", "--method", "pa_lrp", "--method", "beyond_intuition_token", "-o", out]
    done = run("explain", "a moving, quietly brilliant film", folder, *arguments)
    assert done.exit_code == 0, done.output
    page = out.read_text()
    shown = re.sub(r"<[^>]+>", "", page)
    assert page.count("beyond_intuition_token") >= 4
    for word in ("quietly", *reviews[2].split()):
        assert word in shown
    assert "not a text" not in shown
    assert "0.txt" in done.output
    one = run(
        "explain", "--text", str(folder), "-m", "mini:reviews-llama", "--method", "attn_lrp", "-o", tmp_path / "b.tex"
    )
    assert one.exit_code == 0, one.output
    assert (tmp_path / "b.tex").read_text().startswith(r"\documentclass")


def test_advice_is_printed_once_and_only_where_there_is_some(tmp_path):
    arguments = ["-m", "mini:reviews-llama", "-o", tmp_path / "a.html", "--method"]
    coarse = run("explain", "superb", "superb", *arguments, "beyond_intuition_head(n_steps=2, start_layer=0)")
    assert coarse.output.count("n_steps=8") == 1
    assert "n_steps" not in run("explain", "superb", *arguments, "attn_lrp").output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.txt"], "no file nothing.txt"),
        ([""], "empty text"),
        (["{folder}"], "no texts in"),
        (["{binary}"], "is no text"),
        ([], "nothing to explain"),
        (["a plot", "-o", "a.jpg"], r"\.tex"),
        (["a plot", "--span", "plot"], "does not fit a model for classification"),
    ],
)
def test_errors_on_the_command_line(tmp_path, arguments, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "binary.txt").write_bytes(b"\xff\xfe\x00")
    given = [a.format(folder=tmp_path / "empty", binary=tmp_path / "binary.txt") for a in arguments]
    with pytest.raises(ClewError, match=message):
        run("explain", *given, "-m", "mini:reviews-bert", "--method", "saliency")


def test_generate_on_the_command_line(writer, tmp_path):
    assert isinstance(writer.model, LlamaForCausalLM)
    writer.model.save_pretrained(tmp_path / "writer")
    writer.tokenizer.save_pretrained(tmp_path / "writer")
    out = tmp_path / "g.html"
    done = run("generate", "they don't", "-m", tmp_path / "writer", "--max-new-tokens", 6, "-o", out)
    assert done.exit_code == 0, done.output
    assert "attn_lrp" in out.read_text()
    assert len(run("generate", "--help").output) > 200
    with pytest.raises(ClewError, match=r"\.npy, \.safetensors"):
        run("generate", "they", "-m", tmp_path / "writer", "-o", "a.tex")


@pytest.mark.parametrize(("field", "value"), [("tokens", ["a"]), ("prompt", 0), ("prompt", 2), ("prompt", "one")])
def test_a_saved_matrix_that_was_changed_is_refused(writer, tmp_path, field, value):
    import json

    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    path = clew.explain_generation(writer, "so", max_new_tokens=2).save(tmp_path / "g.safetensors")
    with safe_open(str(path), "pt") as file:
        header = file.metadata()
    meta = json.loads(header["attribution"])
    assert field in meta
    save_file(load_file(path), path, {**header, "attribution": json.dumps({**meta, field: value})})
    with pytest.raises(ClewError, match=field):
        clew.Attribution.load(path)

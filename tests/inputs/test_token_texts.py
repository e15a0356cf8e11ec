"""Each token is shown once and can be seen, whatever the tokenizer knows of places in the text."""

from __future__ import annotations

import re

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tiny_tokenizers import tokenizer

import clew
from clew.draw.text_html import Piece, TextCell, latex, terminal
from clew.draw.token_strings import in_bytes, token_string

TEXT = "naïve 映画 🎬 café"


def model(size):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=size, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    return transformers.BertForSequenceClassification(config).eval()


def explained(own, text=TEXT, size=400):
    return clew.explain(clew.LoadedModel(model(size), tokenizer=own), text, method="saliency")


@settings(deadline=None)
@given(st.text(max_size=20))
def test_bytes_are_shown_by_their_numbers(text):
    own = transformers.ByT5Tokenizer()
    for number in own(text, add_special_tokens=False)["input_ids"]:
        byte = number - 3  # ByT5's numbers are bytes, three behind
        expected = chr(byte) if byte < 128 else f"<0x{byte:02X}>"
        assert token_string(own, number) == expected


def test_byte_level_vocabularies_are_read():
    own = tokenizer("byte-level")
    encoded = own(TEXT, add_special_tokens=False)
    for number, (start, stop) in zip(
        encoded["input_ids"], own(TEXT, return_offsets_mapping=True)["offset_mapping"][1:-1], strict=True
    ):
        shown = token_string(own, number)
        assert shown and "\ufffd" not in shown
        whole = own.decode([number])
        assert shown == whole or re.search(r"<0x[0-9A-F]{2}>", shown), (shown, TEXT[start:stop])
    assert in_bytes("Ġ" + "æ") == " <0xE6>" and in_bytes(b"\xe6\x98") == "<0xE6><0x98>"
    assert in_bytes("<0xE6>") == "<0xE6>" and in_bytes("映") == "" and in_bytes(None) == ""


@pytest.mark.parametrize("kind", ["ByT5Tokenizer", "CanineTokenizer"])
def test_bytes_and_characters_are_shown_once_as_the_text(kind):
    own = getattr(transformers, kind)()
    a = explained(own, size=max(own(TEXT)["input_ids"]) + 1)
    pieces = a.pieces(0)
    assert "".join(p.text for p in pieces if not p.special) == TEXT
    assert sorted(c for p in pieces for c in p.columns) == list(range(len(own(TEXT)["input_ids"])))


class Slow:
    """A tokenizer that gives no places, as Japanese ones do."""

    is_fast = False

    def __init__(self, inner):
        self._inner = inner

    def __getattr__(self, name):
        return getattr(self._inner, name)

    def __call__(self, *args, return_offsets_mapping=False, **kwargs):
        assert not return_offsets_mapping
        return dict(self._inner(*args, **kwargs))


@pytest.mark.parametrize("kind", ["wordpiece", "sentencepiece"])
def test_tokens_without_offsets_are_shown_once_and_nothing_behind_them(kind):
    own = Slow(tokenizer(kind))
    ids = own(TEXT)["input_ids"]
    a = explained(own, size=len(own._inner))
    pieces = a.pieces(0)
    assert a.offsets is None
    assert [p.columns for p in pieces if p.columns] == [(i,) for i in range(len(ids))]
    assert all(p.text for p in pieces) and all(p.text == " " for p in pieces if not p.columns)
    assert TEXT not in "".join(p.text for p in pieces)
    for shown in (re.sub(r"<[^>]+>", "", a._repr_html_()), str(a.to_rich(0)), a.to_latex()):
        assert TEXT not in shown


@pytest.mark.parametrize("kind", ["wordpiece", "byte-level", "sentencepiece", "bpe"])
@settings(max_examples=25, deadline=None)
@given(text=st.text("naï 映画🎬 é.\n", min_size=1, max_size=20).filter(str.strip))
def test_texts_with_offsets_are_shown_exactly_once(kind, text):
    own = tokenizer(kind)
    encoded = own(text, return_offsets_mapping=True)
    if len(encoded["input_ids"]) < 3:
        return
    a = explained(own, text)
    assert "".join(p.text for p in a.pieces(0) if not p.special) == text
    columns = [c for p in a.pieces(0) for c in p.columns]
    assert columns == list(range(len(encoded["input_ids"])))
    total = sum(p.score for p in a.pieces(0) if p.score is not None)
    assert total == pytest.approx(float(a.all_scores[0].sum()), rel=1e-4, abs=1e-6)


def test_several_tokens_of_one_character_are_one_piece_with_their_sum():
    own = tokenizer("byte-level")
    a = explained(own, "ab映")
    (last,) = [p for p in a.pieces(0) if p.text == "映"]
    offsets = own("ab映", return_offsets_mapping=True)["offset_mapping"]
    columns = [i for i, (start, stop) in enumerate(offsets) if stop == 3 and stop > start]
    assert len(columns) > 1 and last == Piece("映", last.score, False, tuple(columns))
    assert last.score == pytest.approx(float(a.scores[0][columns].sum()), rel=1e-5)


def test_what_steers_a_terminal_is_shown_and_not_obeyed():
    text = "a\x1b[31mred\x07 b\nc"
    shown = str(terminal([Piece(text, 1.0), Piece(text)]))
    assert shown == "a<0x1B>[31mred<0x07> b\nc" * 2
    assert "\x1b" not in latex([TextCell("t", text, [Piece(text, 1.0)], {})])

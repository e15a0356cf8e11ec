"""Every command of docs/reproduce.md parses: its options exist, and so do its methods and their options."""

from __future__ import annotations

import re

import pytest
from support.commands import COMMANDS, TEXT, parsed

import clew
from clew.datasets import readers
from clew.evaluation.benchmarks import find_benchmark
from clew.explainers import find_method, parse_method


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words)[5:80])
def test_the_command_parses(words):
    name, given = parsed(words)
    asked = given.get("method") or []
    for text in [asked] if isinstance(asked, str) else asked:
        method, options = parse_method(text)
        unknown = options.keys() - find_method(method).options.keys()
        assert not unknown, f"{method}: {unknown}"
    if words[1] != "bench":
        return
    variant = given["variant"]
    assert "--help" in words or variant in find_benchmark(name).variants
    known = {option for reader in readers().values() for option in reader.options}
    assert {one.partition("=")[0] for one in given["data_option"] or []} <= known
    if given["grid"]:
        varied = {option for text in asked for option in find_method(parse_method(text)[0]).options}
        assert {one.partition("=")[0] for one in given["grid"]} <= varied


def test_an_unknown_option_is_noticed():
    with pytest.raises(Exception, match="--no-such"):
        parsed(["clew", "bench", "flipping", "--model", "m", "--data", "d", "--no-such"])


def test_methods_in_the_text_exist():
    """Methods written with options outside of commands, too; `…` and names of Python functions are not."""
    written = re.findall(rf"`((?:{'|'.join(clew.methods())})\([^`…]*\))`", TEXT)
    assert len(written) > 10
    for text in written:
        method, options = parse_method(text)
        assert options.keys() <= find_method(method).options.keys(), text


def test_files_that_are_passed_are_explained():
    """Each file or folder that a command reads is named in the text, with where to get it."""
    explained = re.sub(r"```.*?```", "", TEXT, flags=re.S)
    for words in COMMANDS:
        for flag in ("--data", "--checkpoint", "--linear", "--subset"):
            if flag in words:
                value = words[words.index(flag) + 1].partition(":")[0].rstrip("/")
                assert value in explained, f"{flag} {value}"

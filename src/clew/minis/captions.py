"""The words for digits."""

from __future__ import annotations

WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def with_article(word: str, before_vowel: str = "an") -> str:
    """ "a seven", "an eight"."""
    return f"{before_vowel if word == 'eight' else 'a'} {word}"

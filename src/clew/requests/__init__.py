"""Turns what users type or click into inputs, targets and results, for the command line and the page."""

from .inputs import NamedInput
from .options import helps, literal_or_word, numbers, parse_assignments, reader_options, tell_left_out
from .results import explain_items, has_words, items_for, kind_of, labels_of
from .targets import target_of, texts_of

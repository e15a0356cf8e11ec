"""What is explained: one number per example, made from a model's output."""

from .classes import matching_classes
from .heads import Head, Kind, Scale, config_labels, head_of, labels_by_index, probabilities
from .kinds import Classes, Contrast, Each, One, Similarity, Span, Target, Token
from .outputs import answer_logits_of, comparable_outputs, kept_rows, logits_of
from .resolved import Resolved, covered_tokens, flatten_targets, resolve, rows_of, targets_per_example

__all__ = [
    "Classes",
    "Contrast",
    "Each",
    "Head",
    "Kind",
    "One",
    "Resolved",
    "Scale",
    "Similarity",
    "Span",
    "Target",
    "Token",
    "answer_logits_of",
    "comparable_outputs",
    "config_labels",
    "covered_tokens",
    "flatten_targets",
    "head_of",
    "kept_rows",
    "labels_by_index",
    "logits_of",
    "matching_classes",
    "probabilities",
    "resolve",
    "rows_of",
    "targets_per_example",
]

"""How sure a number of a benchmark is, and which methods differ."""

from .inference import (
    Comparison,
    Correction,
    Interval,
    bands,
    compare,
    corrected_p,
    interval,
    intervals,
    letters,
    split_half,
)
from .resampling import Statistic

__all__ = [
    "Comparison",
    "Correction",
    "Interval",
    "Statistic",
    "bands",
    "compare",
    "corrected_p",
    "interval",
    "intervals",
    "letters",
    "split_half",
]

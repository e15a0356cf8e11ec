"""Relevance: rules, the operations that they are for, the tape that applies them, and its account."""

from .account import Relevance, reduced
from .positional_relevance import PositionAggregation, add_positional_relevance
from .relevance import propagate
from .residual import ResidualSums
from .stream_relevance import StreamRelevance, missed_by, propagate_to_streams
from .tape import CONSERVING_FUNCTIONS

"""A model with its batch and its target, as a method sees it, and the trace of one pass."""

from .discrepancy import LEAST_LOGIT, Discrepancy, tolerance
from .input_errors import input_error, refusals_told
from .integration_paths import PathRecord, scaled_along
from .leaves import add_up, leaves_of, scaled_leaves, stream_result
from .noise import noise_of
from .parts import Parts
from .quadrature import MOST_STEPS, Quadrature, quadrature_rule
from .reached_rows import cache_rows, cached_rows
from .stream_subject import StreamSubject
from .subject import Subject
from .token_changes import keep_tokens, put_tokens
from .trace import Mix, Result, Trace, mean_heads, repeated

"""Protocols, runs, numbers and reports: which answer to trust."""

from .benchmarks import Batch, Benchmark, Curve, Metric, benchmark
from .evaluate import classifier_of
from .examples import Shown
from .identity import versions
from .report.report import summary
from .run import Run
from .selection import chosen

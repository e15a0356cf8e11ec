"""clew: what did this transformer look at?"""

from . import metrics, rules, statistics, targets
from .architectures import Architecture, Readout, architectures, register
from .attribution import Attribution
from .benchmarks import Batch, Benchmark, Curve, Metric, benchmark, benchmarks
from .chosen import chosen
from .compare import compare
from .datasets import Dataset, Example, open_dataset
from .doctor import doctor
from .evaluate import evaluate
from .explain import explain
from .figure import figure
from .finetune import Finetuned, finetune
from .generation import GenerationAttribution, explain_generation
from .image_attribution import ImageAttribution
from .images import Preprocess, open_image
from .load import DinoLinear, LoadedModel, load
from .methods import method, methods
from .minis import captioned_scenes, reviews, scenes
from .pair import Pair, register_pair
from .pair_attribution import PairAttribution
from .pair_model import LoadedPair
from .report import report
from .rule_sets import RULE_SETS
from .run import Run
from .shapes import ClewError
from .shown import Shown
from .subject import Subject
from .targets import Contrast, Each, Similarity, Span, Token
from .text_attribution import TextAttribution
from .trace import Result, Trace

__all__ = [
    "RULE_SETS",
    "Architecture",
    "Attribution",
    "Batch",
    "Benchmark",
    "ClewError",
    "Contrast",
    "Curve",
    "Dataset",
    "DinoLinear",
    "Each",
    "Example",
    "Finetuned",
    "GenerationAttribution",
    "ImageAttribution",
    "LoadedModel",
    "LoadedPair",
    "Metric",
    "Pair",
    "PairAttribution",
    "Preprocess",
    "Readout",
    "Result",
    "Run",
    "Shown",
    "Similarity",
    "Span",
    "Subject",
    "TextAttribution",
    "Token",
    "Trace",
    "architectures",
    "benchmark",
    "benchmarks",
    "captioned_scenes",
    "chosen",
    "compare",
    "doctor",
    "evaluate",
    "explain",
    "explain_generation",
    "figure",
    "finetune",
    "load",
    "method",
    "methods",
    "metrics",
    "open_dataset",
    "open_image",
    "register",
    "register_pair",
    "report",
    "reviews",
    "rules",
    "scenes",
    "statistics",
    "targets",
]

from . import metrics, rules, statistics, targets
from .attributions.base import Attribution
from .attributions.comparison import compare
from .attributions.figure import figure
from .attributions.image import ImageAttribution
from .attributions.pair import PairAttribution
from .attributions.text import TextAttribution
from .datasets import Dataset, Example, open_dataset
from .diagnosis import doctor
from .errors import ClewError
from .evaluation.benchmarks import Batch, Benchmark, Curve, Metric, benchmark, benchmarks
from .evaluation.evaluate import evaluate
from .evaluation.examples import Shown
from .evaluation.report.report import report
from .evaluation.run import Run
from .evaluation.selection import chosen
from .explainers import method, methods
from .explaining.explain import explain
from .explaining.generation import GenerationAttribution, explain_generation
from .explaining.pair_model import LoadedPair
from .inputs.preprocessing import Preprocess, open_image
from .loading.load import DinoLinear, LoadedModel, load
from .minis import captioned_scenes, reviews, scenes
from .models.architectures import Architecture, Readout, architectures, register
from .models.pair import Pair, register_pair
from .rules.rule_sets import RULE_SETS
from .subject.subject import Subject
from .subject.trace import Result, Trace
from .targets import Contrast, Each, Similarity, Span, Token
from .training.finetune import Finetuned, finetune

__version__: str

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

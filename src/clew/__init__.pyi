from . import metrics, rules, statistics, targets
from .attributions import (
    Attribution,
    GenerationAttribution,
    ImageAttribution,
    PairAttribution,
    TextAttribution,
    compare,
)
from .attributions.figure import figure
from .datasets import Dataset, Example, open_dataset
from .diagnosis import doctor
from .draw import Picture
from .errors import ClewError
from .evaluation import Batch, Benchmark, Curve, Metric, Run, Shown, benchmark, chosen
from .evaluation.benchmarks import benchmarks
from .evaluation.evaluate import evaluate
from .evaluation.report.report import report
from .explainers import method, methods
from .explaining import LoadedPair, Sources, explain_generation
from .explaining.explain import explain
from .explaining.quantus import quantus_explain
from .inputs import Preprocess, open_image
from .loading import DinoLinear, LoadedModel
from .loading.load import load
from .minis import captioned_scenes, chat_scenes, reversals, reviews, scenes
from .models import Architecture, Pair, Readout, register, register_pair
from .models.architectures import architectures
from .rules.rule_sets import RULE_SETS
from .subject import Result, Subject, Trace
from .targets import Contrast, Each, Similarity, Span, Token
from .training import Finetuned
from .training.finetune import finetune

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
    "Picture",
    "Preprocess",
    "Readout",
    "Result",
    "Run",
    "Shown",
    "Similarity",
    "Sources",
    "Span",
    "Subject",
    "TextAttribution",
    "Token",
    "Trace",
    "architectures",
    "benchmark",
    "benchmarks",
    "captioned_scenes",
    "chat_scenes",
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
    "quantus_explain",
    "register",
    "register_pair",
    "report",
    "reversals",
    "reviews",
    "rules",
    "scenes",
    "statistics",
    "targets",
]

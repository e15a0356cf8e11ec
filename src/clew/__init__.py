"""clew: what did this transformer look at?"""

from . import metrics, rules, targets
from .architectures import Architecture, Readout, architectures, register
from .attribution import Attribution
from .compare import compare
from .doctor import doctor
from .explain import explain
from .generation import GenerationAttribution, explain_generation
from .image_attribution import ImageAttribution
from .images import Preprocess, open_image
from .load import DinoLinear, LoadedModel, load
from .methods import method, methods
from .minis import captioned_scenes, reviews, scenes
from .pair import Pair, register_pair
from .pair_attribution import PairAttribution
from .pair_model import LoadedPair
from .rule_sets import RULE_SETS
from .shapes import ClewError
from .subject import Subject
from .targets import Contrast, Each, Similarity, Span, Token
from .text_attribution import TextAttribution
from .trace import Result, Trace

__all__ = [
    "RULE_SETS",
    "Architecture",
    "Attribution",
    "ClewError",
    "Contrast",
    "DinoLinear",
    "Each",
    "GenerationAttribution",
    "ImageAttribution",
    "LoadedModel",
    "LoadedPair",
    "Pair",
    "PairAttribution",
    "Preprocess",
    "Readout",
    "Result",
    "Similarity",
    "Span",
    "Subject",
    "TextAttribution",
    "Token",
    "Trace",
    "architectures",
    "captioned_scenes",
    "compare",
    "doctor",
    "explain",
    "explain_generation",
    "load",
    "method",
    "methods",
    "metrics",
    "open_image",
    "register",
    "register_pair",
    "reviews",
    "rules",
    "scenes",
    "targets",
]

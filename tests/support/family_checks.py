"""What is asked of a model of every family, and how far it may be off: of the tests, and of the table of models."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from support.plain_calls import difference, plain_gradient
from support.zoo_common import Specimen

import clew

# Functions of the model's own, whose backward no rule can see: the refusal names them.
OWN_FUNCTIONS = {"yoso": "YosoLSHCumulation|YosoCumulation", "sew-d": "XSoftmax"}
# What takes above ten seconds, or is wrong in the model itself.
LEFT_OUT = {
    **dict.fromkeys(("textnet", "zamba", "zamba2", "kimi_linear"), "its smallest model takes above ten seconds"),
    **dict.fromkeys(("musicgen", "musicgen_melody"), "two rows of codes are one example"),
    "rwkv": "autograd cannot compute its gradient: it changes a tensor in place that is needed",
}
# Words are looked up otherwise than as they were given, so that hooks on modules give no reference: transposed, padded,
# behind a prompt, or by a module of the model's own.
WITHOUT_REFERENCE = {"cpmant", "ibert", "longformer", "xlnet"}
NO_ROLLOUT = "no softmax attention was seen|attention without a softmax|mixes tokens without attention|recurrent layer"


def explain(specimen: Specimen, method: str, **options: Any) -> Any:
    return clew.explain(specimen.model, specimen.inputs, method=method, target=specimen.score, **options)


def of_gradients(specimen: Specimen) -> float:
    """How far input × gradient is from autograd's own."""
    return float(difference(explain(specimen, "input_x_gradient"), plain_gradient(specimen)))


def of_relevance(specimen: Specimen) -> float:
    """What share of the score no operation accounts for."""
    checks = explain(specimen, "attn_lrp").checks
    return float(checks["unexplained"].abs().amax() / checks["explained"].abs().amax())


def of_attention(specimen: Specimen) -> float:
    """What share of the mass of a rollout has not arrived."""
    return float(explain(specimen, "attention_rollout").checks["unaccounted"])


# Parts that are computed in float32 let the account close no further.
BOUNDS: dict[str, tuple[Callable[[Specimen], float], float]] = {
    "gradients": (of_gradients, 1e-5),
    "relevance": (of_relevance, 1e-6),
    "attention": (of_attention, 1e-6),
}

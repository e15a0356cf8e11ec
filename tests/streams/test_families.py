"""Models of every family, made of its configuration alone: nothing is declared, all must be explained.

A fixed half of the families is tried with all cases, and all of them by `make families`.
"""

from __future__ import annotations

import os
import re

import pytest
from support.families import KINDS, family, smallest, timm_family
from support.plain_calls import difference, plain_gradient
from support.sampling import left_out

import clew
from clew.errors import CaptureError, CheckFailed, OptionError

PART = 0.1  # of these
SHARE = 1.0 if os.environ.get("CLEW_FAMILIES") == "all" else 0.5
EVERY = [(kind, name) for kind, names in KINDS.items() for name in sorted(names)]
GONE = left_out([(kind, f"::{kind}-{name}", SHARE) for kind, name in EVERY])
CASES = [(kind, name) for kind, name in EVERY if f"::{kind}-{name}" not in GONE]
_SMALLEST = smallest()
_GONE = left_out([("timm", f"::{module}", SHARE) for module in _SMALLEST])
TIMM = {module: name for module, name in _SMALLEST.items() if f"::{module}" not in _GONE}

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


def explain(specimen, method, **options):
    return clew.explain(specimen.model, specimen.inputs, method=method, target=specimen.score, **options)


def check(specimen, *, reference=True):
    """The gradient is autograd's, and the account closes, as far as parts that are computed in float32 let it."""
    if reference:
        assert difference(explain(specimen, "input_x_gradient"), plain_gradient(specimen)) < 1e-5  # and the streams
    found = explain(specimen, "attn_lrp")
    size = found.checks["explained"].abs().amax()
    assert float(found.checks["unexplained"].abs().amax() / size) < 1e-6
    check_mass(specimen)


def check_mass(specimen):
    """All mass of a rollout arrives; or it is said that there is no softmax attention."""
    refusal, found = "", None
    try:
        found = explain(specimen, "attention_rollout")
    except (CaptureError, OptionError) as error:
        refusal = str(error)
    if found is None:
        assert re.search(NO_ROLLOUT, refusal), refusal
    else:
        assert float(found.checks["unaccounted"]) < 1e-6


@pytest.mark.sampled(PART, by="kind")
@pytest.mark.parametrize(("kind", "name"), CASES, ids=["-".join(case) for case in CASES])
@pytest.mark.filterwarnings("ignore")
def test_every_family_of_transformers(kind, name):
    if name in LEFT_OUT:
        pytest.skip(LEFT_OUT[name])
    specimen = family(kind, name)
    if name in OWN_FUNCTIONS:
        with pytest.raises(CheckFailed, match=OWN_FUNCTIONS[name]):
            explain(specimen, "attn_lrp")
        return
    check(specimen, reference=name not in WITHOUT_REFERENCE)


# Skips must not hide that nothing is built any more.
ALWAYS = [("causal", "gpt_neox"), ("causal", "opt"), ("classify", "albert"), ("seq2seq", "bart"), ("image", "resnet")]


@pytest.mark.parametrize(("kind", "name"), ALWAYS)
@pytest.mark.filterwarnings("ignore")
def test_well_known_families_are_built(kind, name):
    try:
        specimen = family(kind, name)
    except pytest.skip.Exception as error:
        pytest.fail(f"it was not built: {error}")
    check(specimen)


@pytest.mark.sampled(PART)
@pytest.mark.parametrize("module", TIMM)
@pytest.mark.filterwarnings("ignore")
def test_every_file_of_timm(module):
    check(timm_family(TIMM[module]))

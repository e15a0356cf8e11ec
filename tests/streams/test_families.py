"""Models of every family, made of its configuration alone: nothing is declared, all must be explained.

A fixed half of the families is tried with all cases, and all of them by `make families`.
"""

from __future__ import annotations

import os
import re

import pytest
from support.families import KINDS, family, smallest, timm_family
from support.family_checks import BOUNDS, LEFT_OUT, NO_ROLLOUT, OWN_FUNCTIONS, WITHOUT_REFERENCE, explain
from support.sampling import left_out

from clew.errors import CaptureError, CheckFailed, OptionError

PART = 0.1  # of these
SHARE = 1.0 if os.environ.get("CLEW_FAMILIES") == "all" else 0.5
EVERY = [(kind, name) for kind, names in KINDS.items() for name in sorted(names)]
GONE = left_out([(kind, f"::{kind}-{name}", SHARE) for kind, name in EVERY])
CASES = [(kind, name) for kind, name in EVERY if f"::{kind}-{name}" not in GONE]
_SMALLEST = smallest()
_GONE = left_out([("timm", f"::{module}", SHARE) for module in _SMALLEST])
TIMM = {module: name for module, name in _SMALLEST.items() if f"::{module}" not in _GONE}


def check(specimen, *, reference=True):
    """The gradient is autograd's, the account closes, and mass arrives, or it is said that there is no softmax."""
    for name, (off, bound) in BOUNDS.items():
        if name == "gradients" and not reference:
            continue
        try:
            found = off(specimen)
        except (CaptureError, OptionError) as error:
            if name != "attention" or not re.search(NO_ROLLOUT, str(error)):
                raise
            continue
        assert found < bound, name


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

"""Write docs/models.md: of every family of transformers and timm whether gradients, relevance and attention are right.

A tiny random model of each is made and asked what `make families` asks. Three minutes on two idle cores.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import pytest
import timm
import torch
import transformers

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
from report import write_page
from support import families
from support.families import KINDS, family, smallest, timm_family
from support.family_checks import BOUNDS, LEFT_OUT, OWN_FUNCTIONS, WITHOUT_REFERENCE
from support.zoo_common import Specimen

from clew.errors import ClewError

TITLES = {
    "causal": "Language models",
    "classify": "Classifiers of texts",
    "seq2seq": "Encoder–decoders",
    "image": "Classifiers of pictures",
    "audio": "Classifiers of sound",
}
COLUMNS = tuple(BOUNDS)
HEAD = [f"| family | {' | '.join(COLUMNS)} |", "|---" * (1 + len(COLUMNS)) + "|"]


def cell(name: str, column: str, specimen: Specimen) -> str:
    """A tick, or the reason why there is none."""
    if column == "gradients" and name in WITHOUT_REFERENCE:
        return "no reference: words are looked up otherwise than as given"
    off, bound = BOUNDS[column]
    try:
        found = off(specimen)
    except ClewError as error:
        own = re.search(OWN_FUNCTIONS[name], str(error)) if name in OWN_FUNCTIONS else None
        if own is not None:
            return f"refused: a function of the model's own, `{own[0]}`"
        return str(error).splitlines()[0].replace("|", "\\|")
    except Exception as error:
        return f"fails: {type(error).__name__}"
    return "✓" if found < bound else f"off by {found:.1e}"


def row(name: str, made: Callable[[], Specimen]) -> str:
    """A family's row; of one that cannot be made small why."""
    if name in LEFT_OUT:
        return f"| `{name}` | – | – | {LEFT_OUT[name]} |"
    try:
        specimen = made()
    except pytest.skip.Exception as skipped:
        print(name, skipped)
        return f"| `{name}` | – | – | not tried: no tiny model of it runs |"
    return f"| `{name}` | {' | '.join(cell(name, column, specimen) for column in COLUMNS)} |"


def section(title: str, rows: Sequence[str]) -> list[str]:
    """How many have a tick in each column, and all of them."""
    tried = [one.split(" | ")[1:] for one in rows if " | – | " not in one]
    ticks = [sum(one[i].startswith("✓") for one in tried) for i in range(len(COLUMNS))]
    told = ", ".join(f"{column} right of {count}" for column, count in zip(COLUMNS, ticks, strict=True))
    return ["", f"## {title}", "", f"{len(rows)} families, {len(tried)} tried: {told}.", "", *HEAD, *rows]


def main() -> None:
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()
    families.SECONDS = 120  # this may run beside others
    lines = [
        "# Which models",
        "",
        "Each family of transformers with a head for a task, and the smallest model of each file of timm: a tiny one",
        "with random weights, made of its configuration alone, in float64, with nothing declared. A tick says:",
        "",
        "- *gradients* (`input_x_gradient`) are those that autograd gives of a plain call of the model, to 1e-5;",
        "- *relevance* (`attn_lrp`): no operation keeps more than 1e-6 of the score without saying so;",
        "- *attention* (`attention_rollout`): [all mass](attention-on-graphs.md) arrives at tokens, to 1e-6.",
        "",
        "Where there is none stands the error that a user gets. Families that are declared have methods of their",
        f"blocks, too: `clew models` lists them. transformers {transformers.__version__}, timm {timm.__version__}.",
        "Made by `python measurements/models.py`.",
    ]
    for kind, title in TITLES.items():
        lines += section(title, [row(name, partial(family, kind, name)) for name in sorted(KINDS[kind])])
        print(title, "done", flush=True)
    lines += section("timm", [row(module, partial(timm_family, name)) for module, name in smallest().items()])
    write_page("models.md", lines)


if __name__ == "__main__":
    torch.set_num_threads(2)
    main()

"""Tiny random models (float64) of kinds of which nothing is declared: `ZOO`, and `build` by name."""

from __future__ import annotations

from support import zoo_chat as zoo_chat
from support import zoo_own as zoo_own
from support import zoo_sequences as zoo_sequences
from support import zoo_vision as zoo_vision
from support.zoo_common import ZOO, Species, Specimen, build, called, part

__all__ = ["ZOO", "Species", "Specimen", "build", "called", "part"]

"""Results that were pickled when their classes stood in other files: where what they name is now.

A pickle names the module of each class in it, and files move. Whoever moves one that pickled results name adds a line
here; to keep results, `Attribution.save` is better, whose files name no modules.
"""

from __future__ import annotations

import importlib
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

# The files that pickled results named, and where their classes are now.
_MOVED = {
    "clew.image_attribution": "clew.attributions.image",
    "clew.text_attribution": "clew.attributions.text",
    "clew.pair_attribution": "clew.attributions.pair",
    "clew.generation": "clew.attributions.generation",
    "clew.plots": "clew.draw.plots",
}


class Moved(MetaPathFinder, Loader):
    """Finds the modules of before, each as one whose attributes are those of the file that took its place."""

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in _MOVED else None

    def exec_module(self, module: ModuleType) -> None:
        now = vars(importlib.import_module(_MOVED[module.__name__]))
        module.__dict__.update({name: value for name, value in now.items() if not name.startswith("__")})

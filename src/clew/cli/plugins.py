"""Files of the user's own, which are run before the command so that their methods and protocols have names in it."""

from __future__ import annotations

import sys
import traceback
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

from ..errors import InputError, OptionError


def run_plugin(file: Path) -> None:
    """Run a file as a module, once. Raises `OptionError` for no Python file, `InputError` for one that fails."""
    name = f"plugin_{file.stem}"
    if file.suffix != ".py" or not file.is_file():
        got = f"{file}, which is not there" if not file.exists() else str(file)
        raise OptionError("a plugin is a file of yours", expected="a Python file: my_method.py", got=got)
    spec = spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    sys.path.insert(0, str(file.resolve().parent))  # its neighbours can be imported, as from a script
    sys.modules[name] = module = module_from_spec(spec)  # classes of it look their annotations up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        lines = [one.lineno for one in traceback.extract_tb(error.__traceback__) if one.filename == spec.origin]
        where = f"{file}, line {lines[-1]}" if lines else str(file)
        got = f"{type(error).__name__}: {error}"
        raise InputError(f"{where}: this plugin fails", expected="a file that Python runs", got=got) from error

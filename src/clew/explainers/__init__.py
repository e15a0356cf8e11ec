"""The register of methods, and the decorator that adds one.

A method is a function of a `Subject` and keyword-only options that returns a `Result` (or the scores alone):

    @method(paper="Abnar & Zuidema 2020, eq. 1", summary="attention multiplied through the blocks")
    def my_rollout(subject: Subject, *, start_layer: int | None = None) -> Scores: ...
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import Tensor

from ..errors import ClewError, OptionError, close_matches, short_repr
from ..inputs import OWN_MODEL
from ..literals import call
from ..registry import import_submodules
from ..subject import Result, StreamSubject, Subject
from ..validation import validate_arguments

Function = Callable[..., Any]


@dataclass(frozen=True)
class Method:
    """A registered method: its name, source, one-line summary and options with their defaults.

    `seeds`: its option `seed` may be one number for each example. `any_model`: it needs no declaration of a model, and
    with `by_mass` computes without one in another way, by token mass. `images`: it explains images only.
    `only_named`: it takes hundreds of passes, so that a run of all methods has it only where it is named.
    `without_gradients`: of a declared model it asks for no gradient.
    """

    name: str
    function: Function
    paper: str
    summary: str
    seeds: bool = False
    any_model: bool = False
    by_mass: bool = False
    images: bool = False
    only_named: bool = False
    without_gradients: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """Option names and defaults, read from the function's signature."""
        return dict(self._defaults)

    @cached_property
    def _defaults(self) -> dict[str, Any]:
        parameters = inspect.signature(self.function).parameters.values()
        return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}

    def __call__(self, subject: Subject | StreamSubject, **options: Any) -> Result:
        """Run the method. Raises `OptionError` for an option it does not have, or of a type that it does not take, and
        for a text where it is one of images."""
        if self.images and (isinstance(subject, StreamSubject) or subject.bound.is_text):
            raise OptionError(
                f"{self.name} explains images",
                expected="a declared model of images, or side='image' of an image–text model",
                got="a text" if isinstance(subject, Subject) else "a model of which nothing is declared",
                todo="choose another method, see clew.methods()",
            )
        for name in options:
            if name not in self.options:
                known = close_matches(name, self.options) if self.options else "it has no options"
                known = f"labels belong to the model: {OWN_MODEL}" if name == "labels" else known
                raise OptionError(f"{self.name} has no option {name!r}", got=f"{name}={options[name]!r}", todo=known)
        validate_arguments(options, self.function, f"{self.name}: ")
        result = self.function(subject, **options)
        if not isinstance(result, (Result, Tensor)):
            expected = "a tensor of scores (batch, token), or a Result"
            raise OptionError(f"{self.name} returns no scores", expected=expected, got=type(result).__name__)
        result = result if isinstance(result, Result) else Result(scores=result)
        merged = {**self.options, **options, **result.options}
        return replace(result, options=merged)


_registered: dict[str, Method] = {}


def method(
    *,
    paper: str,
    summary: str,
    seeds: bool = False,
    any_model: bool = False,
    by_mass: bool = False,
    images: bool = False,
    only_named: bool = False,
    without_gradients: bool = False,
) -> Callable[[Function], Function]:
    """Register a function as a method under its own name. Raises `ClewError` for a name that is taken.

    `any_model`: it explains models that are not declared, too: it takes a `StreamSubject`. `by_mass`: so it does, but a
    declared model inside a wrapper is explained as declared. `images`, `only_named`, `without_gradients`: see `Method`.
    """

    def add(function: Function) -> Function:
        name = function.__name__
        # The files here may be read one from another, so none of them has all of them read.
        known = _registered if _is_own(function.__module__) else methods()
        if name in known:
            raise ClewError(f"a method named {name!r} is registered already", todo="choose another name")
        kinds = {"seeds": seeds, "any_model": any_model or by_mass, "by_mass": by_mass, "images": images}
        kinds |= {"only_named": only_named, "without_gradients": without_gradients}
        _registered[name] = Method(name, function, paper, summary, **kinds)
        return function

    return add


def methods() -> dict[str, Method]:
    """All methods, by name: those of this folder, whose files are read on first use, and those of others."""
    import_submodules(__name__)
    return dict(sorted(_registered.items(), key=lambda one: _home(one[1].function)))  # however files were read


def _home(function: Function) -> str:
    """The file of this folder that a method is in; of others what comes behind all of them."""
    module = function.__module__
    return module if _is_own(module) else "~"


def _is_own(module: str) -> bool:
    return module.startswith(f"{__name__}.")


def find_method(method: str | Function | Method) -> Method:
    """The method of that name, or a function as a method. Raises `OptionError` for an unknown name."""
    if isinstance(method, Method):
        return method
    if callable(method):
        name = getattr(method, "__name__", type(method).__name__)
        return Method(name, method, "", inspect.getdoc(method) or "", any_model=True)
    import_submodules(__name__)
    if not isinstance(method, str) or method not in _registered:  # pyright: ignore[reportUnnecessaryIsInstance]
        known = methods()
        own = "@clew.method above it, in the shell clew --plugin FILE.py …"
        todo = f"{close_matches(method, known)}; one of your own: {own}"
        if method in ("context_cite", "leave_one_out"):
            todo = f"its scores are of sentences or documents: clew.Sources(model, prompt).explain({method!r})"
        raise OptionError(f"no method {short_repr(method)}", got=short_repr(method), todo=todo)
    return _registered[method]


def is_released(variant: str, *names: str) -> bool:
    """Whether a method is asked for what some released code computes, rather than for the paper's method done right.

    `names` are the variants that the method has (default: "beyond_intuition"). Raises `OptionError` for another.
    """
    names = names or ("beyond_intuition",)
    if variant not in ("paper", *names):
        raise OptionError("unknown variant", expected=" or ".join(("paper", *names)), got=variant)
    return variant != "paper"


def parse_method(text: str) -> tuple[str, dict[str, Any]]:
    """`NAME(key=literal, …)`, as written on the command line, to a name and its options.

    Raises `OptionError` for anything else: only literals are read, nothing is run.
    """
    found = call(text)
    if found is not None:
        return found
    raise OptionError(
        "a method is written NAME or NAME(option=value, …)",
        expected="for example beyond_intuition_token(start_layer=6)",
        got=text,
    )

"""What `doctor` tries on a model of which nothing is declared: which methods work on it, and why others do not."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import ClewError
from .explainers import find_method, mass
from .explaining.any_model import AnyModel, subject_of_any
from .lrp import propagate_to_streams
from .mass import propagate_mass, site_graph
from .models import LoadedModel, architecture_inside
from .seam import Seam, in_callers_modes
from .streams import ABOUT_INPUT
from .subject import Result, StreamSubject
from .verification import verify_streams

_STEPS = 32  # of the path whose completeness is measured
_GAP = 0.1  # of the path's two ends: more is no rounding, but a bend that takes more steps


@dataclass(frozen=True)
class Finding:
    """One thing that was tried: its name, whether it held, and what was seen."""

    name: str
    ok: bool
    seen: str


def examine_any(
    model: nn.Module | LoadedModel, inside: nn.Module, inputs: Any, target: Any, rules: str | Mapping[str, Any]
) -> list[Finding]:
    """Findings on a model, one call of it, and what is to be explained."""
    if inputs is None:
        inputs = getattr(inside, "dummy_inputs", None)
    if inputs is None:
        return [Finding("inputs", False, "pass inputs as model(**inputs) or model(*inputs) takes them")]
    try:
        ready = AnyModel.of(model, inside, inputs, None)
    except ClewError as error:
        return [Finding("inputs", False, str(error))]
    with torch.no_grad(), in_callers_modes():  # some models place hooks of their own when they are first called
        inside(*ready.call.args, **ready.call.kwargs)
    before = state(inside)
    findings: list[Finding] = []
    subject = subject_of_any(ready, target)

    def attempt(name: str, check: Callable[[], tuple[bool, str]]) -> None:
        try:
            findings.append(Finding(name, *check()))
        except (ClewError, RuntimeError, ValueError, IndexError, TypeError, AttributeError, KeyError) as error:
            findings.append(Finding(name, False, str(error)))

    attempt("streams", lambda: _streams(ready, subject))
    attempt("target", lambda: _target(subject))
    attempt("forward unchanged", lambda: _unchanged(subject, ready.given))
    attempt("gradients", lambda: _gradients(subject))
    attempt("completeness along a path", lambda: _path(subject))
    name = rules if isinstance(rules, str) else "own rules"
    attempt(f"rules: {name}", lambda: _rules(subject, rules))
    attempt("account of relevance", lambda: _account(subject, rules))
    calls = _Softmaxes()
    attempt("attention", lambda: _attention(subject, inside, calls))
    if calls.counts:
        attempt("mass by attention", lambda: _mass(subject))
    findings.append(Finding("nothing left behind", state(inside) == before, "hooks, gradients, modes, kernels"))
    return findings


def _streams(ready: AnyModel, subject: StreamSubject) -> tuple[bool, str]:
    """Where input enters, and why."""
    tables = {id(p): n for n, p in subject.model.named_parameters()}
    lines: list[str] = []
    before = subject.looked_up_before()
    for key, entry in subject.clean_entries.items():
        shape = tuple(entry.value.shape)
        if entry.places is None:
            patches = subject.clean.entrance.patches.get(key) if subject.clean is not None else None
            lines.append(f"{key}: floats {shape} as they are given" + (f", in patches of {patches}" if patches else ""))
        else:
            table = tables.get(id(entry.table), "a table")
            again = "; the same numbers once more" if bool(before[key].any()) else ""
            lines.append(f"{key}: numbers that are looked up in {table}, {shape}{again}")
    entered = {entry.argument for entry in subject.clean_entries.values()}
    for name, value in ready.call.tensors().items():
        if name not in entered:
            why = "says something about the input" if ABOUT_INPUT.search(name) else "is never looked up"
            lines.append(f"{name} {tuple(value.shape)}: no stream, as it {why}")
    return bool(entered), "\n".join(lines)


def _target(subject: StreamSubject) -> tuple[bool, str]:
    with torch.no_grad():
        score = subject.score(subject.clean_output)
    names = ", ".join(subject.target.inner.names[:4])
    return bool(score.isfinite().all()), f"{names}: {', '.join(f'{v:.4g}' for v in score.tolist()[:4])}"


def _unchanged(subject: StreamSubject, model: nn.Module) -> tuple[bool, str]:
    found = verify_streams(subject, model, Result(streams={}), again=True)
    return True, f"largest relative difference to the model's own call {found.get('forward_difference', 0.0):.1e}"


def _gradients(subject: StreamSubject) -> tuple[bool, str]:
    """Whether gradients reach every stream, are finite, and keep to their example."""
    gradients, score = subject.gradients()
    by_stream = subject.by_stream(gradients, size=True)
    lines = [f"{name}: largest size {float(v.abs().max()):.2g}" for name, v in by_stream.items()]
    silent = [name for name, v in by_stream.items() if not bool(v.any())]
    if silent:
        lines.append("no gradient reaches " + ", ".join(silent))
    axes = subject.axes(score, subject.leaves)
    shared = [key for key, axis in axes.items() if axis is None]
    if shared and len(score) > 1:
        lines.append(f"{', '.join(shared)}: no axis is that of the examples, so each has the whole of it")
    finite = all(bool(v.isfinite().all()) for v in by_stream.values())
    return finite and len(silent) < len(by_stream), "\n".join(lines)


def _path(subject: StreamSubject) -> tuple[bool, str]:
    """Integrated gradients from zero: their sum against the difference of the scores at both ends."""
    found = find_method("integrated_gradients")(subject, n_steps=_STEPS)
    x = subject.leaves
    zero = {key: torch.zeros_like(value) for key, value in x.items()}
    change = (subject.scores_at(x) - subject.scores_at(zero)).abs()
    gap = float((found.checks["completeness_gap"].abs() / change.clamp(min=1e-12)).max())
    words = f"the sum of {_STEPS} steps misses the change of the score by {gap:.1%}"
    return gap <= _GAP, words + ("" if gap <= _GAP else "; take more n_steps, or another baseline than zero")


def _rules(subject: StreamSubject, rules: Any) -> tuple[bool, str]:
    found = propagate_to_streams(subject, rules)
    met = sorted(found.met.items(), key=lambda item: item[0].operation)
    lines = [f"{one.operation} × {count}: {one.rule if one.rule is not None else 'not reached'}" for one, count in met]
    return True, "\n".join(lines) or "no operation needed a rule"


def _account(subject: StreamSubject, rules: Any) -> tuple[bool, str]:
    found = propagate_to_streams(subject, rules)
    words = ", ".join(f"{name.removeprefix('leak_')} {float(v[0]):.3g}" for name, v in found.account().items())
    together = "; examples one at a time, as they share rows" if found.one_at_a_time and len(found.total) > 1 else ""
    return found.closes, f"{words}; {float(found.open_share().max()):.1e} of the largest unexplained{together}"


class _Softmaxes(Seam):
    """Counts what computes attention."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}

    def place_hooks(self) -> None:
        self.switch_on()

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func in _ATTENTION:
            self.counts[_ATTENTION[func]] = self.counts.get(_ATTENTION[func], 0) + 1
        return func(*args, **kwargs)


_ATTENTION: dict[Any, str] = {
    F.scaled_dot_product_attention: "scaled_dot_product_attention",
    F.multi_head_attention_forward: "nn.MultiheadAttention",
    **dict.fromkeys((F.softmax, torch.softmax, Tensor.softmax), "softmax"),
}


def _attention(subject: StreamSubject, inside: nn.Module, seam: _Softmaxes) -> tuple[bool, str]:
    """What attention was seen, and whether methods of attention know the blocks."""
    with torch.no_grad():
        subject.run(within=seam)
    named = sum("attention" in type(m).__name__.lower() for m in inside.modules())
    seen = ", ".join(f"{count} × {name}" for name, count in seam.counts.items()) or "none"
    known = architecture_inside(inside)
    words = f"{seen} in one pass"
    if known is not None:
        words += f"; methods of attention use its {known.name} inside"
    elif seam.counts:
        words += "; methods of attention go by token mass; those that read blocks, such as pa_lrp, need a declaration"
    return bool(seam.counts) or not named, words


def _mass(subject: StreamSubject) -> tuple[bool, str]:
    """Which tokens each attention asks, and whether the mass of a rollout arrives."""
    found = propagate_mass(subject, mass.rollout, mass.halves)
    lines = [str(link) for link in site_graph(subject)]
    lines.append(f"constants got {found.constants:.3f} of 1, {found.unaccounted:.1e} is unaccounted for")
    return found.arrives, "\n".join(lines)


def state(model: nn.Module) -> list[Any]:
    """Everything that a careless library would leave changed."""
    modules: list[Any] = [
        (len(m._forward_hooks), len(m._forward_pre_hooks), m.training)  # pyright: ignore[reportPrivateUsage]
        for m in model.modules()
    ]
    parameters = [(p.requires_grad, p.grad is None) for p in model.parameters()]
    config: Any = getattr(model, "config", None)
    names = ("_attn_implementation", "_experts_implementation", "use_cache")
    return [*modules, *parameters, *(getattr(config, name, None) for name in names)]

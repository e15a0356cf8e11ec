"""`doctor`: does everything that clew relies on hold for this very model? Runs in seconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from .architectures import Architecture
from .explain import explain
from .load import LoadedModel
from .outputs import logits_of
from .prepare import prepare, unwrap
from .relevance import propagate
from .shapes import ClewError
from .subject import Subject


@dataclass(frozen=True)
class Finding:
    """One thing that was tried: its name, whether it held, and what was seen."""

    name: str
    ok: bool
    seen: str


def doctor(
    model: nn.Module | LoadedModel,
    inputs: Any = None,
    *,
    architecture: Architecture | None = None,
    rules: str | Mapping[str, Any] = "attn_lrp",
) -> list[Finding]:
    """Try on one model what every method relies on; `inputs` default to two random images of the model's size.

    Checked: a declaration fits; the forward pass is unchanged; the attention seen, times the values, is the attention
    output; the declared readout is what the head really reads; a batch equals its single examples; every operation
    that relevance meets has a rule in `rules` (they are listed); LRP's account closes; nothing is left behind.
    """
    inside = unwrap(model.model if isinstance(model, LoadedModel) else model)
    before = state(inside)
    half = any(p.dtype in (torch.float16, torch.bfloat16) for p in inside.parameters())
    tolerance = 2e-2 if half else 1e-4
    try:
        first = next((m for m in inside.modules() if isinstance(m, nn.Conv2d)), None)
        example = _example(model, first.in_channels if first is not None else None) if inputs is None else inputs
        ready = prepare(model, example, architecture)
    except ClewError as error:
        return [Finding("declaration", False, str(error))]
    subject = Subject(ready.model, ready.bound, ready.inputs, lambda output: _largest)
    findings: list[Finding] = []

    def attempt(name: str, check: Callable[[], tuple[bool, str]]) -> None:
        try:
            findings.append(Finding(name, *check()))
        except (ClewError, RuntimeError, ValueError) as error:
            findings.append(Finding(name, False, str(error)))

    def declaration() -> tuple[bool, str]:
        grid = subject.grid()
        trace = subject.run([subject.last])
        expected = ready.bound.prefix + grid[0] * grid[1]
        seen = (
            f"{ready.bound.architecture.name}: {subject.depth} blocks, {trace[subject.last].v.shape[1]} heads, "
            f"{ready.bound.prefix} prefix tokens, {grid[0]} x {grid[1]} patches, {subject.backend} attention"
        )
        return trace.tokens == expected, seen

    def unchanged() -> tuple[bool, str]:
        with torch.no_grad():
            plain = logits_of(subject.forward())
        seen = logits_of(subject.run(range(subject.last + 1)).output)
        difference = float((plain - seen).abs().max())
        return difference <= tolerance * float(plain.abs().max()), f"largest change of a logit {difference:.1e}"

    def captured() -> tuple[bool, str]:
        trace = subject.run(range(subject.last + 1))
        worst = 0.0
        for layer in range(subject.last + 1):
            again = trace[layer].probabilities().to(trace[layer].v.dtype) @ trace[layer].v
            worst = max(worst, float((again - trace[layer].o).abs().max() / trace[layer].o.abs().max()))
        return worst <= tolerance, f"largest relative error of A·V against the model's own output {worst:.1e}"

    def read_out() -> tuple[bool, str]:
        trace = subject.run([subject.last], leaf=(subject.last, "o"))
        g_o = trace.gradients([(subject.last, "o")])[subject.last, "o"]
        real = set(g_o.abs().amax((0, 1, 3)).nonzero().flatten().tolist())
        declared = set(trace.read().rows.flatten().tolist())
        return real == declared, f"{len(declared)} rows declared, {len(real)} rows reach the score"

    def batches() -> tuple[bool, str]:
        target = logits_of(subject.run([subject.last]).output).argmax(-1)
        options: dict[str, Any] = {"architecture": ready.bound.architecture, "checks": "off", "n_steps": 2}
        everyone = explain(ready.model, ready.inputs, target=target, **options).scores
        single = {k: v[:1] for k, v in ready.inputs.items()}
        alone = explain(ready.model, single, target=target[:1], **options).scores
        difference = float((everyone[:1] - alone).abs().max() / alone.abs().max().clamp(min=1e-12))
        return difference <= tolerance, f"largest relative difference {difference:.1e}"

    def ruled() -> tuple[bool, str]:
        found = propagate(subject, rules)
        met = sorted(found.met.items(), key=lambda item: (item[0].place, item[0].operation))
        return True, "\n".join(
            f"{one.operation} ({one.place}) × {count}: {one.rule if one.rule is not None else 'not reached'}"
            for one, count in met
        )

    def accounted() -> tuple[bool, str]:
        found = propagate(subject, rules)
        account = found.account("all")
        largest = torch.stack([v.abs() for v in account.values()]).amax(0)
        share = float((account["unexplained"].abs() / largest).max())
        words = ", ".join(f"{name.removeprefix('leak_')} {float(v[0]):.3g}" for name, v in account.items())
        ill = float(found.conditioning().max()) * len(found.entries)
        return share <= max(tolerance, ill), f"{words}; {share:.1e} of the largest unexplained"

    attempt("declaration", declaration)
    attempt("forward unchanged", unchanged)
    attempt("attention captured", captured)
    attempt("readout", read_out)
    attempt("batch = single", batches)
    name = rules if isinstance(rules, str) else "own rules"
    attempt(f"rules: {name}", ruled)
    attempt("account of relevance", accounted)
    findings.append(Finding("nothing left behind", state(ready.model) == before, "hooks, gradients, modes, kernels"))
    return findings


def _largest(output: Any, rows: Tensor | None) -> Tensor:
    return logits_of(output).amax(-1)


def _example(model: nn.Module | LoadedModel, channels: int | None) -> Tensor:
    if isinstance(model, LoadedModel) and model.preprocess is not None:
        size: Any = model.preprocess.size
    else:
        module: Any = model.model if isinstance(model, LoadedModel) else model
        size = getattr(getattr(module, "patch_embed", None), "img_size", None)
        size = size or getattr(getattr(module, "config", None), "image_size", None)
        size = size or getattr(module, "image_size", None) or 224
    height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    generator = torch.Generator("cpu").manual_seed(0)
    return torch.randn(2, channels or 3, height, width, generator=generator, device="cpu")


def state(model: nn.Module) -> list[Any]:
    """Everything that a careless library would leave changed."""
    modules: list[Any] = [
        (len(m._forward_hooks), len(m._forward_pre_hooks), m.training)  # pyright: ignore[reportPrivateUsage]
        for m in model.modules()
    ]
    parameters = [(p.requires_grad, p.grad is None) for p in model.parameters()]
    return [*modules, *parameters, getattr(getattr(model, "config", None), "_attn_implementation", None)]

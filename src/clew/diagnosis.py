"""`doctor`: does everything that clew relies on hold for this very model? Runs in seconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from .any_diagnosis import Finding, examine_any, state
from .errors import ClewError
from .explainers import find_method
from .explaining import LoadedPair, PreparedBatch, SideInputs, encode_features, subject_of, unwrap
from .explaining.any_model import AnyModel, subject_of_any
from .explaining.explain import explain
from .explaining.prepare import prepare
from .explaining.prompts import device_of
from .explaining.side_inputs import side_inputs
from .loading import LoadedModel
from .lrp import propagate
from .models import (
    SIDES,
    Architecture,
    BoundArchitecture,
    Pair,
    Side,
    as_loaded,
    find_architecture,
    find_pair,
    is_declared,
    tower,
)
from .seam import in_callers_device, is_quantized, isolated_modes, original
from .targets import Token, answer_logits_of, logits_of
from .verification import check_pixels, rounds_to_tf32


@isolated_modes()
def doctor(
    model: Any,
    inputs: Any = None,
    *,
    target: Any = None,
    architecture: Architecture | None = None,
    rules: str | Mapping[str, Any] = "attn_lrp",
) -> list[Finding]:
    """Try on one model what every method relies on; `inputs` default to two random images of the model's size, or to
    two random texts, one of them padded.

    Checked: a declaration fits; pictures are prepared with the colours, mean and deviation of the model's own
    configuration; the forward pass is unchanged; the attention seen, times the values, is the attention output; the
    declared readout is what the head really reads; a rollout by the declared blocks is that of the model's own graph,
    by token mass; a batch equals its single examples (of texts: without padding); every operation that relevance meets
    has a rule in `rules` (they are listed), and none changes the output; LRP's account closes; nothing is left behind.
    Of an image–text model both towers are tried, or that of the inputs.

    Of a model that is not declared (its `inputs` are needed, and a `target` where its output does not say what to
    explain): where input enters and why, gradients, completeness along a path, rules and account, and what attention
    was seen, so that one knows which methods work on it.
    """
    model, target = as_loaded(model), in_callers_device(target)
    inside = unwrap(model.model if isinstance(model, LoadedModel) else model)
    pair = find_pair(inside) if architecture is None else None
    if pair is not None:
        given = None if inputs is None else side_inputs(inputs)
        sides: Sequence[Side] = SIDES if given is None else [given.side]
        return [one for side in sides for one in _tower(model, inside, pair, side, rules, given)]
    if architecture is None and not is_declared(inside):
        return examine_any(model, inside, inputs, target, rules)
    before = state(inside)
    half = any(p.dtype in (torch.float16, torch.bfloat16) for p in inside.parameters())
    tolerance = 2e-2 if half else 1e-4
    try:
        declared = architecture or find_architecture(inside)
        example = _example(model, inside, declared.bind(inside)) if inputs is None else inputs
        ready = prepare(model, example, declared)
        target = _target(ready) if target is None else target
        subject = subject_of(ready, target)
    except ClewError as error:
        return [Finding("declaration", False, str(error))]
    findings: list[Finding] = []
    answers = ready.bound.task == "question-answering"

    def attempt(name: str, check: Callable[[], tuple[bool, str]]) -> None:
        try:
            findings.append(Finding(name, *check()))
        except (ClewError, RuntimeError, ValueError, IndexError, TypeError, AttributeError) as error:
            findings.append(Finding(name, False, str(error)))

    def declaration() -> tuple[bool, str]:
        trace = subject.run([0, subject.last])  # a pool may see the patches alone
        if ready.text is not None:
            expected, parts = ready.text.length, f"a model for {ready.bound.task}"
        else:
            grid = subject.grid()
            expected = ready.bound.prefix + grid[0] * grid[1]
            parts = f"{ready.bound.prefix} prefix tokens, {grid[0]} x {grid[1]} patches"
        heads = trace[subject.last].v.shape[1]
        name = ready.bound.architecture.name
        seen = f"{name}: {subject.depth} blocks, {heads} heads, {parts}, {subject.backend} attention"
        return trace.tokens == expected, seen

    def unchanged() -> tuple[bool, str]:
        # The model itself; of quantised layers their floats, as their own kernels round.
        own = ready.model if any(map(is_quantized, inside.modules())) else original(ready.model)
        with torch.no_grad():
            plain = _output(replace(subject, model=own).forward(), asked=answers)
        seen = _output(subject.run(range(subject.last + 1)).output, asked=answers)
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
        read = trace.read()
        said = read.start(g_o.shape[2], separate=True) * read.weights.ne(0)[..., None]
        real, declared = g_o.abs().amax((1, 3)) > 0, said.sum(1) > 0
        counts = f"{int(declared.sum())} rows declared, {int(real.sum())} rows reach the score"
        return bool((real == declared).all()), counts

    def by_mass() -> tuple[bool, str]:
        rollout = find_method("attention_rollout")
        blocks = rollout(subject, start_layer=0).scores
        given = {name: value for name, value in {**subject.constant, **ready.inputs}.items() if name}
        main = ready.inputs.get("")  # given by its place
        any_model = AnyModel.of(ready.model, ready.model, given if main is None else main, None)
        if main is not None:
            any_model = replace(any_model, call=replace(any_model.call, kwargs=given))
        # Of pictures at the patch embedding, whose convolutions may overlap.
        paths = {module: path for path, module in ready.model.named_modules()}
        at = paths.get(ready.bound.patches) if ready.text is None else None
        graph = subject_of_any(any_model, lambda output: subject.score(output), at=at)
        streams = rollout(graph, start_layer=0).streams
        assert blocks is not None and streams is not None
        mass = next(iter(streams.values()))
        if ready.text is None:
            mass = mass.sum(1).flatten(1) if mass.ndim == 4 else mass.sum(-1)
            blocks = blocks[:, ready.bound.prefix :]
        # Where a head reads several things beside each other, declarations count all and mass shares.
        of_blocks, of_mass = (v.double() / v.double().sum(1, keepdim=True) for v in (blocks, mass))
        difference = float((of_blocks - of_mass).abs().max() / of_blocks.max())
        return difference <= tolerance, f"a rollout by blocks and one by token mass differ by {difference:.1e}"

    def batches() -> tuple[bool, str]:
        options: dict[str, Any] = {"architecture": ready.bound.architecture, "checks": "off", "n_steps": 2}
        last = ready.batch - 1  # of two texts the padded one
        everyone = explain(inside, ready.inputs, target=target, **options).scores[last]
        single = {k: v[last:] for k, v in ready.inputs.items()}
        if ready.text is not None:  # without its padding
            count = int(ready.text.lengths[last])
            single, everyone = {k: v[:, :count] for k, v in single.items()}, everyone[:count]
        alone = explain(inside, single, target=target[last:] if target else None, **options).scores[0]
        difference = float((everyone - alone).abs().max() / alone.abs().max().clamp(min=1e-12))
        # Kernels of other shapes round otherwise.
        allowed = max(tolerance, 5e-3) if rounds_to_tf32(inside, device_of(inside)) else tolerance
        return difference <= allowed, f"largest relative difference {difference:.1e}"

    def ruled() -> tuple[bool, str]:
        with torch.no_grad():
            plain = subject.score(subject.forward(), clean=True)
        found = propagate(subject, rules, positions=subject.bound.is_text)
        difference = float(((found.total - plain) / plain.abs().clamp(min=1e-6)).abs().max())
        met = sorted(found.met.items(), key=lambda item: (item[0].place, item[0].operation))
        return difference <= tolerance, f"the score changes by {difference:.1e}\n" + "\n".join(
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

    def prepared() -> tuple[bool, str]:
        preprocess: Any = model.preprocess if isinstance(model, LoadedModel) else None
        colours = torch.randint(0, 256, (96, 128, 3), generator=torch.Generator("cpu").manual_seed(0), device="cpu")
        picture = Image.fromarray(colours.mul(torch.tensor([1.0, 0.6, 0.3])).to(torch.uint8).numpy())
        x, shown = preprocess.batch([picture])
        worst = max(float(one.error) for one in check_pixels(x, shown, preprocess))
        mean, std = ([round(v, 3) for v in values] for values in (preprocess.mean, preprocess.std))
        said = f"{preprocess.size[0]} x {preprocess.size[1]}, mean {mean}, deviation {std}"
        own: Any = getattr(inside, "pretrained_cfg", None) or {}
        same = all(
            max(abs(float(a) - float(b)) for a, b in zip(own[k], v, strict=True)) < 1e-4
            for k, v in (("mean", preprocess.mean), ("std", preprocess.std))
            if own.get(k) is not None and len(own[k]) == len(v)
        )
        told = "" if same else f"; the model was trained with mean {own.get('mean')}, deviation {own.get('std')}"
        return same and worst <= 0.15, f"{said}; colours are off by {worst:.1e}{told}"

    attempt("declaration", declaration)
    if isinstance(model, LoadedModel) and model.preprocess is not None and ready.text is None:
        attempt("pictures", prepared)
    attempt("forward unchanged", unchanged)
    attempt("attention captured", captured)
    attempt("readout", read_out)
    attempt("blocks = graph", by_mass)
    attempt("batch = single" if ready.text is None else "padded = alone", batches)
    name = rules if isinstance(rules, str) else "own rules"
    attempt(f"rules: {name}", ruled)
    attempt("account of relevance", accounted)
    findings.append(Finding("nothing left behind", state(inside) == before, "hooks, gradients, modes, kernels"))
    return findings


def _tower(
    model: nn.Module | LoadedModel, inside: nn.Module, pair: Pair, side: Side, rules: Any, given: SideInputs | None
) -> list[Finding]:
    """What holds for one tower of an image–text model, compared with random features."""
    loaded = model if isinstance(model, LoadedModel) else LoadedPair(inside)
    try:
        probe = tower(inside, pair, side, torch.zeros(1, 1))
        bound = probe.architecture.bind(probe)
        example = _example(loaded, probe, bound) if given is None else given.select(range(len(given.items)))
        found = encode_features(loaded, pair, side_inputs(example))
    except ClewError as error:
        return [Finding(f"{side}: declaration", False, str(error))]
    generator = torch.Generator("cpu").manual_seed(1)
    features = torch.randn(3, found.shape[1], generator=generator, device="cpu").to(found)
    made = tower(inside, pair, side, features)
    findings = doctor(replace(loaded, model=made, labels=None), example, rules=rules)
    return [replace(one, name=f"{side}: {one.name}") for one in findings]


def _output(output: Any, *, asked: bool = False) -> Tensor:
    answers = answer_logits_of(output, asked=asked)
    return torch.cat(answers, 1) if answers is not None else logits_of(output)


def _target(ready: PreparedBatch) -> Any:
    """Something to explain: what is predicted, of heads over tokens at the last token of each text."""
    if ready.bound.task != "token-classification" or ready.text is None:
        return None
    columns = ready.text.order.gather(1, ready.text.lengths[:, None] - 1).flatten().tolist()
    return [Token(column) for column in columns]


def _example(model: nn.Module | LoadedModel, inside: Any, bound: BoundArchitecture) -> Any:
    generator = torch.Generator("cpu").manual_seed(0)
    if bound.is_text:
        words = int(getattr(bound.patches, "num_embeddings", 100))
        numbers = torch.randint(min(5, words - 1), words, (2, 12), generator=generator, device="cpu")
        if bound.readout.end:
            numbers[:, [7, 11]] = words - 1 if bound.readout.end_token_id is None else bound.readout.end_token_id
        mask = torch.ones_like(numbers)
        mask[1, 8:] = 0
        return {"input_ids": numbers, "attention_mask": mask}
    if isinstance(model, LoadedModel) and model.preprocess is not None:
        size: Any = model.preprocess.size
    else:
        inside = getattr(inside, "owner", inside)
        inside = getattr(inside, "vision_model", getattr(inside, "visual", inside))
        size = getattr(getattr(inside, "patch_embed", None), "img_size", None)
        size = size or getattr(getattr(inside, "config", None), "image_size", None)
        size = size or getattr(inside, "image_size", None) or 224
    height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    return torch.randn(2, bound.channels or 3, height, width, generator=generator, device="cpu")

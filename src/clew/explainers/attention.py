"""Methods made of attention, alone or times its gradient.

Letters: `A` attention probabilities, `G = ∂score/∂A`, `r` readout rows, `I` the identity (the residual connection).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import OptionError
from ..seam import take
from ..shapes import Attn, Scores, at_least_float32
from ..subject import Mix, Result, StreamSubject, Subject, Trace, mean_heads
from ..validation import validate_integer
from . import bimodal, is_released, last_attention, mass, method
from .attention_gradients import Rules, named_rules, refuse_rules, with_gradients


@method(paper="the control", summary="random numbers: what a method must beat", seeds=True, any_model=True)
def random(subject: Subject | StreamSubject, *, seed: int | Sequence[int] = 0) -> Scores | Result:
    """Uniform random scores, the same for the same `seed`, token count and batch position.

    `seed`: one for the batch, or one for each example, whose scores then do not depend on the batch.
    """
    each = list(seed) if isinstance(seed, Sequence) else [seed]
    mask: Tensor | None = None
    if isinstance(subject, StreamSubject):
        subject.see_axes()
        entries = subject.by_stream(subject.leaves)
        sizes, like = {name: value.shape[1:] for name, value in entries.items()}, next(iter(entries.values()))
    else:
        trace = subject.run([subject.last])
        sizes, like, mask = {"": torch.Size([trace.tokens])}, subject.x, trace.mask
    if len(each) not in (1, subject.batch):
        raise OptionError("one seed for all or one for each", expected=f"1 or {subject.batch}", got=len(each))
    drawn = [torch.Generator("cpu").manual_seed(validate_integer("seed", one, 0, 2**63 - 1)) for one in each]
    count = subject.batch // len(each)
    found = {
        name: torch.cat([torch.rand(count, *size, generator=g, dtype=torch.float64, device="cpu") for g in drawn])
        for name, size in sizes.items()
    }
    kept = {name: values if mask is None else values * mask.to(values) for name, values in found.items()}
    kept = {k: v.to(like.device, torch.promote_types(like.dtype, torch.float32)) for k, v in kept.items()}
    return Result(streams=kept) if isinstance(subject, StreamSubject) else kept[""]


@method(
    paper="Vaswani et al. 2017", summary="attention of the last block from the readout, mean over heads", by_mass=True,
    without_gradients=True,
)  # fmt: skip
def raw_attention(subject: Subject | StreamSubject, *, layer: int | None = None, variant: str = "paper") -> Result:
    """`mean_h A_l[readout]` of one block (default: the last). Class-agnostic.

    `variant="beyond_intuition"` gives the released map for models that read the mean of the patches, which averages
    over keys instead of queries and so is almost constant. `details`: `attention` (batch, head, query, key).
    """
    if isinstance(subject, StreamSubject):
        mass.refuse_variant(variant)
        return mass.last_attention(subject, layer)
    chosen = subject.last if layer is None else subject.layers_from(layer, 0)[0]
    trace = subject.run([chosen])
    details = {"attention": trace[chosen].probabilities()} if subject.details else {}
    if is_released(variant) and _reads_patches(subject):
        return Result(_mean_over_keys(trace, mean_heads(trace[chosen].probabilities())), details=details)
    read = trace.read(chosen)
    A = mean_heads(trace[chosen].probabilities(read.rows))
    return Result(trace.over_tokens(read.mean(A), chosen), details=details)


@method(
    paper="Abnar & Zuidema 2020, eq. 1", summary="attention plus identity, multiplied through the blocks", by_mass=True,
    without_gradients=True,
)  # fmt: skip
def attention_rollout(subject: Subject | StreamSubject, *, start_layer: int | None = None) -> Result:
    """`M_l = (mean_h A_l + I)`, rows normalised to 1; `scores = readout · M_{L-1} ⋯ M_start`. Class-agnostic.

    `details`: `layer_maps` (batch, layer, token), the map that starting at each layer would give.
    """
    if isinstance(subject, StreamSubject):
        return mass.mass_method(subject, mass.rollout, mass.halves, start_layer=start_layer)
    layers = subject.layers_from(start_layer, 0)
    trace = subject.run(layers, mix=mean_heads, readout_only=True)
    began, maps = trace.start(), list[Tensor]()
    r = began
    for layer in reversed(layers):
        r = trace.chain(r, layer, mean_heads, normalize=True)
        maps.insert(0, r.squeeze(1))
    # Rows sum to 1, so that all tokens together have what was started from.
    unaccounted = (at_least_float32(r).sum((1, 2)) / began.sum((1, 2)) - 1).abs().amax()
    checks = {"unaccounted": float(unaccounted)}
    return Result(maps[0], options={"start_layer": layers[0]}, checks=checks, details=_stacked(subject, maps))


@method(
    paper="Selvaraju et al. 2017; Chefer et al. 2021a", summary="Grad-CAM on the attention of the last block",
    by_mass=True,
)  # fmt: skip
def attention_gradcam(
    subject: Subject | StreamSubject, *, rules: Rules | None = None, variant: str = "paper"
) -> Result:
    """`w_h = mean G_h` over readout rows and patch keys; `scores = max(mean_h w_h A_h[readout], 0)`.

    `variant="beyond_intuition"` gives the released map. For models that read the mean of the patches: one weight per
    query, averaged over keys. For texts: the readout row of the whole map over queries and keys, stretched to 0 to 1.
    A map without positive evidence is all zero. `rules`: see `generic_attribution`.

    Models that are not declared: of the last attention that token mass comes to, queries weighted by what is asked of
    them; `w_h` leaves out keys made of constants alone (CLS) and those that none of these queries sees.
    """
    if isinstance(subject, StreamSubject):
        mass.refuse_variant(variant)
        refuse_rules(rules)
        return last_attention.gradcam(subject)
    last, prefix = subject.last, subject.bound.prefix
    trace, g = with_gradients(subject, range(last, last + 1), rules)
    g_o, options = g[last], named_rules(rules)
    read, real = trace.read(), trace.real_keys(last)
    if is_released(variant) and _reads_patches(subject):
        w = trace[last].attention_gradient(g_o)[..., prefix:].mean((1, 3))[:, None, :, None]
        found = _mean_over_keys(trace, (w * trace[last].probabilities()).mean(1))
        return Result(found.clamp(min=0), options=options)
    seen = trace[last].probabilities(read.rows), trace[last].attention_gradient(g_o, read.rows)
    A, G = (trace.over_tokens(m.to(read.weights.dtype), last) for m in seen)
    w = read.mean(G.transpose(1, 2))[..., prefix:]  # (batch, head, key)
    w = w.mean(-1) if real is None else (w * real[:, None]).sum(-1) / real.sum(-1, keepdim=True)
    if is_released(variant) and subject.bound.is_text:
        whole = torch.einsum("bh,bhqk->bqk", w, trace[last].probabilities().to(w)).clamp(min=0)
        return Result(read.mean(take(_stretched(whole, real)[:, None], read.rows)[:, 0]), options=options)
    cam = torch.einsum("bh,bhk->bk", w, read.mean(A.transpose(1, 2))) / A.shape[1]
    return Result(cam.clamp(min=0), options=options)


@method(
    paper="Chefer et al. 2021b, eq. 5-6", summary="attention times its gradient, added up through the blocks",
    by_mass=True,
)  # fmt: skip
def generic_attribution(
    subject: Subject | StreamSubject,
    *,
    start_layer: int | None = None,
    rules: Rules | None = None,
    variant: str = "paper",
) -> Result:
    """`R ← R + C_l R` from `R = I`, with `C_l = mean_h max(G_l ⊙ A_l, 0)`; `scores = readout · R`.

    `rules`: `G` under rules instead of the model's own gradient, "libra" for LibraGrad's (Mehri et al. 2025).
    `variant="beyond_intuition"`: `C_l = max(mean_h(G_l ⊙ A_l), 0)`, as released for ViT.
    Texts and pairs start at the last block by default, as released. `details`: `layer_maps`, see `attention_rollout`.

    Models that are not declared, with encoder and decoder or two towers: by default the same of every attention, cross
    attention too (a product over all paths). `variant="chefer"`: the paper's equations for several streams of tokens.
    Self-attention of `s`: `R^sy ← R^sy + C R^sy` of each stream `y` (eq. 6, 7). Tokens of `s` that ask `q`:
    `R^sq ← R^sq + (R̄^ss)ᵀ C R̄^qq` (eq. 10), `R^ss ← R^ss + C R^qs` (eq. 11, and so of further streams), where `R̄` is
    `I` plus `R - I` with rows divided by their sums (eq. 8, 9). Matrices are dense: (tokens)² numbers.
    """

    def per_head(A: Attn, G: Attn) -> Tensor:
        return (G * A).clamp(min=0).mean(1)

    def after_mean(A: Attn, G: Attn) -> Tensor:
        return (G * A).mean(1).clamp(min=0)

    if isinstance(subject, StreamSubject):
        refuse_rules(rules)
        if bimodal.refuse_variants(variant):
            return bimodal.by_equations(subject, start_layer)
        return mass.mass_method(subject, mass.positive_gradient, mass.both, start_layer=start_layer, gradient=True)
    if variant == "chefer":  # of one stream equations 5 and 6 are all there is
        return _through(subject, subject.layers_from(start_layer, 0), per_head, rules)
    layers = subject.layers_from(start_layer, 0, text=subject.depth - 1, pair=subject.depth - 1)
    mix = after_mean if is_released(variant) else per_head
    return _through(subject, layers, mix, rules)


@method(
    paper="Chefer et al. 2021a; Qiang et al. 2022", summary="rollout of attention times its positive gradient",
    by_mass=True,
)  # fmt: skip
def gradient_attention_rollout(
    subject: Subject | StreamSubject, *, start_layer: int | None = None, rules: Rules | None = None
) -> Result:
    """`C_l = mean_h max(A_l ⊙ G_l, 0)`, rows of `C_l + I` normalised to 1, product over blocks, readout row.

    `rules`: see `generic_attribution`. `details`: `layer_maps`, see `attention_rollout`.
    """

    def positive(A: Attn, G: Attn) -> Tensor:
        return (A * G).clamp(min=0).mean(1)

    if isinstance(subject, StreamSubject):
        refuse_rules(rules)
        rows = mass.RowsNormalised(mass.positive_gradient, subject)
        return mass.mass_method(subject, rows.handed, rows.shares, start_layer=start_layer, gradient=True)
    layers = subject.layers_from(start_layer, 0)
    return _through(subject, layers, positive, rules, normalize=True)


def _through(subject: Subject, layers: range, mix: Mix, rules: Rules | None, *, normalize: bool = False) -> Result:
    """`readout · ∏ (I + mix(A_l, G_l))`, from the last block down, with one backward pass for all gradients."""
    trace, gradients = with_gradients(subject, layers, rules)
    r, maps = trace.start(), list[Tensor]()
    for layer in reversed(layers):
        r = trace.chain(r, layer, mix, gradient=gradients[layer], normalize=normalize)
        maps.insert(0, r.squeeze(1))
    options = {"start_layer": layers[0], **named_rules(rules)}
    return Result(maps[0], options=options, details=_stacked(subject, maps))


def _stacked(subject: Subject, maps: list[Tensor]) -> dict[str, Tensor]:
    """`layer_maps` (batch, layer, token): entry l is the map that starting at that layer would give."""
    return {"layer_maps": torch.stack(maps, 1)} if subject.details else {}


def _mean_over_keys(trace: Trace, maps: Tensor) -> Scores:
    """Released quirk: the mean of a (query, key) map over patch keys, for each patch query; prefix tokens get 0."""
    prefix = trace.bound.prefix
    return torch.nn.functional.pad(maps[:, prefix:, prefix:].mean(-1), (prefix, 0))


def _reads_patches(subject: Subject) -> bool:
    """Whether the head reads the mean of an image's patches."""
    return bool(subject.bound.readout.patches_weight) and not subject.bound.is_text


def _stretched(maps: Tensor, real: Tensor | None) -> Tensor:
    """Released quirk: maps (batch, query, key) from 0 to 1 over all their real entries; constant ones become zeros."""
    inside = torch.ones_like(maps, dtype=torch.bool)
    if real is not None:
        inside = real[:, :, None] & real[:, None, :]
    low, high = (maps.masked_fill(~inside, fill).flatten(1) for fill in (torch.inf, -torch.inf))
    low, high = low.amin(1)[:, None, None], high.amax(1)[:, None, None]
    return torch.where(high > low, (maps - low) / (high - low), 0.0)

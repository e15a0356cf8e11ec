"""Token mass of every stream of a model, with the account of it."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..errors import CaptureError
from ..shapes import at_least_float32
from ..subject import Discrepancy, StreamSubject, tolerance
from ..traversal import floats_of
from . import operations as operations  # fills the table
from .mass_pass import Mark, MassPass, Mix, Residual
from .own_functions import with_own_functions
from .site import Site

T = TypeVar("T")


@dataclass(frozen=True)
class StreamMass:
    """Where the mass of the scores went: `leaves` in their shapes, the `sites` that were found, and of all examples
    together, of 1, what went to `constants`, and how much is `unaccounted` for of 1 or of what attentions added, if
    that is more. Rounding may be `allowed` so much."""

    leaves: dict[str, Tensor]
    sites: list[Site]
    constants: float
    unaccounted: float
    allowed: float

    @property
    def arrives(self) -> bool:
        """Whether all mass is accounted for."""
        return self.unaccounted <= self.allowed

    def checks(self) -> dict[str, Any]:
        """The account, and the sites, as numbers."""
        return {
            "sites": len(self.sites),
            "sites_reached": sum(site.reached for site in self.sites),
            "constants": self.constants,
            "unaccounted": self.unaccounted,
        }


class MassGraph:
    """One forward pass on the input as it is, through whose graph mass can be sent as often as needed."""

    def __init__(self, subject: StreamSubject, tape: MassPass, score: Tensor, leaves: dict[str, Tensor]) -> None:
        self.subject, self.tape, self.score, self.leaves = subject, tape, score, leaves
        self.precise = _is_double(subject)
        self.arrived = True  # all mass that was sent and accounted for

    @property
    def sites(self) -> list[Site]:
        """The attentions, in the order of the pass."""
        return self.tape.sites

    def node(self, site: Site, name: str) -> Tensor | None:
        """A tensor of the graph: the "key" of a site, whose tokens its values are, its "output", the "branch" of a sum
        that comes straight from it, and the "query" that goes past it."""
        return (self.tape.nodes or {}).get((site.number, name))

    @property
    def around(self) -> dict[int, Mark]:
        """By number of a site around which there is a residual: what is known of what comes from it there."""
        return self.tape.around

    def mark(self, tensor: Tensor | None) -> Mark | None:
        """What is known of a tensor of the graph."""
        return self.tape.mark_of(tensor)

    def origin(self, tensor: Tensor) -> Tensor:
        """The last tensor before one that was made of several: a stream, say, before a norm."""
        mark = self.mark(tensor)
        return tensor if mark is None or mark.origin is None else mark.origin

    def read(self, tensor: Tensor) -> Tensor | None:
        """What the linear layer read whose numbers a tensor holds."""
        mark = self.mark(tensor)
        return None if mark is None else mark.read

    def attention_gradient_at(self, leaves: dict[str, Tensor], site: Site, rows: Tensor) -> Tensor:
        """`∂score/∂A` of some queries of a site where other values enter. Raises `CaptureError` where the model then
        computes other attentions."""
        tape = MassPass(self.subject.model, _unknown, _unknown, gradient=True)
        tape.copies, tape.nodes, tape.currency = self.tape.copies, {}, "gradient"
        scores: list[Tensor] = []
        self.subject.run(
            leaves,
            gradient=True,
            within=tape,
            score_within=lambda output: scores.append(tape.scored(self.subject.score, output)),
            precise=self.precise,
        )
        output = tape.nodes.get((site.number, "output"))
        there = tape.sites[site.number] if len(tape.sites) == len(self.sites) else None
        if output is None or there is None or there.o.shape != site.o.shape or there.module != site.module:
            raise CaptureError(
                "along the path the model computes other attentions than on the input itself",
                expected=f"{len(self.sites)} attentions",
                got=len(tape.sites),
                todo="take feedback=False, or other baselines",
            )
        (g,) = torch.autograd.grad(scores[0].sum(), output, allow_unused=True, materialize_grads=True)
        return at_least_float32(g[..., rows, :]) @ at_least_float32(there.v).mT

    @contextmanager
    def gradients(self) -> Generator[None]:
        """Inside, what goes back through the graph are gradients."""
        self.tape.currency = "gradient"
        try:
            yield
        finally:
            self.tape.currency = "mass"

    def send(self, mix: Mix, residual: Residual, *, again: bool = False, verify: bool = True) -> StreamMass:
        """The mass of the scores, sent back to the leaves. `again`: the graph is kept for what is sent after it.

        `verify`, where results are verified: the account, and every attention that mass came to.
        """
        tape, subject, score = self.tape, self.subject, self.score
        tape.mix, tape.residual, tape.made, tape.constants = mix, residual, 0.0, 0.0
        for site in self.sites:
            site.asked = None
        leaves = subject.gradients_of(score, self.leaves, retain_graph=again)
        arrived = sum(float(at_least_float32(mass).sum()) for mass in leaves.values())
        # Of what there was, which methods that hand on more than they get make grow with every attention.
        most = max(len(score), abs(float(tape.made)))
        unaccounted = abs(len(score) + float(tape.made) - float(tape.constants) - arrived) / most
        kinds = (
            {p.dtype for p in floats_of(subject.model)} | {score.dtype} | ({tape.shorter} if tape.shorter else set())
        )
        got = StreamMass(leaves, self.sites, float(tape.constants) / len(score), unaccounted, tolerance(*kinds))
        if verify:
            self.arrived &= got.arrives
        if subject.verify and verify:
            words = "mass that neither inputs nor constants got, of all"
            subject.measured.append(Discrepancy("mass", torch.tensor(unaccounted), got.allowed, words))
            subject.measured += [site.measured() for site in self.sites if site.reached]
        return got

    def carried(self, node: Tensor, mass: Tensor) -> dict[str, Tensor]:
        """What becomes at the leaves of `mass` at a tensor of the graph, past all attentions."""
        self.tape.residual = lambda site, mark: (1.0, 0.0)
        found = torch.autograd.grad(
            node, list(self.leaves.values()), mass, allow_unused=True, materialize_grads=True, retain_graph=True
        )
        return dict(zip(self.leaves, found, strict=True))


def propagate_mass(subject: StreamSubject, mix: Mix, residual: Residual, *, gradient: bool = False) -> StreamMass:
    """One forward pass and one backward pass in mass, after one of the gradient where `mix` needs `∂score/∂A`.

    Raises `CaptureError` where no attention was seen, `OptionError` where mass comes to what is no softmax attention.
    """
    return with_mass_graph(subject, lambda graph: graph.send(mix, residual), gradient=gradient)


def with_mass_graph(
    subject: StreamSubject,
    use: Callable[[MassGraph], T],
    *,
    gradient: bool = False,
    differentiable: bool = False,
    nodes: bool = False,
) -> T:
    """What `use` makes of the graph of one pass.

    With `gradient` `∂score/∂A` of every attention is known, with `differentiable` gradients go through the graph, too;
    `nodes` are kept: what goes into attentions, comes out and goes past them. Errors as in `propagate_mass`.
    """

    def once(copies: bool, own_functions: bool) -> tuple[T, bool]:
        with torch.enable_grad():
            kept = {"gradient": gradient or differentiable, "nodes": nodes}
            graph = _opened(subject, **kept, copies=copies, own_functions=own_functions)
            if gradient:
                with graph.gradients():
                    leaves = list(graph.leaves.values())
                    torch.autograd.grad(graph.score.sum(), leaves, allow_unused=True, retain_graph=True)
            return use(graph), graph.arrived

    return with_own_functions(subject, once)


def _opened(subject: StreamSubject, *, gradient: bool, nodes: bool, copies: bool, own_functions: bool) -> MassGraph:
    tape = MassPass(subject.model, _unknown, _unknown, gradient=gradient)
    tape.copies, subject.by_mass = copies, True
    tape.own_functions = own_functions
    tape.nodes = {} if nodes else None
    scores: list[Tensor] = []
    found = subject.run(
        gradient=True,
        within=tape,
        score_within=lambda output: scores.append(tape.scored(subject.score, output)),
        precise=_is_double(subject),
    )
    (score,) = scores
    if not tape.sites:
        raise no_attention(subject)
    subject.need_gradient(score)
    subject.see_axes()  # by a gradient, not by mass
    return MassGraph(subject, tape, score, found.leaves)


def _is_double(subject: StreamSubject) -> bool:
    """Whether a model is of double precision: where it casts to single, sums would not be right to more than that."""
    return all(p.dtype == torch.float64 for p in floats_of(subject.model))


def _unknown(*args: Any) -> Any:
    raise AssertionError("mass is sent by a method")


def no_attention(subject: StreamSubject) -> CaptureError:
    """An error for a model without softmax attention."""
    return CaptureError(
        "no softmax attention was seen in this model",
        expected="attention by torch.nn.functional.scaled_dot_product_attention, nn.MultiheadAttention, or a softmax "
        "between two products",
        got=type(subject.model).__name__,
        todo="take a method that needs no attention: attn_lrp, integrated_gradients, input_x_gradient",
    )

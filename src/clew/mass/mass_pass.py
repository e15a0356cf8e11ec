"""A forward pass whose backward hands on token mass, the sum over channels of each token.

What works on each token by itself keeps its mass; what moves tokens is autograd's own; scores of attention and lengths
that something is divided by get none; an attention hands the mass of query i to key j by `C_ij`; a sum of two branches
shares it. One graph serves two currencies: a first backward pass in "gradient" gives `∂score/∂A` of every attention, a
second one in "mass" the result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import OptionError
from ..lrp import CONSERVING_FUNCTIONS
from ..seam import Seam, tensors_in, torch_functions
from ..shapes import at_least_float32
from .site import Seen, Site

Call = Callable[..., Any]
Masses = Callable[[Tensor], Sequence[Tensor | None]]
# What query i of a site hands to key j, for some queries: (…, head, query, key).
Mix = Callable[[Site, slice], Tensor]
# Shares of what goes past a site and what goes through it, where both are added: numbers, or one for each token.
Share = float | Tensor
# What is one number for each query of each site, as it is laid out in a tensor that comes straight from them.
Rows = Callable[[Callable[[Site], Tensor]], Tensor]
Residual = Callable[[Site, "Mark"], tuple[Share, Share]]

# Filled by `operations/`: what mass does at torch functions; that of None at all others.
OPERATIONS: dict[Any, Callable[..., Any]] = {}

_MARK = "_clew_mass"


@dataclass
class Mark:
    """What a pass knows of a tensor: `order` in which it was made; whether it holds `probabilities`; whether it is
    `massless`, made of the input, but only to weigh something else; the `sites` it comes straight from, and how their
    `rows` are laid out in it, where that is known; `weights` it was multiplied with, that are probabilities; all sites
    that are `behind` it. Where nodes are kept: its `origin`, the last tensor before it that was made of several; what
    was `read` by the linear layer whose numbers it holds; and of what comes straight from sites the tensor until which
    it was `linear` in what they put out (None: it still is)."""

    order: int
    probabilities: bool = False
    massless: bool = False
    sites: tuple[Site, ...] = ()
    rows: Rows | None = None
    weights: Tensor | None = None
    behind: frozenset[Site] = frozenset()
    origin: Tensor | None = None
    read: Tensor | None = None
    linear: Tensor | None = None

    @property
    def site(self) -> Site:
        """The last of the sites."""
        return max(self.sites, key=lambda site: site.number)


class Switch(torch.autograd.Function):
    """`y`, whose gradient goes to where it was made, and its mass to `inputs` as `back` says (None: nowhere)."""

    @staticmethod
    def forward(ctx: Any, tape: MassPass, back: Masses | None, site: Site | None, y: Tensor, *inputs: Tensor) -> Tensor:
        ctx.tape, ctx.back, ctx.site, ctx.count = tape, back, site, len(inputs)
        ctx.set_materialize_grads(False)
        return y.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        (g,), none = gradients, (None,) * ctx.count
        if g is None:
            return (None, None, None, None, *none)
        if ctx.tape.currency == "gradient":
            if ctx.site is not None:
                ctx.site.gradient = g.detach()
            return (None, None, None, g, *none)
        if ctx.back is None:
            ctx.tape.constants += at_least_float32(g).sum()
            return (None, None, None, None, *none)
        return (None, None, None, None, *ctx.back(g))


class _Counted(torch.autograd.Function):
    """The identity; mass that comes by is added to a tape's `constants`, times `sign`."""

    @staticmethod
    def forward(ctx: Any, tape: MassPass, sign: float, x: Tensor) -> Tensor:
        ctx.tape, ctx.sign = tape, sign
        ctx.set_materialize_grads(False)  # where nothing comes nothing goes on
        return x.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[None, None, Tensor | None]:
        (g,) = gradients
        if g is not None and ctx.tape.currency == "mass":
            ctx.tape.constants += ctx.sign * at_least_float32(g).sum()
        return None, None, g


class MassPass(Seam):
    """One forward pass of `model`. `mix` says what sites hand on, `residual` how sums around them share.

    `gradient` keeps the graph of the score, too. After a backward pass in mass: `constants`, what went to what is no
    input, and `made`, what sites and copies added (or, below 0, took away).
    """

    def __init__(self, model: nn.Module, mix: Mix, residual: Residual, *, gradient: bool) -> None:
        super().__init__()
        self.model, self.mix, self.residual, self.gradient = model, mix, residual, gradient
        self.currency: Literal["gradient", "mass"] = "mass"
        self.sites: list[Site] = []
        self.scoring = False  # whether the score is computed, of the model's output
        self.constants: Any = 0.0
        self.made: Any = 0.0
        self.nodes: dict[tuple[int, str], Tensor] | None = None  # values of sites and what goes past them, if wanted
        self.around: dict[int, Mark] = {}  # if nodes are wanted, what comes straight from sites where it is added
        self.of_constants: list[Tensor] | None = None  # values made of constants alone, as leaves, if these are wanted
        self.own_functions = False  # whether layers make something by functions that no torch call shows
        self.copies = False  # whether the model gets copies of what is kept, since it changes tensors in place
        self._order = 0
        self._behind = frozenset[Site]()  # all sites that the arguments of the call are made of
        self._modules: list[str] = []
        self._given: list[tuple[tuple[Any, ...], dict[str, Any]]] = []  # to the layers that the pass is in

    def place_hooks(self) -> None:
        for name, module in self.model.named_modules():
            if name and next(module.children(), None) is not None:  # a layer is told by the module that it is in
                self.watch(
                    module,
                    before=lambda args, kwargs, name=name: self._modules.append(name),
                    after=lambda output: self._modules.pop() and None,
                )
            elif self.own_functions and name and not type(module).__module__.startswith("torch."):
                self.watch(module, before=lambda args, kwargs: self._given.append((args, kwargs)), after=self._unseen)
        self.switch_on()

    def _unseen(self, output: Any) -> Any:
        """What a layer makes by a function of its own that no torch call shows: of each token by itself, or refused."""
        inputs = [t for t in tensors_in(*self._given.pop()) if self.carries(t)]
        if not isinstance(output, Tensor) or not output.requires_grad or self.mark_of(output) is not None:
            return None
        if len(inputs) != 1 or output is inputs[0] or output.shape != inputs[0].shape:
            return None
        if not _by_token(output, inputs[0]):
            return self.refused(output, "a function of the model's own, which mixes tokens", *inputs)
        return self.marked(self.switched(output, lambda g: (g,), inputs[0]), self.order_of(inputs[0]))

    @property
    def where(self) -> str:
        """The module that the pass is in."""
        return self._modules[-1] if self._modules else "the score" if self.scoring else "the model"

    # What is known of tensors

    @staticmethod
    def mark_of(value: Any) -> Mark | None:
        """What is known of a tensor."""
        return getattr(value, _MARK, None)

    def marked(self, value: Any, order: int | None = None, **known: Any) -> Any:
        """A result, with what is known of it."""
        self._order += 1
        order = self._order if order is None else order
        known.setdefault("behind", self._behind)
        for one in value if isinstance(value, (tuple, list)) else (value,):
            if isinstance(one, Tensor):
                setattr(one, _MARK, Mark(order, **known))
        return value

    def known_as(self, value: Any, mark: Mark) -> None:
        """Say of a tensor what is known of another, which holds the same."""
        setattr(value, _MARK, mark)

    def carries(self, value: Any) -> bool:
        """Whether mass can go to a tensor."""
        if not (isinstance(value, Tensor) and value.requires_grad):
            return False
        mark = self.mark_of(value)
        return mark is None or not mark.massless

    def is_probable(self, value: Any) -> bool:
        """Whether a tensor holds probabilities."""
        mark = self.mark_of(value)
        return mark is not None and mark.probabilities

    def order_of(self, value: Any) -> int:
        """When a tensor was made."""
        mark = self.mark_of(value)
        return -1 if mark is None else mark.order

    # Calls

    def call(self, func: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not torch.is_grad_enabled() or getattr(func, "__name__", "") in ("requires_grad_", "detach"):
            return func(*args, **kwargs)
        given, outer = tensors_in(args, kwargs), self._behind
        self._behind = behind = self.behind(*given)
        try:
            if func in ATTENTION or any(map(self.carries, given)) or self._attends_constants(func, given):
                result = OPERATIONS.get(func, OPERATIONS[None])(self, func, args, kwargs)
            else:
                result = self.without_mass(func, args, kwargs)
        finally:
            self._behind = outer
        for one in (result if isinstance(result, (tuple, list)) else (result,)) if behind else ():
            if not isinstance(one, Tensor):
                continue
            mark = self.mark_of(one)
            if mark is None:
                if not any(one is t for t in given):
                    self.known_as(one, Mark(self._order, behind=behind))
            elif not behind <= mark.behind:
                self.known_as(one, replace(mark, behind=mark.behind | behind))
        return result

    def _attends_constants(self, func: Call, given: Sequence[Any]) -> bool:
        """Whether a product may be attention of constants to constants, where that is wanted."""
        return self.of_constants is not None and func in _PRODUCTS and any(map(self.is_probable, given))

    def behind(self, *tensors: Any) -> frozenset[Site]:
        """All sites that tensors were made of."""
        found = frozenset[Site]()
        for tensor in tensors:
            mark = self.mark_of(tensor)
            if mark is not None and not mark.behind <= found:
                found = found | mark.behind if found else mark.behind
        return found

    def without_mass(self, func: Call, args: Any, kwargs: Any) -> Any:
        """A call of weights, masks, scores: what are probabilities is followed, and what is in the score's graph."""
        given = tensors_in(args, kwargs)
        result = func(*args, **kwargs)
        # What only moves numbers, or makes others like them, looks at the rest of its arguments for shape and dtype.
        sources = () if func in _MADE_LIKE else args[:1] if func in CONSERVING_FUNCTIONS else given
        probable = func in SOFTMAX or any(self.is_probable(t) for t in sources)
        for one in result if isinstance(result, (tuple, list)) else (result,):
            if not isinstance(one, Tensor) or any(one is t for t in given):  # a mask or weight as it was
                continue
            if (probable and one.is_floating_point()) or one.requires_grad:
                self.marked(one, probabilities=probable, massless=one.requires_grad)
        return result

    # What operations are made of

    def computed(self, func: Call, args: Any, kwargs: Any) -> Any:
        """A call in the graph of the score, or without a graph."""
        if self.gradient:  # as it is anyway
            return func(*args, **kwargs)
        with torch.no_grad():
            return func(*args, **kwargs)

    def switched(self, y: Any, back: Masses | None, *inputs: Tensor, site: Site | None = None) -> Any:
        """`y`, whose mass goes to `inputs`."""
        made = cast(Tensor, Switch.apply(self, back, site, y, *inputs))
        return made.clone() if self.copies else made

    def weighing(self, func: Call, args: Any, kwargs: Any, *, probabilities: bool = False) -> Any:
        """A call whose results get no mass: they only weigh something."""
        result = self.computed(func, args, kwargs)
        if isinstance(result, tuple):
            some = cast("tuple[Tensor, ...]", result)
            result = tuple(self.switched(one, None) if one.requires_grad else one for one in some)
        elif result.requires_grad:
            result = self.switched(result, None)
        return self.marked(result, probabilities=probabilities, massless=True)

    def counted(self, func: Call, args: Any, kwargs: Any) -> Any:
        """A call that moves numbers and puts constants between them: what these get is counted."""

        def hooked(value: Any) -> Any:
            if isinstance(value, (list, tuple)):
                return type(value)(map(hooked, cast("list[Any]", value)))
            return self._counting(value, -1.0) if isinstance(value, Tensor) and value.requires_grad else value

        result = func(*map(hooked, args), **{k: hooked(v) for k, v in kwargs.items()})
        if isinstance(result, (tuple, list)):
            return type(result)(self._counting(one, 1.0) for one in cast("list[Any]", result))
        return self._counting(result, 1.0)

    def _counting(self, value: Tensor, sign: float) -> Tensor:
        if not value.requires_grad:
            return value
        y = cast(Tensor, _Counted.apply(self, sign, value))
        if (mark := self.mark_of(value)) is not None:
            setattr(y, _MARK, mark)
        return y

    def refusal(self, why: str, where: str) -> OptionError:
        """An error for mass that comes to what cannot hand it on."""
        return OptionError(
            f"mass came to {why}, in {where}",
            expected="softmax attention, and operations that keep or move tokens",
            got=where,
            todo="take a method of gradients or relevance, which need no attention: attn_lrp, integrated_gradients",
        )

    def refused(self, result: Any, why: str, *inputs: Tensor) -> Any:
        """A result that mass must not come to."""
        where = self.where

        def back(g: Tensor) -> Sequence[Tensor | None]:
            raise self.refusal(why, where)

        if isinstance(result, (tuple, list)):
            some = [self.refused(one, why, *inputs) for one in cast("list[Any]", result)]
            return type(result)(some) if not hasattr(result, "_fields") else tuple(some)
        if not isinstance(result, Tensor) or not result.is_floating_point():
            return result
        return self.marked(self.switched(result, back, *inputs))

    # Sites

    def keep(self, site: Site, name: str, node: Tensor) -> None:
        """Keep the first tensor of the graph of some name, if that was asked for."""
        if self.nodes is not None:
            self.nodes.setdefault((site.number, name), node)

    def scored(self, score: Callable[[Any], Tensor], output: Any) -> Tensor:
        """The score of an output, in which a softmax hands on mass."""
        self.scoring = True
        return score(output)

    def site(self, value: Tensor, seen: Seen, output: Tensor, *made_of: Tensor) -> Tensor:
        """The output of an attention, of which `seen` says what it was made of: queries and keys, or probabilities, as
        they came, are `made_of`."""
        behind = self.behind(value, *made_of)
        if self.of_constants is not None and not value.requires_grad:
            value = value.detach().requires_grad_()
            self.of_constants.append(value)
        site = Site(len(self.sites), self.where, seen, value.detach(), output.detach(), self._order, behind)
        self.sites.append(site)
        self.keep(site, "key", value)
        if not self.carries(value):
            return self.marked(output, massless=output.requires_grad)
        shape, width = value.shape, value.shape[-1]

        def back(g: Tensor) -> Sequence[Tensor | None]:
            mass = at_least_float32(g).sum(-1, keepdim=True).mT  # (…, head, 1, query)
            site.asked = mass[..., 0, :]
            handed: Any = 0.0
            for rows in site.blocks():
                handed = handed + mass[..., rows] @ self.mix(site, rows).to(mass)
            self.made += handed.sum() - mass.sum()
            handed = (handed.mT / width).to(g.dtype)  # (…, head, key, 1); values may be shared by all heads
            return (handed.sum_to_size(*shape[:-1], 1).expand(shape),)

        made = self.switched(output, back, value, site=site)
        self.keep(site, "output", made)
        return self.marked(made, sites=(site,), rows=lambda values: values(site), behind=behind | {site})


def _by_token(y: Tensor, x: Tensor) -> bool:
    """Whether some token of a result depends on that token alone."""
    if y.ndim < 2:
        return False
    token = y.shape[-2] // 2
    (found,) = torch.autograd.grad(
        y[..., token, :].sum(), x, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    found = found.clone()
    found[..., token, :] = 0
    return not bool(found.any())


SOFTMAX = frozenset({torch.softmax, F.softmax, Tensor.softmax})
ATTENTION = frozenset({F.multi_head_attention_forward, F.scaled_dot_product_attention})
_PRODUCTS = torch_functions(["matmul", "__matmul__", "bmm", "einsum"])
_MADE_LIKE = torch_functions([
    "zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like", "new_zeros", "new_ones",
    "new_full", "new_empty", "new_tensor",
])  # fmt: skip

"""Declarations of model families, and their register.

A declaration names places in a model by dotted paths; it never copies or replaces them. Where releases of a library
moved a place, give several paths: the first that exists counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from torch import Tensor, nn

from ...errors import ClewError, UnknownArchitecture
from ...registry import import_submodules
from ..unknown_models import advice, known_inside, unknown

Path = str | tuple[str, ...]
Task = Literal["classification", "causal-lm", "token-classification", "question-answering"]


@dataclass(frozen=True)
class Readout:
    """Which token rows the head reads, and how it weights them: the map from pairs of tokens to scores.

    `rows` are positions with `weights` (summing to 1 or, for concatenated features, to the number of parts);
    `patches_weight` spreads a weight evenly over all patch tokens (of a text: all tokens), or with `with_prefix` over
    all tokens. `last`: the last token that is not `pad_token_id`. `end`: the first token with the number
    `end_token_id`, or where that is None the one with the largest number. `by_target`: the head has an output for each
    token, and the target says which are explained; `is_seen`: the rows are those that the score is seen to reach.
    `queries` of an attention pool are read (default: all).
    """

    rows: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()
    patches_weight: float = 0.0
    with_prefix: bool = False
    last: bool = False
    pad_token_id: int | None = None
    end: bool = False
    end_token_id: int | None = None
    by_target: bool = False
    queries: tuple[int, ...] = ()
    is_seen: bool = False

    @property
    def one_of_many(self) -> bool:
        """Whether the head asks a token of its own: the last, the end, or those that a target names."""
        return self.last or self.end or self.by_target

    @staticmethod
    def cls() -> Readout:
        """The head reads token 0."""
        return Readout((0,), (1.0,))

    @staticmethod
    def mean(*, with_prefix: bool = False) -> Readout:
        """The head reads the mean of the patch tokens (or of all tokens)."""
        return Readout(patches_weight=1.0, with_prefix=with_prefix)

    @staticmethod
    def cls_and_mean() -> Readout:
        """The head reads CLS and the mean of the patches, concatenated: both maps are added."""
        return Readout((0,), (1.0,), patches_weight=1.0)

    @staticmethod
    def last_token(pad_token_id: int | None = None) -> Readout:
        """The head reads the last token that is not `pad_token_id`."""
        return Readout(last=True, pad_token_id=pad_token_id)

    @staticmethod
    def end_token(end_token_id: int | None = None) -> Readout:
        """The head reads the first token with that number, or the one with the largest number."""
        return Readout(end=True, end_token_id=end_token_id)

    @staticmethod
    def pool(queries: tuple[int, ...] = (), *, with_prefix: bool = True) -> Readout:
        """The head reads some `queries` of an attention pool (default: all), which sees all tokens or the patches."""
        return Readout(patches_weight=1.0, with_prefix=with_prefix, queries=queries)

    @staticmethod
    def tokens() -> Readout:
        """The head has an output for each token; the target says which are explained."""
        return Readout(by_target=True)

    @staticmethod
    def seen() -> Readout:
        """The head reads the rows that the score is seen to reach, in a backward pass of the last block's tail."""
        return Readout(by_target=True, is_seen=True)


def _no_prefix(model: Any) -> int:
    return 0


def _classification(model: Any) -> Task:
    return "classification"


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A declaration: where a family of models keeps its blocks, attention and patches, and what its head reads.

    `classes` are full class names (a subclass matches too). `attention`, `output_projection`, `layer_scale` and
    `attention_norm`, the norm before attention, and `attention_output_norm`, that of what attention adds to the stream
    (one that only scales), are paths from a block, the others from the model. `attention_pool` is the module of an
    attention pooling head, if any: its attention then counts as the last block's. `prefix` says how many tokens stand
    before the patches, `grid` how many patches an input of (height, width) has, where the output of `patches` does not
    show it. `check` may raise for configurations that cannot be explained.

    Texts: `patches` is the look-up of word embeddings, where relevance and gradients end; `embeddings` the module whose
    output is the sequence that paths scale, with positions in it; `position_embeddings` the look-up of learned
    positions, or their table. `router` is the module that weights a mixture of experts, from a block. `task` says what
    the head gives.
    """

    name: str
    classes: tuple[str, ...]
    blocks: Path
    attention: Path
    output_projection: Path
    patches: Path
    readout: Callable[[Any], Readout]
    prefix: Callable[[Any], int] = _no_prefix
    layer_scale: Path = ()
    attention_norm: Path = ()
    attention_output_norm: Path = ()
    attention_pool: Path = ()
    embeddings: Path = ()
    position_embeddings: Path = ()
    router: Path = ()
    input_name: str | None = None
    modality: Literal["image", "text"] = "image"
    task: Callable[[Any], Task] = _classification
    check: Callable[[Any], None] | None = None
    grid: Callable[[Any, tuple[int, int]], tuple[int, int]] | None = None
    pair: bool = False  # whether it is a tower of an image–text model

    def within(self, path: str, **changes: Any) -> Architecture:
        """The declaration for a model that keeps this one's at a dotted `path`, with `changes`."""
        prefix, readout, task, check, grid = self.prefix, self.readout, self.task, self.check, self.grid

        def below(place: Path) -> Path:
            return tuple(f"{path}.{p}" for p in place) if isinstance(place, tuple) else f"{path}.{place}"

        inner: dict[str, Any] = {
            "blocks": below(self.blocks),
            "patches": below(self.patches),
            "attention_pool": below(self.attention_pool),
            "embeddings": below(self.embeddings),
            "position_embeddings": below(self.position_embeddings),
            "prefix": lambda model: prefix(find_path(model, path)),
            "readout": lambda model: readout(find_path(model, path)),
            "task": lambda model: task(find_path(model, path)),
            "check": None if check is None else lambda model: check(find_path(model, path)),
            "grid": None if grid is None else lambda model, size: grid(find_path(model, path), size),
        }
        return replace(self, **(inner | changes))

    def without(self, stem: str) -> Architecture | None:
        """The declaration for what this one has at `stem`, a model without its head; None where it keeps more."""

        def stripped(place: Path) -> Path | None:
            paths = place if isinstance(place, tuple) else (place,)
            found = tuple(p.removeprefix(f"{stem}.") for p in paths if p.startswith(f"{stem}."))
            return found if len(found) == len(paths) else None

        inner = {name: stripped(getattr(self, name)) for name in ("blocks", "patches")}
        inner |= {n: stripped(p) for n in ("embeddings", "position_embeddings") if (p := getattr(self, n))}
        return None if None in inner.values() else replace(self, **inner, task=_classification)

    def bind(self, model: nn.Module) -> BoundArchitecture:
        """Resolve every path on one model. Raises `UnknownArchitecture` where a place is missing."""
        blocks = list(self._place(model, self.blocks, "blocks"))
        if not blocks:
            raise UnknownArchitecture(
                f"{type(model).__name__} has no attention block", expected="at least one block", got=f"{self.blocks}: 0"
            )
        if self.check is not None:
            self.check(model)
        attentions = [self._place(block, self.attention, "attention") for block in blocks]
        projections = [self._place(block, self.output_projection, "output_projection") for block in blocks]
        pool = find_path(model, self.attention_pool)
        if pool is not None:
            inner = find_path(pool, ("attention", "attn")) or pool
            blocks, attentions = [*blocks, pool], [*attentions, inner]
            projections = [*projections, self._place(inner, ("out_proj", "proj"), "output_projection")]
        scales = [_applied(block, self.layer_scale) for block in blocks]
        return BoundArchitecture(
            architecture=self,
            blocks=blocks,
            attentions=attentions,
            projections=projections,
            scales=scales,
            patches=self._place(model, self.patches, "patches"),
            embeddings=self._place(model, self.embeddings, "embeddings") if self.embeddings else None,
            position_embeddings=find_path(model, self.position_embeddings),
            routers=[find_path(block, self.router) for block in blocks],
            task=self.task(model),
            prefix=self.prefix(model),
            readout=self.readout(model),
            norms=[find_path(block, self.attention_norm) for block in blocks],
            output_norms=[find_path(block, self.attention_output_norm) for block in blocks],
            grid=None if self.grid is None else partial(self.grid, model),
            pooled=pool is not None,
            channels=None if self.modality == "text" else self._channels(model),
        )

    def _channels(self, model: nn.Module) -> int | None:
        """How many channels the patch embedding takes, where it is a convolution of the input itself."""
        patches = self._place(model, self.patches, "patches")
        found = [m for m in patches.modules() if isinstance(m, nn.Conv2d)]
        paths = self.patches if isinstance(self.patches, tuple) else (self.patches,)
        place = next(path for path in paths if find_path(model, path) is not None)
        beside = find_path(model, place.rpartition(".")[0]) if "." in place else model
        # What lies beside it may come before it: the backbone of a hybrid gives it features, no pixels.
        alone = len(found) == sum(isinstance(m, nn.Conv2d) for m in beside.modules())
        return found[0].in_channels if found and alone else None

    def _place(self, root: nn.Module, path: Path, what: str) -> Any:
        found = find_path(root, path)
        if found is None:
            raise UnknownArchitecture(
                f"the declaration {self.name!r} does not fit: {type(root).__name__} has no {what}",
                expected=" or ".join(path if isinstance(path, tuple) else (path,)),
                got=", ".join(name for name, _ in root.named_children()) or "no submodules",
                todo="correct the path in the declaration",
            )
        return found


@dataclass(frozen=True)
class BoundArchitecture:
    """A declaration resolved on one model. With attention pooling the pool is the last entry of each list."""

    architecture: Architecture
    blocks: list[nn.Module]
    attentions: list[nn.Module]
    projections: list[Any]
    scales: list[Callable[[Tensor], Tensor] | None]  # LayerScale, as the block applies it
    patches: nn.Module
    embeddings: nn.Module | None
    position_embeddings: nn.Module | Tensor | None
    routers: list[nn.Module | None]
    task: Task
    prefix: int
    readout: Readout
    norms: list[nn.Module | None]
    output_norms: list[nn.Module | None]
    grid: Callable[[tuple[int, int]], tuple[int, int]] | None
    pooled: bool
    channels: int | None

    @property
    def depth(self) -> int:
        """Number of blocks, the attention pool not counted."""
        return len(self.blocks) - self.pooled

    @property
    def last(self) -> int:
        """The last attention before the head: the pool's where there is one."""
        return len(self.blocks) - 1

    @property
    def is_text(self) -> bool:
        """Whether the model reads texts."""
        return self.architecture.modality == "text"


_registered: dict[str, Architecture] = {}


def register(architecture: Architecture) -> Architecture:
    """Make a declaration known, so that `explain` finds it. Raises `ClewError` for a name that is taken."""
    if architecture.name in architectures():
        raise ClewError(
            f"an architecture named {architecture.name!r} is registered already", todo="choose another name"
        )
    _registered[architecture.name] = architecture
    return architecture


def architectures() -> dict[str, Architecture]:
    """All declarations, by name. The files of this folder are read on first use."""
    import_submodules(__name__)
    return dict(_registered)


def is_declared(model: nn.Module) -> bool:
    """Whether a declaration fits a model: its own, or that of a class among its ancestors.

    Raises `UnknownArchitecture` for towers that say themselves that they cannot be explained.
    """
    if isinstance(getattr(model, "architecture", None), Architecture):
        return True
    try:
        find_architecture(model)
    except UnknownArchitecture:
        return False
    return True


def find_architecture(model: nn.Module) -> Architecture:
    """The declaration for a model: its own, `model.architecture`, or that of the nearest class among its ancestors.

    Raises `UnknownArchitecture` where there is none: with what is known inside the model, or a template to fill in.
    """
    own = getattr(model, "architecture", None)
    if isinstance(own, Architecture):
        return own
    by_class = _by_class()
    for cls in type(model).__mro__:
        found = by_class.get(f"{cls.__module__}.{cls.__qualname__}")
        if found is not None:
            return found
    raise unknown(model, by_class, lambda part: _declared(part, by_class))


def architecture_inside(model: nn.Module, *, own_heads: bool = True) -> Architecture | None:
    """A declaration for a model that holds one of a known family, whose head may read other rows; None without one.

    Without `own_heads` not for other heads of transformers: what those read is not said by the declaration.
    """
    known = _by_class()
    own = _headless(model, known)
    if own is not None:
        return replace(own, readout=lambda model: Readout.seen())
    if not own_heads and type(model).__module__.startswith("transformers.models."):
        return None
    found = known_inside(model, lambda part: _declared(part, known))
    if found is None:
        return None
    return found.declared.within(found.path, readout=lambda model: Readout.seen(), **found.changes)


def _declared(part: nn.Module, known: dict[str, Architecture]) -> Architecture | None:
    """The declaration of a module by its class or that of an ancestor, or of the models that put a head on it."""
    names = (f"{cls.__module__}.{cls.__qualname__}" for cls in type(part).__mro__)
    return next((known[name] for name in names if name in known), None) or _headless(part, known)


def _headless(part: nn.Module, known: dict[str, Architecture]) -> Architecture | None:
    """The declaration of a model of transformers without its head, from those with one in the same file."""
    kind, stem = type(part), getattr(type(part), "base_model_prefix", "")
    if not stem or not kind.__module__.startswith("transformers.models.") or re.search("For|Head", kind.__name__):
        return None
    beside = (a for name, a in known.items() if name.rpartition(".")[0] == kind.__module__)
    return next((found for a in beside if (found := a.without(stem)) is not None), None)


def how_to_declare(model: nn.Module) -> str:
    """How to declare a model that no declaration fits, or why none can describe it."""
    known = _by_class()
    return advice(model, known, lambda part: _declared(part, known))


def _by_class() -> dict[str, Architecture]:
    return {name: a for a in architectures().values() for name in a.classes}


def _applied(block: nn.Module, path: Path) -> Callable[[Tensor], Tensor] | None:
    """LayerScale of a block: the module that holds the vector, or a product with a vector of the block itself."""
    scale = find_path(block, path)
    if not isinstance(scale, Tensor):
        return None
    for dotted in path if isinstance(path, tuple) else (path,):
        owner, _, _ = dotted.rpartition(".")
        holder = find_path(block, owner) if owner else None
        if isinstance(holder, nn.Module) and find_path(block, dotted) is scale:
            return holder
    return scale.detach().mul


def find_path(root: Any, path: Path) -> Any:
    """The first of some dotted paths that exists below `root`, or None."""
    for dotted in path if isinstance(path, tuple) else (path,):
        place: Any = root
        for name in dotted.split("."):
            place = getattr(place, name, None)
            if place is None:
                break
        else:
            return place
    return None

"""A model's head by itself: a pass in which no block computes anything, and given states leave the last."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ..models import BoundArchitecture
from ..shapes import Hidden


class SkippedBlocks:
    """Around a pass of a twin: all of its blocks return `states`, with what a block returns `beside` its output.

    `token_first`: blocks return (token, batch, width). `at_pool`: an attention pool gets `states` as they are, and not
    what the model makes of them before (a norm). `behind`: a module of the tail, and what becomes of its output.
    """

    def __init__(
        self,
        bound: BoundArchitecture,
        states: Hidden,
        beside: tuple[Any, ...] | None,
        *,
        token_first: bool = False,
        at_pool: bool = False,
        behind: tuple[nn.Module, Callable[[Tensor], Tensor]] | None = None,
    ) -> None:
        self._blocks, self._pool = bound.blocks[: bound.depth], bound.blocks[bound.last] if at_pool else None
        self._states, self._behind = states, behind
        made = states.transpose(0, 1) if token_first else states
        self._made: Any = made if beside is None else (made, *beside)
        self._stack = ExitStack()

    def __enter__(self) -> None:
        for block in self._blocks:
            own = vars(block)
            self._stack.callback(_put_back, own, own.get("forward"))
            own["forward"] = self._skip
        if self._pool is not None:
            self._stack.callback(self._pool.register_forward_pre_hook(self._enters).remove)
        if self._behind is not None:
            self._stack.callback(self._behind[0].register_forward_hook(self._left).remove)

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def _skip(self, *args: Any, **kwargs: Any) -> Any:
        return self._made

    def _left(self, module: nn.Module, args: Any, output: Any) -> Any:
        return self._behind[1](output) if self._behind is not None else output

    def _enters(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (self._states, *args[1:])


def last_of_tokens(
    model: nn.Module, bound: BoundArchitecture, skipped: SkippedBlocks, shape: torch.Size, call: Callable[[], Any]
) -> nn.Module | None:
    """The last module behind the blocks, and before an attention pool, that puts out all tokens (the norm, of most
    models), as a pass without blocks shows; None where the head begins with them."""
    seen: list[nn.Module] = []
    stage = {"blocks": 0, "pool": 0}
    shapes = (shape, torch.Size((shape[1], shape[0], shape[2])))
    inside = {part for block in bound.blocks for part in block.modules()}

    def left(module: nn.Module, args: Any, output: Any) -> None:
        tokens = isinstance(output, Tensor) and output.shape in shapes
        if tokens and stage["blocks"] and not stage["pool"]:
            seen.append(module)

    def at(name: str) -> Callable[..., None]:
        return lambda *call: stage.update({name: 1})

    with ExitStack() as stack:
        hooks = [part.register_forward_hook(left) for part in model.modules() if part not in inside]
        hooks.append(bound.blocks[0].register_forward_hook(at("blocks")))
        if bound.pooled:
            hooks.append(bound.blocks[bound.last].register_forward_pre_hook(at("pool")))
        for hook in hooks:
            stack.callback(hook.remove)
        with skipped:
            call()
    return seen[-1] if seen else None


def _put_back(own: dict[str, Any], forward: Any) -> None:
    """A module's own `forward` again, or that of its class."""
    own.pop("forward")
    if forward is not None:
        own["forward"] = forward

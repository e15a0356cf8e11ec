"""A model's head by itself: a pass in which no block computes anything, and given states leave the last."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from torch import Tensor, nn

from ..models import BoundArchitecture
from ..shapes import Hidden


class SkippedBlocks:
    """Around a pass of a twin: all of its blocks return `states`, with what a block returns `beside` its output.

    `token_first`: blocks return (token, batch, width). `at_pool`: an attention pool gets `states` as they are, and not
    what the model makes of them before (a norm).
    """

    def __init__(
        self,
        bound: BoundArchitecture,
        states: Hidden,
        beside: tuple[Any, ...] | None,
        *,
        token_first: bool = False,
        at_pool: bool = False,
    ) -> None:
        self._blocks, self._pool = bound.blocks[: bound.depth], bound.blocks[bound.last] if at_pool else None
        self._states = states
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

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def _skip(self, *args: Any, **kwargs: Any) -> Any:
        return self._made

    def _enters(self, module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (self._states, *args[1:])


def _put_back(own: dict[str, Any], forward: Any) -> None:
    """A module's own `forward` again, or that of its class."""
    own.pop("forward")
    if forward is not None:
        own["forward"] = forward

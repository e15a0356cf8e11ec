"""Blocks that get other tokens than the model hands them: with some left out, or with those of another pass."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from functools import partial
from typing import Any

from torch import Tensor, nn

from ..models import BoundArchitecture

Change = Callable[[Tensor], Tensor]  # of what enters a block, (example, token, width)


class ChangedTokens:
    """Around a pass of a twin: what enters block `l` becomes `changes[l]` of it, with its examples first.

    Blocks that get (token, batch, width) show it by the `batch`, or where there are as many tokens `token_first` says
    so. `expected` and `left` are how many tokens the last change left, and how many left the last block: not as many
    where the model gives its blocks positions for all of them.
    """

    def __init__(
        self, bound: BoundArchitecture, changes: Mapping[int, Change], batch: int, *, token_first: bool
    ) -> None:
        self._blocks, self._changes, self._batch = bound.blocks, changes, batch
        self._token_first: bool | None = token_first or None  # None: not seen yet
        self._last, self._stack = bound.blocks[bound.depth - 1], ExitStack()
        self.expected: int | None = None
        self.left: int | None = None

    def __enter__(self) -> ChangedTokens:
        for layer, change in self._changes.items():
            hook = self._blocks[layer].register_forward_pre_hook(partial(self._enters, change), with_kwargs=True)
            self._stack.callback(hook.remove)
        self._stack.callback(self._last.register_forward_hook(self._leaves).remove)
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    def _enters(self, change: Change, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = "" if args else next(k for k, v in kwargs.items() if isinstance(v, Tensor))
        value: Tensor = kwargs[name] if name else args[0]
        if self._token_first is None:
            self._token_first = value.shape[0] != self._batch == value.shape[1]
        made = self._turned(change(self._turned(value)))
        self.expected = self._turned(made).shape[1]
        return (args, {**kwargs, name: made}) if name else ((made, *args[1:]), kwargs)

    def _leaves(self, module: nn.Module, args: Any, output: Any) -> None:
        value = output[0] if isinstance(output, tuple) else output
        self.left = self._turned(value).shape[1]

    def _turned(self, value: Tensor) -> Tensor:
        return value.transpose(0, 1) if self._token_first else value

"""Capture: keep what the attention of chosen blocks computed, while the model's own kernel still runs.

Attention is recognised in three forms: `F.scaled_dot_product_attention`, `F.multi_head_attention_forward` (taken apart,
because its inner calls are hidden), and written out by hand as a softmax between two matrix products.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import CaptureError
from .attention import Attention, GradientProbe, few_of
from .fused_attention import FusedAttention
from .interception import AUTOCAST, Seam
from .matrix_product import MatrixProduct, matrix_product
from .multi_head import multi_head_attention
from .row_sparse import SparseLinear, rows_read

Leaf = tuple[int, Literal["v", "o", "hidden"]]


class Capture(Seam):
    """Watches one forward pass and keeps, for the blocks in `keep`, what their attention computed.

    `keep` are block numbers; `hidden` those whose input is kept too, `outputs` those whose output is, `one_head` those
    whose attention is changed: computed with all heads as one of full width. `leaf` names the first tensor of the
    graph: with parameters frozen and an input that needs no gradient, nothing before it is recorded by autograd.
    `reads` are the rows that the head reads, where it is enough that these are right: linear layers after the attention
    of `leaf` (or else of the one that is kept) then leave the others zero. `batch` is the number of examples; blocks
    that get (token, batch, width) show it, or where there are as many tokens as examples `token_first` says so.
    `examples_first`: torch's multi-head attention is taken apart as relevance needs it, not to the last bit.
    `probe_gradients` keeps what verifies a result, `pulls` gets a row of what linear layers pulled back, written out
    and as it was made.

    Raises `CaptureError` where a block shows more than one attention call.
    """

    def __init__(
        self,
        blocks: Sequence[nn.Module],
        attentions: Sequence[nn.Module],
        batch: int,
        *,
        keep: frozenset[int] = frozenset(),
        hidden: frozenset[int] = frozenset(),
        outputs: frozenset[int] = frozenset(),
        one_head: frozenset[int] = frozenset(),
        leaf: Leaf | None = None,
        reads: Sequence[int] | None = None,
        token_first: bool = False,
        probe_gradients: bool = False,
        examples_first: bool = False,
        pulls: list[tuple[Tensor, Tensor]] | None = None,
    ) -> None:
        super().__init__()
        self.records: dict[int, Attention] = {}
        self._pulls = pulls
        self._blocks, self._attentions = blocks, attentions
        self._keep, self._hidden, self._leaf, self._reads = keep, hidden, leaf, reads
        self._outputs, self._one_head = outputs, one_head
        self._sparse_after = leaf[0] if leaf is not None else max(keep) if keep and reads is not None else None
        self._inputs: dict[int, Tensor] = {}
        self._calls: dict[int, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self._layer: int | None = None
        self._batch, self._token_first, self._probe_gradients = batch, token_first, probe_gradients
        self._steps_have_examples_first = examples_first
        self._few_rows: dict[tuple[int, torch.device], Tensor] = {}
        # Tensors between the two matrix products of hand-written attention, by id; kept alive so no id is reused.
        self._logits: dict[int, Tensor] = {}
        self._probs: dict[int, Tensor] = {}
        self._factors: dict[int, tuple[Tensor, Tensor]] = {}  # queries, and keys as columns, that these were made of

    def place_hooks(self) -> None:
        # The mode costs Python time at every torch call, so it is on only inside the attention that is kept, and where
        # linear layers are to be seen, in its block.
        whole = self._sparse_after is not None
        for layer in self._keep | self._hidden:
            if whole or layer in self._hidden:
                self.watch(self._blocks[layer], before=partial(self._at_block, layer))
            self.watch(self._attentions[layer], before=partial(self._at_attention, layer), after=self._after_attention)
            if whole:
                self.watch(self._blocks[layer], after=self._after_block)
            if layer in self._outputs:
                self.watch(self._blocks[layer], after=partial(self._left, layer))

    def _at_block(self, layer: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name = "" if args else next(k for k, v in kwargs.items() if isinstance(v, Tensor))
        value, in_graph = kwargs[name] if name else args[0], self._leaf is not None and self._leaf[1] == "hidden"
        if layer in self._hidden:
            found = self._examples_first(value if in_graph else value.detach())
            self._inputs[layer] = found = found.detach().requires_grad_() if self._leaf == (layer, "hidden") else found
            # A copy enters: a leaf cannot be changed in place.
            value = self._examples_first(found.clone() if found.is_leaf else found, like=value)
        if self._sparse_after is not None:
            self.switch_on()
        if in_graph and layer in self._hidden:
            return (args, {**kwargs, name: value}) if name else ((value, *args[1:]), kwargs)
        return None

    def _examples_first(self, value: Tensor, *, like: Tensor | None = None) -> Tensor:
        """A block's input or output with its examples first; or one that has them there in the order of `like`."""
        shape = (value if like is None else like).shape
        turned = value.ndim == 3 and (self._token_first or shape[0] != self._batch == shape[1])
        return value.transpose(0, 1) if turned else value

    def _at_attention(self, layer: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._layer = layer
        if layer in self._hidden:
            self._calls[layer] = args, kwargs
        self.switch_on()

    def _after_attention(self, output: Any) -> None:
        self.forget()
        if self._sparse_after is None:
            self.switch_off()

    def _after_block(self, output: Any) -> None:
        self.switch_off()

    def _left(self, layer: int, output: Any) -> Any:
        """A block's output, through which the graph goes on with its examples first."""
        value = output[0] if isinstance(output, tuple) else output
        if value is None or layer not in self.records:  # after an error
            return None
        record = self.records[layer]
        record.output = found = self._examples_first(value)
        record.token_first = found is not value
        record.beside = output[1:] if isinstance(output, tuple) else None
        value = self._examples_first(found, like=value)
        return value if record.beside is None else (value, *record.beside)

    def forget(self) -> None:
        self._layer = None
        self._logits.clear()
        self._probs.clear()
        self._factors.clear()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func not in _LOOKED_AT and not self._logits:  # most calls, at the least cost
            return func(*args, **(kwargs or {}))
        return super().__torch_function__(func, types, args, kwargs)

    def call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if func is F.linear and self._sparse_after is not None:
            pulls = self._pulls if self.records else None
            return _linear(*args, **kwargs, seen=self.records.get(self._sparse_after), reads=self._reads, pulls=pulls)
        if self._layer is None:
            return func(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            return self._sdpa(*args, **kwargs)
        if func is F.multi_head_attention_forward:
            return self.seen(multi_head_attention, args, {**kwargs, "batch_first": self._steps_have_examples_first})
        if func in _PRODUCTS:
            return self._product(func, args, kwargs)
        if func is torch.einsum and (form := matrix_product(args)) is not None:
            return self._einsum(args[1:], form)
        result = func(*args, **kwargs)
        if self._logits and isinstance(result, Tensor):
            self._follow(func, args, result)
        return result

    def _few_of(self, queries: int, device: torch.device) -> Tensor:
        """The same rows of all blocks alike."""
        if (queries, device) not in self._few_rows:
            self._few_rows[queries, device] = few_of(queries, device)
        return self._few_rows[queries, device]

    def require(self) -> None:
        """Raise `CaptureError` where a block of those that are kept showed no attention."""
        missing = sorted(self._keep - self.records.keys())
        if missing:
            raise CaptureError(
                f"no attention was seen in block {missing[0]} of {len(self._blocks)}",
                expected="softmax attention inside the declared attention module",
                got=type(self._attentions[missing[0]]).__name__,
                todo="correct `attention` in the declaration, or switch the model to sdpa or eager attention",
            )

    # Fused attention

    def _sdpa(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        c = FusedAttention(query, key, value, *args, **kwargs).for_all_heads()
        if self._layer in self._one_head:
            return self._as_one_head(c)
        value = self._maybe_leaf("v", c.value)
        output = F.scaled_dot_product_attention(
            query, c.key, value, attn_mask=c.attn_mask, dropout_p=c.dropout_p, is_causal=c.is_causal, scale=c.scale
        )
        output = self._maybe_leaf("o", output)
        self._record(
            Attention(value, output, "sdpa", query, c.key, scale=c.scale, mask=c.attn_mask, causal=c.is_causal)
        )
        return output

    def _as_one_head(self, c: FusedAttention) -> Tensor:
        """Another attention than the model's own: as some released code has it, with all heads as one."""
        heads = c.query.shape[1]
        query, key, value = (x.transpose(1, 2).flatten(2)[:, None] for x in (c.query, c.key, c.value))
        mask = c.attn_mask[:, :1] if c.attn_mask is not None and c.attn_mask.ndim == 4 else c.attn_mask
        value = self._maybe_leaf("v", value)
        output = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=c.is_causal)
        output = self._maybe_leaf("o", output)
        self._record(Attention(value, output, "sdpa", query, key, mask=mask, causal=c.is_causal))
        return output.unflatten(-1, (heads, -1))[:, 0].transpose(1, 2)

    # Attention written out by hand: follow the first product through mask, bias, soft-cap and casts to the second

    def _product(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
        probs = self._probs.get(id(args[0]))
        if probs is None:
            result: Tensor = func(*args, **kwargs)
            self._logits[id(result)] = result
            named = ("input", "batch1", "batch2", "mat2", "other")
            self._factors[id(result)] = tuple([*args, *(kwargs[n] for n in named if n in kwargs)][-2:])
            return result
        if self._layer in self._one_head:
            raise CaptureError("attention written out by hand keeps its heads", expected="fused attention (sdpa)")
        left, right = args[0], args[1]
        # Some models keep heads on the axis of examples: (batch · head, token, dim).
        merged = right.ndim == 3 and right.shape[0] > self._batch and right.shape[0] % self._batch == 0
        apart = (self._batch, -1, *right.shape[1:]) if merged else right.shape
        value = self._maybe_leaf("v", right.view(apart))
        output = func(left, value.flatten(0, 1) if merged else value, *args[2:], **kwargs)
        output = self._maybe_leaf("o", output.unflatten(0, apart[:2]) if merged else output)
        q, k = self._factors.get(id(probs), (None, None))
        k = None if k is None else k.mT
        if merged:
            probs = probs.view(*apart[:2], *probs.shape[-2:])
            q, k = (None if t is None else t.unflatten(0, apart[:2]) for t in (q, k))
        self._record(Attention(value, output, "eager", q, k, probs=probs))
        return output.flatten(0, 1) if merged else output

    def _einsum(self, given: tuple[Any, ...], form: MatrixProduct) -> Tensor:
        """A product written as an Einstein sum. What its factors are, these are with their axes in another order."""
        for old, new in zip(given, form.factors, strict=False):
            if id(old) in self._probs:
                self._probs[id(new)] = new
                if id(old) in self._factors:
                    self._factors[id(new)] = self._factors[id(old)]
        product = self._product(torch.matmul, form.factors, {})
        result = form.of(product)
        if id(product) in self._logits:
            self._logits[id(result)] = result
            self._factors[id(result)] = self._factors[id(product)]
        return result

    def _follow(self, func: Callable[..., Any], args: tuple[Any, ...], result: Tensor) -> None:
        sources = [id(a) for a in args if isinstance(a, Tensor)]
        made = next((self._factors[s] for s in sources if s in self._factors), None)
        if made is not None:
            self._factors[id(result)] = made
        if any(s in self._probs for s in sources):
            self._probs[id(result)] = result
        elif any(s in self._logits for s in sources):
            (self._probs if func in _SOFTMAX else self._logits)[id(result)] = result

    def _maybe_leaf(self, name: str, tensor: Tensor) -> Tensor:
        return tensor.detach().requires_grad_() if self._leaf == (self._layer, name) else tensor

    def _record(self, attention: Attention) -> None:
        layer = cast(int, self._layer)
        if layer in self.records:
            raise CaptureError(
                f"block {layer} computed attention twice in one forward pass: the model calls it for several inputs",
                expected="one attention call in each declared attention module",
                got=type(self._attentions[layer]).__name__,
                todo="leave `architecture` out and take a method that explains all inputs at once (input_x_gradient, "
                "integrated_gradients, attn_lrp), or declare a module that computes attention once",
            )
        if attention.o.ndim != 4:
            raise CaptureError(
                f"block {layer}: the attention output has {attention.o.ndim} axes",
                expected="(batch, head, query, dim)",
                got=tuple(attention.o.shape),
                todo="attention must keep heads on an axis of their own",
            )
        if layer in self._hidden:
            attention.hidden, attention.call = self._inputs.pop(layer, None), self._calls.pop(layer, None)
        if self._probe_gradients:
            rows = self._few_of(attention.o.shape[2], attention.o.device)
            attention.gradient_probe = GradientProbe(rows, layer == len(self._blocks) - 1)
            if attention.o.requires_grad:
                attention.o.register_hook(attention.gradient_probe.record)
        self.records[layer] = attention


def _linear(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    seen: Attention | None,
    reads: Sequence[int] | None,
    pulls: list[tuple[Tensor, Tensor]] | None,
) -> Tensor:
    frozen = not weight.requires_grad and not (bias is not None and bias.requires_grad)
    if not (frozen and input.ndim == 3 and input.requires_grad):
        return F.linear(input, weight, bias)
    rows = None if seen is None else rows_read(input, seen.o.shape[0], seen.o.shape[2], reads)
    return cast(Tensor, SparseLinear.apply(input, weight, bias, rows, pulls))


_PRODUCTS = frozenset(
    {torch.matmul, torch.bmm, torch.baddbmm, Tensor.matmul, Tensor.bmm, Tensor.baddbmm, Tensor.__matmul__}
)
_ATTENTION = _PRODUCTS | {F.scaled_dot_product_attention, F.multi_head_attention_forward, torch.einsum}
_LOOKED_AT = _ATTENTION | AUTOCAST
_SOFTMAX = frozenset({torch.softmax, F.softmax, Tensor.softmax})

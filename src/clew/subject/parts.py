"""What the attention of a block adds to the stream, by the heads and tokens that it comes from."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..errors import CaptureError
from ..models import BoundArchitecture
from ..seam import Attention, DoublePrecision, project, project_by_head, value_bias
from ..shapes import Hidden, Scores, Values, at_least_float32


@dataclass(frozen=True)
class Parts:
    """Of one block whose input was kept (`hidden`), each input once; all in float32 or more, made when asked for.

    `mid[i] = before[i] + rows[i] Σ_hj A[h, i, j] of_head(h)[j] +` what biases of values and projection add.
    """

    bound: BoundArchitecture
    layer: int
    attention: Attention
    shorter: torch.dtype | None = None  # that autocast was seen to make products in
    precise: bool = False  # whether the model's own casts to shorter floats are left out

    @property
    def before(self) -> Hidden:
        """What enters the block, (input, token, width)."""
        assert self.attention.hidden is not None
        return at_least_float32(self.attention.hidden.detach())

    @property
    def mid(self) -> Hidden:
        """What is between its attention and its MLP, (input, token, width)."""
        return self.before + self._added[1]

    @property
    def rows(self) -> Scores | None:
        """What a norm behind the attention multiplies each token by, (input, token); None where there is none."""
        return None if self._scales is None else self._scales[0]

    def of_head(self, head: int) -> Hidden:
        """`W_O^h v_j^h`: what a head would bring from each token, if it attended to nothing else."""
        return self._v[:, head] @ self._maps[head]

    @cached_property
    def _added(self) -> tuple[Hidden, Hidden]:
        """What the projection gives, and what of it is added to the stream."""
        bound, layer = self.bound, self.layer
        u = at_least_float32(project(bound, layer, self.attention.o, bias=True, autocast=self.shorter))
        scale, norm = bound.scales[layer], bound.output_norms[layer]
        with torch.no_grad(), DoublePrecision(norm) if norm is not None and self.precise else nullcontext():
            scaled = u if scale is None else scale(u)
            return scaled, scaled if norm is None else norm(scaled)

    @cached_property
    def _scales(self) -> tuple[Scores, Tensor] | None:
        """Of a norm behind the attention what it multiplies rows by (input, token), and entries (width,).

        Raises `CaptureError` where it does more than that.
        """
        norm = self.bound.output_norms[self.layer]
        if norm is None:
            return None
        given, normed = self._added
        ratio = torch.where(given == 0, 0.0, normed / given)
        entries = ratio.flatten(0, 1)[0]
        rows = ratio @ entries / (entries @ entries)
        most = 1e-3 * float(normed.abs().max())
        if not torch.allclose(rows[..., None] * entries * given, normed, rtol=1e-3, atol=most):
            raise CaptureError(
                f"the norm behind the attention of block {self.layer} does more than scale",
                expected="a norm without mean and bias, such as RMSNorm",
                got=type(norm).__name__,
                todo="correct `attention_output_norm` in the declaration",
            )
        return rows, entries

    @cached_property
    def _v(self) -> Values:
        """Values without the attention's own bias, (input, head, token, dim)."""
        bias = value_bias(self.bound, self.layer, self.attention, autocast=self.shorter)
        return at_least_float32(self.attention.v.detach()) - at_least_float32(bias)

    @cached_property
    def _maps(self) -> Tensor:
        """The output projection by heads, (head, dim, width), without its bias, as a norm behind it scales entries."""
        maps = project_by_head(self.bound, self.layer, self.attention.v, autocast=self.shorter)
        return at_least_float32(maps if self._scales is None else maps * self._scales[1])

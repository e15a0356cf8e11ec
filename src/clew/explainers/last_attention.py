"""Grad-CAM of the last attention that is read, on models of which nothing is declared."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..mass import Site, TokenStreams, with_token_streams
from ..subject import Result, StreamSubject, stream_result


def gradcam(subject: StreamSubject) -> Result:
    """`max(mean_h w_h A_h[asked], 0)`, with `w_h` the mean of `∂s/∂A_h` over queries, weighted by the mass that is
    asked of them, and over keys that are no constants and that they see, straight or through others (of a window)."""
    got = with_token_streams(subject, _of_last)
    return stream_result(subject, got.leaves, checks=got.checks())


def _of_last(found: TokenStreams) -> Sequence[Tensor]:
    site, asked = found.last()
    # Of both maps only the rows that are asked are added up, each head by itself: (batch, head, key).
    A, G = (_rows(found, site, asked, gradient=gradient) for gradient in (False, True))
    counted = _seen(found, site, asked) & ~found.constant_keys(site)  # CLS and padding are left out
    w = (G * counted[:, None]).sum(-1) / counted.sum(-1).clamp(min=1)[:, None]
    return [(w[..., None] * A).mean(1).clamp(min=0)]


def _seen(found: TokenStreams, site: Site, asked: Tensor) -> Tensor:
    """Which keys are seen by queries that are asked, or by tokens that these see: (batch, key)."""
    whole = [(found.over_heads((site.probabilities(rows) != 0).float(), -2) > 0) for rows in site.blocks()]
    sees = torch.cat(whole, 1).float()
    seen = (asked.ne(0).to(sees)[:, None] @ sees)[:, 0] > 0
    while sees.shape[1] == sees.shape[2]:
        more = seen | ((seen.to(sees)[:, None] @ sees)[:, 0] > 0)
        if bool((more == seen).all()):
            break
        seen = more
    return seen


def _rows(found: TokenStreams, site: Site, asked: Tensor, *, gradient: bool) -> Tensor:
    """`Σ_i asked_i M_i` of attention, or of its gradient: (batch, head, key)."""
    total: Tensor | None = None
    for rows in site.blocks():
        maps = site.attention_gradient(rows) if gradient else site.probabilities(rows)
        maps = maps.reshape(len(found.score), -1, *maps.shape[-2:])
        part = torch.einsum("bq,bhqk->bhk", asked[:, rows].to(maps), maps)
        total = part if total is None else total + part
    assert total is not None
    return total

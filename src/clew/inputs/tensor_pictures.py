"""Pictures of tensors as a model takes them, to draw over."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..draw import BEYOND, Picture

_AT_ONCE = 16  # of a large batch there is no second one in memory
_EACH = (1, 2, 3)

Numbers = Sequence[float] | None  # of each channel


def pictures_of(batch: Tensor, mean: Numbers = None, std: Numbers = None) -> list[Picture]:
    """Pictures of (example, channel, height, width) in their own colours where `mean` and `std` fit, else stretched.

    Of more channels the first three are shown, of fewer the first as grey. Made where the batch is.
    """
    return [one for some in batch.split(_AT_ONCE) for one in _pictures_of(some, mean, std)]


def picture_of(tensor: Tensor, mean: Numbers = None, std: Numbers = None) -> Picture:
    """The picture of one tensor (channel, height, width), as `pictures_of` makes it."""
    return pictures_of(tensor[None], mean, std)[0]


@torch.no_grad()
def _pictures_of(batch: Tensor, mean: Numbers, std: Numbers) -> list[Picture]:
    values = batch.float()
    values = values[:, :3] if values.shape[1] >= 3 else values[:, :1].expand(-1, 3, -1, -1)
    own = _in_own_colours(values, mean, std)
    if own is None or not own[1].all():
        low, high = values.amin(_EACH, True), values.amax(_EACH, True)
        shown = (values - low).div_((high - low).clamp_(min=1e-12)).mul_(255)
        shown = shown if own is None else torch.where(own[1], own[0], shown)
    else:
        shown = own[0]
    height, width = shown.shape[2:]
    pixels = torch.stack(shown.to(torch.uint8).unbind(1), -1).cpu().numpy()
    return [Picture(one, (0.0, 0.0, float(width), float(height))) for one in pixels]


def _in_own_colours(values: Tensor, mean: Numbers, std: Numbers) -> tuple[Tensor, Tensor] | None:
    """Colours from 0 to 255, and of which examples they are: others were normalised by other numbers, or are noise."""
    if mean is None or std is None or not {len(mean), len(std)} <= {1, 3}:
        return None
    shift, scale = (torch.tensor(v, dtype=values.dtype, device=values.device).view(-1, 1, 1) for v in (mean, std))
    colours = values * scale + shift
    fit = (colours.amin(_EACH, True) >= -BEYOND) & (colours.amax(_EACH, True) <= 1 + BEYOND)
    return (colours.clamp(0, 1) * 255).round(), fit

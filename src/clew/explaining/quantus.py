"""Explanations as Quantus asks for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..attributions import Attribution, ImageAttribution, PicturesAttribution, SoundAttribution
from ..errors import InputError
from ..shapes import at_least_float32
from .explain import explain


def quantus_explain(model: Any, inputs: Any, targets: Any = None, **kwargs: Any) -> np.ndarray:
    """An `explain_func` for the metrics of Quantus: `metric(…, explain_func=clew.quantus_explain,
    explain_func_kwargs={"method": "attn_lrp"})`.

    Args:
        model: a module in evaluation mode, as for `explain`.
        inputs: a batch, array or tensor: images (batch, channel, height, width), series, tables, token numbers.
        targets: the class of each example, or one for all; None: those that are predicted.
        **kwargs: `method` and its options, and other arguments of `explain`. `device`, which Quantus hands on, is left
            to the model: inputs go where it is.

    Returns:
        One score for each pixel (batch, 1, height, width) or entry (as `inputs`).

    Raises:
        InputError: the scores are not of the entries of `inputs`. ClewError: as of `explain`.
    """
    kwargs.pop("device", None)
    x = torch.as_tensor(inputs)
    wanted = targets if targets is None or isinstance(targets, int) else torch.as_tensor(targets).flatten()
    found = _array(explain(model, x, target=wanted, **kwargs))
    pixels = (len(x), 1, *x.shape[2:])
    if found.shape not in (tuple(x.shape), pixels):
        raise InputError(
            "these scores are not of the entries of the input",
            expected=f"{tuple(x.shape)} or {pixels}",
            got=found.shape,
            todo="choose a method of pixels or entries: integrated_gradients, input_x_gradient, saliency",
        )
    return found


def _array(found: Attribution) -> np.ndarray:
    if isinstance(found, (ImageAttribution, PicturesAttribution)):
        return at_least_float32(found.heatmap().detach())[:, None].cpu().numpy()
    if isinstance(found, SoundAttribution) and found.bands is not None:
        return at_least_float32(found.bands.detach()).cpu().numpy()
    return found.to_numpy()

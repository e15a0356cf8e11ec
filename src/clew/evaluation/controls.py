"""Controls: maps that a benchmark compares methods with, and that no explanation is.

They never look at what the model computes: a method that is not told apart from one of them has not shown anything.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import OptionError
from ..explainers import Method
from ..subject import Result, StreamSubject, Subject, leaves_of


def centred_gaussian(subject: Subject | StreamSubject) -> Result:
    """`exp(-d² / 2σ²)` for each pixel, `d` its distance from the middle and `σ` a quarter of the picture's sides."""
    at, key, x = _picture(subject)
    y, z = ((torch.arange(n, device=x.device) + 0.5) / n * 4 - 2 for n in x.shape[-2:])
    heat = torch.exp(-(y[:, None] ** 2 + z**2) / 2)
    return at.result({key: (heat / x.shape[1]).expand(x.shape)})  # results sum over channels


def edge_filter(subject: Subject | StreamSubject) -> Result:
    """`Σ_c √(g_x² + g_y²)` for each pixel, `g` the picture under Sobel's filters."""
    at, key, x = _picture(subject)
    sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], device=x.device)
    filters = torch.stack([sobel, sobel.T])[:, None]
    wide = F.pad(x.float().flatten(0, 1)[:, None], (1, 1, 1, 1), mode="replicate")
    return at.result({key: F.conv2d(wide, filters).norm(dim=1).view(x.shape)})


def _picture(subject: Subject | StreamSubject) -> tuple[Any, str, Tensor]:
    """What results are made with, and the only leaf, which is a picture; after the pass that results tell of."""
    if isinstance(subject, StreamSubject):
        subject.see_axes()
    else:
        subject.run([subject.last])
    at = leaves_of(subject)
    ((key, x), *others) = at.leaves.items()
    if others or x.ndim != 4:
        got = ", ".join(f"{name or 'input'} {tuple(value.shape)}" for name, value in at.leaves.items())
        raise OptionError("this control is of pictures", expected="pictures alone", got=got)
    return at, key, x


CONTROLS = {
    one.name: one
    for one in (
        Method("centred_gaussian", centred_gaussian, "a control", "a Gaussian at the centre", any_model=True),
        Method("edge_filter", edge_filter, "Adebayo et al. 2018 (a control)", "the picture's edges", any_model=True),
    )
}

"""Controls: maps that a benchmark compares methods with, and that no explanation is.

They never look at what the model computes: a method that is not told apart from one of them has not shown anything.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import OptionError
from ..explainers import Method
from ..subject import Result, Subject


def centred_gaussian(subject: Subject) -> Tensor:
    """`exp(-d² / 2σ²)` for each patch, `d` its distance from the middle and `σ` a quarter of the grid."""
    down, across = _grid(subject)
    y, x = torch.linspace(-2, 2, down)[:, None], torch.linspace(-2, 2, across)
    heat = torch.exp(-(x**2 + y**2) / 2).flatten()
    scores = torch.cat([torch.zeros(subject.bound.prefix), heat])
    return scores.to(subject.x.device).expand(subject.batch, -1).clone()


def edge_filter(subject: Subject) -> Result:
    """`Σ_c √(g_x² + g_y²)` for each pixel, `g` the picture under Sobel's filters."""
    _grid(subject)
    x = subject.x.float()
    sobel = torch.tensor([[-1.0, 0, 1], [-2, 0, 2], [-1, 0, 1]], device=x.device)
    filters = torch.stack([sobel, sobel.T])[:, None]
    flat = F.pad(x.flatten(0, 1)[:, None], (1, 1, 1, 1), mode="replicate")
    return Result(pixels=F.conv2d(flat, filters).norm(dim=1).view(x.shape).sum(1))


def _grid(subject: Subject) -> tuple[int, int]:
    """Of a model of images; the pass of the input as it is, which results tell of."""
    if subject.bound.is_text:
        raise OptionError("this control is of pictures", expected="a model of images", got="a model of texts")
    subject.run([subject.last])
    return subject.grid()


CONTROLS = {
    one.name: one
    for one in (
        Method("centred_gaussian", centred_gaussian, "a control", "a Gaussian at the centre of every picture"),
        Method(
            "edge_filter", edge_filter, "Adebayo et al. 2018 (a control)", "how strong the edges of the picture are"
        ),
    )
}

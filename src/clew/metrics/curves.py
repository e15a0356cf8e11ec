"""Curves of a model's output while its input is taken away, and the areas that papers give of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import ArrayLike
from torch import Tensor

from ..errors import InputError, OptionError, close_matches
from ..targets import Scale, probabilities

TENTHS = tuple(i / 10 for i in range(11))

RANGES = {
    "measured": "trapezoids over the points as measured, 0 and 1 included",
    "chefer": "from 0, the intact input, to 0.9",
    "beyond_intuition": "from 0 to 1, where 0 is the intact input and the value at 1 is taken to be 0",
    "pa_lrp": "from 0.1 to 0.9",
}
"""Over which fractions the published areas run, and what they take for a point that was not measured."""


@dataclass(frozen=True)
class Curves:
    """What a model answers at each step of a removal or insertion.

    `fractions` (step,), 0 to 1, of the units that are gone (or back), `logits` (step, case, class), and `clean`
    (case, class) of the intact input. A case is one input with one order of its units. `scale` is what makes
    probabilities of the logits: "softmax", or "sigmoid" where labels do not exclude each other; None where there are
    none.
    """

    fractions: Sequence[float]
    logits: Float[Tensor, "step case class"]
    clean: Float[Tensor, "case class"]
    scale: Scale | None = "softmax"

    def hits(self, classes: Int[Tensor, " case"] | None = None) -> Float[Tensor, "step case"]:
        """1 where the class is predicted, 0 elsewhere; without `classes`, where the prediction is still the same.

        An only output with a sigmoid predicts yes (above 0) or no.
        """
        if classes is None and self.logits.shape[-1] == 1 and self.scale == "sigmoid":
            return ((self.logits > 0) == (self.clean > 0))[..., 0].to(self.logits.dtype)
        return (self.logits.argmax(-1) == self._classes(classes)).to(self.logits.dtype)

    def logit(self, classes: Int[Tensor, " case"] | None = None) -> Float[Tensor, "step case"]:
        """The class's logit; without `classes` that of the class predicted for the intact input."""
        return _of(self.logits, self._classes(classes))

    def probability(
        self, classes: Int[Tensor, " case"] | None = None, *, among: Sequence[int] | None = None
    ) -> Float[Tensor, "step case"]:
        """The class's probability, 0 to 1, among all classes or in a softmax over `among` some that include it.

        Raises `OptionError` where outputs have none, as in this and the others that are made of probabilities.
        """
        wanted = self._classes(classes)
        if among is None:
            return _of(probabilities(self.logits, self._scale()), wanted)
        some = torch.as_tensor(among, device=self.logits.device)
        return (_of(self.logits, wanted) - self.logits[..., some].logsumexp(-1)).exp()

    def log_odds(self, classes: Int[Tensor, " case"] | None = None) -> Float[Tensor, "step case"]:
        """`log(p / (1 - p))` of the class, in nats."""
        wanted = self._classes(classes)
        if self._scale() == "sigmoid":
            return _of(self.logits, wanted)
        others = self.logits.scatter(-1, wanted.expand(self.logits.shape[:-1])[..., None], -torch.inf)
        return _of(self.logits, wanted) - others.logsumexp(-1)

    def squared_error(
        self, classes: Int[Tensor, " case"] | None = None, *, all_classes: bool = True
    ) -> Float[Tensor, "step case"]:
        """`Σ_c (y_c - y⁰_c)²` against the logits of the intact input, over all classes or for the one class."""
        difference = (self.logits - self.clean).square()
        return difference.sum(-1) if all_classes else _of(difference, self._classes(classes))

    def log_ratio_to_second(self, classes: Int[Tensor, " case"]) -> Float[Tensor, "step case"]:
        """`log(p_class / p_second)`, `p_second` the second largest of all probabilities (Beyond Intuition's code).

        In nats: above 0 where the class is the largest of all, below where it is not among the first two.
        """
        values = self.logits if self._scale() == "softmax" else F.logsigmoid(self.logits)
        return _of(values, self._classes(classes)) - values.topk(2).values[..., 1]

    def change_of_largest_logit(self) -> Float[Tensor, "step case"]:
        """The largest logit, of whatever class, minus that of the intact input (Beyond Intuition's code)."""
        return self.logits.amax(-1) - self.clean.amax(-1)

    def change_of_largest_probability(self) -> Float[Tensor, "step case"]:
        """The largest probability, of whatever class, minus that of the intact input (Beyond Intuition's code).

        -1 to 1.
        """
        of = self._scale()
        return probabilities(self.logits, of).amax(-1) - probabilities(self.clean, of).amax(-1)

    def _scale(self) -> Scale:
        if self.scale is None:
            expected = "a classifier; logits, squared errors and areas of them need no probability"
            raise OptionError(
                "these outputs have no probability", expected=expected, got="a regression or an embedding"
            )
        return self.scale

    def _classes(self, classes: Tensor | None) -> Tensor:
        return self.clean.argmax(-1) if classes is None else torch.as_tensor(classes, device=self.clean.device)


def _of(values: Tensor, classes: Tensor) -> Tensor:
    return values.gather(-1, classes.expand(values.shape[:-1])[..., None])[..., 0]


def auc(values: ArrayLike, fractions: Sequence[float], *, span: str = "measured") -> np.ndarray:
    """The area under curves by trapezoids, (…, step) to (…).

    `fractions` (step,) in rising order, 0 to 1, so that the area is in the unit of the values; of probabilities it is 0
    to 1. `span` says over which of them, see `RANGES`: the published areas of one and the same curve differ by a fifth.
    Raises `OptionError` for an unknown span, and for one that the points do not reach, `InputError` where values and
    fractions differ in number.
    """
    from scipy.integrate import trapezoid

    x, y = np.asarray(fractions, dtype=float), np.asarray(values, dtype=float)
    if x.ndim != 1 or y.shape[-1:] != x.shape:
        raise InputError("a curve has a value at each fraction", expected=f"(…, {len(x)})", got=y.shape)
    if span not in RANGES:
        raise OptionError("unknown span of an area", got=span, todo=close_matches(span, RANGES))
    low, high = {"measured": (x[0], x[-1]), "chefer": (0.0, 0.9), "beyond_intuition": (0.0, 0.9)}.get(span, (0.1, 0.9))
    within = (x > low - 1e-9) & (x < high + 1e-9)
    if not within.any() or abs(x[within][0] - low) > 1e-9 or abs(x[within][-1] - high) > 1e-9:
        raise OptionError(f"the curve has no points for {span!r}", expected=RANGES[span], got=[float(v) for v in x])
    x, y = x[within], y[..., within]
    if span == "beyond_intuition":
        x, y = np.append(x, 1.0), np.concatenate([y, np.zeros((*y.shape[:-1], 1))], axis=-1)
    return np.asarray(trapezoid(y, x, axis=-1))


def area_between(least_first: ArrayLike, most_first: ArrayLike, fractions: Sequence[float]) -> np.ndarray:
    """The area between the curves that remove the least and the most relevant first (Achtibat et al. 2024, eq. 31).

    (…, step) each to (…), in the unit of the curves; of probabilities -1 to 1, and the larger the better. `fractions`
    as in `auc`. Raises what `auc` does, and `InputError` for curves that do not belong together.
    """
    return auc(_difference(least_first, most_first), fractions)


def srg(least_first: ArrayLike, most_first: ArrayLike) -> np.ndarray:
    """Symmetric relevance gain: the mean over steps of the difference of the two curves (Blücher et al. 2024).

    (…, step) each to (…), in the unit of the curves; of probabilities -1 to 1, and the larger the better. A random
    order has 0 on average. Raises `InputError` for curves that do not belong together.
    """
    return np.asarray(np.mean(_difference(least_first, most_first), axis=-1))


def _difference(least_first: ArrayLike, most_first: ArrayLike) -> np.ndarray:
    least, most = np.asarray(least_first, dtype=float), np.asarray(most_first, dtype=float)
    try:
        if least.shape[-1:] == most.shape[-1:] not in ((), (0,)):
            return least - most
    except ValueError:  # leading axes that do not broadcast
        pass
    raise InputError("the two curves do not belong together", expected="(…, step) each", got=(least.shape, most.shape))

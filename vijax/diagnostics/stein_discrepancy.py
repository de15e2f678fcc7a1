"""Kernelized Stein discrepancy of points from the posterior, from their scores alone."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from vijax.diagnostics import stein as _stein
from vijax.diagnostics.stein import IMQ


class Discrepancy(NamedTuple):
    """A kernelized Stein discrepancy.

    Attributes:
        value: of the points.
        exact: root mean square discrepancy of as many independent draws from the posterior;
            points that repel each other, as those of SVGD, have less.
    """

    value: float
    exact: float

    def __str__(self) -> str:
        return f"{self.value:.3g} ({self.exact:.3g} expected of as many exact draws)"


def discrepancy(
    points: np.ndarray, scores: np.ndarray, kernel: _stein.Kernel | None = None
) -> Discrepancy:
    """The discrepancy of points, `sqrt(mean(k_p))` over all pairs, the diagonal included.

    Its square has the mean `E[k_p(x, x)] / num` for exact independent draws. Source: A kernelized
    Stein discrepancy for goodness-of-fit tests, Liu, Lee, Jordan, 2016.

    Args:
        points: `(num, dim)`, unconstrained.
        scores: gradients of the log density there, `(num, dim)`.
        kernel: `IMQ` by default.
    """
    found = _stein.stein(points, scores.astype(np.float64), kernel or IMQ(), np)
    square, diagonal = float(found.pairs.mean()), float(np.diag(found.pairs).mean())
    return Discrepancy(math.sqrt(max(square, 0.0)), math.sqrt(diagonal / len(points)))

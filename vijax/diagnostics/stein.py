"""Kernelized Stein operator: discrepancy of points from a density, and the SVGD direction.

`k_p(x, y) = k s_x.s_y + s_x.d_y k + s_y.d_x k + tr d_x d_y k`, with `s` the gradients of the log
density `p`, has mean zero under `p` in either argument (Stein's identity). Its mean over all pairs
of points is their squared kernelized Stein discrepancy: zero only for `p` if the kernel is
characteristic.
Sources: A kernelized Stein discrepancy for goodness-of-fit tests, Liu, Lee, Jordan, 2016; Stein
variational gradient descent, Liu, Wang, 2016.

Functions take as `numpy` the array module to use: NumPy on the host, `jax.numpy` on devices.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import Any, NamedTuple

import jax.numpy as jnp

Matrix = Any  # NumPy or JAX array


class Profile(NamedTuple):
    """A kernel and its first two derivatives with respect to the squared distance."""

    value: Matrix
    slope: Matrix
    curvature: Matrix


@dataclasses.dataclass(frozen=True)
class Kernel(abc.ABC):
    """A radial kernel, a function of the distance between two points.

    Args:
        width: unit of the squared distance; by default the median over all pairs divided by
            `log(num)`, as in Stein variational gradient descent.
    """

    width: float | None = None

    def __post_init__(self) -> None:
        if self.width is not None and not 0 < self.width < math.inf:
            raise ValueError(f"width: expected a positive number or None, got {self.width!r}.")

    @abc.abstractmethod
    def profile(self, squared: Matrix, width: Matrix, numpy: Any) -> Profile:
        """Kernel and derivatives at squared distances."""


@dataclasses.dataclass(frozen=True)
class RBF(Kernel):
    """`exp(-r^2 / width)`."""

    def profile(self, squared: Matrix, width: Matrix, numpy: Any) -> Profile:
        """See `Kernel.profile`."""
        value = numpy.exp(-squared / width)
        return Profile(value, -value / width, value / width**2)


@dataclasses.dataclass(frozen=True)
class IMQ(Kernel):
    """Inverse multiquadric, `(1 + r^2 / width)^(-1/2)`.

    Its long tail detects points that diverge to infinity, which `RBF` does not in many dimensions.
    Source: Measuring sample quality with kernels, Gorham, Mackey, 2017.
    """

    def profile(self, squared: Matrix, width: Matrix, numpy: Any) -> Profile:
        """See `Kernel.profile`."""
        base = 1 + squared / width
        slope = -0.5 / width * base**-1.5
        return Profile(base**-0.5, slope, 0.75 / width**2 * base**-2.5)


class Stein(NamedTuple):
    """Stein kernel of points and the direction of SVGD.

    Attributes:
        pairs: `k_p` of all pairs, `(num, num)`.
        direction: direction of each point in which the Kullback-Leibler divergence decreases
            fastest, `(num, dim)`.
    """

    pairs: Matrix
    direction: Matrix


def stein(points: Matrix, scores: Matrix, kernel: Kernel, numpy: Any = jnp) -> Stein:
    """Evaluates the Stein kernel and the direction of SVGD.

    Args:
        points: `(num, dim)`.
        scores: gradients of the log density there, `(num, dim)`.
        kernel: the kernel.
        numpy: the array module.
    """
    num, dim = points.shape
    centered = points - points.mean(0)  # products lose precision far from the origin
    norms = (centered**2).sum(1)
    squared = numpy.maximum(norms[:, None] + norms - 2 * centered @ centered.T, 0.0)
    width = kernel.width
    if width is None:
        width = numpy.median(squared) / max(math.log(num), 1.0)
        width = numpy.maximum(width, numpy.finfo(points.dtype).tiny)
    k, slope, curvature = kernel.profile(squared, width, numpy)
    diagonal = (scores * centered).sum(1)  # s_x . x
    products = scores @ centered.T  # s_x . y
    # (s_y - s_x) . (x - y)
    cross = products.T + products - diagonal[:, None] - diagonal
    trace = -2 * dim * slope - 4 * squared * curvature
    pairs = k * (scores @ scores.T) + 2 * slope * cross + trace
    repulsion = 2 * (slope @ centered - slope.sum(1)[:, None] * centered)
    return Stein(pairs, (k @ scores + repulsion) / num)

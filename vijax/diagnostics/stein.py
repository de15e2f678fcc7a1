"""Stein's identity with a kernel: how far points are from a density, and where they should go.

`k_p(x, y) = k s_x.s_y + s_x.d_y k + s_y.d_x k + tr d_x d_y k`, with `s` the gradients of the log
density `p`, has mean zero under `p` in either argument. Its mean over all pairs of some points is
their kernelized Stein discrepancy, squared: zero for `p` alone where the kernel is rich enough.
Sources: A kernelized Stein discrepancy for goodness-of-fit tests, Liu, Lee, Jordan, 2016; Stein
variational gradient descent, Liu, Wang, 2016.

Every function takes `numpy`, the module to compute with: NumPy on the host, `jax.numpy` elsewhere.
"""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import Any, NamedTuple

import jax.numpy as jnp

Matrix = Any  # NumPy's or JAX's


class Profile(NamedTuple):
    """A kernel as a function of the squared distance: itself, and its two derivatives."""

    value: Matrix
    slope: Matrix
    curvature: Matrix


@dataclasses.dataclass(frozen=True)
class Kernel(abc.ABC):
    """A function of the distance between two points.

    Args:
        width: squared distance that is the unit; by default the median of all pairs over
            `log(num)`, as in Stein variational gradient descent.
    """

    width: float | None = None

    def __post_init__(self) -> None:
        if self.width is not None and not 0 < self.width < math.inf:
            raise ValueError(f"width: expected a positive number or None, got {self.width!r}.")

    @abc.abstractmethod
    def profile(self, squared: Matrix, width: Matrix, numpy: Any) -> Profile:
        """At squared distances."""


@dataclasses.dataclass(frozen=True)
class RBF(Kernel):
    """`exp(-r^2 / width)`."""

    def profile(self, squared: Matrix, width: Matrix, numpy: Any) -> Profile:
        value = numpy.exp(-squared / width)
        return Profile(value, -value / width, value / width**2)


@dataclasses.dataclass(frozen=True)
class IMQ(Kernel):
    """Inverse multiquadric, `(1 + r^2 / width)^(-1/2)`.

    With its long tail it sees points that run away, as `RBF` does not in many dimensions. Source:
    Measuring sample quality with kernels, Gorham, Mackey, 2017.
    """

    def profile(self, squared: Matrix, width: Matrix, numpy: Any) -> Profile:
        base = 1 + squared / width
        slope = -0.5 / width * base**-1.5
        return Profile(base**-0.5, slope, 0.75 / width**2 * base**-2.5)


class Stein(NamedTuple):
    """What a kernel says of points.

    Attributes:
        pairs: `k_p` of all pairs, `(num, num)`.
        direction: where each point should go for the Kullback-Leibler divergence to fall fastest,
            `(num, dim)`.
    """

    pairs: Matrix
    direction: Matrix


def stein(points: Matrix, scores: Matrix, kernel: Kernel, numpy: Any = jnp) -> Stein:
    """Applies Stein's identity.

    Args:
        points: `(num, dim)`.
        scores: gradients of the log density there, `(num, dim)`.
        kernel: the kernel.
        numpy: see above.
    """
    num, dim = points.shape
    centered = points - points.mean(0)  # distances by products lose digits far from the origin
    norms = (centered**2).sum(1)
    squared = numpy.maximum(norms[:, None] + norms - 2 * centered @ centered.T, 0.0)
    width = kernel.width
    if width is None:
        width = numpy.median(squared) / max(math.log(num), 1.0)
        width = numpy.maximum(width, numpy.finfo(points.dtype).tiny)
    k, slope, curvature = kernel.profile(squared, width, numpy)
    own = (scores * centered).sum(1)
    across = scores @ centered.T  # s_x . y
    # (s_y - s_x) . (x - y)
    apart = across.T + across - own[:, None] - own
    trace = -2 * dim * slope - 4 * squared * curvature
    pairs = k * (scores @ scores.T) + 2 * slope * apart + trace
    repulsion = 2 * (slope @ centered - slope.sum(1)[:, None] * centered)
    return Stein(pairs, (k @ scores + repulsion) / num)

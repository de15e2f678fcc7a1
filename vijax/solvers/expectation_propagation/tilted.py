"""Moments of tilted distributions `N(u; m, v) exp(l(u))` in one dimension, by quadrature.

Gauss-Legendre quadrature on panels around the mode whose lengths grow geometrically, so that
neither its width nor a second, wider part need be known. Where the likelihood is zero the panels
end: its support, an interval, is found once. Its ends may so be steps (truncation, rankings).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

Likelihood = Callable[[Array], Array]  # (num,) -> (num,), elementwise

_WIDE = 10.0  # sds of the cavity distribution that panels cover
_RATIO, _PANELS = 2.5, 12  # of the lengths of panels, and their number to each side
_FIRST, _TOGETHER = 1025, 41  # points at which a likelihood is looked at once, some at a time
_RANGE = 4.5  # these are up to sinh(this) = 45 sds of the prior
_BISECTIONS = 60
_GRID, _ROUNDS, _CLOSER = 33, 5, 12.0  # of the search for a mode, on finer and finer grids
LOG_2PI = float(np.log(2 * np.pi))


class Support(NamedTuple):
    """Where likelihoods are positive.

    Attributes:
        lower: its ends, `(num,)`, infinite where there is none.
        upper: likewise.
        peak: a point of high likelihood inside.
        empty: whether none was found.
    """

    lower: Array
    upper: Array
    peak: Array
    empty: Array


class Moments(NamedTuple):
    """Of tilted distributions, `(num,)`: the log of the integral, mean and variance."""

    log_integral: Array
    mean: Array
    variance: Array


def support(log_likelihood: Likelihood, sd: Array) -> Support:
    """The supports of likelihoods.

    Args:
        log_likelihood: elementwise.
        sd: prior standard deviations, `(num,)`.
    """
    grid = jnp.sinh(jnp.linspace(-_RANGE, _RANGE, _FIRST))
    edge, step = grid[-1], grid[-1] - grid[-2]

    def visit(found: Any, s: Array) -> tuple[Any, None]:
        first, last, peak, highest = found
        value = _each(log_likelihood, s[:, None] * sd)
        inside = value > -jnp.inf
        first = jnp.minimum(first, jnp.min(jnp.where(inside, s[:, None], jnp.inf), axis=0))
        last = jnp.maximum(last, jnp.max(jnp.where(inside, s[:, None], -jnp.inf), axis=0))
        # far from the prior a likelihood that keeps rising has no peak
        value -= 0.5 * (s[:, None] / _WIDE) ** 2
        best = jnp.max(value, axis=0)
        peak = jnp.where(best > highest, s[jnp.argmax(value, axis=0)], peak)
        return (first, last, peak, jnp.maximum(best, highest)), None

    far = jnp.full_like(sd, jnp.inf)
    start = far, -far, 0 * sd, -far
    (first, last, peak, _), _ = lax.scan(visit, start, jnp.reshape(grid, (-1, _TOGETHER)))

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        inside, outside = ends
        middle = 0.5 * (inside + outside)
        kept = _each(log_likelihood, middle) > -jnp.inf
        return jnp.where(kept, middle, inside), jnp.where(kept, outside, middle)

    empty = first > last
    inside = jnp.where(empty, 0.0, jnp.stack([first, last]) * sd)
    outside = inside + jnp.stack([-step * sd, step * sd])
    lower, upper = lax.fori_loop(0, _BISECTIONS, halve, (inside, outside))[0]
    return Support(
        jnp.where((first <= -edge) | empty, -jnp.inf, lower),
        jnp.where((last >= edge) | empty, jnp.inf, upper),
        jnp.where(empty, 0.0, peak * sd),
        empty,
    )


def moments(
    log_likelihood: Likelihood, mean: Array, variance: Array, where: Support, points: int
) -> Moments:
    """The moments of tilted distributions.

    Args:
        log_likelihood: elementwise.
        mean: of the cavity distributions, `(num,)`.
        variance: likewise.
        where: the supports of the likelihoods.
        points: on each panel.
    """
    sd = jnp.sqrt(variance)

    def log_tilted(u: Array) -> Array:
        return _each(log_likelihood, u) - 0.5 * (u - mean) ** 2 / variance

    low, high = _window(mean, sd, where)
    mode, top = _mode(log_tilted, low, high, mean, where.peak)
    mode, top = lax.stop_gradient((mode, jnp.where(jnp.isfinite(top), top, 0.0)))
    left, right = lax.stop_gradient((low - mode, high - mode))
    nodes, weights = _panels(points)

    def add(sums: Any, panel: tuple[Array, Array]) -> tuple[Any, None]:
        """Adds a panel to each side to the integral and to the moments around the mode."""
        offsets, lengths = (jnp.concatenate([x[:, None] * left, x[:, None] * right]) for x in panel)
        mass = jnp.abs(lengths) * jnp.exp(log_tilted(mode + offsets) - top)
        powers = mass, mass * offsets, mass * offsets**2
        return [a + jnp.sum(b, axis=0) for a, b in zip(sums, powers, strict=True)], None

    (total, first, second), _ = lax.scan(add, [jnp.zeros_like(mean)] * 3, (nodes, weights))
    shift = first / total
    log_integral = top + jnp.log(total) - 0.5 * (LOG_2PI + jnp.log(variance))
    return Moments(log_integral, mode + shift, second / total - shift**2)


def _each(log_likelihood: Likelihood, points: Array) -> Array:
    """A likelihood at rows of points; what is not a number is outside of its support."""
    value = jax.vmap(log_likelihood)(points)
    return jnp.where(jnp.isnan(value), -jnp.inf, value)


def _window(mean: Array, sd: Array, where: Support) -> tuple[Array, Array]:
    """The ends of the panels: around the cavity and the peak, inside of the support."""
    reach = _WIDE * sd
    low = jnp.clip(jnp.minimum(mean, where.peak) - reach, where.lower, where.upper)
    high = jnp.clip(jnp.maximum(mean, where.peak) + reach, where.lower, where.upper)
    return lax.stop_gradient(low), lax.stop_gradient(high)


def _mode(
    log_tilted: Likelihood, low: Array, high: Array, mean: Array, peak: Array
) -> tuple[Array, Array]:
    """The highest point and its value, by finer and finer grids around the highest so far."""
    steps = jnp.linspace(-1.0, 1.0, _GRID)[:, None]

    def closer(i: int, found: tuple[Array, Array]) -> tuple[Array, Array]:
        center, _ = found
        width = 0.5 * (high - low) / _CLOSER**i
        points = jnp.concatenate([center[None], peak[None], mean[None], center + steps * width])
        points = jnp.clip(points, low, high)
        values = log_tilted(points)
        best = jnp.argmax(values, axis=0)[None]
        return tuple(jnp.take_along_axis(x, best, axis=0)[0] for x in (points, values))  # type: ignore[return-value]

    middle = 0.5 * (low + high)
    return lax.fori_loop(0, _ROUNDS, closer, (middle, middle))


def _panels(points: int) -> tuple[Array, Array]:
    """Points and weights on the unit interval, a panel in a row, denser towards zero."""
    x, w = np.polynomial.legendre.leggauss(points)
    ends = np.concatenate([[0.0], _RATIO ** np.arange(1.0 - _PANELS, 1.0)])
    starts, lengths = ends[:-1, None], np.diff(ends)[:, None]
    nodes = starts + lengths * (x + 1) / 2
    return jnp.asarray(nodes), jnp.asarray(lengths * w / 2)

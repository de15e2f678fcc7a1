"""Moments of tilted distributions `N(u; m, v) exp(l(u))` in one dimension, by quadrature.

Where log likelihoods are concave, Gauss-Hermite quadrature in the current marginals, which are
close to the tilted distributions: with two numbers of points, whose answer counts if they agree at
every site. If not, Gauss-Legendre quadrature on panels around the mode whose lengths grow
geometrically, so that neither its width nor a second, wider part need be known. Where the
likelihood is zero the panels end: its support, an interval, is found once. Its ends may so be steps
(truncation, rankings).
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from vijax.solvers.expectation_propagation.support import WIDE, Likelihood, Support, each

_RATIO, _PANELS = 2.5, 12  # of the lengths of panels, and their number to each side
_GRID, _ROUNDS, _CLOSER = 33, 5, 12.0  # of the search for a mode, on finer and finer grids
_RULES = ((8, 12), (20, 28))  # numbers of points that are compared, tried one after the other
_AGREE = 1e-8  # largest difference of a moment, of the log integral in nats; the larger rule's is
# smaller by orders
LOG_2PI = float(np.log(2 * np.pi))


class Moments(NamedTuple):
    """Of tilted distributions, `(num,)`: the log of the integral, mean and variance."""

    log_integral: Array
    mean: Array
    variance: Array


class Near(NamedTuple):
    """Normal distributions that may be close to the tilted ones, and where that matters."""

    mean: Array
    variance: Array
    proper: Array


def moments(
    log_likelihood: Likelihood,
    mean: Array,
    variance: Array,
    where: Support,
    points: int,
    near: Near,
) -> Moments:
    """The moments of tilted distributions.

    Args:
        log_likelihood: elementwise.
        mean: of the cavity distributions, `(num,)`.
        variance: likewise.
        where: the supports of the likelihoods.
        points: on each panel.
        near: at which quadrature with few points is tried.
    """
    near = lax.stop_gradient(near)
    cavity = log_likelihood, mean, variance

    def few(numbers: tuple[tuple[int, int], ...]) -> Moments:
        if not numbers:
            return _by_panels(*cavity, where, points)
        (fewer, more), *rest = numbers
        one, two = (_by_normals(*cavity, near, number) for number in (fewer, more))
        same = _agree(one, two, near)
        return lax.cond(same, lambda: two, lambda: few(tuple(rest)))

    concave = jnp.all(where.concave | ~near.proper)
    return lax.cond(concave, lambda: few(_RULES), lambda: few(()))


def _by_normals(
    log_likelihood: Likelihood, mean: Array, variance: Array, near: Near, points: int
) -> Moments:
    """By Gauss-Hermite quadrature in the given normal distributions."""
    x, w = np.polynomial.hermite_e.hermegauss(points)
    sd = jnp.sqrt(near.variance)

    def log_ratio(s: Array) -> Array:
        """The tilted density over the normal one at `s` sds, up to a constant."""
        u = near.mean + s[:, None] * sd
        value = each(log_likelihood, u)
        return value - 0.5 * (u - mean) ** 2 / variance + 0.5 * s[:, None] ** 2

    top = lax.stop_gradient(log_ratio(jnp.zeros(1))[0])
    top = jnp.where(jnp.isfinite(top), top, 0.0)
    ratio = jnp.exp(log_ratio(jnp.asarray(x)) - top)
    # as a product: sums of powers by themselves would evaluate the likelihood again
    powers = jnp.asarray(w / w.sum() * np.stack([x**0, x, x**2]))
    total, first, second = powers @ ratio
    shift = first / total
    log_integral = top + jnp.log(total) + 0.5 * (jnp.log(near.variance) - jnp.log(variance))
    spread = near.variance * (second / total - shift**2)
    return Moments(log_integral, near.mean + shift * sd, spread)


def _agree(one: Moments, two: Moments, near: Near) -> Array:
    """Whether two answers are the same wherever it matters; not if one is not a number."""
    sd = jnp.sqrt(near.variance)
    gaps = (
        one.log_integral - two.log_integral,
        (one.mean - two.mean) / sd,
        (one.variance - two.variance) / near.variance,
    )
    same = [(jnp.abs(gap) < _AGREE) | ~near.proper for gap in gaps]
    return jnp.all(jnp.stack(same)) & jnp.all((two.variance > 0) | ~near.proper)


def _by_panels(
    log_likelihood: Likelihood, mean: Array, variance: Array, where: Support, points: int
) -> Moments:
    """By Gauss-Legendre quadrature on panels."""
    sd = jnp.sqrt(variance)

    def log_tilted(u: Array) -> Array:
        return each(log_likelihood, u) - 0.5 * (u - mean) ** 2 / variance

    low, high = _window(mean, sd, where)
    mode, top = _mode(log_tilted, low, high, mean, where.peak)
    mode, top = lax.stop_gradient((mode, jnp.where(jnp.isfinite(top), top, 0.0)))
    nodes, weights = _panels(points)
    sums = jnp.zeros((3, len(mean)))
    for side in (low - mode, high - mode):
        length = lax.stop_gradient(jnp.abs(side)), lax.stop_gradient(side)
        sums += _side(log_tilted, mode, top, length, nodes, weights)
    total, first, second = sums
    shift = first / total
    log_integral = top + jnp.log(total) - 0.5 * (LOG_2PI + jnp.log(variance))
    return Moments(log_integral, mode + shift, second / total - shift**2)


def _side(
    log_tilted: Likelihood,
    mode: Array,
    top: Array,
    length: tuple[Array, Array],
    nodes: Array,
    weights: Array,
) -> Array:
    """The integral and the moments around the mode to one side of it, `(3, num)`."""
    size, signed = length

    def add(sums: Array, panel: tuple[Array, Array]) -> tuple[Array, None]:
        x, w = panel
        mass = jnp.exp(log_tilted(mode + x[:, None] * signed) - top)
        return sums + (w * jnp.stack([x**0, x, x**2])) @ mass, None

    sums, _ = lax.scan(add, jnp.zeros((3, len(mode))), (nodes, weights))
    return sums * jnp.stack([size, size * signed, size * signed**2])


def _window(mean: Array, sd: Array, where: Support) -> tuple[Array, Array]:
    """The ends of the panels: around the cavity and the peak, inside of the support."""
    reach = WIDE * sd
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
        values = lax.optimization_barrier(log_tilted(points))
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

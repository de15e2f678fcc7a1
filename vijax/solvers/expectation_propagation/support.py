"""Where likelihoods of one number are positive, and whether they are concave there.

All of them are looked at once, at points that are denser around the prior mean.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

Likelihood = Callable[[Array], Array]  # (num,) -> (num,), elementwise

WIDE = 10.0  # sds of the cavity distribution that count
_FIRST = 1025  # points at which a likelihood is looked at,
_TOGETHER, _MANY, _FEWER = 41, 4096, 1  # some at a time, one by one of many likelihoods
_RANGE = 4.5  # these are up to sinh(this) = 45 sds of the prior
_BISECTIONS = 60
_ROUNDING = 1e-9  # relative, of differences of log likelihoods


class Support(NamedTuple):
    """Where likelihoods are positive.

    Attributes:
        lower: its ends, `(num,)`, infinite where there is none.
        upper: likewise.
        peak: a point of high likelihood inside.
        empty: whether none was found.
        concave: whether the log likelihood is concave at the points looked at, on an interval.
    """

    lower: Array
    upper: Array
    peak: Array
    empty: Array
    concave: Array


class _Looked(NamedTuple):
    """At some of the points; `last_two` are the values at the last of them."""

    first: Array
    last: Array
    num_inside: Array
    peak: Array
    highest: Array
    last_two: Array
    concave: Array


def support(log_likelihood: Likelihood, sd: Array) -> Support:
    """The supports of likelihoods.

    Args:
        log_likelihood: elementwise.
        sd: prior standard deviations, `(num,)`.
    """
    grid = jnp.sinh(jnp.linspace(-_RANGE, _RANGE, _FIRST))
    edge, step = grid[-1], grid[-1] - grid[-2]
    found = _look(log_likelihood, sd, grid)
    first, last = found.first, found.last

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        inside, outside = ends
        middle = 0.5 * (inside + outside)
        kept = each(log_likelihood, middle) > -jnp.inf
        return jnp.where(kept, middle, inside), jnp.where(kept, outside, middle)

    empty = first > last
    inside = jnp.where(empty, 0.0, jnp.stack([first, last]) * sd)
    outside = inside + jnp.stack([-step * sd, step * sd])
    lower, upper = lax.fori_loop(0, _BISECTIONS, halve, (inside, outside))[0]
    return Support(
        jnp.where((first <= -edge) | empty, -jnp.inf, lower),
        jnp.where((last >= edge) | empty, jnp.inf, upper),
        jnp.where(empty, 0.0, found.peak * sd),
        empty,
        found.concave & (found.num_inside == 1 + _place(grid, last) - _place(grid, first)),
    )


def _look(log_likelihood: Likelihood, sd: Array, grid: Array) -> _Looked:
    """Evaluates likelihoods at `sd` times the points of a grid."""

    def visit(seen: _Looked, s: Array) -> tuple[_Looked, None]:
        new, scaled = s[2:], s[2:, None]
        # by itself: each of the reductions would evaluate it again
        value = lax.optimization_barrier(each(log_likelihood, scaled * sd))
        inside = value > -jnp.inf
        # far from the prior a likelihood that keeps rising has no peak
        penalized = value - 0.5 * (scaled / WIDE) ** 2
        best = jnp.max(penalized, axis=0)
        peak = jnp.where(best > seen.highest, new[jnp.argmax(penalized, axis=0)], seen.peak)
        window = jnp.concatenate([seen.last_two, value])
        together = _Looked(
            jnp.minimum(seen.first, jnp.min(jnp.where(inside, scaled, jnp.inf), axis=0)),
            jnp.maximum(seen.last, jnp.max(jnp.where(inside, scaled, -jnp.inf), axis=0)),
            seen.num_inside + jnp.sum(inside, axis=0),
            peak,
            jnp.maximum(best, seen.highest),
            window[-2:],
            seen.concave & _is_concave(s, window),
        )
        return together, None

    far, yes = jnp.full_like(sd, jnp.inf), jnp.ones(sd.shape, bool)
    none = jnp.zeros(sd.shape, int)
    start = _Looked(far, -far, none, 0 * sd, -far, jnp.stack([-far, -far]), yes)
    together = _FEWER if len(sd) > _MANY else _TOGETHER
    # each step looks back at the last two points of the one before
    before = jnp.concatenate([grid[:2] - 2 * (grid[2] - grid[0]), grid])
    places = jnp.arange(0, _FIRST, together)[:, None] + jnp.arange(together + 2)
    return lax.scan(visit, start, before[places])[0]


def _is_concave(points: Array, values: Array) -> Array:
    """Whether no slope is higher than the one before, where all values are finite."""
    ratio = (jnp.diff(points)[1:] / jnp.diff(points)[:-1])[:, None]
    before, middle, after = values[:-2], values[1:-1], values[2:]
    rise = (after - middle) - ratio * (middle - before)
    largest = jnp.maximum(jnp.maximum(jnp.abs(before), jnp.abs(middle)), jnp.abs(after))
    return jnp.all((rise <= _ROUNDING * (1 + ratio) * (1 + largest)) | ~jnp.isfinite(rise), axis=0)


def _place(grid: Array, points: Array) -> Array:
    return jnp.searchsorted(grid, points)


def each(log_likelihood: Likelihood, points: Array) -> Array:
    """A likelihood at rows of points; what is not a number is outside of its support."""
    value = jax.vmap(log_likelihood)(points)
    return jnp.where(jnp.isnan(value), -jnp.inf, value)

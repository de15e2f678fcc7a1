"""Roots of increasing functions, by bisection: safe in float32, whatever the slope."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax

_DOUBLINGS = 40  # of a bracket: enough for roots up to 1e12 from the guess
_HALVINGS = 60  # more than the digits of a float64


def increasing(function: Callable[[Array], Array], value: Array, guess: Array) -> Array:
    """The scalar `t` with `function(t) = value`, for an increasing function; no gradients.

    The bracket round `guess` doubles until it holds the root, then halves until floats run out.
    """

    def outside(bracket: tuple[Array, Array, Array]) -> Array:
        low, high, count = bracket
        held = (function(low) <= value) & (function(high) >= value)
        return ~held & (count < _DOUBLINGS)

    def widen(bracket: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        low, high, count = bracket
        return low - (high - low) / 2, high + (high - low) / 2, count + 1

    def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = 0.5 * (low + high)
        above = function(middle) > value
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    guess, value = lax.stop_gradient((guess, value))
    start = (guess - 1, guess + 1, jnp.zeros((), int))
    low, high, _ = lax.while_loop(outside, widen, start)
    low, high = lax.fori_loop(0, _HALVINGS, halve, (low, high))
    return lax.stop_gradient(0.5 * (low + high))


def by_coordinate(function: Callable[[Array], Array], y: Array, last_first: bool = False) -> Array:
    """The `x` with `function(x) = y`, for a map of triangular Jacobian; no gradients.

    Coordinate `i` of the image increases with `x_i` and depends on no `x_j` that comes after it.

    Args:
        function: `(dim,)` to `(dim,)`.
        y: `(dim,)`.
        last_first: the order of dependence, first to last or last to first.
    """
    dim = y.shape[0]

    def solve(step: int, x: Array) -> Array:
        i = dim - 1 - step if last_first else step
        root = increasing(lambda t: function(x.at[i].set(t))[i], y[i], x[i])
        return x.at[i].set(root)

    return lax.fori_loop(0, dim, solve, lax.stop_gradient(y))

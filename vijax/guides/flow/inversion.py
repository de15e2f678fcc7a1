"""Numerical inversion of bijections: bisection, and a Newton step with implicit gradients."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array, lax

from vijax.contracts import PyTree
from vijax.guides.flow.bijection import Bijection

_MAX_DOUBLINGS = 40  # of the bracket: enough for roots up to 1e12 from the guess
_NUM_BISECTIONS = 60  # more than the binary digits of a float64


def bisect(function: Callable[[Array], Array], value: Array, guess: Array) -> Array:
    """The scalar `t` with `function(t) = value`, for an increasing function; no gradients.

    The bracket around `guess` doubles until it contains the root, then is bisected to machine
    precision: reliable in float32, whatever the slope.
    """

    def outside(bracket: tuple[Array, Array, Array]) -> Array:
        low, high, count = bracket
        inside = (function(low) <= value) & (function(high) >= value)
        return ~inside & (count < _MAX_DOUBLINGS)

    def widen(bracket: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        low, high, count = bracket
        return low - (high - low) / 2, high + (high - low) / 2, count + 1

    def bisection(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = 0.5 * (low + high)
        above = function(middle) > value
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    guess, value = lax.stop_gradient((guess, value))
    start = (guess - 1, guess + 1, jnp.zeros((), int))
    low, high, _ = lax.while_loop(outside, widen, start)
    low, high = lax.fori_loop(0, _NUM_BISECTIONS, bisection, (low, high))
    return lax.stop_gradient(0.5 * (low + high))


def bisect_triangular(
    function: Callable[[Array], Array], y: Array, last_first: bool = False
) -> Array:
    """The `x` with `function(x) = y`, for a map with triangular Jacobian; no gradients.

    Coordinate `i` of the image increases with `x_i` and does not depend on later coordinates.

    Args:
        function: `(dim,)` to `(dim,)`.
        y: `(dim,)`.
        last_first: whether the order of the coordinates is reversed.
    """
    dim = y.shape[0]

    def solve(step: int, x: Array) -> Array:
        i = dim - 1 - step if last_first else step
        root = bisect(lambda t: function(x.at[i].set(t))[i], y[i], x[i])
        return x.at[i].set(root)

    return lax.fori_loop(0, dim, solve, lax.stop_gradient(y))


def newton_step(bijection: Bijection, params: PyTree, y: Array, x: Array) -> tuple[Array, Array]:
    """One Newton step from `x`, a root of `forward(x) = y` up to rounding, and `log |dx/dy|`.

    The root is found without gradients; differentiating this step gives those of the implicit
    function theorem, with respect to `y` and `params`.
    """
    x, fixed = lax.stop_gradient((x, params))
    jacobian = jax.jacfwd(lambda x: bijection.forward(fixed, x)[0])(x)
    x = x + jnp.linalg.solve(jacobian, y - bijection.forward(params, x)[0])
    return x, -bijection.forward(params, x)[1]

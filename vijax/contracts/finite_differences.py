"""Hessian-vector products by finite differences of the gradient.

For models with a derivative in reverse mode only, such as one with
`jax.experimental.ode.odeint`.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Floats = np.ndarray


def lacks_forward_mode(error: Exception) -> bool:
    """Whether an error says that a function has no derivative in forward mode."""
    return "forward-mode autodiff" in f"{error} {error.__cause__}"


def difference_products(
    gradient: Callable[[Floats], Floats], points: Floats, vectors: Floats, eps: float
) -> Floats:
    """Central differences `(g(x + h v) - g(x - h v)) / 2h`, `(num, dim)`.

    The step `h` balances their rounding error, of order `eps / h`, with that of truncation, of
    order `h^2`.

    Args:
        gradient: gradients `(num, dim)` at points `(num, dim)`.
        points: where, `(num, dim)`.
        vectors: the directions, `(num, dim)`.
        eps: relative precision of the gradient.
    """
    largest = np.abs(vectors).max(axis=1, keepdims=True)
    length = np.where(largest > 0, largest, 1.0)
    direction = vectors / length
    moved = np.abs(points * direction).max(axis=1, keepdims=True)  # rounded to `eps` of this
    step = np.cbrt(eps) * np.maximum(1.0, moved)
    shift = step * direction
    both = gradient(np.concatenate([points + shift, points - shift]))
    above, below = np.split(both, 2)
    with np.errstate(invalid="ignore"):  # inf - inf gives NaN, which callers handle
        return (above - below) * length / (2 * step)

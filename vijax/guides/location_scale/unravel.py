"""Splitting a vector into sites with a cheap reverse-mode gradient."""

from __future__ import annotations

import functools

import jax
from jax import Array, lax

from vijax.contracts import Position, Space


def unravel(space: Space, vector: Array) -> Position:
    """`space.unravel(vector)` with a cheaper gradient; reverse mode only.

    XLA fuses the gradients of slices into one loop over the full vector that determines, for each
    element, its slice and its gradient. For a network with half a million weights this loop took
    longer than the rest of a step. Writing each site's gradient into the vector itself, which is
    no longer needed by then, costs nothing.
    """
    if len(space.sites) == 1:
        return space.unravel(vector)
    return _unravel(space, vector)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _unravel(space: Space, vector: Array) -> Position:
    return space.unravel(vector)


def _forward(space: Space, vector: Array) -> tuple[Position, Array]:
    return space.unravel(vector), vector


def _backward(space: Space, vector: Array, gradient: Position) -> tuple[Array]:
    start = 0
    for site in space.sites:
        part = gradient[site.name].reshape(site.size)
        vector = lax.dynamic_update_slice(vector, part, (start,))
        start += site.size
    return (vector,)


_unravel.defvjp(_forward, _backward)

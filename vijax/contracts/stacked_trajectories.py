"""Leapfrog trajectories of many chains on many data sets, each from end to end in one program."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from vijax.contracts.kernel import _log_density
from vijax.contracts.over_points import over_points
from vijax.contracts.target import Batch, Target
from vijax.runtime.device_layout import default_platform


def stacked_trajectories(
    target: Target,
    starts: Array,
    speed: Array,
    factor: Array,
    size: Array,
    steps: Array,
    bound: Array,
    sets: Array,
    count: Array,
    stacked: Batch,
) -> Array:
    """Trajectories of rows of chains, each row on one data set; see `stacked_kernel`.

    In whitened coordinates `x = start + factor u`, a step of size `e` is `u += e v`, then
    `v += e g` with `g` the gradient in `u`, of which the last is half; gradients are clipped.

    Args:
        target: the target.
        starts: `(rows, width, dim)`.
        speed: `v` after the first half step, `(rows, width, dim)`.
        factor: root of a covariance for each row, `(rows, dim, dim)`.
        size: `e` of each row, `(rows,)`.
        steps: number of steps of each row, `(rows,)`.
        bound: of the absolute values of `g`, `(rows,)`.
        sets: the data set of each row, `(rows,)`.
        count: number of rows in use.
        stacked: the data of all sets along a leading axis.

    Returns:
        Log density, gradient, points and speeds at the ends, `(rows, width, 1 + 3 dim)`, arbitrary
        in rows that are not in use.
    """

    def row(parts: tuple[Array, ...]) -> Array:
        starts, speed, factor, size, steps, bound, i = parts
        batch = jax.tree.map(lambda leaf: leaf[i], stacked)
        function = jax.value_and_grad(_log_density(target, False, batch, {}, {}))

        def step(
            number: Array, state: tuple[Array, Array, Array, Array]
        ) -> tuple[Array, Array, Array, Array]:
            moved, speed, _, _ = state
            # the way from the start, which rounding changes less than points far from zero
            moved = moved + size * _product(speed, factor.T)
            value, slope = over_points(target, function, starts + moved)
            whitened = jnp.nan_to_num(jnp.clip(_product(slope, factor), -bound, bound), nan=0.0)
            share = jnp.where(number < steps - 1, size, 0.5 * size)
            return moved, speed + share * whitened, value, slope

        nothing = jnp.zeros_like(starts)
        state = nothing, speed, nothing[:, 0], nothing
        moved, speed, value, slope = jax.lax.fori_loop(0, steps, step, state)
        return jnp.concatenate([value[:, None], slope, starts + moved, speed], axis=1)

    parts = (starts, speed, factor, size, steps, bound, sets)
    if default_platform() != "cpu":
        return jax.vmap(row)(parts)
    empty = jnp.zeros((*starts.shape[:2], 1 + 3 * starts.shape[2]), starts.dtype)
    return jax.lax.fori_loop(
        0, count, lambda i, found: found.at[i].set(row(tuple(part[i] for part in parts))), empty
    )


def _product(points: Array, matrix: Array) -> Array:
    return jnp.matmul(points, matrix, precision="highest")

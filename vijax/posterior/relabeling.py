"""Draws with the components of a mixture permuted, so that labels mean the same in all of them."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.contracts import Batch, Position, PyTree, Target
from vijax.diagnostics.importance import block_size
from vijax.posterior import draws
from vijax.posterior.components import Axes, Components
from vijax.posterior.result import FitResult
from vijax.runtime.blockwise import Arrays, map_blocks

_CHANGE = "log |dx/dz|"  # name of the change of the log Jacobian among the sites


def relabeled(result: FitResult, z: Arrays) -> Arrays:
    """Unconstrained draws with the labels of `result.relabeling`; as they are without one."""
    if not result.relabeling:
        return z
    axes: Axes = ()
    takes: list[np.ndarray] = []
    values = draws.constrain(result, z, result.unknown)
    for one in result.relabeling:
        order = assignments(features(values, one.components), one.locations, one.scales)
        axes += one.components.axes
        takes += [order] * len(one.components.axes)
    return permuted(result, z, axes, takes)[0]


def features(values: Arrays, components: Components) -> np.ndarray:
    """The values that belong to each component alone, `(num_draws, num_components, num)`.

    Of a matrix of transitions these are the probabilities to stay.
    """
    parts = []
    for name in dict.fromkeys(name for name, _ in components.axes):
        axes = [axis + 1 for other, axis in components.axes if other == name]
        value = np.moveaxis(values[name], axes, range(1, len(axes) + 1))
        value = np.einsum(f"n{'k' * len(axes)}...->nk...", value)
        parts.append(value.reshape(*value.shape[:2], -1).astype(np.float64))
    return np.concatenate(parts, axis=2)


def assignments(found: np.ndarray, locations: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """The component that each label stands for in every draw, `(num_draws, num_components)`.

    The one-to-one assignment of the largest Gaussian log density of features given their labels.

    Args:
        found: features, see `features`.
        locations: of the labels, `(num_components, num)`.
        scales: of the labels, likewise.
    """
    from scipy.optimize import linear_sum_assignment  # slow to import

    distance = (found[:, None] - locations[:, None]) / scales[:, None]
    costs = 0.5 * np.square(distance).sum(-1) + np.log(scales).sum(-1)[:, None]
    return np.array([linear_sum_assignment(cost)[1] for cost in costs])


def permuted(
    result: FitResult, z: Arrays, axes: Axes, takes: Sequence[np.ndarray]
) -> tuple[Arrays, np.ndarray]:
    """Draws with the entries of sites permuted along some axes, in the model's space.

    Args:
        result: of the fit.
        z: unconstrained draws by site, `(num_draws, *z_shape)`.
        axes: sites and axes of their values.
        takes: for each, the entries to take in order, `(num_draws, length)`.

    Returns:
        The permuted draws, and the changes of `log |dx/dz|`, `(num_draws,)`.
    """
    target, state = result.target, (result.variables.model, result.batch, result.mutable)
    program = target.program(_permuted, axes, quick=True)
    found = map_blocks(
        lambda part, rows: program(part, [take[rows] for take in takes], *state),
        z,
        block_size(result.batch, target.footprint),
    )
    changes = found.pop(_CHANGE)
    moved = np.any([(take != np.arange(take.shape[1])).any(axis=1) for take in takes], axis=0)
    out = {name: value.copy() for name, value in z.items()}
    for name, value in found.items():
        out[name][moved] = value[moved]  # others keep all their digits
    return out, np.where(moved, changes, 0.0)


def _permuted(
    target: Target,
    axes: Axes,
    z: Position,
    takes: list[Array],
    model: dict[str, PyTree],
    batch: Batch,
    mutable: dict[str, PyTree],
) -> Position:
    state = (batch, model, mutable)

    def one(z: Position, takes: list[Array]) -> Position:
        values = target.constrain(z, *state)
        values = {name: values[name] for name in target.space.names}
        for (name, axis), take in zip(axes, takes, strict=True):
            values[name] = jnp.take(values[name], take, axis=axis)
        new = target.unconstrain(values, *state)
        dets = (sum(target.log_dets(at, *state).values(), jnp.zeros(())) for at in (new, z))
        after, before = dets
        return {**new, _CHANGE: after - before}

    return jax.vmap(one)(z, takes)

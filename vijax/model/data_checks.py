"""Checks data for NaN and infinities before a fit."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.contracts import Batch, Target
from vijax.model.tracing.arguments import Arguments
from vijax.runtime.errors import ModelError

_NUM_POINTS = 4


def check_data(target: Target, arguments: Arguments, batch: Batch) -> None:
    """Refuses NaN and infinities among the arguments, unless the model masks them.

    Takes one pass over arrays that are finite. If some value is not, the log density and its
    gradient are evaluated at a few points; if both are finite, the model does not use the value.

    Args:
        target: the model.
        arguments: its static arguments; a Python number may be NaN, too.
        batch: its data; some rows of those that are not in memory.

    Raises:
        ModelError: naming the argument, how many of its values are not finite, and the first.
    """
    static = arguments.static().items()
    values = batch.data | {k: v for k, v in static if isinstance(v, (float, np.ndarray))}
    labels = {f"argument {name!r}": value for name, value in values.items()}
    labels |= {f"argument {n!r}, in the first batch": rows for n, rows in batch.fetched.items()}
    found = [text for label, value in labels.items() if (text := _describe(label, value))]
    if not found:
        return
    density, gradient = jax.device_get(target.program(_finite)(jax.random.key(0), batch))
    if (density & gradient).any():
        return
    if density.any():
        raise ModelError(
            f"{'; '.join(found)}. The model masks them: its log density is finite, but its "
            "gradient is not, because NaN times zero is NaN. Replace them by any finite value "
            "before the fit, such as numpy.where(mask, y, 0.0)."
        )
    raise ModelError(
        f"{'; '.join(found)}. The log density at these data is not finite. Drop these rows, "
        "impute them, or mask them in the model: numpyro.sample(..., obs_mask=mask) or "
        "numpyro.handlers.mask, with a finite value in their place."
    )


def _describe(label: str, array: Array | np.ndarray | float) -> str:
    """The values in an array that are not finite, an empty string if there are none."""
    if not jnp.issubdtype(jnp.result_type(array), jnp.inexact) or _all_finite(array):
        return ""
    host = np.asarray(array)
    bad = ~np.isfinite(host)
    first = [int(i) for i in np.argwhere(bad)[0]]
    value = host[tuple(first)]
    if not first:
        return f"{label}: the value is {value}"
    return (
        f"{label}: {bad.sum()} of {bad.size} values are not finite, the first is "
        f"{value} at index {first}"
    )


def _all_finite(array: Array | np.ndarray | float) -> bool:
    if isinstance(array, jax.Array) and next(iter(array.devices())).platform != "cpu":
        return bool(jnp.isfinite(array).all())
    host = np.asarray(array)  # no copy
    with np.errstate(all="ignore"):
        # a sum takes one pass and no memory; it is finite only if all terms are
        return bool(np.isfinite(host.sum()) or np.isfinite(host).all())


def _finite(target: Target, key: Array, batch: Batch) -> tuple[Array, Array]:
    """Whether the log density and its gradient are finite at a few points."""
    start_key, key = jax.random.split(key)
    model, mutable = target.initialize(start_key, batch)

    def at(vector: Array) -> tuple[Array, Array]:
        value, gradient = jax.value_and_grad(
            lambda v: target.log_density(target.space.unravel(v), batch, model, mutable)
        )(vector)
        return jnp.isfinite(value), jnp.isfinite(gradient).all()

    points = jax.random.uniform(key, (_NUM_POINTS, target.space.dim), minval=-1.0, maxval=1.0)
    return jax.vmap(at)(points)

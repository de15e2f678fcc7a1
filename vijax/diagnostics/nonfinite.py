"""Diagnosis of a non-finite gradient step: the site, its value and the key of the step."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.contracts import Batch, Guide, Position, PyTree, Target, Variables


class NonFinite(NamedTuple):
    """A step whose loss or gradient was not finite.

    Attributes:
        step: number of the step.
        site: the first site whose log density or gradient is not finite.
        quantity: which of its quantities: `"value"`, `"log density"`, `"gradient"`.
        value: the site's value there (shape and range of a large array).
        key: raw data of the step's key: `jax.random.wrap_key_data(key)` reproduces the draw.
    """

    step: int
    site: str
    quantity: str
    value: str
    key: tuple[int, ...]

    def __str__(self) -> str:
        return (
            f"{self.quantity} of site {self.site!r} at {self.value}; reproduce with the same "
            f"rng_key, on gradient step {self.step}"
        )


def diagnose(
    target: Target,
    guide: Guide,
    variables: Variables,
    mutable: dict[str, PyTree],
    key: Array,
    batch: Batch,
    step: int,
) -> NonFinite:
    """Repeats the first draw of a step and finds the first site that is not finite.

    Args:
        target: the target on a batch.
        guide: the guide.
        variables: its parameters and the model's, before the step.
        mutable: the model's mutable state.
        key: random key of the step.
        batch: the batch of the step.
        step: number of the step.
    """
    z = guide.draw(variables.guide, target.space, key, batch).z
    batch = batch._replace(key=jax.random.fold_in(key, 1))
    site, quantity = locate(target, z, batch, variables, mutable)
    try:
        values = target.constrain(z, batch, variables.model, mutable)
    except (TypeError, ValueError):  # the model does not run at these values
        values = {}
    raw = tuple(int(part) for part in np.ravel(jax.random.key_data(key)))
    return NonFinite(step, site, quantity, describe(values.get(site, z.get(site))), raw)


def locate(
    target: Target,
    z: Position,
    batch: Batch,
    variables: Variables,
    mutable: dict[str, PyTree],
) -> tuple[str, str]:
    """The first site, in the model's order, that is not finite, and which of its quantities."""
    for name, value in z.items():
        if not np.all(np.isfinite(value)):
            return name, "value"
    log_probs = target.site_log_probs(z, batch, variables.model, mutable)
    for name, log_prob in log_probs.items():
        if not np.all(np.isfinite(log_prob)):
            return name, "log density"

    continuous = {name: z[name] for name in target.space.continuous.names}

    def log_density(continuous: Position) -> Array:
        return target.log_density({**z, **continuous}, batch, variables.model, mutable)

    for name, gradient in jax.grad(log_density)(continuous).items():
        if not np.all(np.isfinite(gradient)):
            return name, "gradient"
    return "(model)", "gradient"


def describe(value: Array | None) -> str:
    """A value as text: in full if small, else its shape and range."""
    if value is None:
        return "its observed value"
    array = np.asarray(value)
    if array.size <= 8:
        return np.array2string(array, precision=4, separator=", ")
    num_bad = int(np.sum(~np.isfinite(array)))
    low, high = float(jnp.nanmin(array)), float(jnp.nanmax(array))
    return f"an array {array.shape} in [{low:.4g}, {high:.4g}] with {num_bad} non-finite entries"

"""What went wrong at a step that was not finite: the culprit site, its value, a replayable key."""

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
        what: which of its quantities: `"value"`, `"log density"`, `"gradient"`.
        value: the site's value there (its extremes, for a long one).
        key: raw data of the step's key: `jax.random.wrap_key_data(key)` replays the draw.
    """

    step: int
    site: str
    what: str
    value: str
    key: tuple[int, ...]

    def __str__(self) -> str:
        return (
            f"step {self.step}: the {self.what} of site {self.site!r} is not finite at "
            f"{self.value}; replay with jax.random.wrap_key_data(jnp.array({list(self.key)}, "
            "dtype='uint32'))"
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
    """Repeats a step's first draw and finds the first site that is not finite."""
    z = guide.draw(variables.guide, target.space, key, batch).z
    batch = batch._replace(key=jax.random.fold_in(key, 1))
    site, what = locate(target, z, batch, variables, mutable)
    try:
        values = target.constrain(z, batch, variables.model, mutable)
    except (TypeError, ValueError):  # a model that cannot even run there
        values = {}
    raw = tuple(int(part) for part in np.ravel(jax.random.key_data(key)))
    return NonFinite(step, site, what, describe(values.get(site, z.get(site))), raw)


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

    smooth = {name: z[name] for name in target.space.continuous.names}

    def log_density(smooth: Position) -> Array:
        return target.log_density({**z, **smooth}, batch, variables.model, mutable)

    for name, gradient in jax.grad(log_density)(smooth).items():
        if not np.all(np.isfinite(gradient)):
            return name, "gradient"
    return "(model)", "gradient"


def describe(value: Array | None) -> str:
    """A value in a line: itself if short, else its shape and extremes."""
    if value is None:
        return "its observed value"
    array = np.asarray(value)
    if array.size <= 8:
        return np.array2string(array, precision=4, separator=", ")
    bad = int(np.sum(~np.isfinite(array)))
    low, high = float(jnp.nanmin(array)), float(jnp.nanmax(array))
    return f"an array {array.shape} in [{low:.4g}, {high:.4g}] with {bad} non-finite entries"

"""The posterior draw of a latent site at new inputs, also at a larger size than in the fit.

Rows of a plate are conditionally independent, so that new ones are draws of the site's
distribution given the other latents of the same draw. A scan and a Gaussian random walk continue
from their last fitted step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array

from vijax.model.tracing.handler import Message, Step
from vijax.model.tracing.sites import at_step, site_shape
from vijax.model.tracing.wrappers import base_distribution
from vijax.runtime.errors import ModelError

Shape = tuple[int, ...]


class Growing(NamedTuple):
    """The plates that may be larger than in the fit: their further rows are new.

    Attributes:
        plates: their names.
        sizes: `(size in the fit, size now)` of other plates that may.
    """

    plates: frozenset[str] = frozenset()
    sizes: frozenset[tuple[int, int]] = frozenset()


NO_GROWTH = Growing()


def fitted_value(
    name: str,
    site: Message,
    steps: tuple[Step, ...],
    series: Array,
    draw: Callable[[], Array],
    growing: Growing,
) -> Array | None:
    """The value of a latent site at the current step, `None` if its size does not allow one.

    Args:
        name: of the site.
        site: its message.
        steps: of the scans it is in.
        series: the posterior draw, with a leading axis for each scan.
        draw: draws from the site's distribution.
        growing: the plates that may be larger.
    """
    expected = (*(step.length for step in steps), *site_shape(site))
    if series.shape == expected:
        return at_step(series, steps)
    if series.ndim != len(expected):
        return None
    axes = {
        axis
        for axis, plate in _plate_axes(site, steps).items()
        if plate in growing.plates or (series.shape[axis], expected[axis]) in growing.sizes
    }
    axes |= {0} if len(steps) == 1 else set()
    axes |= {len(expected) - 1} if _is_random_walk(site) else set()
    for axis, (old, new) in enumerate(zip(series.shape, expected, strict=True)):
        if old > new or (old < new and axis not in axes):
            return None
    return _grown(site, steps, series, draw())


def other_size(name: str, site: Message, steps: tuple[Step, ...], fitted: Shape) -> ModelError:
    """The error for a latent of another size than in the fit, with a remedy."""
    expected = (*(step.length for step in steps), *site_shape(site))
    plates = _plate_axes(site, steps)
    sizes = zip(fitted, expected, strict=False)
    smaller: list[str | None] = []
    larger: list[str | None] = []
    for axis, (old, new) in enumerate(sizes):
        if old != new:
            (smaller if old > new else larger).append(plates.get(axis))
    if len(fitted) != len(expected) or None in (*smaller, *larger):
        remedy = (
            "New members can be drawn along a numpyro.plate (new_groups=), and a scan may have "
            "more steps, not fewer. Write the model with one of them; a time series, for example, "
            "with its innovations in a plate."
        )
    elif smaller:
        remedy = (
            "The posterior is that of all fitted members: predict with the same plate sizes, where "
            f"rows need not use each, or draw others from their prior with from_prior=[{name!r}]."
        )
    else:
        names = repr(larger[0]) if len(larger) == 1 else repr(larger)
        remedy = (
            f"If the members of the fit come first and the others are new, pass new_groups={names} "
            f"to draw these given the fitted ones; or draw all from their prior with "
            f"from_prior=[{name!r}]."
        )
    return ModelError(
        f"site {name!r}: expected the shape {fitted} that it had in the fit, got {expected} at "
        f"these inputs. {remedy}"
    )


def _plate_axes(site: Message, steps: tuple[Step, ...]) -> dict[int, str]:
    """The plate along each axis of a site's value over all steps."""
    batch_end = len(steps) + len(site_shape(site)) - len(site["fn"].event_shape)
    return {batch_end + frame.dim: frame.name for frame in site["cond_indep_stack"]}


def _is_random_walk(site: Message) -> bool:
    return isinstance(base_distribution(site["fn"]), dist.GaussianRandomWalk)


def _grown(site: Message, steps: tuple[Step, ...], series: Array, fresh: Array) -> Array:
    """A draw of all rows with the fitted ones in front, at the current step."""
    past = series
    for step in steps:
        past = past[jnp.minimum(step.index, len(past) - 1)]
    rows = tuple(slice(length) for length in past.shape)
    value = fresh.at[rows].set(past)
    if _is_random_walk(site) and past.shape[-1] < fresh.shape[-1]:
        length, known = past.shape[-1], fresh[rows[:-1]]  # the walk goes on from where it is
        further = past[..., -1:] + known[..., length:] - known[..., length - 1 : length]
        value = value.at[(*rows[:-1], slice(length, None))].set(further)
    for step, length in zip(steps, series.shape, strict=False):
        value = jnp.where(step.index < length, value, fresh)
    return value

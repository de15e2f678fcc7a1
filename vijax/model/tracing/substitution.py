"""Where the values of latent sites come from: what `vijax.model.tracing.run.run` is told to put there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jax import Array

from vijax.model.discrete.forward_backward import Before
from vijax.model.tracing.checks import check_discrete, check_latent
from vijax.model.tracing.discrete_values import drawn_value, from_drawn_value
from vijax.model.tracing.handler import Record, Step, without_masks
from vijax.model.tracing.location_scale import (
    LocationScale,
    coordinate,
    location_scale,
    log_prior_sd,
    place,
)
from vijax.model.tracing.run import (
    Sampler,
    Site,
    at_step,
    fixed_value,
    is_drawn,
    is_latent,
    site_shape,
)
from vijax.model.tracing.supports import bijector
from vijax.runtime.errors import ModelError, mismatch


def _of_latents(sampler: Sampler) -> Sampler:
    """The sampler for latent sites that can vary; others keep what they have."""

    def of_any(name: str, site: Site, steps: tuple[Step, ...]) -> Any:
        if not is_latent(site):
            return None
        fixed = fixed_value(site)
        return sampler(name, site, steps) if fixed is None else fixed

    return of_any


def from_unconstrained(
    z: Mapping[str, Array], centering: Mapping[str, Array] | None = None
) -> Sampler:
    """Latent values from unconstrained ones; `log |dx/dz|` is recorded beside each.

    Those of a discrete site are the numbers of its values; one without gets the first value. Where
    steps are taken side by side `Before(name)` has the number one step earlier.
    `centering` says in which coordinates sites are, see `Batch`.
    """
    weights = centering or {}

    @_of_latents
    def sampler(name: str, site: Site, steps: tuple[Step, ...]) -> Array | None:
        if site["fn"].is_discrete and not is_drawn(site):
            return discrete_value(name, site, _state(name, z, steps))
        if name not in z:
            raise ModelError(mismatch(f"site {name!r}", "a value", f"values of {sorted(z)} only"))
        if is_drawn(site):
            least = at_step(weights[name], steps) if name in weights else 0
            return drawn_value(name, site, at_step(z[name], steps), least)
        if name in weights:
            return _place(name, site, at_step(z[name], steps), at_step(weights[name], steps))
        return _transform(site, at_step(z[name], steps))

    return sampler


def from_values(values: Mapping[str, Any], centering: Mapping[str, Array] | None = None) -> Sampler:
    """Latent values as given; the unconstrained ones are recorded beside them.

    Sites without a value are put at the origin of unconstrained space. `centering` as for
    `from_unconstrained`.
    """
    weights = centering or {}

    def sampler(name: str, site: Site, steps: tuple[Step, ...]) -> Array | None:
        if name not in values or not is_latent(site):
            return at_origin(name, site, steps)
        if is_drawn(site):
            check_shape(name, jnp.shape(values[name]), site, steps)
            least = at_step(weights[name], steps) if name in weights else 0
            return from_drawn_value(name, site, at_step(jnp.asarray(values[name]), steps), least)
        dtype = jnp.result_type(values[name], float)
        series = jnp.asarray(values[name], dtype)
        check_shape(name, jnp.shape(series), site, steps)
        x = at_step(series, steps)
        z = bijector(site["fn"].support).inverse(x)
        if name in weights:
            z = coordinate(z, at_step(weights[name], steps), _prior(name, site))
        site["intermediates"] = Record(z, jnp.zeros(()))
        return x

    return sampler


def at_origin(name: str, site: Site, steps: tuple[Step, ...]) -> Array | None:
    """A value inside the support, near the origin of unconstrained space."""
    # one, not zero: the origin is no point on a sphere
    return at_level(1.0)(name, site, steps)


def at_level(level: float | Array) -> Sampler:
    """Values with `level` in every unconstrained coordinate, and the log scales beside them."""

    @_of_latents
    def sampler(name: str, site: Site, steps: tuple[Step, ...]) -> Array | None:
        if is_drawn(site):
            return drawn_value(name, site, jnp.zeros(site_shape(site), jnp.int32))
        if site["fn"].is_discrete:
            return discrete_value(name, site, 0)
        check_latent(name, site)
        z = jnp.full(bijector(site["fn"].support).z_shape(site_shape(site)), level)
        x = _transform(site, z)
        prior = location_scale(site["fn"])
        if prior is not None:
            spread = jnp.zeros(jnp.shape(z)) + jnp.sum(prior.scale)  # asked for what it depends on
            site["intermediates"] = site["intermediates"]._replace(log_prior_sd=spread)
        return x

    return sampler


def discrete_value(name: str, site: Site, state: Array | int) -> Array:
    """The value of a discrete site with a number, or with numbers of the site's shape.

    Masks on it are dropped: where a masked site is not used, its own prior sums to one, and what
    is summed out stays the evidence.

    Raises:
        ModelError: the site has no finite list of values.
    """
    check_discrete(name, site)
    support = jnp.ravel(site["fn"].enumerate_support(expand=False))
    site["fn"] = without_masks(site["fn"])
    site["_states"] = len(support)
    return jnp.broadcast_to(support[state], site_shape(site))


def _state(name: str, z: Mapping[Any, Array], steps: tuple[Step, ...]) -> Array | int:
    """The number of the value of a discrete site; a scalar holds in all rows and steps."""
    moment = steps[-1].moment if steps else "now"
    state = z.get({"now": name, "before": Before(name)}.get(moment))
    if state is None:
        return 0
    return at_step(state, steps) if jnp.ndim(state) else state


def _transform(site: Site, z: Array) -> Array:
    x, log_det = bijector(site["fn"].support).forward(z)
    site["intermediates"] = Record(z, log_det)
    return x


def _place(name: str, site: Site, w: Array, weight: Array) -> Array:
    """The value at coordinate `w` of another centering."""
    prior = _prior(name, site)
    z, stretch = place(w, weight, prior)
    x, log_det = bijector(site["fn"].support).forward(z)
    spread = log_prior_sd(weight, prior)
    site["intermediates"] = Record(w, log_det + stretch, log_prior_sd=spread)
    return x


def _prior(name: str, site: Site) -> LocationScale:
    found = location_scale(site["fn"])
    if found is None:
        raise ModelError(
            f"centering of site {name!r}: expected a prior with a location and a scale, such as "
            f"Normal or StudentT, got {type(site['fn']).__name__}. Leave the site out."
        )
    return found


def check_shape(name: str, shape: tuple[int, ...], site: Site, steps: tuple[Step, ...]) -> None:
    """Compares the shape of a value with that of its site.

    Raises:
        ModelError: naming the site and both shapes.
    """
    expected = (*(step.length for step in steps), *site_shape(site))
    if tuple(shape) != expected:
        raise ModelError(mismatch(f"site {name!r}", f"a value of shape {expected}", f"{shape}"))

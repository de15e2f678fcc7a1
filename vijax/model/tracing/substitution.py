"""Substitutions: functions that determine the values of latent sites, see `SubstituteFn`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from vijax.model.tracing.checks import check_discrete, check_latent
from vijax.model.tracing.discrete_values import value_at_index, with_index
from vijax.model.tracing.exact_densities import log_prob_at
from vijax.model.tracing.handler import (
    Message,
    Previous,
    Record,
    Step,
    SubstituteFn,
    combined_mask,
    without_masks,
)
from vijax.model.tracing.location_scale import (
    LocationScale,
    from_partially_centered,
    location_scale,
    log_prior_sd,
    to_partially_centered,
)
from vijax.model.tracing.shared_priors import Groups, SharedPriors
from vijax.model.tracing.sites import (
    at_step,
    fixed_value,
    is_latent,
    is_sampled,
    site_shape,
)
from vijax.model.tracing.supports import is_unbounded, site_bijector
from vijax.runtime.errors import ModelError, mismatch
from vijax.runtime.precision import full_precision


def _of_latents(substitute_fn: SubstituteFn) -> SubstituteFn:
    """The substitution restricted to latent sites; point masses have their only value."""

    def of_any(name: str, site: Message, steps: tuple[Step, ...]) -> Any:
        if not is_latent(site):
            return None
        fixed = fixed_value(site)
        return substitute_fn(name, site, steps) if fixed is None else fixed

    return of_any


def from_unconstrained(
    z: Mapping[str, Array],
    centering: Mapping[str, Array] | None = None,
    groups: Groups = (),
) -> SubstituteFn:
    """Latent values from unconstrained ones; records `log |dx/dz|` of each.

    Args:
        z: unconstrained values by site. Those of a discrete site are indices of its values, 0 for
            a marginalized site without any; in vectorized scans `Previous(name)` has the index at
            the previous step.
        centering: the parameterization of sites, see `Batch`.
        groups: sites in `centering` that share a prior.
    """
    weights = centering or {}
    shared = SharedPriors(groups, _centered, z, weights)

    @_of_latents
    def substitute(name: str, site: Message, steps: tuple[Step, ...]) -> Array | None:
        if site["fn"].is_discrete and not is_sampled(site):
            return enumerated_value(name, site, _enumerated_index(name, z, steps))
        if name not in z:
            raise ModelError(mismatch(f"site {name!r}", "a value", f"values of {sorted(z)} only"))
        if is_sampled(site):
            lower_bound = at_step(weights[name], steps) if name in weights else 0
            return value_at_index(name, site, at_step(z[name], steps), lower_bound)
        if name in weights:
            w = at_step(z[name], steps)
            results = shared.results(name, site)
            if results is None:
                results = _centered(w, at_step(weights[name], steps), _prior(name, site))
            return _record_centered(site, w, *results)
        return _transform(site, at_step(z[name], steps))

    return substitute


def from_values(
    values: Mapping[str, Any],
    centering: Mapping[str, Array] | None = None,
    groups: Groups = (),
) -> SubstituteFn:
    """Latent values as given; records the unconstrained ones.

    Args:
        values: constrained values by site; other sites are at the origin of unconstrained space.
        centering: the parameterization of sites, see `Batch`.
        groups: sites in `centering` that share a prior.
    """
    weights = centering or {}
    shared = SharedPriors(groups, _to_centered, values, weights)

    def substitute(name: str, site: Message, steps: tuple[Step, ...]) -> Array | None:
        if name not in values or not is_latent(site):
            return at_origin(name, site, steps)
        if is_sampled(site):
            check_shape(name, jnp.shape(values[name]), site, steps)
            lower_bound = at_step(weights[name], steps) if name in weights else 0
            value = at_step(jnp.asarray(values[name]), steps)
            return with_index(name, site, value, lower_bound)
        dtype = jnp.result_type(values[name], float)
        series = jnp.asarray(values[name], dtype)
        check_shape(name, jnp.shape(series), site, steps)
        x = at_step(series, steps)
        z = site_bijector(site["fn"]).inverse(x)
        if name in weights:
            results = shared.results(name, site) if is_unbounded(site["fn"]) else None
            if results is None:
                results = _to_centered(z, at_step(weights[name], steps), _prior(name, site))
            (z,) = results
        site["intermediates"] = Record(z, jnp.zeros(()))
        return x

    return substitute


def from_constrained(values: Mapping[str, Array], states: Mapping[Any, Array]) -> SubstituteFn:
    """Latent values as given, without unconstrained ones; discrete sites at indices `states`."""

    @_of_latents
    def substitute(name: str, site: Message, steps: tuple[Step, ...]) -> Array | None:
        if site["fn"].is_discrete and not is_sampled(site):
            return enumerated_value(name, site, _enumerated_index(name, states, steps))
        x = at_step(values[name], steps)
        site["intermediates"] = Record(x, jnp.zeros(()))
        return x

    return substitute


def at_origin(name: str, site: Message, steps: tuple[Step, ...]) -> Array | None:
    """A value inside the support, near the origin of unconstrained space."""
    # one, not zero: the origin is not on a sphere
    return at_constant(1.0)(name, site, steps)


def at_origin_or_draw(name: str, site: Message, steps: tuple[Step, ...]) -> Array | None:
    """The same, and a draw where there is none: only shapes are needed."""
    try:
        return at_origin(name, site, steps)
    except (ModelError, jax.errors.ConcretizationTypeError):  # a binomial with counts from data
        return None


def at_constant(constant: float | Array) -> SubstituteFn:
    """Latent values with all unconstrained coordinates equal to `constant`; records log scales."""

    @_of_latents
    def substitute(name: str, site: Message, steps: tuple[Step, ...]) -> Array | None:
        if is_sampled(site):
            return value_at_index(name, site, jnp.zeros(site_shape(site), jnp.int32))
        if site["fn"].is_discrete:
            return enumerated_value(name, site, 0)
        check_latent(name, site)
        z = jnp.full(site_bijector(site["fn"]).z_shape(site_shape(site)), constant)
        x = _transform(site, z)
        prior = location_scale(site["fn"])
        if prior is not None:
            # not for its value, but for what it depends on
            scale = jnp.zeros(jnp.shape(z)) + jnp.sum(prior.scale)
            site["intermediates"] = site["intermediates"]._replace(log_prior_sd=scale)
        return x

    return substitute


def enumerated_value(name: str, site: Message, index: Array | int) -> Array:
    """The values of an enumerated site at indices, a scalar or of the site's shape.

    Its distribution loses its masks, which are recorded, see `vijax.model.discrete.masks`.

    Raises:
        ModelError: the support of the site is not finite.
    """
    check_discrete(name, site)
    support = jnp.ravel(site["fn"].enumerate_support(expand=False))
    mask = combined_mask(site["fn"])
    if mask is not None:
        site["intermediates"] = Record(mask=mask)
    site["fn"] = without_masks(site["fn"])
    site["_num_states"] = len(support)
    return jnp.broadcast_to(support[index], site_shape(site))


def _enumerated_index(name: str, z: Mapping[Any, Array], steps: tuple[Step, ...]) -> Array | int:
    """The index of an enumerated site's value; a scalar applies to all rows and steps."""
    states = steps[-1].states if steps else "current"
    index = z.get({"current": name, "previous": Previous(name)}.get(states))
    if index is None:
        return 0
    return at_step(index, steps) if jnp.ndim(index) else index


def _transform(site: Message, z: Array) -> Array:
    x, log_det = site_bijector(site["fn"]).forward(z)
    with full_precision():
        log_prob = log_prob_at(site["fn"], z)
    site["intermediates"] = Record(z, log_det, log_prob)
    site["_num_masks"] = 0  # none in this log density
    return x


def _centered(w: Array, weight: Array, prior: LocationScale) -> tuple[Array, Array, Array]:
    """The unconstrained value at the partially centered `w`, `log |dz/dw|`, log prior sd."""
    return *from_partially_centered(w, weight, prior), log_prior_sd(weight, prior)


def _to_centered(z: Array, weight: Array, prior: LocationScale) -> tuple[Array]:
    return (to_partially_centered(z, weight, prior),)


def _record_centered(site: Message, w: Array, z: Array, log_scale: Array, log_sd: Array) -> Array:
    """Records the results of `_centered`; returns the constrained value."""
    x, log_det = z, log_scale
    if not is_unbounded(site["fn"]):
        x, log_jacobian = site_bijector(site["fn"]).forward(z)
        log_det = log_jacobian + log_scale
    site["intermediates"] = Record(w, log_det, log_prior_sd=log_sd)
    return x


def _prior(name: str, site: Message) -> LocationScale:
    found = location_scale(site["fn"])
    if found is None:
        raise ModelError(
            f"centering of site {name!r}: expected a prior with a location and a scale, such as "
            f"Normal or StudentT, got {type(site['fn']).__name__}. Leave the site out."
        )
    return found


def check_shape(name: str, shape: tuple[int, ...], site: Message, steps: tuple[Step, ...]) -> None:
    """Compares the shape of a value with that of its site.

    Raises:
        ModelError: naming the site and both shapes.
    """
    expected = (*(step.length for step in steps), *site_shape(site))
    if tuple(shape) != expected:
        raise ModelError(mismatch(f"site {name!r}", f"a value of shape {expected}", f"{shape}"))

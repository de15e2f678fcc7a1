"""Posterior probabilities of the values of discrete latent sites, of fitted or of new rows."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.contracts import Batch, DiscreteGuide, Family, Position, PyTree, Site, Target
from vijax.diagnostics.importance import block_size
from vijax.posterior import condition
from vijax.posterior.requirements import require_data
from vijax.posterior.result import FitResult
from vijax.posterior.sampling import unconstrained
from vijax.runtime.blockwise import Arrays
from vijax.runtime.device_layout import on_host
from vijax.runtime.errors import ModelError

_NAME = "discrete_probs"


def discrete_probs(
    result: FitResult, key: Array, args: tuple[Any, ...], kwargs: dict[str, Any], num_draws: int
) -> Arrays:
    """See `Posterior.discrete_probs`."""
    _check_sites(result.target)
    fit = result
    if args or kwargs:
        result = condition.on_rows(result, _NAME, args, kwargs)
    require_data(result, _NAME)
    # the data of the fit correct draws, so that these are the fit's, unless the rows have latents
    draws_of = result if fit.guide.amortized else fit
    z = unconstrained(draws_of, key, num_draws)
    found = _marginalized(result, z) if result.target.marginalized.sizes else {}
    found |= _of_guide(result, z, draws_of.corrects or bool(fit.relabeling))
    return {name: found[name] for name in result.target.structure.dims if name in found}


def _check_sites(target: Target) -> None:
    """Checks that there is a discrete latent site with finitely many values."""
    counts = [site.name for site in target.space.discrete.sites if not site.cardinality]
    if len(counts) == len(target.space.discrete.sites) and not target.marginalized.sizes:
        got = f"counts {counts} without a largest value; use sample()" if counts else "none"
        raise ModelError(
            f"{_NAME}: expected discrete latent sites with a list of values, got {got}."
        )


def _marginalized(result: FitResult, z: Arrays) -> Arrays:
    """Probabilities given the draws `z` of the other sites, averaged a block of draws at a time."""
    target, batch = result.target, result.batch._replace(index={})
    program = target.program(_mean_probs)
    num_draws, size = len(next(iter(z.values()))), block_size(batch, target.footprint)
    total: Arrays = {}
    for start in range(0, num_draws, size):
        rows = np.arange(start, start + size)
        weights = (rows < num_draws) / num_draws  # zero for copies of the last draw
        part = {name: value[np.minimum(rows, num_draws - 1)] for name, value in z.items()}
        state = (result.variables.model, batch, result.mutable)
        for name, mean in on_host(program(part, weights, *state)).items():
            total[name] = total.get(name, 0.0) + mean.astype(np.float64)
    return total


def _of_guide(result: FitResult, z: Arrays, changed: bool) -> Arrays:
    """Probabilities of the guide's discrete sites; frequencies in draws that were changed."""
    sites = {site.name: site for site in result.target.space.discrete.sites if site.cardinality}
    if isinstance(result.guide, DiscreteGuide) and not changed:
        batch = result.batch._replace(index={})
        families = result.guide.families(result.params, result.target.space, batch)
        return {name: on_host(_probs(families[name], site)) for name, site in sites.items()}
    return {
        name: np.stack([np.mean(z[name] == k, axis=0) for k in range(site.cardinality or 0)], -1)
        for name, site in sites.items()
    }


def _mean_probs(
    target: Target,
    z: Position,
    weights: Array,
    model: dict[str, PyTree],
    batch: Batch,
    mutable: dict[str, PyTree],
) -> dict[str, Array]:
    each = jax.vmap(lambda one: target.discrete_probs(one, batch, model, mutable))(z)
    return {name: jnp.tensordot(weights, probs, 1) for name, probs in each.items()}


def _probs(family: Family, site: Site) -> Array:
    """The probabilities of all values of a distribution in the guide, `(*shape, values)`."""
    values = jnp.arange(family.size or 0)
    log_probs = jax.vmap(lambda k: family.log_prob(jnp.full(site.shape, k)))(values)
    return jnp.moveaxis(jnp.exp(log_probs), 0, -1)

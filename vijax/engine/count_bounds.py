"""Lower bounds that the data place on latent counts, so that guides have no mass below them.

The size of a population is at least the number of animals observed. With a guide over all counts
from zero the ELBO would be minus infinity; the guide is therefore over `count - lower bound`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from vijax.contracts import Batch, PyTree, Site, Target
from vijax.engine.problem import Problem
from vijax.objectives.estimators.rao_blackwell import markov_blanket_sum

_BITS = 20  # the search covers counts up to a million


def with_count_bounds(
    problem: Problem, model: Mapping[str, PyTree], mutable: Mapping[str, PyTree]
) -> Problem:
    """The problem with lower bounds of its counts as their origin in unconstrained space.

    The bounds are found by bisection, in parallel over all entries of all sites. A value is
    possible if the terms in the entry's Markov blanket are finite, which is assumed to hold for all
    larger values too. Each row of a plate has its own bound. With one subsampled plate only counts
    inside it are bounded, a block of rows at a time; with several, none are.
    """
    target, batch = problem.target, problem.batch
    sites = [site for site in target.space.sites if site.cardinality == 0]
    state, found = (model, mutable), {}
    if not target.subsampled:
        found = lower_bounds(target, batch, sites, *state)
    elif len(target.subsampled) == 1:
        ((plate, size),) = target.subsampled.items()
        inside = [site for site in sites if site.axes([plate]).pairs]
        if inside:
            parts = [
                lower_bounds(target.on_batch, rows, inside, *state)
                for rows in problem.row_blocks(plate, size)
            ]
            found = {site.name: _concatenate(site, plate, parts) for site in inside}
    positive = {name: bounds for name, bounds in found.items() if bounds.any()}
    centering = {**batch.centering, **jax.device_put(positive)}
    return dataclasses.replace(problem, batch=batch._replace(centering=centering))


def lower_bounds(
    target: Target,
    batch: Batch,
    sites: Collection[Site],
    model: Mapping[str, PyTree],
    mutable: Mapping[str, PyTree],
) -> dict[str, np.ndarray]:
    """The lower bounds of some count sites, by site `z_shape`; 0 where no value is possible."""
    if not sites:
        return {}
    names = tuple(site.name for site in sites)
    return jax.device_get(target.program(_bisect, names)(batch, model, mutable))


def _concatenate(site: Site, plate: str, parts: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
    """The rows of all blocks, without the padding of the last one."""
    ((_, axis),) = site.axes([plate]).pairs
    padded = np.concatenate([one[site.name] for one in parts], axis)
    return padded.take(np.arange(site.z_shape[axis]), axis)


def _bisect(
    target: Target, names: tuple[str, ...], batch: Batch, model: PyTree, mutable: PyTree
) -> dict[str, Array]:
    sites = target.space.subset(names).sites
    terms, layout = target.terms, target.term_info(batch)
    others = {site.name: jnp.zeros(site.z_shape) for site in target.space.sites}

    def possible(states: dict[str, Array]) -> dict[str, Array]:
        values = terms({**others, **states}, batch, model, mutable).values
        return {
            site.name: jnp.broadcast_to(
                jnp.isfinite(markov_blanket_sum(site, values, layout)), site.z_shape
            )
            for site in sites
        }

    def halve(
        _: Array, bracket: tuple[dict[str, Array], dict[str, Array]]
    ) -> tuple[PyTree, PyTree]:
        low, high = bracket
        middle = jax.tree.map(lambda a, b: (a + b) // 2, low, high)
        fits = possible(middle)
        return (
            jax.tree.map(lambda fit, a, b: jnp.where(fit, a, b), fits, low, middle),
            jax.tree.map(lambda fit, a, b: jnp.where(fit, b, a), fits, high, middle),
        )

    low = {site.name: jnp.full(site.z_shape, -1) for site in sites}
    high = {site.name: jnp.full(site.z_shape, 2**_BITS - 1) for site in sites}
    bounds = lax.fori_loop(0, _BITS, halve, (low, high))[1]
    # where even the largest value searched is impossible, there is no bound
    return jax.tree.map(lambda fit, one: jnp.where(fit, one, 0), possible(bounds), bounds)

"""The least values that the data allow counts, so that a guide puts nothing on impossible ones.

A count of animals is no less than the number that was seen. A guide over all counts from zero would
have an ELBO of minus infinity there; numbered from the least possible value, counts are free.
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

_BITS = 20  # counts up to a million are tried


def with_count_bounds(
    problem: Problem, model: Mapping[str, PyTree], mutable: Mapping[str, PyTree]
) -> Problem:
    """The problem with counts in its space numbered from their least possible values.

    These are found by bisection, all entries of all sites at once, each judged by the terms that
    it has a part in: what is possible from some value on. RowSchedule of a plate are told apart. Where
    rows are cut into batches it is counts of these rows alone, some rows at a time, and of the
    rows of one plate.
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
            some = [
                lower_bounds(target.on_batch, rows, inside, *state)
                for rows in problem.by_rows(plate, size)
            ]
            found = {site.name: _together(site, plate, some) for site in inside}
    lifted = {name: one for name, one in found.items() if one.any()}
    centering = {**batch.centering, **jax.device_put(lifted)}
    return dataclasses.replace(problem, batch=batch._replace(centering=centering))


def lower_bounds(
    target: Target,
    batch: Batch,
    sites: Collection[Site],
    model: Mapping[str, PyTree],
    mutable: Mapping[str, PyTree],
) -> dict[str, np.ndarray]:
    """The least possible values of some sites of counts."""
    if not sites:
        return {}
    names = tuple(site.name for site in sites)
    return jax.device_get(target.program(_bisect, names)(batch, model, mutable))


def _together(site: Site, plate: str, some: Sequence[Mapping[str, np.ndarray]]) -> np.ndarray:
    """The rows of all batches; the last of them has copies of the last row."""
    ((_, axis),) = site.axes([plate]).pairs
    whole = np.concatenate([one[site.name] for one in some], axis)
    return whole.take(np.arange(site.z_shape[axis]), axis)


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

    def halve(_: Array, ends: tuple[dict[str, Array], dict[str, Array]]) -> tuple[PyTree, PyTree]:
        low, high = ends
        middle = jax.tree.map(lambda a, b: (a + b) // 2, low, high)
        fits = possible(middle)
        return (
            jax.tree.map(lambda fit, a, b: jnp.where(fit, a, b), fits, low, middle),
            jax.tree.map(lambda fit, a, b: jnp.where(fit, b, a), fits, high, middle),
        )

    low = {site.name: jnp.full(site.z_shape, -1) for site in sites}
    high = {site.name: jnp.full(site.z_shape, 2**_BITS - 1) for site in sites}
    least = lax.fori_loop(0, _BITS, halve, (low, high))[1]
    # where even the end of the search is impossible, there is nothing that starts somewhere
    return jax.tree.map(lambda fit, one: jnp.where(fit, one, 0), possible(least), least)

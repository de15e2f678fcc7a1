"""The least values that the data allow counts, so that a guide puts nothing on impossible ones.

A count of animals is no less than the number that was seen. A guide over all counts from zero would
have an ELBO of minus infinity there; numbered from the least possible value, counts are free.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from vijax._contracts import Batch, PyTree, Site, Target
from vijax._problem import Problem
from vijax.objectives.signals import seen_by

_BITS = 20  # counts up to a million are tried


def counted(
    problem: Problem, model: Mapping[str, PyTree], mutable: Mapping[str, PyTree]
) -> Problem:
    """The problem with counts in its space numbered from their least possible values.

    These are found by bisection, all entries of all sites at once, each judged by the terms that
    it has a part in: what is possible from some value on. Rows of a plate are told apart. Where
    rows are cut into batches the problem stays as it is.
    """
    target, batch = problem.target, problem.batch
    if not _endless(target) or target.subsampled:
        return problem
    found = target.program(_bisect)(batch, model, mutable)
    lifted = {name: least for name, least in found.items() if np.asarray(least).any()}
    centring = {**batch.centring, **lifted}
    return dataclasses.replace(problem, batch=batch._replace(centring=centring))


def _endless(target: Target) -> list[Site]:
    return [site for site in target.space.sites if site.states == 0]


def _bisect(target: Target, batch: Batch, model: PyTree, mutable: PyTree) -> dict[str, Array]:
    sites = _endless(target)
    assert target.terms is not None
    terms, layout = target.terms, target.layout(batch)
    others = {site.name: jnp.zeros(site.z_shape) for site in target.space.sites}

    def possible(states: dict[str, Array]) -> dict[str, Array]:
        values = terms({**others, **states}, batch, model, mutable).values
        return {
            site.name: jnp.broadcast_to(jnp.isfinite(seen_by(site, values, layout)), site.z_shape)
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

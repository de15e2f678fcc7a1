"""Posterior predictive draws, pointwise log likelihood, log predictive density."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from vijax.contracts import Batch, EnsembleGuide
from vijax.diagnostics.importance import block_size
from vijax.model import Growing, predictive_program
from vijax.posterior import condition, draws, pointwise
from vijax.posterior.labelled_rows import check_labelled_rows, read_by_program
from vijax.posterior.missing_inputs import check_missing
from vijax.posterior.requirements import no_draws, require_data, unsubsampled_data
from vijax.posterior.result import FitResult
from vijax.posterior.sampling import unconstrained
from vijax.runtime.blockwise import Arrays, map_blocks
from vijax.runtime.checks import check_count
from vijax.runtime.errors import ModelError, mismatch
from vijax.runtime.keys import fold_in
from vijax.runtime.keywords import did_you_mean


class Changes(NamedTuple):
    """What differs from the fit in a prediction; see `Posterior.predict`.

    Attributes:
        from_prior: latent sites that are drawn from their prior.
        growing: the plates that may be larger than in the fit.
        do: values of sites.
        moments: whether the distributions of observed sites are wanted, not draws.
    """

    from_prior: frozenset[str] = frozenset()
    growing: Growing = Growing()
    do: Mapping[str, Any] = {}
    moments: bool = False


NO_CHANGES = Changes()
_DRAW = ""  # in place of a latent site, of a model that has none, so that there are draws


def predict(
    result: FitResult,
    key: Array,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    num_draws: int,
    changes: Changes = NO_CHANGES,
) -> Arrays:
    """See `Posterior.predict`."""
    if not args and not kwargs:
        require_data(result, "predict at the fit's own inputs")
        args, kwargs = result.arguments.join(result.batch.data)
    elif result.guide.amortized:
        return predict(condition.at(result, args, kwargs), key, (), {}, num_draws, changes)
    if not result.target.space.sites:
        z = {_DRAW: np.zeros(check_count("num_draws", num_draws))}
        return predictive(result, fold_in(key, 1), z, args, kwargs, changes) or no_draws()
    z = unconstrained(result, fold_in(key, 0), num_draws)
    return predictive(result, fold_in(key, 1), z, args, kwargs, changes)


def joint_draws(result: FitResult, key: Array, num_draws: int) -> tuple[Arrays, Arrays]:
    """Posterior draws, and data drawn at them, at the inputs of the fit."""
    z = unconstrained(result, fold_in(key, 0), num_draws)
    args, kwargs = result.arguments.join(result.batch.data)
    values = draws.constrain(result, z, result.unknown)
    return values, predictive(result, fold_in(key, 1), z, args, kwargs, Changes())


def checked_changes(
    result: FitResult,
    new_groups: Collection[str] | str | bool,
    from_prior: Collection[str],
    do: Mapping[str, Any] | None,
) -> Changes:
    """The options of `Posterior.predict` that change the model.

    Args:
        result: of the fit.
        new_groups: plates that may be larger than in the fit; `True` for all.
        from_prior: latent sites.
        do: values by site.

    Raises:
        ModelError: a name is unknown.
        TypeError: `do` is not a mapping.
    """
    plates = list(result.target.subsampling.plates)
    if isinstance(new_groups, bool):
        named = set(plates) if new_groups else set()
    else:
        named = {new_groups} if isinstance(new_groups, str) else set(new_groups)
    for name in sorted(named - set(plates)):
        hint = did_you_mean(name, plates).strip()
        raise ModelError(mismatch("new_groups", f"plates of {plates}", repr(name), hint))
    latent = [*result.target.space.names, *result.target.marginalized.sizes]
    chosen = set(from_prior)
    if isinstance(from_prior, str) or (chosen and not chosen < set(latent)):
        expected = f"a collection of some of the sites {latent}"
        raise ModelError(mismatch("from_prior", expected, repr(from_prior)))
    if do is not None and not isinstance(do, Mapping):
        raise TypeError(mismatch("do", "a mapping from sites to their values", repr(do)))
    both = sorted({*(do or {})} & {*from_prior})
    if both:
        expected = "sites that are not in from_prior, too"
        raise ModelError(mismatch("do", expected, ", ".join(map(repr, both))))
    return Changes(frozenset(from_prior), Growing(frozenset(named)), do or {})


def predictive(
    result: FitResult,
    key: Array,
    z: Arrays,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    changes: Changes = NO_CHANGES,
) -> Arrays:
    """Predictive draws at new arguments given unconstrained draws of the latents."""
    target, do = result.target, {name: np.asarray(x) for name, x in changes.do.items()}
    program, batch, _, redrawn = predictive_program(
        result.model, args, kwargs, target, result.arguments, changes.growing, do, changes.moments
    )
    batch = batch._replace(linearized=result.batch.linearized)
    values = z
    if target.space.sites:
        values = draws.constrain(result, draws.with_discrete(result, z, fold_in(key, 2)))
    latent = {*target.space.names, *target.marginalized.sizes} - changes.from_prior - redrawn
    values = {name: value for name, value in values.items() if name in latent or name == _DRAW}
    num_draws = len(next(iter(z.values())))
    values |= {name: np.broadcast_to(x, (num_draws, *x.shape)) for name, x in do.items()}
    size = pointwise.fewer_for_networks(block_size(batch, target.space.dim), target, batch)

    def block(part: Arrays, rows: np.ndarray) -> Any:
        keys = jax.random.split(fold_in(key, int(rows[0])), len(rows))
        return program(keys, part, batch, result.variables.model, result.mutable)

    def read() -> set[str]:
        keys = jax.random.split(key, num_draws)
        inputs = keys, values, batch, result.variables.model, result.mutable
        return read_by_program(program, inputs, batch.data)

    check_labelled_rows(result, batch.data, latent & values.keys(), read)
    check_missing(result, batch.data, read)
    return map_blocks(block, values, size)


def log_likelihood(result: FitResult, key: Array, num_draws: int) -> Arrays:
    """See `Posterior.log_likelihood`."""
    data = unsubsampled_data(result, "log_likelihood")
    z = draws.with_discrete(result, unconstrained(result, key, num_draws), fold_in(key, 2))
    return pointwise.log_likelihood(result, data, z)


def log_predictive_density(
    result: FitResult,
    key: Array,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    num_draws: int,
    at_mean: Collection[str] = (),
) -> Arrays:
    """See `Posterior.log_predictive_density`; sites in `at_mean` are at their mean in all draws.

    That mean is of one member of an ensemble, whose members differ by more than noise.
    """
    fit = result
    if args or kwargs:
        result = condition.on_rows(result, "log_predictive_density", args, kwargs)
    data = unsubsampled_data(result, "log_predictive_density")
    # the data of the fit correct draws, so that these are the fit's, unless the rows have latents
    draws_of = result if fit.guide.amortized else fit
    draws_of = _first_member(draws_of) if at_mean else draws_of
    z = unconstrained(draws_of, key, check_count("num_draws", num_draws))
    for name in at_mean:
        z[name] = np.broadcast_to(z[name].mean(axis=0), z[name].shape)
    if isinstance(data, Batch) and result.target.marginalized.sizes:
        z = draws.with_discrete(dataclasses.replace(result, batch=data), z, fold_in(key, 2))
    return pointwise.log_predictive(result, data, z)


def _first_member(result: FitResult) -> FitResult:
    """The fit of the first member of an ensemble, other fits as they are."""
    if not isinstance(result.guide, EnsembleGuide):
        return result
    params = jax.tree.map(lambda leaf: leaf[0], result.variables.guide)
    variables = result.variables._replace(guide=params)
    return dataclasses.replace(result, guide=result.guide.member, variables=variables)

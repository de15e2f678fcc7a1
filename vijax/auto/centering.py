"""Partially non-centered parametrization of hierarchical sites, learned from a Gaussian fit.

For a prior of precision `1 / s^2` and data that add the precision `p`, the conditional variance of
a value is `v = 1 / (p + 1 / s^2)`. In the coordinate with centering weight
`c = p v = 1 - v / s^2` its standard deviation no longer depends on `s`, which removes the funnel.
The ratio `v / s^2` is the same in all coordinates; `v` is the inverse of the diagonal of a Gaussian
fit's precision. Source: A general framework for the parametrization of hierarchical models,
Papaspiliopoulos, Roberts, Skold, 2007.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from vijax.contracts import Batch, Guide, PyTree, Solver, Target, Variables
from vijax.diagnostics import importance as weights
from vijax.engine.problem import Problem
from vijax.guides import FullRank, LowRank, Markov, MeanField, Plates
from vijax.model.centering import with_centering
from vijax.runtime.blockwise import map_blocks
from vijax.runtime.errors import GuideError
from vijax.runtime.keys import fold_in, host_rng
from vijax.runtime.stacks import Packed, pack
from vijax.solvers.gaussians.dense import Gaussian, from_moments
from vijax.solvers.gaussians.low_rank import LowRankGaussian
from vijax.solvers.gaussians.structured_conversion import gaussian_from_params, gaussian_to_params

ROUNDS = 2
DENSE_DIM = 500  # largest dimension in which d x d operations are cheap compared to the model
_GAUSSIAN_GUIDES = (FullRank, LowRank, MeanField, Plates, Markov)
_MIN_CHANGE = 0.1  # change of a weight below which no new fit is made
_DRAWS = 500  # minimum for estimating a dense Gaussian, maximum for estimating a location only
_MAX_ELEMENTS = 2**24  # limit for draws times coordinates


def learns_centering(centering: Any, guide: Guide, solver: Solver | None, default: bool) -> bool:
    """Whether the `centering=` option requests learned weights.

    Args:
        centering: the option.
        guide: the guide.
        solver: its solver, `None` for gradient steps.
        default: whether that is the guide's default solver.

    Raises:
        GuideError: learned weights are requested, but the fit is no Gaussian by a direct solver.
    """
    if not isinstance(centering, str):
        return False
    if isinstance(guide, _GAUSSIAN_GUIDES) and solver is not None and default:
        return True
    kinds = ", ".join(kind.__name__ for kind in _GAUSSIAN_GUIDES)
    raise GuideError(
        f"centering: expected a Gaussian guide with its default solver ({kinds}), "
        f"got {guide!r} {f'with {solver!r}' if solver else 'and gradient steps'}. Leave out "
        "algorithm= and the options of gradient steps, or pass weights: centering={'site': 0.0}."
    )


def learn_centering(
    problem: Problem, variables: Variables, mutable: dict[str, PyTree]
) -> tuple[Problem, Variables] | None:
    """The problem with new centering weights, and the fitted Gaussian in those coordinates.

    Args:
        problem: with centering weights.
        variables: a Gaussian fitted to it.
        mutable: the model's mutable state.

    Returns:
        `None` if the weights would hardly change.
    """
    space, old = problem.target.space, jax.device_get(problem.batch.centering)
    gaussian = gaussian_from_params(variables.guide, space)
    dense = space.dim <= DENSE_DIM and isinstance(gaussian, (Gaussian, LowRankGaussian))
    z = weights.split(space, _draws(problem, gaussian, dense))
    _, old_batch = problem.sample  # priors do not depend on the rows
    log_prior_sds = _blockwise(problem, _log_prior_sds, z, old_batch, variables.model, mutable)
    new = {}
    log_v = weights.split(space, 2 * np.log(gaussian.conditional_sd)[None])
    for name in old:
        log_s = np.median(log_prior_sds[name], axis=0)
        weight = -np.expm1(np.minimum(log_v[name][0] - 2 * log_s, 0.0))
        new[name] = np.clip(np.nan_to_num(weight), 0.0, 1.0).astype(np.float32)
    if all(np.max(np.abs(new[name] - old[name]), initial=0.0) < _MIN_CHANGE for name in new):
        return None
    return in_coordinates(problem, variables, mutable, new, z)


def in_coordinates(
    problem: Problem,
    variables: Variables,
    mutable: dict[str, PyTree],
    new: Mapping[str, np.ndarray],
    z: Mapping[str, np.ndarray] | None = None,
) -> tuple[Problem, Variables] | None:
    """The problem with other centering weights, and a fitted Gaussian in those coordinates.

    Args:
        problem: with centering weights.
        variables: a Gaussian fitted to it.
        mutable: the model's mutable state.
        new: the weights by site.
        z: draws of the Gaussian by site, if there are any.

    Returns:
        `None` if the Gaussian cannot be represented there.
    """
    space = problem.target.space
    gaussian = gaussian_from_params(variables.guide, space)
    dense = space.dim <= DENSE_DIM and isinstance(gaussian, (Gaussian, LowRankGaussian))
    if z is None:
        z = weights.split(space, _draws(problem, gaussian, dense))
    num = len(next(iter(z.values())))
    _, old_batch = problem.sample
    recentered = dataclasses.replace(problem, batch=with_centering(problem.batch, dict(new)))
    _, new_batch = recentered.sample
    moved = _blockwise(problem, recenter, z, old_batch, new_batch, variables.model, mutable)
    flat = weights.flatten(space, moved)
    flat = flat[np.isfinite(flat).all(axis=1)]
    if len(flat) < num / 2:
        return None
    if dense:
        found = from_moments(flat.mean(0), np.cov(flat, rowvar=False).reshape(space.dim, -1))
        if found is None:
            return None
        params = gaussian_to_params(variables.guide, found, space)
    else:  # too many coordinates, or another form: only the location is moved
        moved_to = gaussian._replace(mean=np.median(flat, axis=0))
        params = gaussian_to_params(variables.guide, moved_to, space)
    return recentered, Variables(params, variables.model)


def _draws(problem: Problem, gaussian: Any, dense: bool) -> np.ndarray:
    """Draws of a Gaussian `(num, dim)`, enough for a covariance if it is `dense`."""
    dim = problem.target.space.dim
    affordable = max(100, min(_DRAWS, _MAX_ELEMENTS // dim))
    num = max(_DRAWS, 10 * dim) if dense else affordable
    noise = host_rng(fold_in(problem.key, 6)).standard_normal((num, dim))
    return gaussian.transform(noise)


def _log_prior_sds(
    target: Target, z: Packed, batch: Batch, model: PyTree, mutable: PyTree
) -> Packed:
    def one(z: Packed) -> Packed:
        return pack(target.log_prior_sds(z.unpack(), batch, model, mutable))

    return jax.vmap(one)(z)


def _blockwise(problem: Problem, function: Any, z: Any, *rest: Any) -> dict[str, np.ndarray]:
    program = problem.target.program(function)
    size = weights.block_size(problem.sample[1], problem.target.space.dim)
    return map_blocks(lambda part, _: program(pack(part, batch_ndim=1), *rest), z, size)


def recenter(
    target: Target, z: Packed, source: Batch, destination: Batch, model: PyTree, mutable: PyTree
) -> Packed:
    """Positions with the centering weights of one batch, transformed to those of another.

    Args:
        target: the target.
        z: by site, `(num, *z_shape)`, in the coordinates of `source`.
        source: batch with the current centering weights.
        destination: batch with the new ones.
        model: the model's parameters.
        mutable: the model's mutable state.

    Returns:
        Positions `(num, *z_shape)` in the coordinates of `destination`.
    """

    def transform(z: Packed) -> Packed:
        values = target.constrain(z.unpack(), source, model, mutable)
        latent = {name: values[name] for name in target.space.names}
        return pack(target.unconstrain(latent, destination, model, mutable))

    return jax.vmap(transform)(z)

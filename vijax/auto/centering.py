"""How far each hierarchical site should be centered: learned from a fit, and moved to.

For a prior of precision `1 / s^2` and data that add the precision `p`, the value given all else
has the variance `v = 1 / (p + 1 / s^2)`, and in the coordinate of weight `c = p v = 1 - v / s^2`
its spread no longer depends on `s`: the funnel is gone. The ratio `v / s^2` is the same in any
coordinate; a Gaussian fit knows `v`, the inverse of the diagonal of its precision. Source: A
general framework for the parametrization of hierarchical models, Papaspiliopoulos, Roberts,
Skold, 2007.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from vijax.contracts import Batch, Guide, PyTree, Solver, Target, Variables
from vijax.diagnostics import importance as weights
from vijax.diagnostics.assessment import recenter
from vijax.engine.problem import Problem
from vijax.guides import FullRank, LowRank, Markov, MeanField, Plates
from vijax.model.centering import with_centering
from vijax.runtime.blockwise import blocks
from vijax.runtime.errors import GuideError
from vijax.runtime.keys import fold_in, host_rng
from vijax.solvers.gaussians.dense import Gaussian, from_moments
from vijax.solvers.gaussians.low_rank import Factored
from vijax.solvers.gaussians.structured_conversion import from_normal, normal

ROUNDS = 2
DENSE_DIM = 500  # largest dimension at which d x d work stays cheap beside the model
_LEARNERS = (FullRank, LowRank, MeanField, Plates, Markov)
_ENOUGH = 0.1  # change of a weight below which a new fit is not worth it
_DRAWS = 500  # fewest that a whole Gaussian is moved with, most where it is only the place
_NUMBERS = 2**24  # that these may hold


def learns_centering(centering: Any, guide: Guide, solver: Solver | None, default: bool) -> bool:
    """Whether a `centering=` option asks for weights to be learned.

    Args:
        centering: the option.
        guide: the guide.
        solver: that it is fitted with, `None` for gradient steps.
        default: whether that is the guide's own.

    Raises:
        GuideError: it does, and there is no Gaussian to learn them from.
    """
    if not isinstance(centering, str):
        return False
    if isinstance(guide, _LEARNERS) and solver is not None and default:
        return True
    kinds = ", ".join(kind.__name__ for kind in _LEARNERS)
    raise GuideError(
        f"centering: expected a guide to learn from, a Gaussian fitted by its own solver ({kinds}), "
        f"got {guide!r} {f'with {solver!r}' if solver else 'and gradient steps'}. Leave out "
        "algorithm= and the options of gradient steps, or pass weights: centering={'site': 0.0}."
    )


def learned(
    problem: Problem, variables: Variables, mutable: dict[str, PyTree]
) -> tuple[Problem, Variables] | None:
    """The problem in better coordinates and the fitted Gaussian there; `None` if they are alike.

    Args:
        problem: in coordinates with weights.
        variables: a Gaussian fitted there.
        mutable: the model's mutable state.
    """
    space, old = problem.target.space, jax.device_get(problem.batch.centering)
    gaussian = normal(variables.guide, space)
    dense = space.dim <= DENSE_DIM and isinstance(gaussian, (Gaussian, Factored))
    affordable = max(100, min(_DRAWS, _NUMBERS // space.dim))
    num = max(_DRAWS, 10 * space.dim) if dense else affordable
    draws = gaussian.at(host_rng(fold_in(problem.key, 6)).standard_normal((num, space.dim)))
    z = weights.split(space, draws)
    _, here = problem.sample  # priors are the same whatever the rows
    log_prior_sds = _blockwise(problem, _log_prior_sds, z, here, variables.model, mutable)
    new = {}
    log_v = weights.split(space, 2 * np.log(gaussian.conditional_sd)[None])
    for name in old:
        spread = np.median(log_prior_sds[name], axis=0)
        share = -np.expm1(np.minimum(log_v[name][0] - 2 * spread, 0.0))
        new[name] = np.clip(np.nan_to_num(share), 0.0, 1.0).astype(np.float32)
    if all(np.max(np.abs(new[name] - old[name]), initial=0.0) < _ENOUGH for name in new):
        return None
    better = dataclasses.replace(problem, batch=with_centering(problem.batch, new))
    _, there = better.sample
    moved = _blockwise(problem, recenter, z, here, there, variables.model, mutable)
    flat = weights.flatten(space, moved)
    flat = flat[np.isfinite(flat).all(axis=1)]
    if len(flat) < num / 2:
        return None
    if dense:
        found = from_moments(flat.mean(0), np.cov(flat, rowvar=False).reshape(space.dim, -1))
        if found is None:
            return None
        params = from_normal(variables.guide, found, space)
    else:  # of too many coordinates, or not of that form: only the place is kept
        moved_to = gaussian._replace(mean=np.median(flat, axis=0))
        params = from_normal(variables.guide, moved_to, space)
    return better, Variables(params, variables.model)


def _log_prior_sds(target: Target, z: Any, batch: Batch, model: PyTree, mutable: PyTree) -> Any:
    return jax.vmap(lambda one: target.log_prior_sds(one, batch, model, mutable))(z)


def _blockwise(problem: Problem, function: Any, z: Any, *rest: Any) -> dict[str, np.ndarray]:
    program = problem.target.program(function)
    size = weights.block_size(problem.sample[1], problem.target.space.dim)
    return blocks(lambda part, _: program(part, *rest), z, size)

"""Search for modes that a fitted guide does not cover, the same for every guide and algorithm.

Importance weights and chains start at the guide and do not reveal modes far from it. Optimization
paths from random starts and from the prior do. Their number follows the Good-Turing estimate: paths
are added while some ended at a mode that no other path reached.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import numpy as np
from jax import Array

from vijax.auto.candidate import MAX_UNSEEN
from vijax.contracts import Batch, Blocks, Position, PyTree, Target, Variables
from vijax.contracts.kernel import Kernel
from vijax.diagnostics import importance as weights
from vijax.diagnostics.assessment import Assessment, with_enumeration
from vijax.diagnostics.discrete_chains import missed_values
from vijax.diagnostics.status import diagnose
from vijax.engine.problem import Problem
from vijax.model import ModelCall, init_strategy
from vijax.runtime.deadline import time_is_up
from vijax.runtime.errors import ModelError
from vijax.runtime.keys import fold_in, host_rng
from vijax.runtime.progress import advance, stage
from vijax.solvers import Pathfinder
from vijax.solvers.gaussians.dense import Gaussian

_MAX_DIM = 2000  # dimensions up to which other modes are searched for
_GRADIENTS = 1000  # gradient evaluations of the first paths
_MAX_ELEMENTS = 2**32  # data elements that these may read: some seconds for a regression
_PASSES = 100  # passes over rows not in memory that they take
_DRAWS = 500
_PRIOR_DRAWS = 64
_ROUNDS = 4  # maximum number of rounds of paths
_OUT_OF_TIME = "the time limit has passed"
_UNSEARCHED = "other modes were not searched for"


class ModeSearch(NamedTuple):
    """Result of a search for modes that a guide does not cover.

    Attributes:
        others: number of modes of non-negligible mass that the guide does not cover.
        unsearched: why modes may be missing, empty if they were searched for.
    """

    others: int
    unsearched: str


def search_modes(problem: Problem, variables: Variables, mutable: dict[str, PyTree]) -> ModeSearch:
    """Searches for modes that a fitted guide does not cover, by Pathfinder."""
    reason, target, data = unaffordable(problem), problem.target, problem.all_rows
    if not reason and time_is_up():
        reason = _OUT_OF_TIME
    if reason or data is None:
        return ModeSearch(0, f"{_UNSEARCHED}: {reason}")
    kernel = Kernel(target, data, variables.model, mutable)
    key = fold_in(problem.key, 6)
    drawn = weights.draw(target, problem.guide, variables, mutable, key, data, _DRAWS)
    flat = weights.flatten(target.space, drawn.z)
    finite, sd = np.isfinite(drawn.log_weights), flat.std(axis=0)
    # where the likelihood may be zero, the ELBO of draws at which it is not
    usable = finite.mean() > 0.5 and sd.all()
    elbo = weights.elbo(drawn.log_weights[finite])[0] if usable else -np.inf
    if not np.isfinite(elbo):
        return ModeSearch(0, f"{_UNSEARCHED}: draws of the guide have no finite density")
    labels = np.zeros(len(flat), int) if drawn.labels is None else drawn.labels
    parts = [flat[labels == one] for one in np.unique(labels)]
    gaussians = [
        Gaussian(part.mean(axis=0), np.diag(np.maximum(part.std(axis=0), 1e-6 * sd)))
        for part in parts
        if len(part) > 1
    ]
    rng = host_rng(fold_in(key, 1))
    others = 0
    with stage("searching for other modes", _ROUNDS, "round"):
        for _ in range(_ROUNDS):
            paths = Pathfinder().run(kernel, rng)
            others = max(others, len(paths.other_modes(gaussians, elbo)))
            if others or paths.unseen <= MAX_UNSEEN or time_is_up():
                break
            advance(1, "round")
    cut_short = time_is_up() and not others
    return ModeSearch(others, f"{_UNSEARCHED}: {_OUT_OF_TIME}" if cut_short else "")


def unaffordable(problem: Problem) -> str:
    """Why a search for other modes is impossible or would take too long; empty if it is not."""
    target, data = problem.target, problem.all_rows
    if not target.differentiable:
        return "the log density has no gradient in some sites"
    if target.space.dim > _MAX_DIM:
        return f"more than {_MAX_DIM} dimensions"
    if data is None:
        return "the full data cannot be evaluated"
    cost = _GRADIENTS * weights.num_elements(data, target.cost)
    if isinstance(data, Blocks):
        cost += _PASSES * data.read_cost * data.plate.size
    return "too much data" if cost > _MAX_ELEMENTS else ""


def _missed_values(
    assessment: Assessment, problem: Problem, variables: Variables, mutable: dict[str, PyTree]
) -> str:
    """Why discrete values may be missing from the guide, empty if they were searched for."""
    assert problem.all_rows is not None
    assert assessment.importance is not None
    key = fold_in(problem.key, 6)
    if problem.target.subsampled or problem.arguments.sources:
        return f"{_UNSEARCHED}: rows are subsampled"
    try:
        starts = prior_positions(problem, variables, mutable, fold_in(key, 1))
    except (KeyError, TypeError, ValueError, NotImplementedError, ModelError):
        return f"{_UNSEARCHED}: the prior cannot be sampled"
    kernel = Kernel(problem.target, problem.all_rows, variables.model, mutable)
    draws = weights.flatten(problem.target.space, assessment.draws.z)
    with stage("Metropolis chains over discrete values"):
        weighted = assessment.importance.log_weights
        return missed_values(kernel, draws, weighted, starts, host_rng(key))


def prior_positions(
    problem: Problem, variables: Variables, mutable: dict[str, PyTree], key: Array
) -> np.ndarray:
    """Draws from the prior in unconstrained space, `(num, dim)`."""
    target = problem.target
    call = ModelCall((), problem.model, problem.arguments)  # those of one target are all equal
    program = target.program(prior_draws, call)
    keys = jax.random.split(key, _PRIOR_DRAWS)
    drawn = program(keys, problem.batch, variables.model, mutable)
    return weights.flatten(target.space, jax.device_get(drawn))


def prior_draws(
    target: Target,
    call: ModelCall,
    keys: Array,
    batch: Batch,
    params: dict[str, PyTree],
    mutable: dict[str, PyTree],
) -> Position:
    """A draw from the prior for each key, as positions."""
    prior = init_strategy(call.model, call.arguments, None)

    def one(key: Array) -> Position:
        values = prior(key, batch)
        latent = {name: values[name] for name in target.space.names}
        return target.unconstrain(latent, batch, params, mutable)

    return jax.vmap(one)(keys)


def with_mode_search(
    assessment: Assessment,
    problem: Problem,
    variables: Variables,
    mutable: dict[str, PyTree],
    unseen: float | None,
) -> Assessment:
    """The assessment with the result of a search for other modes, where its status depends on it.

    Args:
        assessment: of the fit.
        problem: the problem.
        variables: the fitted variables.
        mutable: the model's mutable state.
        unseen: see `vijax.contracts.Solution`; `None` if there was no search during the fit.
    """
    if unseen is not None and unseen <= MAX_UNSEEN:
        return assessment
    if not problem.target.space.continuous.sites and problem.all_rows is not None:
        assessment = with_enumeration(assessment, problem.fitted(variables, mutable))
        if assessment.diagnostics.enumeration is not None:
            return assessment
    diagnostics = assessment.diagnostics._replace(more_modes=False)
    if diagnose(diagnostics).status not in ("certified", "corrected"):
        return assessment
    if problem.target.space.continuous.sites or problem.all_rows is None:
        others, unsearched = search_modes(problem, variables, mutable)
    else:
        others, unsearched = 0, _missed_values(assessment, problem, variables, mutable)
    diagnostics = diagnostics._replace(
        num_modes=diagnostics.num_modes + others, unsearched=unsearched
    )
    assessment = assessment._replace(diagnostics=diagnostics)
    if assessment.diagnosis.status != "corrected":
        assessment = assessment._replace(chain_states=None)
    return assessment

"""What a fit that has ended comes to: the fields of its `Posterior`, assessed."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np

from vijax.auto.candidate import Candidate, assess_solution
from vijax.auto.history import Attempt
from vijax.contracts import Batch, PyTree, Solution, Variables
from vijax.contracts.kernel import Kernel
from vijax.diagnostics import importance as weights
from vijax.diagnostics.assessment import Assessment, Chains, assess, assess_scores
from vijax.diagnostics.importance import num_elements
from vijax.engine.common_draws import common_log_weights, knows_all_rows, shares_all
from vijax.engine.engine import Engine
from vijax.engine.problem import Problem
from vijax.engine.row_schedule import RowSchedule
from vijax.engine.run import Run
from vijax.model.data_dependence import dependent_sites, with_placeholders
from vijax.posterior.result import FitResult
from vijax.runtime.device_layout import within_reach
from vijax.runtime.keys import fold_in, host_rng
from vijax.solvers import Pathfinder
from vijax.solvers.gaussians.dense import Gaussian

_PATHS_DIM = 100  # dimensions up to which other modes are looked for
_PATHS_GRADIENTS = 1000  # what looking for them takes
_PATHS_DRAWS = 500
_SMALL_DATA = 2**22  # numbers; all of them can be read a few thousand times in seconds


def finish_run(engine: Engine, run: Run, began: float, chains: Chains = "check") -> FitResult:
    """The best candidate of a run of gradient steps that has ended, assessed."""
    problem = dataclasses.replace(engine.problem, key=engine.steps.key)
    variables, mutable, _ = engine.best(run)
    run = run._replace(loop=within_reach(run.loop))
    return _result(
        problem,
        variables,
        mutable,
        assessment=_assess_run(problem, engine.problem.schedule, run, variables, mutable, chains),
        stop_reason=run.reason,
        converged=run.converged,
        seconds=time.perf_counter() - began,
        engine=engine.released(),
        run=run,
    )


def _assess_run(
    problem: Problem,
    rows: RowSchedule,
    run: Run,
    variables: Variables,
    mutable: dict[str, PyTree],
    chains: Chains,
) -> Assessment:
    """With all data where they are small, else by the ELBO of fresh batches alone."""
    target, guide, batch = problem.target, problem.guide, problem.batch
    elements = num_elements(batch, target.space.dim)
    small = elements <= _SMALL_DATA and not problem.arguments.sources
    if rows.subsampled and not (small and shares_all(target)):
        log_weights = common_log_weights(target, guide, variables, mutable, batch, rows, seed=1)
        return assess_scores(log_weights, run.converged, run.nonfinite_steps)
    return assess(
        problem.fitted(variables, mutable),
        run.converged,
        run.nonfinite_steps,
        num_modes=1 + _other_modes(problem, variables, mutable),
        chains=chains,
    )


def finish_solution(
    problem: Problem, solution: Solution, mutable: dict[str, PyTree], began: float
) -> FitResult:
    """The solution of a direct solver, assessed."""
    assessment = assess_solution(problem, solution, mutable, "check")
    return finish_candidate(Candidate(problem, solution, assessment), mutable, (), began)


def finish_candidate(
    candidate: Candidate,
    mutable: dict[str, PyTree],
    history: tuple[Attempt, ...],
    began: float,
) -> FitResult:
    """The best candidate of an automatic fit."""
    problem, solution, assessment = candidate
    return _result(
        problem,
        solution.variables,
        mutable,
        assessment=assessment,
        stop_reason=solution.reason,
        converged=solution.converged,
        seconds=time.perf_counter() - began,
        solver_losses=solution.losses,
        history=history,
    )


def _result(
    problem: Problem, variables: Variables, mutable: dict[str, PyTree], **fields: Any
) -> FitResult:
    batch, missing, unknown = _known_data(problem, variables, mutable)
    return FitResult(
        model=problem.model,
        arguments=problem.arguments,
        target=problem.target,
        guide=problem.guide,
        variables=variables,
        mutable=mutable,
        batch=batch,
        missing=missing,
        unknown=unknown,
        **fields,
    )


def _known_data(
    problem: Problem, variables: Variables, mutable: dict[str, PyTree]
) -> tuple[Batch, tuple[str, ...], frozenset[str]]:
    """The data of the posterior, the arrays that are not in memory, what depends on those."""
    target, arguments = problem.target, problem.arguments
    if not arguments.sources:
        batch = problem.batch if knows_all_rows(target) else problem.first_batch
        return batch, (), frozenset()
    missing = tuple(arguments.sources)
    batch = with_placeholders(problem.batch, arguments, missing)
    return batch, missing, dependent_sites(target, batch, variables, mutable, missing)


def _other_modes(problem: Problem, variables: Variables, mutable: dict[str, PyTree]) -> int:
    """How many modes the guide leaves out, by short climbs from random places.

    Gradient steps see one mode, and neither weights nor chains of it know of another. Not asked
    where it would take long: with many dimensions, or much data.
    """
    target, batch = problem.target, problem.batch
    kernel = Kernel(target, batch, variables.model, mutable)
    short = target.space.dim <= _PATHS_DIM and not target.structure.sequential and target.explorable
    if not short or kernel.is_costly(_PATHS_GRADIENTS):
        return 0
    key = fold_in(problem.key, 6)
    drawn = weights.draw(target, problem.guide, variables, mutable, key, batch, _PATHS_DRAWS)
    flat = weights.flatten(target.space, drawn.z)
    elbo, sd = weights.elbo(drawn.log_weights)[0], flat.std(axis=0)
    if not (np.isfinite(elbo) and sd.all()):
        return 0
    paths = Pathfinder().run(kernel, host_rng(fold_in(key, 1)))
    return len(paths.other_modes(Gaussian(flat.mean(axis=0), np.diag(sd)), elbo))

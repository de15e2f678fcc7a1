"""What a fit that has ended comes to: the fields of its `Posterior`, assessed."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from vijax._candidate import Candidate, judge
from vijax._contracts import Batch, PyTree, Solution, Variables
from vijax._dependence import standing_in, unknown_without
from vijax._engine import Engine, Run
from vijax._history import Attempt
from vijax._kernel import Kernel
from vijax._keys import fold_in, host_rng
from vijax._problem import Problem
from vijax._scores import knows_all_rows, scores, shares_all
from vijax._spread import within_reach
from vijax.diagnostics import weights
from vijax.diagnostics.assess import Chains, assess, assess_scores
from vijax.diagnostics.weights import num_elements
from vijax.model import Arguments
from vijax.solvers import Pathfinder
from vijax.solvers.gaussian import Gaussian

_PATHS_DIM = 100  # dimensions up to which other modes are looked for
_PATHS_GRADIENTS = 1000  # what looking for them takes
_PATHS_DRAWS = 500
_SMALL_DATA = 2**22  # numbers; all of them can be read a few thousand times in seconds


def of_run(
    model: Callable[..., Any],
    arguments: Arguments,
    engine: Engine,
    run: Run,
    began: float,
    chains: Chains = "check",
) -> dict[str, Any]:
    """The best candidate of a run of gradient steps that has ended."""
    problem = Problem(model, arguments, engine.target, engine.guide, engine.batch, engine.key)
    variables, mutable, _ = engine.best(run)
    run = run._replace(loop=within_reach(run.loop))
    elements = num_elements(engine.batch, engine.target.space.dim)
    small = elements <= _SMALL_DATA and not arguments.sources
    if engine.rows.subsampled and not (small and shares_all(engine.target)):
        log_weights = scores(
            engine.target, engine.guide, variables, mutable, engine.batch, engine.rows, seed=1
        )
        assessment = assess_scores(log_weights, run.converged, run.troubles)
    else:
        assessment = assess(
            problem.fitted(variables, mutable),
            run.converged,
            run.troubles,
            num_modes=1 + _other_modes(problem, variables, mutable),
            chains=chains,
        )
    batch, missing, unknown = _known_data(problem, variables, mutable)
    return dict(
        model=model,
        arguments=arguments,
        target=engine.target,
        guide=engine.guide,
        variables=variables,
        mutable=mutable,
        batch=batch,
        missing=missing,
        unknown=unknown,
        assessment=assessment,
        stop_reason=run.reason,
        converged=run.converged,
        seconds=time.perf_counter() - began,
        engine=engine.released(),
        run=run,
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
    batch = standing_in(problem.batch, arguments, missing)
    return batch, missing, unknown_without(target, batch, variables, mutable, missing)


def of_solution(
    problem: Problem, solution: Solution, mutable: dict[str, PyTree], began: float
) -> dict[str, Any]:
    """The solution of a direct solver."""
    return of_candidate(
        Candidate(problem, solution, judge(problem, solution, mutable, "check")), mutable, (), began
    )


def of_candidate(
    candidate: Candidate,
    mutable: dict[str, PyTree],
    history: tuple[Attempt, ...],
    began: float,
) -> dict[str, Any]:
    """The answer of a climb."""
    problem, solution, assessment = candidate
    batch, missing, unknown = _known_data(problem, solution.variables, mutable)
    return dict(
        model=problem.model,
        arguments=problem.arguments,
        target=problem.target,
        guide=problem.guide,
        variables=solution.variables,
        mutable=mutable,
        batch=batch,
        missing=missing,
        unknown=unknown,
        assessment=assessment,
        stop_reason=solution.reason,
        converged=solution.converged,
        seconds=time.perf_counter() - began,
        solver_losses=solution.losses,
        history=history,
    )


def _other_modes(problem: Problem, variables: Variables, mutable: dict[str, PyTree]) -> int:
    """How many modes the guide leaves out, by short climbs from random places.

    Gradient steps see one mode, and neither weights nor chains of it know of another. Not asked
    where it would take long: with many dimensions, or much data.
    """
    target, batch = problem.target, problem.batch
    kernel = Kernel(target, batch, variables.model, mutable)
    short = target.space.dim <= _PATHS_DIM and not target.sequential and target.explorable
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

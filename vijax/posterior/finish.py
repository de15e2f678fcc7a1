"""Results of finished fits, with their assessment."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from vijax.auto.candidate import Candidate, assess_solution, unassessed
from vijax.auto.history import Attempt
from vijax.auto.mode_search import with_mode_search
from vijax.contracts import (
    Batch,
    ParticleGuide,
    PyTree,
    Solution,
    TransportGuide,
    Variables,
)
from vijax.diagnostics.assessment import (
    Assessment,
    Chains,
    add_chain_check,
    add_gradient_check,
    add_propriety,
    assess,
    assess_elbos,
)
from vijax.diagnostics.diagnosis import TRUSTED
from vijax.diagnostics.importance import num_elements
from vijax.engine.common_draws import common_log_weights, holds_all_rows, supports_full_data
from vijax.engine.engine import Engine
from vijax.engine.problem import Problem
from vijax.engine.row_schedule import RowSchedule
from vijax.engine.run import Run
from vijax.engine.selection import is_stationary
from vijax.model.data_dependence import dependent_sites, with_placeholders
from vijax.posterior.result import FitResult
from vijax.posterior.rounding import with_rounding_error
from vijax.runtime.deadline import (
    end_reason,
    is_interrupted,
    keep_answer,
    late_compilation,
    time_is_up,
    was_left,
)
from vijax.runtime.device_layout import fetch_remote_shards
from vijax.runtime.keys import fold_in
from vijax.runtime.progress import stage
from vijax.runtime.stopwatch import spent_on, timing_so_far
from vijax.solvers.curvature.gaussian import Mode, gaussian_at

_RECENT = 100  # last losses that the ELBO is estimated by, where there is no time for more
_SMALL_DATA = 2**22  # array elements that can be read a few thousand times in seconds


def finish_run(
    engine: Engine, run: Run, start: float, chains: Chains = "check", complete: bool = True
) -> FitResult:
    """Result of a finished run of gradient steps: its best variables, assessed.

    Args:
        engine: of the steps.
        run: its final state.
        start: `time.perf_counter()` at the start of the fit.
        chains: see `vijax.diagnostics.assessment.assess`.
        complete: whether there is time to compare variables and to assess them.
    """
    problem = dataclasses.replace(engine.problem, key=engine.steps.key)
    schedule = engine.problem.schedule
    complete = complete and not was_left()
    if complete:
        keep_answer(lambda: finish_run(engine, run, start, chains, complete=False))
    # the best is found by evaluations of the model; without time, those of the assessment go first
    best = engine.best if complete and not time_is_up() else engine.latest
    variables, mutable, restart = best(run)
    converged = run.converged or (engine.algorithm.collects and is_stationary(run, restart))
    found = _Fitted(problem, variables, run.reason, converged)
    run = run._replace(loop=fetch_remote_shards(run.loop))
    finish = functools.partial(
        _result,
        mutable=mutable,
        start=start,
        engine=engine.without_cache(),
        run=run,
    )
    estimates = engine.algorithm.maximizes_elbo and not engine.algorithm.scheduled
    elbos = -run.losses[-_RECENT:, restart] if estimates else np.zeros(0)
    without = assess_elbos(elbos, converged, run.nonfinite_steps)
    before = found._asdict()
    if not complete:
        return finish(**before, assessment=without, complete=False)
    keep_answer(lambda: finish(**before, assessment=without, complete=False))
    found = _with_curvature(found, mutable)
    problem, variables, _, converged = found
    if _elbo_only(problem, schedule):
        assessment = _assess_elbo(found, mutable, run.nonfinite_steps)
        return finish(**found._asdict(), assessment=assessment)
    fitted = problem.fitted(variables, mutable)
    assessment = assess(fitted, converged, run.nonfinite_steps, chains="none")
    return finish(**found._asdict(), assessment=assessment, chains=chains)


class _Fitted(NamedTuple):
    """What a fit has found.

    Attributes:
        problem: with the guide of the variables.
        variables: the fitted variables.
        stop_reason: why the fit ended.
        converged: whether the optimization converged.
    """

    problem: Problem
    variables: Variables
    stop_reason: str
    converged: bool


def _with_curvature(found: _Fitted, mutable: dict[str, PyTree]) -> _Fitted:
    """With the covariance at the mode that was found, where the guide asks for it."""
    problem, variables, reason, converged = found
    if problem.final is None:
        return found
    target = problem.target
    with stage("curvature at the mode"):
        at = (variables.guide.loc, variables.model, mutable)
        mode = Mode(target, *at, problem.passes(), fold_in(problem.key, 6))
        guide, params, flat = gaussian_at(mode, problem.final, target.space)
    if flat:
        converged = False
        reason += f"; the log density is flat in {flat} of {target.space.dim} directions"
    linearized = guide.linearized_at(params, target.space)
    batch = problem.batch._replace(linearized=linearized)
    problem = dataclasses.replace(problem, guide=guide, batch=batch, final=None)
    return _Fitted(problem, variables._replace(guide=params), reason, converged)


def _assess_elbo(
    found: _Fitted, mutable: dict[str, PyTree], nonfinite_steps: Sequence[Any] = ()
) -> Assessment:
    """An assessment by the ELBO alone, on fresh draws and batches."""
    problem, variables, _, converged = found
    data = (problem.target, problem.guide, variables, mutable, problem.batch, problem.schedule)
    density = not isinstance(problem.guide, ParticleGuide)
    log_weights = common_log_weights(*data, seed=1) if density else np.zeros(0)
    assessment = assess_elbos(log_weights, converged, nonfinite_steps)
    networks = bool(problem.target.space.networks.sites)
    diagnostics = assessment.diagnostics._replace(network=networks)
    return assessment._replace(diagnostics=diagnostics)


def _elbo_only(problem: Problem, schedule: RowSchedule) -> bool:
    """Whether only the ELBO is assessed, on fresh batches: of networks, bounds, and large data."""
    if problem.target.space.networks.sites or problem.target.structure.bounds:
        return True
    elements = num_elements(problem.batch, problem.target.footprint)
    small = elements <= _SMALL_DATA and not problem.arguments.sources
    return bool(schedule.subsampled) and not (small and supports_full_data(problem.target))


def finish_solution(
    problem: Problem, solution: Solution, mutable: dict[str, PyTree], start: float
) -> FitResult:
    """Result of a direct solver, assessed; arguments as in `finish_candidate`."""
    without = unassessed(problem, solution)
    keep_answer(lambda: finish_candidate(without, mutable, (), start, complete=False))
    found = _Fitted(problem, solution.variables, solution.reason, solution.converged)
    problem, variables, reason, converged = _with_curvature(found, mutable)
    solution = solution._replace(variables=variables, reason=reason, converged=converged)
    if problem.batch.linearized:  # its density is that of another model, which certifies nothing
        assessment = _assess_elbo(_Fitted(problem, variables, reason, converged), mutable)
        candidate = Candidate(problem, solution, assessment)
        return finish_candidate(candidate, mutable, (), start)
    assessment = assess_solution(problem, solution, mutable, "none")
    candidate = Candidate(problem, solution, assessment)
    return finish_candidate(candidate, mutable, (), start, chains="check")


def finish_initial(
    problem: Problem, variables: Variables, mutable: dict[str, PyTree], start: float
) -> FitResult:
    """Result of a fit that ended before it had any: its initial variables, as failed."""
    assessment = assess_elbos(np.zeros(0), converged=False)
    diagnostics = assessment.diagnostics._replace(started=False)
    solution = Solution(variables, end_reason(), False, 0)
    candidate = Candidate(problem, solution, assessment._replace(diagnostics=diagnostics))
    return finish_candidate(candidate, mutable, (), start, complete=False)


def finish_candidate(
    candidate: Candidate,
    mutable: dict[str, PyTree],
    history: tuple[Attempt, ...],
    start: float,
    complete: bool = True,
    num_steps: int = 0,
    chains: Chains = "none",
) -> FitResult:
    """Result of an automatic fit.

    Args:
        candidate: the best one, assessed.
        mutable: the model's mutable state.
        history: the stages of the fit.
        start: `time.perf_counter()` at the start of the fit.
        complete: whether there is time for what remains to be checked.
        num_steps: number of gradient steps.
        chains: whether it remains to be checked with short chains.
    """
    problem, solution, assessment, _ = candidate
    if solution.elbo is not None:
        assessment = assessment._replace(elbo=solution.elbo, elbo_se=0.0)
    if isinstance(problem.guide, TransportGuide):
        num_steps += len(solution.losses)
    return _result(
        problem,
        solution.variables,
        mutable,
        assessment=assessment,
        stop_reason=solution.reason,
        converged=solution.converged,
        unseen=solution.unseen,
        start=start,
        solver_losses=solution.losses,
        sites=solution.sites,
        solver_steps=num_steps,
        history=history,
        num_evaluations=None if history else solution.evaluations,
        complete=complete,
        chains=chains,
    )


def _result(
    problem: Problem,
    variables: Variables,
    mutable: dict[str, PyTree],
    assessment: Assessment,
    start: float,
    unseen: float | None = None,
    complete: bool = True,
    chains: Chains = "none",
    **fields: Any,
) -> FitResult:
    """The result of any fit; here it is checked with chains and in what else has not been.

    Args:
        problem: the problem.
        variables: the fitted variables.
        mutable: the model's mutable state.
        assessment: by importance weights, or also by chains.
        start: `time.perf_counter()` at the start of the fit.
        unseen: see `vijax.contracts.Solution`.
        complete: whether there is time for the checks.
        chains: see `vijax.diagnostics.assessment.assess`.
        **fields: of the result.
    """
    diagnostics = assessment.diagnostics._replace(
        data_warnings=problem.arguments.data_warnings,
        remarks=problem.remarks.texts,
        failure_advice=problem.remarks.failure_advice,
        bounds=problem.target.structure.bounds,
        parameters_only=not problem.target.space.sites,
    )
    assessment = assessment._replace(diagnostics=diagnostics)
    if complete:
        rest = dict(assessment=assessment, start=start, complete=False, **fields)
        keep_answer(lambda: _result(problem, variables, mutable, **rest))
        with spent_on("check"):
            fitted = problem.fitted(variables, mutable) if assessment.draws.z else None
            if fitted is not None and chains != "none":
                assessment = add_chain_check(assessment, fitted, correct=chains == "correct")
                with_chains = rest | {"assessment": assessment}
                keep_answer(lambda: _result(problem, variables, mutable, **with_chains))
            assessment = with_mode_search(assessment, problem, variables, mutable, unseen)
            if fitted is not None and not is_interrupted():
                assessment = add_propriety(assessment, fitted)
                # where nothing is compiled for it: others need it for modes or chains
                if assessment.check is not None or assessment.diagnosis.status in TRUSTED:
                    assessment = add_gradient_check(assessment, fitted)
            assessment = with_rounding_error(assessment, problem)
    reason, end = fields.pop("stop_reason"), end_reason()
    if is_interrupted() or not complete:
        diagnostics = assessment.diagnostics._replace(cut_short=end)
        # states of chains replace draws only where these are corrected
        assessment = assessment._replace(diagnostics=diagnostics, chain_states=None)
        reason = reason if end in reason else f"{end}; {reason}"
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
        assessment=assessment,
        stop_reason=reason + late_compilation(),
        seconds=time.perf_counter() - start,
        timing=timing_so_far(),
        **fields,
    )


def _known_data(
    problem: Problem, variables: Variables, mutable: dict[str, PyTree]
) -> tuple[Batch, tuple[str, ...], frozenset[str]]:
    """The data in memory, names of arrays that are not, deterministics that depend on those."""
    target, arguments = problem.target, problem.arguments
    if not arguments.sources:
        batch = problem.batch if holds_all_rows(target) else problem.first_batch
        return batch, (), frozenset()
    missing = tuple(arguments.sources)
    batch = with_placeholders(problem.batch, arguments, missing)
    return batch, missing, dependent_sites(target, batch, variables, mutable, missing)

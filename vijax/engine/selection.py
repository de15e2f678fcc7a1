"""The variables that a run returns: averages of iterates, compared by ELBO on common draws."""

from __future__ import annotations

import numpy as np

from vijax.contracts import PyTree, Variables
from vijax.engine.common_draws import common_log_weights
from vijax.engine.conjugate_rows import with_solved_rows
from vijax.engine.device_steps import DeviceSteps
from vijax.engine.loop import select_restart
from vijax.engine.row_parameters import merge
from vijax.engine.run import Run
from vijax.engine.stopping import average, is_flat, recent
from vijax.guides.conjugate import BoundConjugate
from vijax.runtime.device_layout import on_host

_RECENT = 100  # number of last steps by whose losses restarts are compared
_LEAST_WINDOWS = 4  # of a test for a trend

Selected = tuple[Variables, dict[str, PyTree], int]


def best(steps: DeviceSteps, run: Run) -> Selected:
    """The candidate of largest ELBO over all restarts, on common fresh draws.

    Candidates are the best average of earlier learning rates, the average of the recent iterates,
    and the last iterate; ties go to the first. If the objective's optimum does not maximize the
    ELBO, `latest` is returned.

    Returns:
        The variables, the model's mutable state and the index of the restart.
    """
    if not steps.algorithm.maximizes_elbo:
        return latest(steps, run)
    found: list[tuple[float, Variables, int]] = []
    current = steps.current_variables(run.loop)
    for restart, phase in enumerate(run.phases):
        last = select_restart(current, restart)
        candidates = [phase.best] if phase.best is not None else []
        if phase.windows and not phase.stopped:
            candidates.append(average(recent(phase)))
        for candidate in (*candidates, last):
            variables = merge(candidate, last)
            elbo = float(log_weights(steps, variables, run, restart).mean())
            found.append((elbo, variables, restart))
    _, variables, restart = max(found, key=lambda entry: entry[0])
    selected = _selected(steps, run, variables, restart)
    if isinstance(steps.problem.guide, BoundConjugate):
        return with_solved_rows(steps.problem, selected[0]), *selected[1:]
    return selected


def latest(steps: DeviceSteps, run: Run) -> Selected:
    """The latest average of iterates of the restart with the lowest recent loss."""
    losses = run.losses[-_RECENT:].sum(0)  # there may be none
    return latest_of(steps, run, int(np.argmin(np.nan_to_num(losses, nan=np.inf))))


def latest_of(steps: DeviceSteps, run: Run, restart: int) -> Selected:
    """The latest average of iterates of one restart."""
    phase = run.phases[restart]
    variables = select_restart(steps.current_variables(run.loop), restart)
    if steps.algorithm.collects:
        return _selected(steps, run, variables, restart)
    if phase.windows and not phase.stopped:
        variables = merge(average(recent(phase)), variables)
    elif phase.best is not None:
        variables = merge(phase.best, variables)
    return _selected(steps, run, variables, restart)


def is_stationary(run: Run, restart: int) -> bool:
    """Whether the losses of the second half of the steps show no trend."""
    windows = recent(run.phases[restart])
    return len(windows) >= _LEAST_WINDOWS and is_flat(windows)


def log_weights(steps: DeviceSteps, variables: Variables, run: Run, restart: int) -> np.ndarray:
    """`log p - log q` on common random draws, `(num_draws,)`."""
    problem, mutable = steps.problem, _mutable(steps, run, restart)
    return common_log_weights(
        problem.target, problem.guide, variables, mutable, steps.batch, steps.schedule
    )


def _mutable(steps: DeviceSteps, run: Run, restart: int) -> dict[str, PyTree]:
    return select_restart(on_host(steps.mutable_states(run.loop)), restart)


def _selected(steps: DeviceSteps, run: Run, variables: Variables, restart: int) -> Selected:
    """The variables on the host, rows in the order of the data, with the mutable state."""
    variables = steps.reorder(on_host(variables), back=True)
    return variables, _mutable(steps, run, restart), restart

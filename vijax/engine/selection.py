"""Which variables a run returns: averages of iterates, compared by ELBO on common draws."""

from __future__ import annotations

import numpy as np

from vijax.contracts import PyTree, Variables
from vijax.engine.common_draws import common_log_weights
from vijax.engine.device_steps import DeviceSteps
from vijax.engine.loop import take
from vijax.engine.row_parameters import merge
from vijax.engine.run import Run
from vijax.engine.stopping import average, recent
from vijax.runtime.device_layout import on_host

_RECENT = 100  # steps whose losses say which restart is the best one

Selected = tuple[Variables, dict[str, PyTree], int]


def best(steps: DeviceSteps, run: Run) -> Selected:
    """The best candidate of all restarts by a fresh ELBO on common draws.

    Candidates are the average of the recent iterates, the best average of earlier step sizes,
    and the last iterate; the earlier ones win ties. Where the optimum is not the ELBO's, it is
    the `latest` average.

    Returns:
        The variables, the model's mutable state and the number of the restart.
    """
    if not steps.algorithm.maximizes_elbo:
        return latest(steps, run)
    found: list[tuple[float, Variables, int]] = []
    present = steps.present(run.loop)
    for restart, phase in enumerate(run.phases):
        last = take(present, restart)
        candidates = [phase.best] if phase.best is not None else []
        if phase.windows and not phase.stopped:
            candidates.append(average(recent(phase)))
        for candidate in (*candidates, last):
            variables = merge(candidate, last)
            found.append((float(score(steps, variables, run, restart).mean()), variables, restart))
    _, variables, restart = max(found, key=lambda entry: entry[0])
    return _returned(steps, run, variables, restart)


def latest(steps: DeviceSteps, run: Run) -> Selected:
    """The latest average of the restart whose recent losses are lowest."""
    restart = int(np.argmin(np.nan_to_num(run.losses[-_RECENT:].mean(0), nan=np.inf)))
    phase, variables = run.phases[restart], take(steps.present(run.loop), restart)
    if phase.windows and not phase.stopped:
        variables = merge(average(recent(phase)), variables)
    elif phase.best is not None:
        variables = merge(phase.best, variables)
    return _returned(steps, run, variables, restart)


def score(steps: DeviceSteps, variables: Variables, run: Run, restart: int) -> np.ndarray:
    """`log p - log q` of draws that are the same for every candidate."""
    problem, mutable = steps.problem, _mutable(steps, run, restart)
    return common_log_weights(
        problem.target, problem.guide, variables, mutable, steps.batch, steps.schedule
    )


def _mutable(steps: DeviceSteps, run: Run, restart: int) -> dict[str, PyTree]:
    return take(on_host(steps.mutables(run.loop)), restart)


def _returned(steps: DeviceSteps, run: Run, variables: Variables, restart: int) -> Selected:
    """On the host, rows in the order of the data."""
    variables = steps.reorder(on_host(variables), back=True)
    return variables, _mutable(steps, run, restart), restart

"""Annealing of the learning rate: test for stationarity, reduce the rate, test for convergence.

Once the iterates at one learning rate are stationary, they are averaged. The ELBO of the average is
compared with that of the previous learning rate on common draws. If the gain is below both the
tolerance and twice its standard error, the fit has converged; otherwise the learning rate is
reduced and the optimizer restarts from the better average.
"""

from __future__ import annotations

import jax
import numpy as np

from vijax.contracts import PyTree
from vijax.diagnostics.importance import gain
from vijax.engine.device_steps import DeviceSteps
from vijax.engine.loop import probe, select_restart
from vijax.engine.row_parameters import merge
from vijax.engine.run import Budget, Run
from vijax.engine.selection import log_weights
from vijax.engine.stopping import Phase, StopRule, Window, add_window, average, recent
from vijax.runtime.device_layout import on_host

_NON_ELBO_PHASES = (
    4  # learning rates of a fit whose objective is not maximized by the ELBO's optimum
)


def close_window(steps: DeviceSteps, rule: StopRule, anneal: bool, run: Run, budget: Budget) -> Run:
    """Adds the window to the phase of every active restart, and applies the stopping rule.

    Args:
        steps: the device side of the run.
        rule: the stopping rule.
        anneal: whether the rule may reduce the learning rate.
        run: the run at the end of a window.
        budget: the run's budget.
    """
    mean, sum_squares, count = jax.tree.map(np.asarray, on_host(run.loop[1:]))
    losses = run.losses[run.window_start :]
    phases, factors, states = list(run.phases), list(run.factors), None
    for restart, phase in enumerate(phases):
        if phase.stopped:
            continue
        finite = np.isfinite(losses[:, restart])
        if finite.mean() < 0.5:
            phases[restart] = phase._replace(stopped="most steps were not finite")
            continue
        window = Window(
            steps=float(finite.size),
            loss=float(losses[finite, restart].mean()),
            mean=select_restart(mean, restart),
            probe_mean=probe(select_restart(mean, restart), np).astype(np.float64),
            probe_var=sum_squares[restart].astype(np.float64) / max(count[restart] - 1, 1),
        )
        next_phase, factor = add_window(phase, window), 1.0
        if anneal and rule.stationary(next_phase):
            next_phase, factor = _end_phase(steps, rule, run, restart, next_phase, budget)
        worse = next_phase.best is phase.best
        phases[restart] = next_phase
        if factor != 1.0:
            factors[restart] *= factor
            states = steps.states(run.loop) if states is None else states
            states = _rescale(steps, states, restart, factor, phases[restart].best, worse)
    loop = run.loop if states is None else steps.with_states(run.loop, states)
    run = run._replace(
        loop=loop, window_start=run.step, phases=tuple(phases), factors=tuple(factors)
    )
    if all(phase.stopped for phase in phases):
        first = max(phases, key=lambda phase: phase.converged)
        run = run._replace(reason=first.stopped, converged=first.converged)
    return run


def _end_phase(
    steps: DeviceSteps, rule: StopRule, run: Run, restart: int, phase: Phase, budget: Budget
) -> tuple[Phase, float]:
    """The phase after a stationary one, and the factor for its learning rate."""
    candidate, number = average(recent(phase, rule.min_windows)), phase.number + 1
    if not steps.algorithm.maximizes_elbo:
        next_phase = Phase(number, (), candidate)
        if number < _NON_ELBO_PHASES or budget.num_steps is not None:
            return next_phase, rule.shrink
        text = f"converged: stationary at each of {_NON_ELBO_PHASES} learning rates"
        return next_phase._replace(stopped=text, converged=True), 1.0
    gained, error = float("inf"), 0.0
    if phase.best is not None:
        current = select_restart(steps.current_variables(run.loop), restart)
        full = (merge(one, current) for one in (candidate, phase.best))
        gained, error = gain(*(log_weights(steps, one, run, restart) for one in full))
    best = candidate if gained > 0 else phase.best
    # a decrease is not convergence: this rate was too large, the next one starts from the best
    threshold = max(rule.tolerance, 2 * error)
    done = -2 * error - rule.tolerance < gained < threshold
    done &= number >= rule.min_phases
    next_phase = Phase(number, (), best)
    if done and budget.num_steps is None:
        text = (
            f"converged: the last of {number} learning rates improved the ELBO by only "
            f"{gained:.3g} ± {error:.2g} nats"
        )
        return next_phase._replace(stopped=text, converged=True), 1.0
    if number >= rule.max_phases and budget.num_steps is None:
        text = (
            f"not converged: ELBO still improving by {gained:.3g} nats after {rule.max_phases} "
            "learning-rate reductions"
        )
        return next_phase._replace(stopped=text), 1.0
    return next_phase, rule.shrink if number < rule.max_phases else 1.0


def _rescale(
    steps: DeviceSteps,
    states: PyTree,
    restart: int,
    factor: float,
    start: PyTree,
    reset_moments: bool,
) -> PyTree:
    """All restarts' states on the host, one of them moved to `start` at a smaller learning rate.

    After a phase that diverged the optimizer's moments are reset: moments that large would keep the
    next phase from moving, which looks like convergence.
    """
    one = steps.algorithm.rescale(select_restart(states, restart), factor)
    start = merge(start, steps.algorithm.variables(one))
    one = steps.algorithm.move(one, start, reset_moments)

    def put(stacked: np.ndarray, leaf: np.ndarray) -> np.ndarray:
        stacked = np.array(stacked)
        stacked[restart] = leaf
        return stacked

    return jax.tree.map(put, states, one)

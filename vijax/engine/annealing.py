"""The end of a window: whether a restart is stationary, its step size reduced, or the fit over.

The windows of a step size are averaged once they no longer drift. The average is compared with
that of the step size before on common draws; where it gains no more than its error and the
tolerance, the fit has converged, else the step size is reduced and the optimizer moves there.
"""

from __future__ import annotations

import jax
import numpy as np

from vijax.contracts import PyTree
from vijax.diagnostics.importance import gain
from vijax.engine.device_steps import DeviceSteps
from vijax.engine.loop import probe, take
from vijax.engine.row_parameters import merge
from vijax.engine.run import Budget, Run
from vijax.engine.selection import score
from vijax.engine.stopping import Phase, StopRule, Window, add, average, recent
from vijax.runtime.device_layout import on_host

_OTHER_PHASES = 4  # step sizes of a fit whose averages are not compared


def close_window(steps: DeviceSteps, rule: StopRule, anneal: bool, run: Run, budget: Budget) -> Run:
    """Adds the window to every running restart's phase, and lets the rule decide.

    Args:
        steps: the device side of the run.
        rule: the stopping rule.
        anneal: whether it may reduce the step size.
        run: at the end of a window.
        budget: of the run.
    """
    mean, square, count = jax.tree.map(np.asarray, on_host(run.loop[1:]))
    losses = run.losses[run.window :]
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
            mean=take(mean, restart),
            probe_mean=probe(take(mean, restart), np).astype(np.float64),
            probe_var=square[restart].astype(np.float64) / max(count[restart] - 1, 1),
        )
        following, factor = add(phase, window), 1.0
        if anneal and rule.stationary(following):
            following, factor = _decide(steps, rule, run, restart, following, budget)
        worse = following.best is phase.best
        phases[restart] = following
        if factor != 1.0:
            factors[restart] *= factor
            states = steps.states(run.loop) if states is None else states
            states = _reduce(steps, states, restart, factor, phases[restart].best, worse)
    loop = run.loop if states is None else steps.with_states(run.loop, states)
    run = run._replace(loop=loop, window=run.step, phases=tuple(phases), factors=tuple(factors))
    if all(phase.stopped for phase in phases):
        first = max(phases, key=lambda phase: phase.converged)
        run = run._replace(reason=first.stopped, converged=first.converged)
    return run


def _decide(
    steps: DeviceSteps, rule: StopRule, run: Run, restart: int, phase: Phase, budget: Budget
) -> tuple[Phase, float]:
    """The phase that follows a stationary one, and the factor for its step size."""
    candidate, number = average(recent(phase, rule.min_windows)), phase.number + 1
    if not steps.algorithm.maximizes_elbo:
        following = Phase(number, (), candidate)
        if number < _OTHER_PHASES or budget.num_steps is not None:
            return following, rule.shrink
        text = f"converged: stationary at each of {_OTHER_PHASES} step sizes"
        return following._replace(stopped=text, converged=True), 1.0
    gained, error = float("inf"), 0.0
    if phase.best is not None:
        present = take(steps.present(run.loop), restart)
        whole = (merge(one, present) for one in (candidate, phase.best))
        gained, error = gain(*(score(steps, one, run, restart) for one in whole))
    best = candidate if gained > 0 else phase.best
    # a loss is no convergence: this step size was too large, the next one starts from the best
    worth = max(rule.tolerance, 2 * error)
    done = -2 * error - rule.tolerance < gained < worth
    done &= number >= rule.min_phases
    following = Phase(number, (), best)
    if done and budget.num_steps is None:
        text = (
            f"converged: reducing the step size {number} times gained only "
            f"{gained:.3g} +- {error:.2g} nats at last"
        )
        return following._replace(stopped=text, converged=True), 1.0
    if number >= rule.max_phases and budget.num_steps is None:
        text = f"still gaining {gained:.3g} nats after {rule.max_phases} step sizes"
        return following._replace(stopped=text), 1.0
    return following, rule.shrink if number < rule.max_phases else 1.0


def _reduce(
    steps: DeviceSteps, states: PyTree, restart: int, factor: float, start: PyTree, forget: bool
) -> PyTree:
    """All restarts' states on the host, one of them moved to `start` with smaller steps.

    After a phase that diverged its gradients are forgotten: with moments as large as theirs
    the next one would not move, and standing still looks like convergence.
    """
    one = steps.algorithm.rescale(take(states, restart), factor)
    start = merge(start, steps.algorithm.variables(one))
    one = steps.algorithm.move(one, start, forget)

    def put(stacked: np.ndarray, leaf: np.ndarray) -> np.ndarray:
        stacked = np.array(stacked)
        stacked[restart] = leaf
        return stacked

    return jax.tree.map(put, states, one)

"""The only training loop: compiled pieces of many steps, with decisions by the host in between.

A piece runs a number of steps decided at run time, so that one compiled program serves every
length. Between pieces, and only there, the host looks at the losses, the clock, the callbacks and
the stopping rule. Decisions are taken at step numbers that depend on nothing but the step, never
on the clock: 100 + 200 steps equal 300 bit for bit.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from vijax.contracts import Algorithm, PyTree, Variables
from vijax.diagnostics import nonfinite
from vijax.diagnostics.nonfinite import NonFinite
from vijax.engine import selection
from vijax.engine.annealing import close_window
from vijax.engine.common_draws import of_rows
from vijax.engine.device_steps import DeviceSteps
from vijax.engine.loop import CAPACITY, THIN, Loop, take
from vijax.engine.problem import Problem
from vijax.engine.run import Budget, Run
from vijax.engine.selection import Selected
from vijax.engine.stopping import Phase, StopRule
from vijax.runtime.device_layout import on_host
from vijax.runtime.interrupt import defer_interrupt
from vijax.runtime.keys import fold_in
from vijax.runtime.progress import Progress

_WINDOW = 100  # shortest window between two decisions, in steps
_PIECE_SECONDS = 0.25  # how often the host looks in
_PIECE_TOGETHER = 200  # steps of a piece that several processes take together


@dataclasses.dataclass(frozen=True, eq=False)
class Engine:
    """The fixed parts of a run of gradient steps.

    Attributes:
        problem: what is fitted.
        algorithm: what takes the steps.
        rule: the stopping rule.
        anneal: whether it may reduce the step size.
        reordered: see `DeviceSteps`. The problem's data, and what `best` returns, are in the
            order of the data.
    """

    problem: Problem
    algorithm: Algorithm
    rule: StopRule = StopRule()
    anneal: bool = True
    reordered: tuple[str, ...] = ()

    @functools.cached_property
    def steps(self) -> DeviceSteps:
        """The device side."""
        return DeviceSteps(self.problem, self.algorithm, self.reordered)

    def released(self) -> Engine:
        """The same, without data that can be made again."""
        return dataclasses.replace(self)

    def start(
        self,
        variables: Sequence[Variables],
        mutable: dict[str, PyTree],
        factors: Sequence[float] | None = None,
    ) -> Run:
        """A run at step 0, one restart for each of `variables`, as from `steps.reorder`."""
        factors = tuple(factors or [1.0] * len(variables))
        loop = self.steps.start(variables, mutable, factors)
        phases = tuple(Phase() for _ in variables)
        return Run(loop, 0, 0, phases, np.zeros((0, len(phases))), factors=factors)

    def advance(
        self,
        run: Run,
        budget: Budget,
        callbacks: Sequence[Callable[..., Any]] = (),
        progress: Progress | None = None,
    ) -> Run:
        """Runs on until the budget is spent, the rule is satisfied, or a callback says stop."""
        clock, length = time.perf_counter(), THIN
        run = run.awake()
        run = run._replace(reason=budget.spent(run.step, time.perf_counter() - clock))
        try:
            while not run.reason:
                ends = (budget.last, _window_end(run.window), self.problem.schedule.end(run.step))
                stop = min(run.step + length, *(end for end in ends if end is not None))
                began = time.perf_counter()
                with defer_interrupt():  # a piece may take over the state that it begins with
                    run = self._piece(run, stop)
                length = _next_length(length, time.perf_counter() - began)
                if run.step == _window_end(run.window):
                    run = close_window(self.steps, self.rule, self.anneal, run, budget)
                spent = budget.spent(run.step, time.perf_counter() - clock)
                run = run._replace(reason=run.reason or spent)
                if progress is not None:
                    progress.update(run.step, run.losses)
                run = _call(run, callbacks)
        except KeyboardInterrupt:
            run = run._replace(reason="interrupted by Ctrl-C")
        return run

    def trial(self, run: Run, num_steps: int) -> float:
        """Mean loss over the later half of a few steps, `inf` if any was not finite."""
        losses = self.steps.take(run, num_steps, guarded=False)[1][num_steps // 2 :]
        return float(losses.mean()) if np.isfinite(losses).all() else np.inf

    def best(self, run: Run) -> Selected:
        """See `vijax.engine.selection.best`."""
        return selection.best(self.steps, run)

    def latest(self, run: Run) -> Selected:
        """See `vijax.engine.selection.latest`."""
        return selection.latest(self.steps, run)

    def _piece(self, run: Run, stop: int) -> Run:
        """Steps `run.step..stop-1`; replays them one by one if one was not finite."""
        steps, active, by_row = self.steps, run.active, self.steps.by_row(run.loop)
        loop, losses, finite = steps.take(run, stop, run.guarded)
        bad = ~np.isfinite(losses) & active
        if not run.guarded and not by_row and (bad.any() or not finite):
            loop, losses, _ = steps.take(run, stop, guarded=True)
            run = run._replace(guarded=True)
            bad = ~np.isfinite(losses) & active
        nonfinite_steps = run.nonfinite_steps
        if bad.any() and not nonfinite_steps:
            when, restart = (int(i) for i in np.argwhere(bad)[0])
            if by_row:
                before = loop  # where the piece began is gone; the step itself was left out
            elif when:
                before = steps.take(run, run.step + when, guarded=True)[0]
            else:
                before = run.loop
            nonfinite_steps = (self._diagnose(before, run.step + when, restart),)
        losses = np.where(active, losses, np.nan)
        return run._replace(
            loop=loop,
            step=stop,
            losses=np.concatenate([run.losses, losses]),
            nonfinite_steps=nonfinite_steps,
            guarded=run.guarded,
        )

    def _diagnose(self, loop: Loop, step: int, restart: int) -> NonFinite:
        """What was not finite in a step."""
        target, guide, steps = self.problem.target, self.problem.guide, self.steps
        variables, mutable = on_host((steps.variables(loop), steps.mutables(loop)))
        batch = steps.schedule.batch(steps.batch, step)
        key = fold_in(fold_in(steps.key, restart), step)
        variables = of_rows(target, guide, take(variables, restart), batch.index)
        state = (variables, take(mutable, restart), key, batch, step)
        return nonfinite.diagnose(target.on_batch, guide, *state)


def _call(run: Run, callbacks: Sequence[Callable[..., Any]]) -> Run:
    for callback in callbacks:
        try:
            callback(run, run.curves, run.step)
        except StopIteration:
            run = run._replace(reason="stopped by a callback")
    return run


def _window_end(begin: int) -> int:
    """The step at which a window ends: later ones are longer, so decisions grow rare."""
    return begin + max(_WINDOW, begin // 20 // THIN * THIN)


def _next_length(length: int, seconds: float) -> int:
    """A piece length that takes about `_PIECE_SECONDS`, in whole thinning blocks.

    Several processes have clocks of their own, but must ask for the same steps.
    """
    if jax.process_count() > 1:
        return _PIECE_TOGETHER
    wanted = length * min(8.0, max(0.25, _PIECE_SECONDS / max(seconds, 1e-6)))
    return int(min(CAPACITY, max(THIN, wanted // THIN * THIN)))

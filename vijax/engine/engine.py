"""The training loop: compiled segments of many steps, with decisions on the host in between.

The number of steps of a segment is a run-time argument, so that a single program is compiled.
Between segments the host checks losses, clock, callbacks and stopping rule. The stopping rule is
applied at step numbers that do not depend on the clock: 100 + 200 steps equal 300 bit for bit.
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
from vijax.engine.common_draws import variables_on_rows
from vijax.engine.device_steps import DeviceSteps
from vijax.engine.loop import MAX_SEGMENT, THINNING, Loop, select_restart
from vijax.engine.problem import Problem
from vijax.engine.run import Budget, Run
from vijax.engine.selection import Selected
from vijax.engine.stopping import Phase, StopRule
from vijax.runtime.deadline import INTERRUPTED, acknowledge, end_reason, time_is_up
from vijax.runtime.device_layout import on_host
from vijax.runtime.interrupt import defer_interrupt
from vijax.runtime.keys import fold_in
from vijax.runtime.progress import Stage, stage

_MIN_WINDOW = 100  # minimum number of steps between two applications of the stopping rule
_SEGMENT_SECONDS = 0.25  # targeted duration of a segment
_MULTIPROCESS_SEGMENT = 200  # steps per segment with several processes


@dataclasses.dataclass(frozen=True, eq=False)
class Engine:
    """The fixed parts of a run of gradient steps.

    Attributes:
        problem: what is fitted.
        algorithm: what takes the steps.
        rule: the stopping rule.
        anneal: whether the rule may reduce the learning rate.
        reordered: see `DeviceSteps`. The problem's data, and the variables that `best` returns,
            keep the order of the data.
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

    def without_cache(self) -> Engine:
        """A copy without cached data."""
        return dataclasses.replace(self)

    def start(
        self,
        variables: Sequence[Variables],
        mutable: dict[str, PyTree],
        factors: Sequence[float] | None = None,
    ) -> Run:
        """A run at step 0, one restart for each of `variables`, rows as by `steps.reorder`."""
        factors = tuple(factors or [1.0] * len(variables))
        loop = self.steps.start(variables, mutable, factors)
        phases = tuple(Phase() for _ in variables)
        return Run(loop, 0, 0, phases, np.zeros((0, len(phases))), factors=factors)

    def advance(
        self,
        run: Run,
        budget: Budget,
        callbacks: Sequence[Callable[..., Any]] = (),
    ) -> Run:
        """Continues until the budget is spent, the rule is met, or a callback stops the run."""
        start_time = time.perf_counter()
        run = run.resumed()
        run = run._replace(reason=budget.stop_reason(run.step, time.perf_counter() - start_time))
        with stage("gradient steps") as progress:
            progress.update(run.step, budget.num_steps)
            return self._advance(run, budget, callbacks, progress, start_time)

    def _advance(
        self,
        run: Run,
        budget: Budget,
        callbacks: Sequence[Callable[..., Any]],
        progress: Stage,
        start_time: float,
    ) -> Run:
        length, compiled = THINNING, None
        try:
            while not run.reason:
                if run.guarded != compiled:  # the fit may be left here, but not during a segment
                    self.steps.compile(run)
                    compiled = run.guarded
                ends = (
                    budget.max_steps,
                    _window_end(run.window_start),
                    self.problem.schedule.chunk_end(run.step),
                )
                stop = min(run.step + length, *(end for end in ends if end is not None))
                segment_start = time.perf_counter()
                with defer_interrupt():  # a segment may overwrite its initial state
                    run = self._run_segment(run, stop)
                length = _next_length(length, time.perf_counter() - segment_start)
                if run.step == _window_end(run.window_start):
                    run = close_window(self.steps, self.rule, self.anneal, run, budget)
                spent = budget.stop_reason(run.step, time.perf_counter() - start_time)
                if not spent and time_is_up():  # it counts from the start of the fit
                    spent = end_reason()
                run = run._replace(reason=run.reason or spent)
                progress.losses(run.step, run.losses)
                run = _call(run, callbacks)
        except KeyboardInterrupt:
            acknowledge()
            run = run._replace(reason=run.reason or end_reason() or INTERRUPTED)
        return run

    def trial(self, run: Run, num_steps: int) -> float:
        """Mean loss over the second half of a few steps, `inf` if any was not finite."""
        losses = self.steps.run(run, num_steps, guarded=False)[1][num_steps // 2 :]
        return float(losses.mean()) if np.isfinite(losses).all() else np.inf

    def best(self, run: Run) -> Selected:
        """See `vijax.engine.selection.best`."""
        return selection.best(self.steps, run)

    def latest(self, run: Run) -> Selected:
        """See `vijax.engine.selection.latest`."""
        return selection.latest(self.steps, run)

    def restarts(self, run: Run) -> list[Selected]:
        """`latest` of every restart."""
        return [selection.latest_of(self.steps, run, i) for i in range(len(run.phases))]

    def _run_segment(self, run: Run, stop: int) -> Run:
        """Runs steps `run.step..stop-1`; repeats them guarded if any was not finite."""
        steps, active, row_params = self.steps, run.active, self.steps.has_row_params(run.loop)
        loop, losses, finite = steps.run(run, stop, run.guarded)
        bad = ~np.isfinite(losses) & active
        if not run.guarded and not row_params and (bad.any() or not finite):
            loop, losses, _ = steps.run(run, stop, guarded=True)
            run = run._replace(guarded=True)
            bad = ~np.isfinite(losses) & active
        nonfinite_steps = run.nonfinite_steps
        if bad.any() and not nonfinite_steps:
            offset, restart = (int(i) for i in np.argwhere(bad)[0])
            if row_params:
                before = loop  # the initial state was overwritten; the step itself was skipped
            elif offset:
                before = steps.run(run, run.step + offset, guarded=True)[0]
            else:
                before = run.loop
            nonfinite_steps = (self._diagnose(before, run.step + offset, restart),)
        losses = np.where(active, losses, np.nan)
        return run._replace(
            loop=loop,
            step=stop,
            losses=np.concatenate([run.losses, losses]),
            nonfinite_steps=nonfinite_steps,
            guarded=run.guarded,
        )

    def _diagnose(self, loop: Loop, step: int, restart: int) -> NonFinite:
        """Locates the site that was not finite in a step."""
        target, guide, steps = self.problem.target, self.problem.guide, self.steps
        variables, mutable = on_host((steps.variables(loop), steps.mutable_states(loop)))
        batch = steps.schedule.batch(steps.batch, step)
        key = fold_in(fold_in(steps.key, restart), step)
        variables = variables_on_rows(
            target, guide, select_restart(variables, restart), batch.index
        )
        state = (variables, select_restart(mutable, restart), key, batch, step)
        return nonfinite.diagnose(target.on_batch, guide, *state)


def _call(run: Run, callbacks: Sequence[Callable[..., Any]]) -> Run:
    for callback in callbacks:
        try:
            callback(run, run.curves, run.step)
        except StopIteration:
            run = run._replace(reason="stopped by a callback")
        except Exception as error:
            name = getattr(callback, "__qualname__", type(callback).__qualname__)
            error.add_note(
                f"callbacks: {name} raised this at step {run.step}. It is called as "
                "callback(state, losses, step); to end the fit and keep its result, raise "
                "StopIteration."
            )
            raise
    return run


def _window_end(start: int) -> int:
    """The step at which a window ends; window lengths grow with the number of steps."""
    return start + max(_MIN_WINDOW, start // 20 // THINNING * THINNING)


def _next_length(length: int, seconds: float) -> int:
    """A segment length that takes about `_SEGMENT_SECONDS`, a multiple of `THINNING`.

    Clocks differ between processes, which must run the same steps.
    """
    if jax.process_count() > 1:
        return _MULTIPROCESS_SEGMENT
    target = length * min(8.0, max(0.25, _SEGMENT_SECONDS / max(seconds, 1e-6)))
    return int(min(MAX_SEGMENT, max(THINNING, target // THINNING * THINNING)))

"""The only training loop: compiled pieces of many steps, judged by the host in between.

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
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import Array

from vijax._arrangement import arrange, inverse
from vijax._batches import Rows
from vijax._contracts import Algorithm, Batch, Guide, PyTree, Target, Variables
from vijax._interrupt import put_off
from vijax._keys import fold_in
from vijax._locals import Packed, has_rows, merge, variable_axes
from vijax._locals import take as of_plates
from vijax._loop import (
    CAPACITY,
    THIN,
    Loop,
    advance,
    all_packed,
    begin,
    loop_axes,
    probe,
    start_axes,
    take,
    unpacked,
    unpacked_variables,
)
from vijax._progress import Progress
from vijax._scores import of_rows, scores
from vijax._spread import on_host
from vijax._stopping import Phase, StopRule, Window, add, average, recent
from vijax.diagnostics import nonfinite
from vijax.diagnostics.nonfinite import NonFinite
from vijax.diagnostics.weights import gain

_WINDOW = 100  # shortest window between two decisions, in steps
_PIECE_SECONDS = 0.25  # how often the host looks in
_PIECE_TOGETHER = 200  # steps of a piece that several processes take together
_OTHER_PHASES = 4  # step sizes of a fit whose averages are not compared
_MAX_STEPS = 500_000  # where a fit without a step limit gives up


class Run(NamedTuple):
    """Everything needed to go on exactly where a run left off.

    Attributes:
        loop: device state, restarts stacked.
        step: steps taken.
        window: step at which the current window began.
        phases: the stopping rule's memory, one a restart.
        losses: `(step, restarts)`, `nan` where a restart had stopped.
        guarded: whether steps are checked one by one, since a non-finite one was met.
        troubles: non-finite steps met, the first of each restart.
        reason: why the run ended.
        converged: whether it ended because nothing was left to gain.
        factors: step-size factor of each restart.
    """

    loop: Loop
    step: int
    window: int
    phases: tuple[Phase, ...]
    losses: np.ndarray
    guarded: bool = False
    troubles: tuple[NonFinite, ...] = ()
    reason: str = ""
    converged: bool = False
    factors: tuple[float, ...] = (1.0,)


@dataclasses.dataclass(frozen=True)
class Budget:
    """When to stop at the latest, and whether to stop before that.

    Args:
        num_steps: steps in all; `None` runs until converged.
        max_seconds: wall-clock limit.
    """

    num_steps: int | None = None
    max_seconds: float | None = None

    @property
    def last(self) -> int:
        """The step at which the run ends at the latest."""
        return _MAX_STEPS if self.num_steps is None else self.num_steps


@dataclasses.dataclass(frozen=True, eq=False)
class Engine:
    """One fit's fixed parts; `start`, `trial`, `advance` and `best` are its verbs.

    Attributes:
        anneal: whether the rule may reduce the step size.
        arranged: plates whose rows are in an order of their own while steps go, see
            `vijax._arrangement`. `batch`, and what `best` returns, are in the order of the data.
    """

    target: Target
    guide: Guide
    algorithm: Algorithm
    batch: Batch
    rows: Rows
    key: Array
    rule: StopRule = StopRule()
    anneal: bool = True
    arranged: tuple[str, ...] = ()

    @functools.cached_property
    def _rows(self) -> Rows:
        """The schedule, in which rows are called as they are while steps go."""
        return dataclasses.replace(self.rows, arranged=self.arranged)

    @functools.cached_property
    def _batch(self) -> Batch:
        """The data as they are while steps go."""
        if not self.arranged:
            return self.batch
        order = {plate: self.rows.order(plate) for plate in self.arranged}
        return self.batch._replace(data=arrange(self.batch.data, self.target.cut, order))

    def released(self) -> Engine:
        """The same, without data that can be made again."""
        return dataclasses.replace(self)

    def arrange(self, variables: Variables, back: bool = False) -> Variables:
        """Variables in the order of the data as they are while steps go, or `back`."""
        axes = variable_axes(self.guide, variables, self.target.space, self.arranged)
        if not has_rows(axes):
            return variables
        order = {plate: self.rows.order(plate) for plate in self.arranged}
        if back:
            order = {plate: inverse(rows) for plate, rows in order.items()}
        return jax.device_get(of_plates(variables, axes, order))

    def start(
        self,
        variables: Sequence[Variables],
        mutable: dict[str, PyTree],
        factors: Sequence[float] | None = None,
    ) -> Run:
        """A run at step 0 with one restart for each of `variables`, which `arrange` has seen."""
        factors = tuple(factors or [1.0] * len(variables))
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *on_host(list(variables)))
        axes = start_axes(self.target, self.guide, stacked)
        stacked = self.target.spread.placed(stacked, axes)
        loop = self.target.program(begin, self.guide, self.algorithm)(
            stacked, mutable, np.asarray(factors, np.float32), self.key, self.batch
        )
        phases = tuple(Phase() for _ in variables)
        return Run(loop, 0, 0, phases, np.zeros((0, len(phases))), factors=factors)

    def advance(
        self,
        run: Run,
        budget: Budget,
        callbacks: Sequence[Callable[..., Any]] = (),
        progress: Progress | None = None,
    ) -> Run:
        """Runs on until the budget is spent, the rule is satisfied, or somebody says stop."""
        clock, length = time.perf_counter(), THIN
        run = _awake(run)
        run = run._replace(reason=self._limit(run, budget, clock))
        try:
            while not run.reason:
                ends = (budget.last, _window_end(run.window), self.rows.end(run.step))
                stop = min(run.step + length, *(end for end in ends if end is not None))
                began = time.perf_counter()
                with put_off():  # a piece may take over the state that it begins with
                    run = self._piece(run, stop)
                length = _next_length(length, time.perf_counter() - began)
                if run.step == _window_end(run.window):
                    run = self._judge(run, budget)
                run = run._replace(reason=run.reason or self._limit(run, budget, clock))
                if progress is not None:
                    progress.update(run.step, run.losses)
                run = self._call(run, callbacks)
        except KeyboardInterrupt:
            run = run._replace(reason="interrupted by Ctrl-C")
        return run

    def placed(self, loop: Loop) -> Loop:
        """The device state on the devices of a mesh that it belongs on, wherever it has been."""
        if self.target.spread.mesh is None:  # saves a millisecond before every piece
            return loop
        axes = loop_axes(self.target, self.guide, self.algorithm, loop)
        return self.target.spread.placed(loop, axes)

    def _by_row(self, run: Run) -> bool:
        """Whether some parameters have a row for every row of a plate that is cut."""
        return isinstance(run.loop.state, Packed)

    def _variables(self, loop: Loop) -> Variables:
        """The variables of all restarts, on the device."""
        if not isinstance(loop.state, Packed):
            return self.algorithm.variables(loop.state)
        return self.target.program(unpacked_variables, self.guide, self.algorithm)(loop.state)

    def _present(self, run: Run) -> Variables:
        """The variables of all restarts as they are now; on the host, if none are by row.

        A candidate lacks those by row, which are not averaged, and takes them from here.
        """
        variables = self._variables(run.loop)
        return variables if self._by_row(run) else on_host(variables)

    def trial(self, run: Run, num_steps: int) -> float:
        """Mean loss over the later half of a few steps, `inf` if any was not finite."""
        losses = self._steps(run, num_steps, guarded=False)[1][num_steps // 2 :]
        return float(losses.mean()) if np.isfinite(losses).all() else np.inf

    def best(self, run: Run) -> tuple[Variables, dict[str, PyTree], int]:
        """The best candidate of all restarts by a fresh ELBO on common draws.

        Candidates are the average of the recent iterates, the best average of earlier step
        sizes, and the last iterate; the earlier ones win ties.

        Returns:
            The variables, the model's mutable state and the number of the restart.
        """
        found: list[tuple[float, Variables, int]] = []
        if not self.algorithm.raises_elbo:
            return self.latest(run)
        present = self._present(run)
        for restart, phase in enumerate(run.phases):
            last = take(present, restart)
            candidates = [phase.best] if phase.best is not None else []
            if phase.windows and not phase.stopped:
                candidates.append(average(recent(phase)))
            for candidate in (*candidates, last):
                variables = merge(candidate, last)
                score = self._score(variables, run, restart)
                found.append((float(score.mean()), variables, restart))
        _, variables, restart = max(found, key=lambda entry: entry[0])
        return self._returned(variables), self._mutable(run, restart), restart

    def latest(self, run: Run) -> tuple[Variables, dict[str, PyTree], int]:
        """The latest average of the restart whose recent losses are lowest."""
        restart = int(np.argmin(np.nan_to_num(run.losses[-_WINDOW:].mean(0), nan=np.inf)))
        phase, latest = run.phases[restart], take(self._present(run), restart)
        if phase.windows and not phase.stopped:
            latest = merge(average(recent(phase)), latest)
        elif phase.best is not None:
            latest = merge(phase.best, latest)
        return self._returned(latest), self._mutable(run, restart), restart

    def _returned(self, variables: Variables) -> Variables:
        """Variables on the host, in the order of the data."""
        return self.arrange(on_host(variables), back=True)

    def _mutable(self, run: Run, restart: int) -> dict[str, PyTree]:
        return take(on_host(self._mutables(run.loop)), restart)

    def _mutables(self, loop: Loop) -> dict[str, PyTree]:
        by_row = isinstance(loop.state, Packed)
        return self.algorithm.mutable(loop.state.rest if by_row else loop.state)

    def _score(self, variables: Variables, run: Run, restart: int) -> np.ndarray:
        """`log p - log q` of draws that are the same for every candidate."""
        mutable = self._mutable(run, restart)
        return scores(self.target, self.guide, variables, mutable, self._batch, self._rows)

    def _piece(self, run: Run, stop: int) -> Run:
        """Steps `run.step..stop-1`; replays them one by one if one was not finite."""
        active = np.array([not phase.stopped for phase in run.phases])
        loop, losses, finite = self._steps(run, stop, run.guarded)
        bad = ~np.isfinite(losses) & active
        if not run.guarded and not self._by_row(run) and (bad.any() or not finite):
            loop, losses, _ = self._steps(run, stop, guarded=True)
            run = run._replace(guarded=True)
            bad = ~np.isfinite(losses) & active
        troubles = run.troubles
        if bad.any() and not troubles:
            when, restart = (int(i) for i in np.argwhere(bad)[0])
            if self._by_row(run):
                before = loop  # where the piece began is gone; the step itself was left out
            elif when:
                before = self._steps(run, run.step + when, guarded=True)[0]
            else:
                before = run.loop
            troubles = (self._diagnose(before, run.step + when, restart),)
        losses = np.where(active, losses, np.nan)
        return run._replace(
            loop=loop,
            step=stop,
            losses=np.concatenate([run.losses, losses]),
            troubles=troubles,
            guarded=run.guarded,
        )

    def _steps(self, run: Run, stop: int, guarded: bool) -> tuple[Loop, np.ndarray, bool]:
        """The device state after steps `run.step..stop-1`, their losses, whether it is finite."""
        active = np.array([not phase.stopped for phase in run.phases])
        table = self._rows.chunk(run.step)
        static = (self.guide, self.algorithm, guarded, len(active))
        # parameters by row are updated where they are: copying all would cost more than the steps
        program = self.target.program(advance, *static, donate=(0,) if self._by_row(run) else ())
        fresh = run.step == run.window
        loop, losses, finite = program(
            self.placed(run.loop), self.key, active, fresh, run.step, stop, self._batch, table
        )
        self._rows.chunk(stop)  # made while the device is still at work
        return loop, np.asarray(losses)[: stop - run.step], bool(finite)

    def _diagnose(self, loop: Loop, step: int, restart: int) -> NonFinite:
        variables, mutable = on_host((self._variables(loop), self._mutables(loop)))
        batch = self._rows.batch(self._batch, step)
        key = fold_in(fold_in(self.key, restart), step)
        return nonfinite.diagnose(
            self.target.on_batch,
            self.guide,
            of_rows(self.target, self.guide, take(variables, restart), batch.index),
            take(mutable, restart),
            key,
            batch,
            step,
        )

    def _judge(self, run: Run, budget: Budget) -> Run:
        """Closes the window: adds it to every running restart's phase, lets the rule decide."""
        mean, square, count = jax.tree.map(np.asarray, on_host(run.loop[1:]))
        losses = run.losses[run.window :]
        phases, factors, state = list(run.phases), list(run.factors), None
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
            following, factor = self._decide(run, restart, add(phase, window), budget)
            worse = following.best is phase.best
            phases[restart] = following
            if factor != 1.0:
                factors[restart] *= factor
                state = self._states(run.loop) if state is None else state
                state = self._reduce(state, restart, factor, phases[restart].best, worse)
        loop = run.loop
        if state is not None:
            if self._by_row(run):
                state = self.target.program(all_packed, self.guide, self.algorithm)(state)
            loop = loop._replace(state=state)
        run = run._replace(loop=loop, window=run.step, phases=tuple(phases), factors=tuple(factors))
        if all(phase.stopped for phase in phases):
            first = max(phases, key=lambda phase: phase.converged)
            run = run._replace(reason=first.stopped, converged=first.converged)
        return run

    def _states(self, loop: Loop) -> PyTree:
        """The states of all restarts on the host, as the algorithm knows them."""
        state = loop.state
        if isinstance(state, Packed):
            state = self.target.program(unpacked, self.guide, self.algorithm)(state)
        return on_host(state)

    def _reduce(
        self, state: PyTree, restart: int, factor: float, start: PyTree, forget: bool
    ) -> PyTree:
        """All restarts' state on the host, one of them moved to `start` with smaller steps.

        After a phase that ran away its gradients are forgotten: with moments as large as theirs
        the next one would not move, and standing still looks like convergence.
        """
        one = self.algorithm.rescale(take(state, restart), factor)
        start = merge(start, self.algorithm.variables(one))
        one = self.algorithm.move(one, start, forget)

        def put(stacked: np.ndarray, leaf: np.ndarray) -> np.ndarray:
            stacked = np.array(stacked)
            stacked[restart] = leaf
            return stacked

        return jax.tree.map(put, state, one)

    def _decide(self, run: Run, restart: int, phase: Phase, budget: Budget) -> tuple[Phase, float]:
        """The phase after the rule has spoken, and the factor for its step size."""
        if not self.anneal or not self.rule.stationary(phase):
            return phase, 1.0
        candidate = average(recent(phase, self.rule.min_windows))
        if not self.algorithm.raises_elbo:
            following = Phase(phase.number + 1, (), candidate)
            if phase.number + 1 < _OTHER_PHASES or budget.num_steps is not None:
                return following, self.rule.shrink
            text = f"converged: stationary at each of {_OTHER_PHASES} step sizes"
            return following._replace(stopped=text, converged=True), 1.0
        gained, error = float("inf"), 0.0
        if phase.best is not None:
            present = take(self._present(run), restart)
            whole = (merge(one, present) for one in (candidate, phase.best))
            gained, error = gain(*(self._score(one, run, restart) for one in whole))
        best = candidate if gained > 0 else phase.best
        # a loss is no convergence: this step size was too large, the next one starts from the best
        worth = max(self.rule.tolerance, 2 * error)
        done = -2 * error - self.rule.tolerance < gained < worth
        done &= phase.number + 1 >= self.rule.min_phases
        following = Phase(phase.number + 1, (), best)
        if done and budget.num_steps is None:
            text = (
                f"converged: reducing the step size {phase.number + 1} times gained only "
                f"{gained:.3g} +- {error:.2g} nats at last"
            )
            return following._replace(stopped=text, converged=True), 1.0
        if phase.number + 1 >= self.rule.max_phases and budget.num_steps is None:
            text = f"still gaining {gained:.3g} nats after {self.rule.max_phases} step sizes"
            return following._replace(stopped=text), 1.0
        return following, self.rule.shrink if phase.number + 1 < self.rule.max_phases else 1.0

    def _limit(self, run: Run, budget: Budget, clock: float) -> str:
        if run.step >= budget.last:
            return f"num_steps={budget.last} reached"
        if budget.max_seconds is not None and time.perf_counter() - clock > budget.max_seconds:
            return f"max_seconds={budget.max_seconds:g} reached"
        return ""

    def _call(self, run: Run, callbacks: Sequence[Callable[..., Any]]) -> Run:
        for callback in callbacks:
            try:
                callback(
                    run, run.losses[:, 0] if run.losses.shape[1] == 1 else run.losses, run.step
                )
            except StopIteration:
                run = run._replace(reason="stopped by a callback")
        return run


def _awake(run: Run) -> Run:
    """A run that goes on: if every restart had stopped, all of them do; still as converged."""
    phases = run.phases
    if all(phase.stopped for phase in phases):
        phases = tuple(phase._replace(stopped="", converged=False) for phase in phases)
    return run._replace(phases=phases, reason="")


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

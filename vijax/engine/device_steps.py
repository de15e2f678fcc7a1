"""The host's interface to the device side of a run: runs segments of steps, reads their state."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax import Array

from vijax.contracts import Algorithm, Batch, PyTree, Variables
from vijax.engine.loop import (
    Loop,
    init_loop,
    loop_axes,
    pack_states,
    run_steps,
    sharded_variable_axes,
    unpack_states,
    unpack_variables,
)
from vijax.engine.problem import Problem
from vijax.engine.row_order import inverse_permutation, reorder
from vijax.engine.row_parameters import Packed, has_rows, variable_axes
from vijax.engine.row_parameters import take as take_plate_rows
from vijax.engine.row_schedule import RowSchedule
from vijax.engine.run import Run
from vijax.runtime.device_layout import on_host
from vijax.runtime.keys import fold_in
from vijax.runtime.program import Program


@dataclasses.dataclass(frozen=True, eq=False)
class DeviceSteps:
    """Steps of an algorithm on a problem; rows of some plates may be stored in another order.

    Attributes:
        problem: what is fitted.
        algorithm: what takes the steps.
        reordered: plates whose rows are stored in the order in which batches visit them, see
            `vijax.engine.row_order`.
    """

    problem: Problem
    algorithm: Algorithm
    reordered: tuple[str, ...] = ()

    @functools.cached_property
    def key(self) -> Array:
        """The root key of the steps; that of step `t` is `fold_in(key, t)`."""
        return fold_in(self.problem.key, 3)

    @functools.cached_property
    def schedule(self) -> RowSchedule:
        """The row schedule, its indices referring to the order in which rows are stored."""
        return dataclasses.replace(self.problem.schedule, reordered=self.reordered)

    @functools.cached_property
    def batch(self) -> Batch:
        """The data, in that order."""
        batch, target = self.problem.batch, self.problem.target
        if not self.reordered:
            return batch
        order = {plate: self.schedule.permutation(plate) for plate in self.reordered}
        return batch._replace(data=reorder(batch.data, target.subsampling.axes, order))

    def reorder(self, variables: Variables, back: bool = False) -> Variables:
        """The variables with rows in storage order, or, if `back`, in the order of the data."""
        problem = self.problem
        axes = variable_axes(problem.guide, variables, problem.target.space, self.reordered)
        if not has_rows(axes):
            return variables
        order = {plate: self.schedule.permutation(plate) for plate in self.reordered}
        if back:
            order = {plate: inverse_permutation(rows) for plate, rows in order.items()}
        return jax.device_get(take_plate_rows(variables, axes, order))

    def start(
        self,
        variables: Sequence[Variables],
        mutable: dict[str, PyTree],
        factors: tuple[float, ...],
    ) -> Loop:
        """The state at step 0, one restart for each of `variables`, rows in storage order."""
        target, guide, batch = self.problem.target, self.problem.guide, self.problem.batch
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *on_host(list(variables)))
        stacked = target.devices.put(stacked, sharded_variable_axes(target, guide, stacked))
        return target.program(init_loop, guide, self.algorithm)(
            stacked, mutable, np.asarray(factors, np.float32), self.key, batch
        )

    def run(self, run: Run, stop: int, guarded: bool) -> tuple[Loop, np.ndarray, bool]:
        """Runs steps `run.step..stop-1`.

        Returns:
            The device state, losses `(stop - run.step, restarts)`, and whether all are finite.
        """
        program, arguments = self._segment(run, guarded)
        loop, losses, finite = program(*arguments(stop))
        self.schedule.chunk(stop)  # computed while the device is still busy
        return loop, np.asarray(losses)[: stop - run.step], bool(finite)

    def compile(self, run: Run) -> None:
        """Compiles the program that `run` uses, if it is not yet."""
        program, arguments = self._segment(run, run.guarded)
        program.compile(*arguments(run.step + 1))

    def _segment(self, run: Run, guarded: bool) -> tuple[Program, Callable[[int], tuple[Any, ...]]]:
        """The program of a segment, and its arguments by the step at which it ends."""
        target, active = self.problem.target, run.active
        table = self.schedule.chunk(run.step)
        static = (self.problem.guide, self.algorithm, guarded, len(active))
        # per-row parameters are updated in place: copying them would cost more than the steps
        row_params = self.has_row_params(run.loop)
        donate = (0,) if row_params else ()
        # rounding of products is far below the noise of a step's gradient, and costs less
        program = target.program(run_steps, *static, donate=donate, float32=False)
        fresh, loop = run.step == run.window_start, self.put(run.loop)

        def arguments(stop: int) -> tuple[Any, ...]:
            return loop, self.key, active, fresh, run.step, stop, self.batch, table

        return program, arguments

    def put(self, loop: Loop) -> Loop:
        """The device state, transferred to the devices of the mesh."""
        target = self.problem.target
        if target.devices.mesh is None:  # saves a millisecond per segment
            return loop
        axes = loop_axes(target, self.problem.guide, self.algorithm, loop)
        return target.devices.put(loop, axes)

    def has_row_params(self, loop: Loop) -> bool:
        """Whether there are per-row parameters of a subsampled plate."""
        return isinstance(loop.state, Packed)

    def variables(self, loop: Loop) -> Variables:
        """The variables of all restarts, on the device."""
        if not isinstance(loop.state, Packed):
            return self.algorithm.variables(loop.state)
        program = self.problem.target.program(unpack_variables, self.problem.guide, self.algorithm)
        return program(loop.state)

    def current_variables(self, loop: Loop) -> Variables:
        """The variables of all restarts; on the host if there are no per-row parameters.

        Averages of iterates leave out per-row parameters, which are completed from here.
        """
        variables = self.variables(loop)
        return variables if self.has_row_params(loop) else on_host(variables)

    def mutable_states(self, loop: Loop) -> dict[str, PyTree]:
        """The model's mutable state in all restarts."""
        return self.algorithm.mutable(
            loop.state.rest if isinstance(loop.state, Packed) else loop.state
        )

    def states(self, loop: Loop) -> PyTree:
        """The algorithm's states of all restarts, on the host."""
        state = loop.state
        if isinstance(state, Packed):
            program = self.problem.target.program(unpack_states, self.problem.guide, self.algorithm)
            state = program(state)
        return on_host(state)

    def with_states(self, loop: Loop, states: PyTree) -> Loop:
        """The device state with the algorithm's states replaced."""
        if self.has_row_params(loop):
            program = self.problem.target.program(pack_states, self.problem.guide, self.algorithm)
            states = program(states)
        return loop._replace(state=states)

"""The device side of a run, as the host sees it: steps in pieces, and what they left behind."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence

import jax
import numpy as np
from jax import Array

from vijax.contracts import Algorithm, Batch, PyTree, Variables
from vijax.engine.loop import (
    Loop,
    advance,
    all_packed,
    begin,
    loop_axes,
    start_axes,
    unpacked,
    unpacked_variables,
)
from vijax.engine.problem import Problem
from vijax.engine.row_order import inverse, reorder
from vijax.engine.row_parameters import Packed, has_rows, variable_axes
from vijax.engine.row_parameters import take as of_plates
from vijax.engine.row_schedule import RowSchedule
from vijax.engine.run import Run
from vijax.runtime.device_layout import on_host
from vijax.runtime.keys import fold_in


@dataclasses.dataclass(frozen=True, eq=False)
class DeviceSteps:
    """Steps of an algorithm on a problem; rows of some plates may be stored in another order.

    Attributes:
        problem: what is fitted.
        algorithm: what takes the steps.
        reordered: plates whose rows are stored in the order in which they are seen, see
            `vijax.engine.row_order`.
    """

    problem: Problem
    algorithm: Algorithm
    reordered: tuple[str, ...] = ()

    @functools.cached_property
    def key(self) -> Array:
        """The key of step `t` is `fold_in(key, t)`."""
        return fold_in(self.problem.key, 3)

    @functools.cached_property
    def schedule(self) -> RowSchedule:
        """The row schedule, in terms of the order in which rows are stored."""
        return dataclasses.replace(self.problem.schedule, reordered=self.reordered)

    @functools.cached_property
    def batch(self) -> Batch:
        """The data, in that order."""
        batch, target = self.problem.batch, self.problem.target
        if not self.reordered:
            return batch
        order = {plate: self.schedule.order(plate) for plate in self.reordered}
        return batch._replace(data=reorder(batch.data, target.subsampling.axes, order))

    def reorder(self, variables: Variables, back: bool = False) -> Variables:
        """Variables in the order in which rows are stored, or `back` in that of the data."""
        problem = self.problem
        axes = variable_axes(problem.guide, variables, problem.target.space, self.reordered)
        if not has_rows(axes):
            return variables
        order = {plate: self.schedule.order(plate) for plate in self.reordered}
        if back:
            order = {plate: inverse(rows) for plate, rows in order.items()}
        return jax.device_get(of_plates(variables, axes, order))

    def start(
        self,
        variables: Sequence[Variables],
        mutable: dict[str, PyTree],
        factors: tuple[float, ...],
    ) -> Loop:
        """The state at step 0, one restart for each of `variables`, which `reorder` has seen."""
        target, guide, batch = self.problem.target, self.problem.guide, self.problem.batch
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *on_host(list(variables)))
        stacked = target.devices.put(stacked, start_axes(target, guide, stacked))
        return target.program(begin, guide, self.algorithm)(
            stacked, mutable, np.asarray(factors, np.float32), self.key, batch
        )

    def take(self, run: Run, stop: int, guarded: bool) -> tuple[Loop, np.ndarray, bool]:
        """Takes steps `run.step..stop-1`.

        Returns:
            The device state, the losses `(stop - run.step, restarts)`, whether all is finite.
        """
        target, active = self.problem.target, run.active
        table = self.schedule.chunk(run.step)
        static = (self.problem.guide, self.algorithm, guarded, len(active))
        # parameters by row are updated in place: copying all would cost more than the steps
        by_row = self.by_row(run.loop)
        program = target.program(advance, *static, donate=(0,) if by_row else ())
        fresh = run.step == run.window
        loop, losses, finite = program(
            self.placed(run.loop), self.key, active, fresh, run.step, stop, self.batch, table
        )
        self.schedule.chunk(stop)  # made while the device is still at work
        return loop, np.asarray(losses)[: stop - run.step], bool(finite)

    def placed(self, loop: Loop) -> Loop:
        """The device state on the devices of a mesh that it belongs on, wherever it has been."""
        target = self.problem.target
        if target.devices.mesh is None:  # saves a millisecond before every piece
            return loop
        axes = loop_axes(target, self.problem.guide, self.algorithm, loop)
        return target.devices.put(loop, axes)

    def by_row(self, loop: Loop) -> bool:
        """Whether some parameters have a row for every row of a subsampled plate."""
        return isinstance(loop.state, Packed)

    def variables(self, loop: Loop) -> Variables:
        """The variables of all restarts, on the device."""
        if not isinstance(loop.state, Packed):
            return self.algorithm.variables(loop.state)
        program = self.problem.target.program(
            unpacked_variables, self.problem.guide, self.algorithm
        )
        return program(loop.state)

    def present(self, loop: Loop) -> Variables:
        """The variables of all restarts; on the host, if none are by row.

        Averages lack those by row and take them from here.
        """
        variables = self.variables(loop)
        return variables if self.by_row(loop) else on_host(variables)

    def mutables(self, loop: Loop) -> dict[str, PyTree]:
        """The model's mutable state in all restarts."""
        return self.algorithm.mutable(
            loop.state.rest if isinstance(loop.state, Packed) else loop.state
        )

    def states(self, loop: Loop) -> PyTree:
        """The algorithm's states of all restarts, on the host."""
        state = loop.state
        if isinstance(state, Packed):
            program = self.problem.target.program(unpacked, self.problem.guide, self.algorithm)
            state = program(state)
        return on_host(state)

    def with_states(self, loop: Loop, states: PyTree) -> Loop:
        """The device state with other states of the algorithm."""
        if self.by_row(loop):
            program = self.problem.target.program(all_packed, self.problem.guide, self.algorithm)
            states = program(states)
        return loop._replace(state=states)

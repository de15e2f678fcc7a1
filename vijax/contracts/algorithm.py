"""Algorithms: iterative optimizers whose steps run on the device, inside one compiled loop."""

from __future__ import annotations

import abc
from typing import NamedTuple

from vijax.contracts.guide import Guide
from vijax.contracts.space import Array
from vijax.contracts.target import Batch, PyTree, Target, Variables


class Info(NamedTuple):
    """What one step returns besides the state: its `loss`, a scalar."""

    loss: Array


class Algorithm(abc.ABC):
    """An iterative optimizer: `state, info = step(state, key, ...)`, compiled on the device.

    Configuration: hashable and without arrays.
    """

    @property
    def maximizes_elbo(self) -> bool:
        """Whether a higher ELBO means a better fit, see `NonElboObjective`."""
        return True

    @property
    def scheduled(self) -> bool:
        """Whether its loss depends on the number of the step, see `ScheduledObjective`.

        No loss is then an estimate of the ELBO, and its step size is not reduced on the way.
        """
        return False

    @property
    def collects(self) -> bool:
        """Whether its variables are statistics of iterates at a constant step size.

        A fit then returns them as they are: there is nothing to average, no step size to reduce.
        """
        return False

    def for_fit(self, num_steps: int | None, guide: Guide) -> Algorithm:
        """The algorithm for a fit of `num_steps`, `None` until convergence: by default itself."""
        return self

    @property
    def default_guide(self) -> Guide | None:
        """The guide that `fit` uses if the user passes none; `None` for no preference."""
        return None

    @abc.abstractmethod
    def init(
        self,
        variables: Variables,
        mutable: dict[str, PyTree],
        key: Array,
        target: Target,
        guide: Guide,
        batch: Batch,
    ) -> PyTree:
        """The initial state.

        `key`, `target`, `guide` and `batch` serve algorithms that initialize further parameters.
        """

    @abc.abstractmethod
    def step(
        self, state: PyTree, key: Array, target: Target, guide: Guide, batch: Batch
    ) -> tuple[PyTree, Info]:
        """One step; `key` is `fold_in(root, t)`."""

    def variables(self, state: PyTree) -> Variables:
        """The current variables, by default the state's attribute of this name."""
        found: Variables = state.variables
        return found

    def mutable(self, state: PyTree) -> dict[str, PyTree]:
        """The model's current mutable state, by default the state's attribute of this name."""
        found: dict[str, PyTree] = state.mutable
        return found

    @abc.abstractmethod
    def row_axes(self, state: PyTree, axes: Variables) -> PyTree:
        """A tree like `state` with the `Axes` of each leaf, given those of the variables."""

    @abc.abstractmethod
    def rescale(self, state: PyTree, factor: float | Array) -> PyTree:
        """The state with its step size multiplied by `factor`."""

    @abc.abstractmethod
    def move(self, state: PyTree, variables: Variables, reset: bool) -> PyTree:
        """The state at the start of the next phase: the variables replaced by the best average.

        `reset` clears the optimizer's memory of gradients, such as Adam's moments.
        """

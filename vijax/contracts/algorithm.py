"""Algorithms: steps on the device, inside one compiled loop."""

from __future__ import annotations

import abc
from typing import NamedTuple

from vijax.contracts.guide import Guide
from vijax.contracts.space import Array
from vijax.contracts.target import Batch, PyTree, Target, Variables


class Info(NamedTuple):
    """What one step reports."""

    loss: Array


class Algorithm(abc.ABC):
    """Steps on the device, inside one compiled loop; hashable configuration."""

    @property
    def maximizes_elbo(self) -> bool:
        """Whether a higher ELBO means a better fit, see `NotElboOptimum`."""
        return True

    @property
    def own_guide(self) -> Guide | None:
        """The guide that this steps on unless `fit` is told of another, `None` for any."""
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
        """State at the start; what follows `mutable` is for start values of the algorithm's own."""

    @abc.abstractmethod
    def step(
        self, state: PyTree, key: Array, target: Target, guide: Guide, batch: Batch
    ) -> tuple[PyTree, Info]:
        """One step; `key` is `fold_in(root, t)`."""

    @abc.abstractmethod
    def variables(self, state: PyTree) -> Variables:
        """The current variables."""

    @abc.abstractmethod
    def mutable(self, state: PyTree) -> dict[str, PyTree]:
        """The model's current mutable state."""

    @abc.abstractmethod
    def row_axes(self, state: PyTree, axes: Variables) -> PyTree:
        """A tree like `state` with the `Axes` of each leaf, given those of the variables."""

    @abc.abstractmethod
    def rescale(self, state: PyTree, factor: float | Array) -> PyTree:
        """The state with its step size multiplied by `factor`."""

    @abc.abstractmethod
    def move(self, state: PyTree, variables: Variables, forget: bool) -> PyTree:
        """The state moved to the best average so far, where the next phase starts.

        `forget` drops its memory of gradients.
        """

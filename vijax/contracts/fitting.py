"""What is minimized, and what minimizes it: objectives, algorithms, solvers."""

from __future__ import annotations

import abc
from typing import ClassVar, NamedTuple, Protocol

from vijax.contracts.guide import Guide
from vijax.contracts.space import Array
from vijax.contracts.target import Batch, PyTree, Target, Variables


class Setting(NamedTuple):
    """What a loss is evaluated in, beside the variables.

    Attributes:
        mutable: the model's mutable state.
        key: randomness of this step.
        target: the log density; its space is that of the batch.
        guide: the variational family.
        batch: the data.
        phase: 0 far from the optimum, a scalar that counts the step-size reductions since.
        controls: parameters of the objective's control variates, see `Controlled`.
    """

    mutable: dict[str, PyTree]
    key: Array
    target: Target
    guide: Guide
    batch: Batch
    phase: Array
    controls: PyTree = ()


class Objective(Protocol):
    """A loss in the variables, an estimate with the setting's key; hashable configuration."""

    def __call__(self, variables: Variables, setting: Setting) -> tuple[Array, dict[str, PyTree]]:
        """The loss, to be minimized, and the model's new mutable state."""
        ...


class OtherOptimum:
    """Marks objectives whose optimum is not that of the ELBO.

    Neither the ELBO nor the loss of one step, which a few draws make too small, says which of two
    fits is the better one: the later one counts.
    """


class Controlled(abc.ABC):
    """An objective whose gradient may have control variates with parameters.

    They move neither the loss nor the gradient's expectation, only its variance. Where there are
    any, an algorithm keeps them beside the variables and moves them against the gradient of the
    squared norm of its gradient: an unbiased estimate of the gradient of the variance, from the
    draws of the step itself. The loss has no gradient in them; its gradient has.
    """

    @abc.abstractmethod
    def init_controls(self, setting: Setting) -> PyTree:
        """Their start values, without leaves where there are none to learn."""


class Info(NamedTuple):
    """What one step reports."""

    loss: Array


class Algorithm(abc.ABC):
    """Steps on the device, inside one compiled loop; hashable configuration."""

    @property
    def raises_elbo(self) -> bool:
        """Whether a higher ELBO means a better fit, see `OtherOptimum`."""
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


class Solution(NamedTuple):
    """What a solver found.

    Attributes:
        variables: the guide's parameters, and the model's `param` sites.
        reason: why it ended, in a line.
        converged: whether it found what it was looking for.
        evaluations: points at which the log density was evaluated.
        losses: negative ELBO estimates on the way, if it makes any.
        alternatives: parameters of the guide at other modes that were seen, and may matter.
    """

    variables: Variables
    reason: str
    converged: bool
    evaluations: int
    losses: tuple[float, ...] = ()
    alternatives: tuple[PyTree, ...] = ()


class Solver(abc.ABC):
    """Full batch, driven from the host over one compiled kernel; hashable configuration.

    Attributes:
        maximizes_elbo: whether it seeks the optimum of the ELBO, so that gradient steps can take
            over where it does not converge.
        exhaustive: whether gradient steps would add nothing even there.
    """

    maximizes_elbo: ClassVar[bool] = False
    exhaustive: ClassVar[bool] = False

    @abc.abstractmethod
    def solve(
        self, key: Array, target: Target, guide: Guide, variables: Variables, batch: Batch
    ) -> Solution:
        """Runs to the end from `variables`."""

"""Objectives: losses in the variational parameters, estimated by Monte Carlo."""

from __future__ import annotations

import abc
from typing import NamedTuple, Protocol

from vijax.contracts.guide import Guide
from vijax.contracts.space import Array
from vijax.contracts.target import Batch, PyTree, Target, Variables


class LossContext(NamedTuple):
    """All inputs of a loss other than the variables that it is differentiated in.

    Attributes:
        mutable: the model's mutable state.
        key: randomness of this step.
        target: the log density; its space is that of the batch.
        guide: the variational family.
        batch: the data.
        phase: number of step-size reductions so far, a scalar; 0 far from the optimum.
        control_params: parameters of the objective's control variates, see
            `ControlVariateObjective`.
    """

    mutable: dict[str, PyTree]
    key: Array
    target: Target
    guide: Guide
    batch: Batch
    phase: Array
    control_params: PyTree = ()


class Objective(Protocol):
    """A loss in the variables, estimated with the context's key; hashable configuration."""

    def __call__(
        self, variables: Variables, context: LossContext
    ) -> tuple[Array, dict[str, PyTree]]:
        """The loss, to be minimized, and the model's new mutable state."""
        ...


class NonElboObjective:
    """Marks objectives whose optimum differs from that of the ELBO.

    Neither the ELBO nor the loss of one step (biased downward with few draws) can rank two fits, so
    the later one is selected.
    """


class ScheduledObjective(abc.ABC):
    """An objective that may be the ELBO with other weights of its parts."""

    @property
    @abc.abstractmethod
    def scheduled(self) -> bool:
        """Whether weights depend on the number of the step, `Batch.step`.

        Such a loss is no estimate of the ELBO, which it becomes in the course of a fit.
        """

    @property
    @abc.abstractmethod
    def has_elbo_optimum(self) -> bool:
        """Whether its optimum, at the end of a schedule, is that of the ELBO."""


class ControlVariateObjective(abc.ABC):
    """An objective whose gradient estimator has control variates with learned parameters.

    With `g(c)` the gradient estimate under control-variate parameters `c`, `E[g]` does not depend
    on `c`, so that `d/dc ||g||^2` is an unbiased estimate of the gradient of the variance. An
    algorithm descends it with the draws of the step itself and stores `c` with the variables. The
    loss is constant in `c`; only its gradient depends on it.
    """

    @abc.abstractmethod
    def init_control_params(self, context: LossContext) -> PyTree:
        """Initial control-variate parameters; without leaves if there are none to learn."""

"""Objectives: losses in the variational parameters, estimated by Monte Carlo."""

from __future__ import annotations

import abc
from typing import NamedTuple, Protocol

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


class NotElboOptimum:
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

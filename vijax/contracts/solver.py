"""Solvers: direct methods on the full data, driven from the host."""

from __future__ import annotations

import abc
from typing import ClassVar, NamedTuple

from vijax.contracts.guide import Guide
from vijax.contracts.space import Array
from vijax.contracts.target import Batch, PyTree, Target, Variables


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

"""Solvers: direct methods on the full data, run from the host."""

from __future__ import annotations

import abc
from typing import ClassVar, NamedTuple

from vijax.contracts.guide import Guide
from vijax.contracts.space import Array
from vijax.contracts.target import Batch, PyTree, Target, Variables


class SiteSummary(NamedTuple):
    """The sites of expectation propagation: the Gaussian factors in place of the model's terms.

    Attributes:
        log_evidence: the log evidence of expectation propagation: an approximation, not a bound.
        plan: the terms in words.
    """

    log_evidence: float
    plan: tuple[str, ...]


class Solution(NamedTuple):
    """The result of a solver.

    Attributes:
        variables: the guide's parameters, and the model's `param` sites.
        reason: why it stopped, in one line.
        converged: whether it converged.
        evaluations: points at which the log density was evaluated.
        losses: negative ELBO estimates during the run, if it computes any.
        alternatives: parameters of the guide at other modes that were found and may matter.
        unseen: estimated probability that an optimization path from a further random start ends at
            a mode that was not found; `None` if other modes were not searched for.
        elbo: the ELBO, if the solver knows it exactly.
        sites: the approximate terms of expectation propagation.
    """

    variables: Variables
    reason: str
    converged: bool
    evaluations: int
    losses: tuple[float, ...] = ()
    alternatives: tuple[PyTree, ...] = ()
    unseen: float | None = None
    elbo: float | None = None
    sites: SiteSummary | None = None


class Solver(abc.ABC):
    """A direct method on the full data, run from the host with one compiled kernel.

    Configuration: hashable and without arrays.

    Attributes:
        maximizes_elbo: whether it maximizes the ELBO, so that gradient steps can continue from its
            solution where it does not converge.
        exhaustive: whether gradient steps would not improve on it even then.
    """

    maximizes_elbo: ClassVar[bool] = False
    exhaustive: ClassVar[bool] = False

    def default_guide(self, target: Target) -> Guide | None:
        """The guide of `guide="auto"`, `None` for that of the model."""
        return None

    @abc.abstractmethod
    def solve(
        self, key: Array, target: Target, guide: Guide, variables: Variables, batch: Batch
    ) -> Solution:
        """Runs to completion from the initial `variables`."""

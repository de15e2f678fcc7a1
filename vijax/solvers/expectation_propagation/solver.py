"""Expectation propagation as a solver of a dense Gaussian."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from jax import Array

from vijax.contracts import Batch, Guide, SiteSummary, Solution, Solver, Target, Variables
from vijax.contracts.projections import ProjectionPlan
from vijax.guides.location_scale.full_rank import FullRank, FullRankParams
from vijax.runtime.checks import check_count
from vijax.runtime.deadline import offer
from vijax.runtime.errors import GuideError, ModelError
from vijax.solvers.block_updates import double_precision
from vijax.solvers.expectation_propagation.hyperparameters import Fitted, fit, places
from vijax.solvers.expectation_propagation.propagation import Propagation
from vijax.solvers.expectation_propagation.sweeps import Options
from vijax.solvers.gaussians.conversion import to_params
from vijax.solvers.gaussians.dense import Gaussian

_LARGEST = 100_000_000  # numbers of a matrix, 0.8 GB, of which a sweep holds several


@dataclasses.dataclass(frozen=True)
class ExpectationPropagation(Solver):
    """Expectation propagation: a Gaussian whose moments agree with every term of the model.

    For models in which latent sites are jointly normal, and every element of an observed site or a
    `numpyro.factor` depends on them through one linear combination `a'z`, by any function: probit
    and logistic regression, Gaussian processes, rankings, truncated and heavy-tailed observations.
    Where variational inference minimizes `KL(q || p)`, which makes a Gaussian too narrow and is
    infinite where a likelihood is zero on a part of the line, each term of the approximation here
    matches mean and variance of the exact term in its place. `posterior.log_evidence(
    "expectation_propagation")` is its evidence, an approximation and not a bound; other latent
    sites are hyper-parameters, whose mode maximizes it. Sources: Minka, 2001; Rasmussen and
    Williams, 2006; Seeger, 2005.

    >>> ExpectationPropagation(power=0.5).damping
    0.8

    Args:
        power: the exponent of a likelihood that is replaced at a time. Smaller values tend to
            variational inference and converge more easily where likelihoods have two modes.
        damping: the share of an update that is taken, up to 1 for all of it. It is reduced where
            sweeps do not converge.
        quadrature: number of points of Gauss-Legendre quadrature on each of 24 panels, for sites
            at which Gauss-Hermite quadrature with few points does not suffice.
        max_sweeps: largest number of sweeps.
        tolerance: largest change of a mean in sds, and of a log sd, at convergence.
        hyperparameters: latent sites with a normal prior that are not part of the Gaussian.

    Raises:
        ValueError: an option is outside of its range.
    """

    power: float = 1.0
    damping: float = 0.8
    quadrature: int = 10
    max_sweeps: int = 1000
    tolerance: float = 1e-7
    hyperparameters: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("power", "damping"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(
                    f"{name}: expected a number above 0 and up to 1, got {getattr(self, name)!r}."
                )
        check_count("quadrature", self.quadrature)
        check_count("max_sweeps", self.max_sweeps)
        names: Any = self.hyperparameters
        names = (names,) if isinstance(names, str) else tuple(names)
        object.__setattr__(self, "hyperparameters", names)

    def default_guide(self, target: Target) -> Guide:
        """A dense Gaussian."""
        return FullRank()

    def solve(
        self, key: Array, target: Target, guide: Guide, variables: Variables, batch: Batch
    ) -> Solution:
        """Fits a dense Gaussian; see `Solver.solve`.

        Raises:
            GuideError: the guide is no dense Gaussian, the model is of another kind, or it has too
                many elements for one.
            ModelError: the model has `param` sites.
        """
        if not isinstance(variables.guide, FullRankParams):
            raise GuideError(
                "guide: expected 'fullrank' for algorithm='expectation_propagation', got "
                f"{guide!r}."
            )
        if variables.model:
            raise ModelError(
                f"param site {next(iter(variables.model))!r}: expected none with algorithm="
                "'expectation_propagation'. Give it a prior (numpyro.sample): it is then a "
                "hyper-parameter."
            )
        if batch.centering:
            raise GuideError(
                "centering: expected none with algorithm='expectation_propagation', got one of "
                f"{sorted(batch.centering)}."
            )
        plan = target.functions.projection_plan(self.hyperparameters)
        _check_size(plan)
        with jax.enable_x64(True):
            options = Options(self.power, self.quadrature, self.tolerance, self.damping)
            run = Propagation(options, self.max_sweeps, target, plan, double_precision(batch))
            if plan.hyperparameters:
                own = places(target.space, plan.hyperparameters)
                start = np.asarray(variables.guide.loc, np.float64)[own]
                return solution(run, variables, fit(run, start))
            run.keep = lambda: offer(lambda: solution(run, variables, so_far="the best so far"))
            run.solve({})
            return solution(run, variables)


def _check_size(plan: ProjectionPlan) -> None:
    """Refuses what does not fit into memory before anything of that size is made.

    Raises:
        GuideError: the coefficients of all sites, or the covariance, have too many numbers.
    """
    num = sum(count for _, count in plan.terms)
    if max(num, plan.dim) * plan.dim > _LARGEST:
        raise GuideError(
            f"algorithm='expectation_propagation': expected at most {_LARGEST:.0e} numbers in a "
            f"dense Gaussian and in the coefficients of its sites, got {plan.dim:,} dimensions "
            f"({', '.join(plan.normal)}) and {num:,} sites. Use guide='auto': its covariance "
            "follows the plates of the model."
        )


def solution(
    run: Propagation, variables: Variables, fitted: Fitted | None = None, so_far: str = ""
) -> Solution:
    """The solution of a run.

    Args:
        run: of expectation propagation.
        variables: initial variables.
        fitted: with hyper-parameters.
        so_far: the reason of one that is not the last.
    """
    plan, space = run.plan, run.target.space
    reason, converged = so_far or run.reason, run.converged and not so_far
    if fitted is None:
        gaussian, evidence = run.gaussian(), run.evidence[-1]
    else:
        gaussian, evidence = fitted.gaussian, fitted.log_evidence
        reason, converged = fitted.reason, fitted.converged and run.converged
    order = np.argsort(places(space, (*plan.hyperparameters, *plan.normal)))
    ordered = Gaussian(gaussian.mean[order], gaussian.factor[order])
    params = to_params(variables.guide, ordered, space)
    summary = SiteSummary(evidence, plan.lines)
    return Solution(Variables(params), reason, converged, run.sweeps, sites=summary)

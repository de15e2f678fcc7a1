"""Expectation propagation, from the host: sweeps until the moments agree, and their Gaussian."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax import contracts
from vijax.contracts import Batch, Guide, Position, Solution, Solver, Target, Variables
from vijax.contracts.projections import ProjectionPlan
from vijax.guides.location_scale.full_rank import FullRank, FullRankParams
from vijax.runtime.checks import check_count
from vijax.runtime.deadline import end_reason, offer, time_is_up
from vijax.runtime.device_layout import on_host
from vijax.runtime.errors import GuideError, ModelError
from vijax.runtime.progress import advance, expect
from vijax.solvers.block_updates import double_precision
from vijax.solvers.expectation_propagation.hyperparameters import Fitted, fit, places
from vijax.solvers.expectation_propagation.sweeps import (
    CHUNK,
    Options,
    Reading,
    Sites,
    propagate,
    read_model,
)
from vijax.solvers.gaussians.conversion import to_params
from vijax.solvers.gaussians.dense import Gaussian

_LEAST_RATE = 0.02  # of updates that are damped because they do not converge
_PROGRESS = 0.5  # of the largest change, at least, in a chunk of sweeps at a good rate
_FEW = 4096  # sites whose sweeps take less time than to compile them well
_MISFIT = 1e-4  # relative: rounding of data in single precision is below


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
        quadrature: number of points of Gauss-Legendre quadrature on each of 24 panels.
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
    tolerance: float = 1e-8
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
            GuideError: the guide is no dense Gaussian, or the model is of another kind.
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
        with jax.enable_x64(True):
            run = Propagation(self, target, plan, double_precision(batch), variables)
            if not plan.hyperparameters:
                run.solve({})
                return run.solution()
            own = places(target.space, plan.hyperparameters)
            fitted = fit(run, np.asarray(variables.guide.loc, np.float64)[own])
        return run.solution(fitted)


class Propagation:
    """A run, from the host, in double precision.

    Attributes:
        evidence: `log Z` at the start of every sweep.
        sweeps: number of sweeps.
        converged: whether the last run converged.
        reason: why it stopped.
        quick: whether programs are compiled fast rather than well.
    """

    def __init__(
        self,
        options: ExpectationPropagation,
        target: Target,
        plan: ProjectionPlan,
        batch: Batch,
        variables: Variables,
    ) -> None:
        self.options, self.target, self.plan = options, target, plan
        self.batch, self.variables = batch, variables
        self.static = Options(options.power, options.quadrature, options.tolerance)
        self.sites: Sites | None = None
        self.evidence: list[float] = []
        self.sweeps, self.skipped, self.rate = 0, 0, options.damping
        self.converged, self.reason = False, ""
        self.quick = sum(count for _, count in plan.terms) <= _FEW

    def solve(self, z: Position) -> None:
        """Sweeps to convergence at hyper-parameters `z`, from the sites of the last run."""
        expect(self.options.max_sweeps, "sweep")
        self.reading = self._read(z)
        if self.sites is None:
            zeros = jnp.zeros(len(self.reading.rows))
            self.sites = Sites(zeros, zeros)
        program = self.target.program(propagate, self.plan, self.static, quick=self.quick)
        done, before, self.rate = 0, np.inf, self.options.damping
        while True:
            count = min(CHUNK, self.options.max_sweeps - done)
            found = program(z, self.sites, self.reading.support, self.batch, count, self.rate)
            evidence, changes, steps, skipped, proper = on_host(
                (found.log_evidence, found.change, found.num_sweeps, found.skipped, found.proper)
            )
            number = int(steps)
            self.sites, self.skipped = found.sites, int(skipped)
            done, self.sweeps = done + number, self.sweeps + number
            advance(number, "sweep")
            self.evidence += evidence[: number + bool(proper)].tolist()
            if not self.plan.hyperparameters:
                offer(functools.partial(self.solution, None, "the best so far"))
            last = float(changes[number])
            if bool(proper) and last < self.options.tolerance:
                self._converge(done)
                return
            stop = self._stop(done, bool(proper))
            if stop is not None:
                self.converged, self.reason = False, stop
                return
            if not proper or last > _PROGRESS * before:
                self.rate = max(self.rate / 2, _LEAST_RATE)
            before = last if proper else np.inf

    def _read(self, z: Position) -> Reading:
        """The model at hyper-parameters, on the host.

        Raises:
            GuideError: an element depends on several linear combinations.
            ModelError: the likelihood of an element is zero everywhere.
        """
        found: Reading = on_host(
            self.target.program(read_model, self.plan, quick=True)(z, self.batch)
        )
        if not all(np.isfinite(x).all() for x in (found.rows, found.loc, found.factor)):
            raise ModelError(
                f"sites {', '.join(self.plan.normal)}: expected a prior with a finite mean and a "
                "positive-definite covariance, got one without. Add a larger number to the "
                "diagonal."
            )
        for name, misfit in found.misfit.items():
            if not misfit < _MISFIT:
                raise GuideError(
                    f"algorithm='expectation_propagation': expected each element of site {name!r} "
                    "to depend on one linear combination of normal sites, got several. Write a "
                    "factor for each, or use guide='auto'."
                )
        if found.support.empty.any():
            i = int(np.argmax(found.support.empty))
            names = [name for name, count in self.plan.terms for _ in range(count)]
            raise ModelError(
                f"site {names[i]!r}: expected a likelihood that is positive somewhere within "
                "45 prior standard deviations, got zero at all points tried for element "
                f"{i - names.index(names[i])}."
            )
        return found

    def _converge(self, done: int) -> None:
        self.converged = not self.skipped
        self.reason = (
            f"{done} sweeps of expectation propagation, moments agree to "
            f"{self.options.tolerance:g} sds"
        )
        if self.skipped:
            self.reason = (
                f"not converged: {self.skipped} of {len(self.reading.rows)} sites have no proper "
                f"cavity distribution after {done} sweeps; use a smaller power"
            )

    def _stop(self, done: int, proper: bool) -> str | None:
        """Why sweeps end without convergence; `None` if they go on."""
        if done >= self.options.max_sweeps:
            return f"not converged in {done} sweeps; use a smaller power or damping"
        if time_is_up():
            return f"not converged: {end_reason()} after {done} sweeps"
        if self.rate <= _LEAST_RATE and not proper:
            return f"not converged: no proper Gaussian after {done} sweeps; use a smaller power"
        return None

    def gaussian(self) -> Gaussian:
        """The approximation of the normal sites, in the order of the plan."""
        read = self.reading
        rows = np.asarray(read.rows, np.float64)
        precision, shift = (np.asarray(x, np.float64) for x in on_host(self.sites))
        full = np.eye(rows.shape[1]) + rows.T @ (precision[:, None] * rows)
        lower = np.linalg.cholesky(full)
        mean = np.linalg.solve(lower.T, np.linalg.solve(lower, rows.T @ shift))
        half = np.linalg.solve(lower, np.asarray(read.factor).T)  # of covariance half' half
        root = np.linalg.qr(half).R.T
        root = root * np.where(np.diag(root) < 0, -1.0, 1.0)
        return Gaussian(np.asarray(read.loc) + np.asarray(read.factor) @ mean, root)

    def solution(self, fitted: Fitted | None = None, so_far: str = "") -> Solution:
        """The solution of the run.

        Args:
            fitted: with hyper-parameters.
            so_far: the reason of one that is not the last.
        """
        plan, space = self.plan, self.target.space
        reason, converged = so_far or self.reason, self.converged and not so_far
        gaussian, evidence = self.gaussian(), self.evidence[-1]
        if fitted is not None:
            gaussian, evidence = fitted.gaussian, fitted.log_evidence
            reason, converged = fitted.reason, fitted.converged and self.converged
        order = np.argsort(places(space, (*plan.hyperparameters, *plan.normal)))
        ordered = Gaussian(gaussian.mean[order], gaussian.factor[order])
        params = to_params(self.variables.guide, ordered, space)
        sites = contracts.Sites(evidence, plan.lines)
        return Solution(Variables(params), reason, converged, self.sweeps, sites=sites)

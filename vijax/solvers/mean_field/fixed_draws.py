"""Mean-field Gaussians by deterministic optimization of the ELBO on fixed draws (DADVI)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import jax
import numpy as np

from vijax.contracts import Batch, Guide, Solution, Solver, Target, Variables
from vijax.contracts.kernel import Floats, Kernel
from vijax.guides.location_scale.mean_field import MeanField
from vijax.runtime.deadline import end_reason, time_is_up
from vijax.runtime.errors import GuideError, VijaxError, mismatch
from vijax.runtime.keys import host_rng
from vijax.solvers.gaussians.conversion import from_params, to_params
from vijax.solvers.gaussians.dense import Gaussian, moment_matched, require_even
from vijax.solvers.host_algebra import host_algebra
from vijax.solvers.mean_field.linear_response import elbo_curvature, finite_difference_hessian
from vijax.solvers.mean_field.sample_average import SampleAverageObjective
from vijax.solvers.optimization.lbfgs import LBFGS
from vijax.solvers.optimization.paths import NO_START, finite_starts

OPTIMIZERS = ("lbfgs", "trust-ncg")

_START_DRAWS = 16  # draws per start for the selection of the best start
_COARSE_LBFGS = LBFGS(tolerance=1e-2, max_probe_dim=0)
_LBFGS = LBFGS(tolerance=1e-5, max_probe_dim=0)
_MIN_DRAWS = 128
_MATCHED_DIM = 256  # dimension up to which the first round matches all second moments
_CURVATURE_PAIRS = (8, 32)  # minimum and maximum number of draw pairs for the curvature
_DENSE_DIM = 1000  # dimension up to which the curvature is estimated
_REPEATS = 8  # independent sets of draws for the error estimate
_NEGLIGIBLE = 1e-3  # nats: predicted gain of a Newton step at convergence
_MAX_LOSS = 0.02  # nats: largest ELBO loss from the sampling error of the optimum


class FixedDrawsResult(NamedTuple):
    """Result of the solver on fixed draws.

    Attributes:
        mean: means of the mean-field Gaussian, `(dim,)`.
        sd: its standard deviations, `(dim,)`.
        elbos: ELBO on the draws of each round, in order.
        num_draws: number of draws of the last round.
        error: the largest Monte Carlo standard error of a mean, in posterior standard deviations
            (by linear response), or of a log sd.
        converged: whether the optimum was reached and the error is within the tolerance.
        reason: one-line summary of the result.
    """

    mean: Floats
    sd: Floats
    elbos: tuple[float, ...]
    num_draws: int
    error: float
    converged: bool
    reason: str


class _Check(NamedTuple):
    error: float  # see `FixedDrawsResult`
    loss: float  # ELBO loss in nats from this error
    gain: float  # predicted gain of a Newton step in nats
    step: Floats  # the Newton step `(2 d,)`
    worst: int  # coordinate with the largest error


@dataclasses.dataclass(frozen=True)
class FixedDraws(Solver):
    """DADVI: the mean-field Gaussian that maximizes the ELBO on fixed draws.

    With the noise `z_m` fixed, `mean_m log p(mu + sd z_m) + sum log sd` is a deterministic
    function, maximized by L-BFGS or a trust-region Newton method without step sizes or schedules.
    Several starts are compared on a few draws; the best continues with more. Draws are antithetic
    with matched second moments, which makes the optimum exact on Gaussian posteriors from `2 dim`
    draws on. The sampling error of the optimum is the sandwich estimate `H^-1 Cov(score) H^-1`,
    with the covariance of the mean score estimated from independent sets of draws; the number of
    draws is doubled until the error is within `tolerance` and costs less than 0.02 nats. Beyond
    1000 dimensions `H` is that of a factorized Gaussian. Model `param` sites stay fixed. Source:
    Black box variational inference with a deterministic objective, Giordano, Ingram, Broderick,
    2024.

    Args:
        optimizer: `"lbfgs"`, or `"trust-ncg"`: SciPy's trust-region Newton method on exact
            Hessian-vector products, which compiles a second program.
        num_starts: number of starts; the first is the guide's location, the others are random.
        radius: random starts are uniform on `(-radius, radius)` in each coordinate.
        num_draws: draws of the first round, even; `None` for 128, or `2 dim` to `4 dim` if more,
            up to 256 dimensions.
        max_draws: maximum number of draws; a fit that needs more is reported as not converged.
        tolerance: Monte Carlo standard error of every mean, in posterior standard deviations, and
            of every log sd.
    """

    maximizes_elbo: ClassVar[bool] = True
    optimizer: str = "lbfgs"
    num_starts: int = 4
    radius: float = 2.0
    num_draws: int | None = None
    max_draws: int = 1024
    tolerance: float = 0.05

    def __post_init__(self) -> None:
        if self.optimizer not in OPTIMIZERS:
            raise VijaxError(mismatch("optimizer", f"one of {OPTIMIZERS}", repr(self.optimizer)))
        for option in ("num_draws", "max_draws"):
            value = getattr(self, option)
            if value is not None:
                require_even(option, value)

    def solve(
        self, key: jax.Array, target: Target, guide: Guide, variables: Variables, batch: Batch
    ) -> Solution:
        """Fits a mean-field guide; see `Solver.solve`.

        Raises:
            GuideError: the guide is not mean-field.
        """
        require_mean_field(guide, "FixedDraws")
        kernel = Kernel(target, batch, variables.model)
        start = from_params(variables.guide, target.space)
        result = self.run(kernel, host_rng(key), start.mean, start.sd)
        solved = variables
        if result.elbos:
            gaussian = Gaussian(result.mean, np.diag(result.sd))
            solved = Variables(to_params(variables.guide, gaussian, target.space), variables.model)
        losses = tuple(-elbo for elbo in result.elbos)
        return Solution(solved, result.reason, result.converged, kernel.points, losses)

    def run(
        self, kernel: Kernel, rng: np.random.Generator, mean: Floats, sd: Floats
    ) -> FixedDrawsResult:
        """Runs the solver on a kernel and returns the full result.

        Args:
            kernel: the compiled log density and gradient.
            rng: source of randomness.
            mean: means of the first start, `(dim,)`.
            sd: standard deviations of all starts, `(dim,)`.
        """
        with host_algebra(kernel.dim):
            start = self._select_start(kernel, rng, mean, sd)
            if start is None:
                return FixedDrawsResult(mean, sd, (), 0, np.inf, False, NO_START)
            return self._refine(kernel, rng, *start)

    def _select_start(
        self, kernel: Kernel, rng: np.random.Generator, mean: Floats, sd: Floats
    ) -> tuple[Floats, Floats] | None:
        """Mean and sd of the best path on a few draws; `None` if no start is finite."""
        starts = finite_starts(kernel, rng, self.num_starts, mean[None], self.radius)
        noise = moment_matched(rng, _START_DRAWS, kernel.dim)
        for shrinkage in (1.0, 0.1, 0.01, 0.001):  # draws from a wide start may leave the domain
            objective = SampleAverageObjective(kernel, noise, np.zeros_like(mean), shrinkage * sd)
            points = np.concatenate([starts / objective.sd, np.zeros_like(starts)], axis=1)
            paths = _COARSE_LBFGS.maximize(objective, points, keep_iterates=False)
            best = max(paths, key=lambda path: path.log_density[-1])
            if np.isfinite(best.log_density[-1]):
                means, sds = objective.moments(best.points[-1])
                return means[0], sds[0]
        return None

    def _refine(
        self, kernel: Kernel, rng: np.random.Generator, mean: Floats, sd: Floats
    ) -> FixedDrawsResult:
        """Doubles the number of draws until the error is within the tolerance."""
        elbos: list[float] = []
        count = min(self.num_draws or initial_num_draws(kernel.dim), self.max_draws)
        while True:
            noise = moment_matched(rng, count, kernel.dim)
            objective, point = maximize_elbo(kernel, noise, mean, sd, self.optimizer)
            check = _check(objective, point, rng)
            point, check = _newton(objective, point, check)
            mean, sd = (one[0] for one in objective.moments(point))
            elbos.append(float(objective(point[None])[0][0]))
            at_optimum = check.gain < _NEGLIGIBLE
            precise = check.error <= self.tolerance and check.loss <= _MAX_LOSS
            if (at_optimum and precise) or 2 * count > self.max_draws or time_is_up():
                break
            count *= 2
        if at_optimum:
            reason = (
                f"optimum of the ELBO on {count} fixed draws; Monte Carlo error at most "
                f"{check.error:.2g} standard deviations (tolerance {self.tolerance:g}), ELBO loss "
                f"{check.loss:.2g} nats"
            )
            if not precise:
                reason += (
                    f"; largest for {kernel.label(check.worst)} at the maximum number of draws"
                )
        else:
            why = f": {end_reason()}" if time_is_up() else ""
            reason = f"no optimum of the ELBO on {count} fixed draws found{why}"
        converged = at_optimum and precise
        return FixedDrawsResult(mean, sd, tuple(elbos), count, check.error, converged, reason)


def initial_num_draws(dim: int) -> int:
    """Draws of the first round: enough to match all second moments up to 256 dimensions."""
    count = _MIN_DRAWS
    while dim <= _MATCHED_DIM and count < 2 * dim:
        count *= 2
    return count


def maximize_elbo(
    kernel: Kernel, noise: Floats, mean: Floats, sd: Floats, optimizer: str = "lbfgs"
) -> tuple[SampleAverageObjective, Floats]:
    """Maximizes the ELBO on fixed noise, from a mean-field Gaussian.

    Args:
        kernel: the compiled log density and gradient.
        noise: `(num_draws, dim)`.
        mean: initial means, `(dim,)`.
        sd: initial standard deviations, `(dim,)`.
        optimizer: one of `OPTIMIZERS`.

    Returns:
        The objective in units of the optimal Gaussian, and the optimum `(2 dim,)`.
    """
    objective = SampleAverageObjective(kernel, noise, mean, sd)
    start = np.zeros(objective.dim)
    if optimizer == "lbfgs":
        point = _LBFGS.maximize(objective, start[None], keep_iterates=False)[0].points[-1]
    else:
        point = _trust_region(objective, start)
    optimal_mean, optimal_sd = (one[0] for one in objective.moments(point))
    return SampleAverageObjective(kernel, noise, optimal_mean, optimal_sd), start


def require_mean_field(guide: Guide, caller: str) -> None:
    """Rejects guides that are not mean-field.

    Raises:
        GuideError: the guide is not `MeanField`; names the caller.
    """
    if not isinstance(guide, MeanField):
        raise GuideError(
            mismatch(caller, "a mean-field guide", repr(guide), "Use guide='meanfield'.")
        )


def _trust_region(objective: SampleAverageObjective, start: Floats) -> Floats:
    from scipy import optimize  # slow to import and rarely needed

    def loss(point: Floats) -> tuple[float, Floats]:
        value, gradient = objective(point[None])
        return (-value[0], -gradient[0]) if np.isfinite(value[0]) else (np.inf, 0 * point)

    result = optimize.minimize(
        loss,
        start,
        jac=True,
        hessp=lambda point, vector: -objective.products(point, vector[None])[0],
        method="trust-ncg",
        options={"gtol": 1e-4 * np.sqrt(start.size), "maxiter": 100},
    )
    return np.asarray(result.x)


def _check(objective: SampleAverageObjective, point: Floats, rng: np.random.Generator) -> _Check:
    """Sandwich standard errors and the Newton step at a point near the optimum.

    The covariance of the mean score is estimated between independent sets of matched draws: the
    scatter of single draws would ignore the variance reduction by moment matching.
    """
    kernel, dim = objective.kernel, objective.kernel.dim
    mean, sd = (one[0] for one in objective.moments(point))
    solve, unit = _curvature(kernel, rng, mean, sd)
    if solve is None:
        return _Check(np.inf, np.inf, np.inf, np.zeros_like(point), 0)
    noises = [moment_matched(rng, len(objective.noise), dim) for _ in range(_REPEATS)]
    scores = np.stack([SampleAverageObjective(kernel, z, mean, sd).gradient() for z in noises])
    scores = (scores - scores.mean(axis=0)) / np.sqrt(_REPEATS - 1)
    gradient = objective(point[None])[1]
    solved = solve(np.concatenate([scores, gradient]))
    error = np.sqrt(np.sum(solved[:-1] ** 2, axis=0)) / unit
    gain = 0.5 * float(gradient[0] @ solved[-1])
    loss = 0.5 * float(np.sum(scores * solved[:-1]))
    return _Check(float(error.max()), loss, gain, solved[-1], int(np.argmax(error)) % dim)


def _curvature(
    kernel: Kernel, rng: np.random.Generator, mean: Floats, sd: Floats
) -> tuple[Callable[[Floats], Floats] | None, Floats]:
    """Linear solver with the Hessian of the negative ELBO, and units `(2 dim,)` of the errors.

    The solver is `None` if the Hessian is not positive definite.
    """
    dim = sd.size
    unit = np.ones(2 * dim)
    if dim > _DENSE_DIM:
        return lambda rows: rows * np.repeat([1.0, 0.5], dim), unit
    noise = moment_matched(rng, 2 * int(np.clip(1000 // dim, *_CURVATURE_PAIRS)), dim)
    inverse = elbo_curvature(noise, mean, sd, finite_difference_hessian(kernel, sd)).inverse
    if inverse is None:
        return None, unit
    unit[:dim] = np.sqrt(np.diag(inverse)[:dim])  # posterior sds by linear response
    return lambda rows: rows @ inverse, unit


def _newton(
    objective: SampleAverageObjective, point: Floats, check: _Check
) -> tuple[Floats, _Check]:
    """A Newton step, if it is short and does not decrease the ELBO."""
    if not (np.isfinite(check.gain) and np.abs(check.step).max() < 1):
        return point, check
    updated = point + check.step
    (before, after), gradients = objective(np.stack([point, updated]))
    noise = 8 * objective.eps * abs(before)
    if not after >= before - noise:
        return point, check
    # at constant curvature the remaining gain is proportional to the squared gradient
    remaining = float(np.sum(gradients[1] ** 2) / max(np.sum(gradients[0] ** 2), 1e-300))
    return updated, check._replace(gain=check.gain * remaining)

"""Mean-field Gaussians by deterministic optimization of the ELBO on fixed draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import jax
import numpy as np

from vijax.contracts import Batch, Guide, Solution, Solver, Target, Variables
from vijax.contracts.kernel import Floats, Kernel
from vijax.guides.location_scale.mean_field import MeanField
from vijax.runtime.errors import GuideError, VijaxError, mismatch
from vijax.runtime.keys import host_rng
from vijax.solvers.gaussians.conversion import from_params, to_params
from vijax.solvers.gaussians.dense import Gaussian, moment_matched, require_even
from vijax.solvers.host_algebra import host_algebra
from vijax.solvers.mean_field.linear_response import by_differences, respond
from vijax.solvers.mean_field.sample_average import FixedObjective
from vijax.solvers.optimization.lbfgs import LBFGS
from vijax.solvers.optimization.paths import NO_START, finite_starts

OPTIMIZERS = ("lbfgs", "trust-ncg")

_SCOUTS = 16  # draws per start while it is open which start is the best
_ROUGH = LBFGS(tolerance=1e-2, max_probe_dim=0)
_FINE = LBFGS(tolerance=1e-5, max_probe_dim=0)
_FEWEST = 128
_MATCHED_DIM = 256  # up to here there are draws enough from the start to match all second moments
_BENT = (8, 32)  # pairs of draws at which the curvature is measured, at least and at most
_DENSE_DIM = 1000  # dimension up to which the curvature is measured
_REPEATS = 8  # fresh sets of draws between which the error is measured
_NEGLIGIBLE = 1e-3  # nats that one more Newton step would gain
_LOSS = 0.02  # nats that the sampling error of the optimum may cost


class FixedDrawsResult(NamedTuple):
    """What the fixed-draw solver found.

    Attributes:
        mean: of the mean-field Gaussian, `(dim,)`.
        sd: of it, `(dim,)`.
        elbos: ELBO on the draws of each round, in order.
        num_draws: draws of the last round.
        error: the largest Monte Carlo standard error of a mean, in posterior standard deviations
            (by linear response), or of a log sd.
        converged: whether the optimum was reached and that error is within the tolerance.
        reason: one line about the outcome.
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
    loss: float  # nats of ELBO that this error costs
    gain: float  # nats that a Newton step is predicted to gain
    step: Floats  # the Newton step `(2 d,)`
    worst: int  # the coordinate of the largest error


@dataclasses.dataclass(frozen=True)
class FixedDraws(Solver):
    """DADVI: the mean-field Gaussian whose ELBO on fixed draws is the largest.

    With the noise `z_m` held fixed, `mean_m log p(mu + sd z_m) + sum log sd` is an ordinary
    function, maximized by L-BFGS or a trust-region Newton method without step sizes or schedules.
    Several starts share a few draws; the best goes on with more. The draws come in mirrored pairs
    whose second moments are matched, which makes the optimum exact on Gaussian posteriors once
    there are `2 dim` of them. The sampling error of the optimum is the sandwich
    `H^-1 Cov(score) H^-1`, with the covariance of the mean score measured between fresh sets of
    draws; they are doubled until it is within `tolerance` and costs less than 0.02 nats. Beyond
    1000 dimensions `H` is that of a factorized Gaussian. Model `param` sites stay fixed. Source:
    Black box variational inference with a deterministic objective, Giordano, Ingram, Broderick,
    2024.

    Args:
        optimizer: `"lbfgs"`, or `"trust-ncg"`: SciPy's trust-region Newton method on exact
            Hessian-vector products, which compiles a second program.
        num_starts: starts; the first is the guide's own, the others are random.
        radius: random starts are uniform on `(-radius, radius)` in each coordinate.
        num_draws: draws of the first round, even; `None` for 128, or `2 dim` to `4 dim` if more,
            up to 256 dimensions.
        max_draws: the limit; beyond it the fit counts as not converged.
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
        """Fills in a mean-field guide; see `Solver.solve`.

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
        """Runs on a kernel, and returns everything there is to know.

        Args:
            kernel: the compiled log density and gradient.
            rng: source of randomness.
            mean: of the first start, `(dim,)`.
            sd: of all starts, `(dim,)`.
        """
        with host_algebra(kernel.dim):
            begun = self._scout(kernel, rng, mean, sd)
            if begun is None:
                return FixedDrawsResult(mean, sd, (), 0, np.inf, False, NO_START)
            return self._refine(kernel, rng, *begun)

    def _scout(
        self, kernel: Kernel, rng: np.random.Generator, mean: Floats, sd: Floats
    ) -> tuple[Floats, Floats] | None:
        """The best start's mean and sd on a few draws, `None` where no start is finite."""
        starts = finite_starts(kernel, rng, self.num_starts, mean[None], self.radius)
        noise = moment_matched(rng, _SCOUTS, kernel.dim)
        for narrower in (1.0, 0.1, 0.01, 0.001):  # draws from a wide start may leave the domain
            objective = FixedObjective(kernel, noise, np.zeros_like(mean), narrower * sd)
            points = np.concatenate([starts / objective.sd, np.zeros_like(starts)], axis=1)
            paths = _ROUGH.maximize(objective, points, keep_iterates=False)
            best = max(paths, key=lambda path: path.log_density[-1])
            if np.isfinite(best.log_density[-1]):
                found, width = objective.moments(best.points[-1])
                return found[0], width[0]
        return None

    def _refine(
        self, kernel: Kernel, rng: np.random.Generator, mean: Floats, sd: Floats
    ) -> FixedDrawsResult:
        """Rounds of twice as many draws until their error is small."""
        elbos: list[float] = []
        count = min(self.num_draws or enough_draws(kernel.dim), self.max_draws)
        while True:
            noise = moment_matched(rng, count, kernel.dim)
            objective, point = climb(kernel, noise, mean, sd, self.optimizer)
            check = _check(objective, point, rng)
            point, check = _newton(objective, point, check)
            mean, sd = (one[0] for one in objective.moments(point))
            elbos.append(float(objective(point[None])[0][0]))
            settled = check.gain < _NEGLIGIBLE
            precise = check.error <= self.tolerance and check.loss <= _LOSS
            if (settled and precise) or 2 * count > self.max_draws:
                break
            count *= 2
        if settled:
            reason = (
                f"optimum of the ELBO on {count} fixed draws; Monte Carlo error at most "
                f"{check.error:.2g} standard deviations (tolerance {self.tolerance:g}), worth "
                f"{check.loss:.2g} nats"
            )
            if not precise:
                reason += f"; largest at {kernel.label(check.worst)} at the limit of draws"
        else:
            reason = f"no optimum of the ELBO on {count} fixed draws was reached"
        converged = settled and precise
        return FixedDrawsResult(mean, sd, tuple(elbos), count, check.error, converged, reason)


def enough_draws(dim: int) -> int:
    """Draws to begin with: up to 256 dimensions enough to match all second moments."""
    count = _FEWEST
    while dim <= _MATCHED_DIM and count < 2 * dim:
        count *= 2
    return count


def climb(
    kernel: Kernel, noise: Floats, mean: Floats, sd: Floats, optimizer: str = "lbfgs"
) -> tuple[FixedObjective, Floats]:
    """The optimum of the ELBO on fixed noise nearest to a mean-field Gaussian.

    Args:
        kernel: the compiled log density and gradient.
        noise: `(num_draws, dim)`.
        mean: where to start, `(dim,)`.
        sd: where to start, `(dim,)`.
        optimizer: one of `OPTIMIZERS`.

    Returns:
        The objective, in units of the Gaussian that was found, and the point `(2 dim,)` in it.
    """
    objective = FixedObjective(kernel, noise, mean, sd)
    start = np.zeros(objective.dim)
    if optimizer == "lbfgs":
        point = _FINE.maximize(objective, start[None], keep_iterates=False)[0].points[-1]
    else:
        point = _trust_region(objective, start)
    found, width = (one[0] for one in objective.moments(point))
    return FixedObjective(kernel, noise, found, width), start


def require_mean_field(guide: Guide, what: str) -> None:
    """Refuses any other guide.

    Raises:
        GuideError: naming what was asked for.
    """
    if not isinstance(guide, MeanField):
        raise GuideError(
            mismatch(what, "a mean-field guide", repr(guide), "Use guide='meanfield'.")
        )


def _trust_region(objective: FixedObjective, start: Floats) -> Floats:
    from scipy import optimize  # slow to import, and seldom needed

    def loss(point: Floats) -> tuple[float, Floats]:
        value, gradient = objective(point[None])
        return (-value[0], -gradient[0]) if np.isfinite(value[0]) else (np.inf, 0 * point)

    found = optimize.minimize(
        loss,
        start,
        jac=True,
        hessp=lambda point, vector: -objective.products(point, vector[None])[0],
        method="trust-ncg",
        options={"gtol": 1e-4 * np.sqrt(start.size), "maxiter": 100},
    )
    return np.asarray(found.x)


def _check(objective: FixedObjective, point: Floats, rng: np.random.Generator) -> _Check:
    """Sandwich errors and the Newton step at what should be the optimum.

    Scores of single draws would know nothing of what matching integrates exactly, so the spread
    of the mean score is measured between fresh sets of draws made the same way.
    """
    kernel, dim = objective.kernel, objective.kernel.dim
    mean, sd = (one[0] for one in objective.moments(point))
    solve, unit = _curvature(kernel, rng, mean, sd)
    if solve is None:
        return _Check(np.inf, np.inf, np.inf, np.zeros_like(point), 0)
    fresh = [moment_matched(rng, len(objective.noise), dim) for _ in range(_REPEATS)]
    scores = np.stack([FixedObjective(kernel, one, mean, sd).slope() for one in fresh])
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
    """A solver with the Hessian of the negative ELBO, and the units `(2 dim,)` to state errors in.

    The solver is `None` where the Hessian is not positive definite.
    """
    dim = sd.size
    unit = np.ones(2 * dim)
    if dim > _DENSE_DIM:
        return lambda rows: rows * np.repeat([1.0, 0.5], dim), unit
    some = moment_matched(rng, 2 * int(np.clip(1000 // dim, *_BENT)), dim)
    inverse = respond(some, mean, sd, by_differences(kernel, sd)).inverse
    if inverse is None:
        return None, unit
    unit[:dim] = np.sqrt(np.diag(inverse)[:dim])  # posterior sds by linear response
    return lambda rows: rows @ inverse, unit


def _newton(objective: FixedObjective, point: Floats, check: _Check) -> tuple[Floats, _Check]:
    """One Newton step, if it is short and does not lower the ELBO."""
    if not (np.isfinite(check.gain) and np.abs(check.step).max() < 1):
        return point, check
    moved = point + check.step
    (before, after), gradients = objective(np.stack([point, moved]))
    noise = 8 * objective.eps * abs(before)
    if not after >= before - noise:
        return point, check
    # what is left, by the same curvature, shrinks with the gradient
    left = float(np.sum(gradients[1] ** 2) / max(np.sum(gradients[0] ** 2), 1e-300))
    return moved, check._replace(gain=check.gain * left)

"""A dense Gaussian that maximizes the ELBO, by Newton-like steps on mean and precision."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from vijax.contracts import Data, Guide, Solution, Solver, Target, Variables
from vijax.contracts.kernel import Floats, Kernel
from vijax.runtime.deadline import end_reason, time_is_up
from vijax.runtime.errors import VijaxError, mismatch
from vijax.runtime.keys import host_rng
from vijax.runtime.progress import advance, expect
from vijax.solvers.batch_and_match.batch_and_match import BatchAndMatch
from vijax.solvers.gaussians.conversion import from_params, gaussian_solution, offers_gaussians
from vijax.solvers.gaussians.dense import (
    Estimate,
    Gaussian,
    antithetic,
    elbo_terms,
    log_normal,
    require_even,
    significantly_better,
    summarize,
    whitened,
)
from vijax.solvers.gaussians.low_rank import LowRankGaussian
from vijax.solvers.host_algebra import host_algebra
from vijax.solvers.pathfinder.pathfinder import Pathfinder, PathfinderResult

CURVATURES = ("scores", "hessian")

_MIN_DRAWS = {"scores": 256, "hessian": 32}
_CLIP = (0.1, 10.0)  # bounds on the factor by which a step changes the precision along an axis
_SHRINK = 0.7  # factor on all standard deviations while draws of the start are not finite
_MAX_SHRINKS = 30
_MARGIN = 0.02  # nats: largest decrease of the ELBO in a step, and smallest increase as progress
_MAX_NOISE = 0.25  # nats: upper bound on the standard error in the test for a decrease
_CHECKED = (6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)  # lengths at convergence checks
_MIN_MAX_STEP = 1 / 16  # lower bound of the largest step size, which a rejected step halves
_MIN_STEP = 1e-4


class VariationalNewtonResult(NamedTuple):
    """Result of the variational Newton method.

    Attributes:
        gaussian: the fit, or `None` without a finite starting point.
        elbo: its ELBO from fresh draws.
        elbo_se: standard error of the ELBO.
        elbos: ELBO of the iterates, in order, noisy.
        error: ELBO loss in nats from the sampling error of the average, by the iterates' scatter.
        converged: whether the ELBO stopped increasing and the error is within the tolerance.
        reason: one-line summary of the result.
        start: the Pathfinder result it started from, if any.
    """

    gaussian: Gaussian | None
    elbo: float
    elbo_se: float
    elbos: Floats
    error: float
    converged: bool
    reason: str
    start: PathfinderResult | None = None


class _Evaluation(NamedTuple):
    """Estimates from draws of a Gaussian, in the coordinates where it is standard."""

    elbo: float
    se: float
    score: Floats  # mean score `(dim,)`
    curvature: Floats  # mean negative Hessian `(dim, dim)`


@dataclasses.dataclass(frozen=True)
class VariationalNewton(Solver):
    """The full-rank Gaussian that maximizes the ELBO, by second-order steps.

    By the theorems of Bonnet and Price the gradients of the ELBO are the mean score and half the
    mean Hessian, so at the optimum `E[g] = 0` and `S^-1 = -E[H]`. A step is
    `S'^-1 = (1 - step) S^-1 - step E[H]`, `m' = m + step S' E[g]`: a natural gradient step, exact
    on a Gaussian posterior with step size one. `E[H]` is estimated from scores, by Stein's identity
    on their difference from those of the Gaussian, or from Hessian-vector products. A step that
    decreases the ELBO is rejected and shortened. Once the ELBO has stopped increasing, means and
    precisions of the iterates are averaged, until by their scatter the average is within
    `tolerance` nats of the optimum. Costs `dim^3` per step on the host: meant for up to about a
    thousand dimensions. Model `param` sites stay fixed. Sources: Fast and scalable Bayesian deep
    learning by weight-perturbation in Adam (variational online Newton), Khan, Nielsen, Tangkaratt,
    Lin, Gal, Srivastava, 2018; the Bayesian learning rule, Khan, Rue, 2023.

    Args:
        start: solver of the initial Gaussian, `Pathfinder()` or `BatchAndMatch()`; `None` starts
            from the guide's parameters.
        curvature: `"scores"`, or `"hessian"`, which compiles a second program.
        num_draws: draws per step, even; `None` for 256 or `4 dim` if more, with Hessians 32.
        max_steps: maximum number of steps.
        tolerance: largest ELBO loss in nats from the sampling error of the average.
    """

    maximizes_elbo: ClassVar[bool] = True
    start: Pathfinder | BatchAndMatch | None = dataclasses.field(default_factory=Pathfinder)
    curvature: str = "scores"
    num_draws: int | None = None
    max_steps: int = 300
    tolerance: float = 0.002

    def __post_init__(self) -> None:
        if self.curvature not in CURVATURES:
            raise VijaxError(mismatch("curvature", f"one of {CURVATURES}", repr(self.curvature)))
        if self.num_draws is not None:
            require_even("num_draws", self.num_draws)

    def solve(
        self, key: jax.Array, target: Target, guide: Guide, variables: Variables, batch: Data
    ) -> Solution:
        """Fits a Gaussian guide; see `Solver.solve`.

        Raises:
            GuideError: the guide's parameters do not represent a Gaussian.
        """
        kernel = offers_gaussians(Kernel(target, batch, variables.model), variables)
        result = self.run(kernel, host_rng(key), _dense(from_params(variables.guide, target.space)))
        paths = result.start
        gaussians: list[Gaussian | LowRankGaussian | None] = [result.gaussian]
        if paths is not None:
            gaussians += paths.other_modes(result.gaussian, result.elbo)
        unseen = None if paths is None else paths.unseen
        return gaussian_solution(
            kernel, variables, gaussians, result.reason, result.converged, result.elbos, unseen
        )

    def run(
        self, kernel: Kernel, rng: np.random.Generator, gaussian: Gaussian
    ) -> VariationalNewtonResult:
        """Runs the solver on a kernel and returns the full result.

        Args:
            kernel: the compiled log density and gradient.
            rng: source of randomness.
            gaussian: initial Gaussian; with `start` set, only its mean is used, for the first path.
        """
        start_converged, start_reason, paths = False, "", None
        if isinstance(self.start, BatchAndMatch):
            matched = self.start.run(kernel, rng, gaussian)
            start, paths = _dense(matched.gaussian), matched.start
            start_converged, start_reason = matched.converged, matched.reason
        elif self.start is not None:
            paths = self.start.run(kernel, rng, gaussian.mean[None])
            start, start_reason = _dense(paths.gaussian), paths.reason
        else:
            start = gaussian
        if start is None:
            empty = np.zeros(0)
            return VariationalNewtonResult(
                None, -np.inf, np.inf, empty, np.inf, False, start_reason
            )
        with host_algebra(kernel.dim):
            ascent = _Ascent(self, kernel, rng, start)
            converged, reason = ascent.run()
            best, estimate = ascent.choose(start)
        if start_converged and not converged:  # the steps did not decrease the ELBO
            reason = f"{start_reason}, then {len(ascent.elbos)} Newton steps"
        elif paths is not None and paths.num_modes > 1:
            reason += f"; {paths.reason}"
        return VariationalNewtonResult(
            best,
            *estimate,
            np.array(ascent.elbos),
            ascent.error,
            converged or start_converged,
            reason,
            paths,
        )


class _Ascent:
    """A run: the current Gaussian, and the iterates to average."""

    def __init__(
        self,
        options: VariationalNewton,
        kernel: Kernel,
        rng: np.random.Generator,
        gaussian: Gaussian,
    ) -> None:
        self.options, self.kernel, self.rng, self.gaussian = options, kernel, rng, gaussian
        per_dim = 4 * kernel.dim if options.curvature == "scores" else 0
        self.num_draws = options.num_draws or max(_MIN_DRAWS[options.curvature], per_dim)
        self.elbos: list[float] = []
        self.means: list[Floats] = []
        self.precisions: list[Floats] = []
        self.error = np.inf
        self.max_step = 1.0

    def run(self) -> tuple[bool, str]:
        """Runs all steps; returns whether the average converged, and why they stopped."""
        current = self._evaluate_start()
        if not np.isfinite(current.elbo):
            return False, "no draws of the start have a finite log density"
        max_elbo, step = current.elbo, 1.0
        expect(self.options.max_steps, "Newton step")
        for count in range(1, self.options.max_steps + 1):
            if count > 1 and time_is_up():
                return False, f"not converged: {end_reason()} after {count - 1} Newton steps"
            advance(1, "Newton step")
            proposal = self._propose(current, step)
            proposed = self._evaluate(proposal)
            # a diverged proposal has a large standard error: uses that of the current Gaussian
            if not proposed.elbo > current.elbo - _MARGIN - 4 * min(current.se, _MAX_NOISE):
                step /= 4
                self.max_step = max(self.max_step / 2, _MIN_MAX_STEP)
                if step < _MIN_STEP:
                    return False, f"every step size decreased the ELBO after {count} steps"
                continue
            self.gaussian, current, step = proposal, proposed, min(self.max_step, 2 * step)
            self._offer(proposal)
            self.elbos.append(current.elbo)
            if current.elbo > max_elbo + _MARGIN + 2 * current.se:
                # the ELBO still increases: earlier iterates are not at the optimum
                self.means, self.precisions = [], []
            else:
                self._store()
            max_elbo = max(max_elbo, current.elbo)
            if len(self.means) in _CHECKED and self._average_converged():
                return True, (
                    f"average of {len(self.means)} of {count} Newton steps, within "
                    f"{self.error:.2g} nats of the largest ELBO (tolerance "
                    f"{self.options.tolerance:g})"
                )
        return False, f"the average did not converge in {self.options.max_steps} steps"

    def _offer(self, gaussian: Gaussian) -> None:
        self.kernel.found(lambda: gaussian)

    def choose(self, start: Gaussian) -> tuple[Gaussian, Estimate]:
        """The average, unless the last iterate or the start has a clearly better ELBO."""
        noise = antithetic(self.rng, 512, self.kernel.dim)
        candidates = [self._average(), self.gaussian, start]
        evaluated = [
            (one, elbo_terms(self.kernel, one, noise)) for one in candidates if one is not None
        ]
        chosen, terms = evaluated[0]
        for other, other_terms in evaluated[1:]:
            if significantly_better(other_terms, terms):
                chosen, terms = other, other_terms
        return chosen, summarize(terms)

    def _evaluate_start(self) -> _Evaluation:
        """Evaluates the start, shrunk while some of its draws are not finite."""
        start = self._evaluate(self.gaussian)
        for _ in range(_MAX_SHRINKS):
            if np.isfinite(start.elbo):
                break
            self.gaussian = Gaussian(self.gaussian.mean, _SHRINK * self.gaussian.factor)
            start = self._evaluate(self.gaussian)
        return start

    def _evaluate(self, gaussian: Gaussian) -> _Evaluation:
        noise = whitened(self.rng, self.num_draws, self.kernel.dim)
        log_density, gradient = self.kernel(gaussian.transform(noise))
        terms = log_density - log_normal(noise, gaussian.log_det)
        scores = gradient @ gaussian.factor
        estimate = summarize(0.5 * (terms[: len(terms) // 2] + terms[len(terms) // 2 :]))
        if not np.isfinite(scores).all():
            estimate = Estimate(-np.inf, np.inf)
        if self.options.curvature == "hessian":
            curvature = self._mean_negative_hessian(gaussian, noise)
        else:
            # E[H] = E[z (g + z)'] - I in these coordinates: noise only in the residual g + z
            residual = noise.T @ (scores + noise) / len(noise)
            curvature = np.eye(len(residual)) - 0.5 * (residual + residual.T)
        return _Evaluation(*estimate, scores.mean(axis=0), curvature)

    def _mean_negative_hessian(self, gaussian: Gaussian, noise: Floats) -> Floats:
        total = np.zeros((self.kernel.dim, self.kernel.dim))
        for point in gaussian.transform(noise):
            products = self.kernel.products(point, gaussian.factor.T)
            total -= products @ gaussian.factor / len(noise)
        return 0.5 * (total + total.T)

    def _propose(self, current: _Evaluation, step: float) -> Gaussian:
        values, axes = np.linalg.eigh(current.curvature)
        precision = np.clip((1 - step) + step * values, *_CLIP)
        factor = self.gaussian.factor @ (axes / np.sqrt(precision))
        shift = axes.T @ current.score / np.sqrt(precision)
        return Gaussian(self.gaussian.mean + step * factor @ shift, factor)

    def _store(self) -> None:
        inverse = np.linalg.inv(self.gaussian.factor)
        self.means.append(self.gaussian.mean)
        self.precisions.append(inverse.T @ inverse)

    def _average(self) -> Gaussian | None:
        if not self.means:
            return None
        precision = np.mean(self.precisions, axis=0)
        scale = 1 / np.sqrt(np.diag(precision))
        root = np.linalg.cholesky(precision * np.outer(scale, scale))
        return Gaussian(np.mean(self.means, axis=0), scale[:, None] * np.linalg.inv(root).T)

    def _average_converged(self) -> bool:
        """Whether the error of the average, mean KL of the iterates over their number, is small.

        Steps shorter than one leave the fraction `1 - step` of each error in the next iterate; the
        effective number of iterates is smaller by the corresponding factor.
        """
        average = self._average()
        if average is None:
            return False
        total = 0.0
        for mean, precision in zip(self.means, self.precisions, strict=True):
            shift = np.linalg.solve(average.factor, mean - average.mean)
            change = average.factor.T @ precision @ average.factor - np.eye(len(shift))
            total += 0.5 * float(shift @ shift) + 0.25 * float(np.sum(change**2))
        count, autocorrelation = len(self.means), (2 - self.max_step) / self.max_step
        self.error = autocorrelation * total / (count * (count - 1))
        return self.error < self.options.tolerance


def _dense(gaussian: Any) -> Any:
    """The Gaussian with a dense factor; `None` is returned unchanged."""
    return gaussian.dense if isinstance(gaussian, LowRankGaussian) else gaussian

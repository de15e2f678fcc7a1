"""A dense Gaussian at the optimum of the ELBO, by Newton-like steps on mean and precision."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from vijax.contracts import Data, Guide, Solution, Solver, Target, Variables
from vijax.contracts.kernel import Floats, Kernel
from vijax.runtime.errors import VijaxError, mismatch
from vijax.runtime.keys import host_rng
from vijax.solvers.batch_and_match.batch_and_match import BatchAndMatch
from vijax.solvers.gaussians.conversion import from_params, gaussian_solution
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

_FEWEST = {"scores": 256, "hessian": 32}
_CLIP = (0.1, 10.0)  # on the factors by which one step changes the precision along an axis
_DRAW_IN = 0.7  # factor on all standard deviations while draws of the start are not finite
_MOST_DRAWN_IN = 30
_MARGIN = 0.02  # nats of ELBO that a step may lose, or must gain to count as progress
_MOST_NOISE = 0.25  # nats of standard error that a fall is measured against, at most
_CHECKED = (6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)  # lengths at which it is judged
_SMALLEST_CEILING = 1 / 16  # of the step size; it is halved when a step was taken back
_SMALLEST_STEP = 1e-4


class VariationalNewtonResult(NamedTuple):
    """What the variational Newton method found.

    Attributes:
        gaussian: the fit, or `None` where there was no start.
        elbo: its ELBO from fresh draws.
        elbo_se: standard error of it.
        elbos: ELBO of the iterates, in order, noisy.
        error: nats of ELBO that the sampling error of the average costs, by the iterates' scatter.
        converged: whether the ELBO stopped rising and that error is within the tolerance.
        reason: one line about the outcome.
        start: the Pathfinder run that it all began with, if there was one.
    """

    gaussian: Gaussian | None
    elbo: float
    elbo_se: float
    elbos: Floats
    error: float
    converged: bool
    reason: str
    start: PathfinderResult | None = None


class _Look(NamedTuple):
    """What draws from a Gaussian tell, in the coordinates where it is standard."""

    elbo: float
    se: float
    slope: Floats  # mean score `(dim,)`
    bend: Floats  # mean negative Hessian `(dim, dim)`


@dataclasses.dataclass(frozen=True)
class VariationalNewton(Solver):
    """The full-rank Gaussian of largest ELBO, by second-order steps.

    By the theorems of Bonnet and Price the gradients of the ELBO are the mean score and half the
    mean Hessian, so at the optimum `E[g] = 0` and `S^-1 = -E[H]`. Each step moves there:
    `S'^-1 = (1 - step) S^-1 - step E[H]`, `m' = m + step S' E[g]`, which is the natural gradient
    and, on a Gaussian posterior, exact at once. `E[H]` comes from scores, by Stein's identity on
    what is left of them beside the Gaussian's own, or from Hessian-vector products. A step after
    which the ELBO is lower is taken back and shortened. Once the ELBO has stopped rising the
    iterates are averaged, means and precisions, until their scatter says that the average is
    within `tolerance` nats of the optimum. Costs `dim^3` per step on the host: meant for up to
    about a thousand dimensions. Model `param` sites stay fixed. Sources: Fast and scalable
    Bayesian deep learning by weight-perturbation in Adam (variational online Newton), Khan,
    Nielsen, Tangkaratt, Lin, Gal, Srivastava, 2018; the Bayesian learning rule, Khan, Rue, 2023.

    Args:
        start: the solver whose Gaussian it starts from, `Pathfinder()` or `BatchAndMatch()`;
            `None` starts from the guide's own.
        curvature: `"scores"`, or `"hessian"`, which compiles a second program.
        num_draws: draws per step, even; `None` for 256 or `4 dim` if more, with Hessians 32.
        max_steps: the limit.
        tolerance: nats of ELBO that the sampling error of the average may cost.
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
        """Fills in a Gaussian guide; see `Solver.solve`.

        Raises:
            GuideError: the guide's parameters do not hold a Gaussian.
        """
        kernel = Kernel(target, batch, variables.model)
        result = self.run(kernel, host_rng(key), _dense(from_params(variables.guide, target.space)))
        paths = result.start
        found: list[Gaussian | LowRankGaussian | None] = [result.gaussian]
        if paths is not None:
            found += paths.other_modes(result.gaussian, result.elbo)
        return gaussian_solution(
            kernel, variables, found, result.reason, result.converged, result.elbos
        )

    def run(
        self, kernel: Kernel, rng: np.random.Generator, gaussian: Gaussian
    ) -> VariationalNewtonResult:
        """Runs on a kernel, and returns everything there is to know.

        Args:
            kernel: the compiled log density and gradient.
            rng: source of randomness.
            gaussian: where to start; with `start` set, only its mean is used, for the first path.
        """
        settled, began, paths = False, "", None
        if isinstance(self.start, BatchAndMatch):
            matched = self.start.run(kernel, rng, gaussian)
            found, paths = _dense(matched.gaussian), matched.start
            settled, began = matched.converged, matched.reason
        elif self.start is not None:
            paths = self.start.run(kernel, rng, gaussian.mean[None])
            found, began = _dense(paths.gaussian), paths.reason
        else:
            found = gaussian
        if found is None:
            nothing = np.zeros(0)
            return VariationalNewtonResult(None, -np.inf, np.inf, nothing, np.inf, False, began)
        with host_algebra(kernel.dim):
            ascent = _Ascent(self, kernel, rng, found)
            converged, reason = ascent.run()
            best, estimate = ascent.choose(found)
        if settled and not converged:  # it was close before, and is no farther now
            reason = f"{began}, then {len(ascent.elbos)} Newton steps"
        elif paths is not None and paths.num_modes > 1:
            reason += f"; {paths.reason}"
        return VariationalNewtonResult(
            best,
            *estimate,
            np.array(ascent.elbos),
            ascent.error,
            converged or settled,
            reason,
            paths,
        )


class _Ascent:
    """One run: the current Gaussian, what its draws say, and the averages so far."""

    def __init__(
        self,
        options: VariationalNewton,
        kernel: Kernel,
        rng: np.random.Generator,
        gaussian: Gaussian,
    ) -> None:
        self.options, self.kernel, self.rng, self.gaussian = options, kernel, rng, gaussian
        fewest = _FEWEST[options.curvature]
        enough = 4 * kernel.dim if options.curvature == "scores" else 0
        self.num_draws = options.num_draws or max(fewest, enough)
        self.elbos: list[float] = []
        self.means: list[Floats] = []
        self.precisions: list[Floats] = []
        self.error = np.inf
        self.ceiling = 1.0

    def run(self) -> tuple[bool, str]:
        """All steps; whether the average settled, and how it ended."""
        here = self._first_look()
        if not np.isfinite(here.elbo):
            return False, "no draws of the start have a finite log density"
        top, step = here.elbo, 1.0
        for count in range(1, self.options.max_steps + 1):
            moved = self._move(here, step)
            there = self._look(moved)
            # the error of a Gaussian that went astray is no excuse: that of the last one counts
            if not there.elbo > here.elbo - _MARGIN - 4 * min(here.se, _MOST_NOISE):
                step /= 4
                self.ceiling = max(self.ceiling / 2, _SMALLEST_CEILING)
                if step < _SMALLEST_STEP:
                    return False, f"no step kept the ELBO after {count} steps"
                continue
            self.gaussian, here, step = moved, there, min(self.ceiling, 2 * step)
            self.elbos.append(here.elbo)
            if here.elbo > top + _MARGIN + 2 * here.se:
                # still on the way: what came before is no sample of the optimum
                self.means, self.precisions = [], []
            else:
                self._remember()
            top = max(top, here.elbo)
            if len(self.means) in _CHECKED and self._settled():
                return True, (
                    f"average of {len(self.means)} of {count} Newton steps, within "
                    f"{self.error:.2g} nats of the largest ELBO (tolerance "
                    f"{self.options.tolerance:g})"
                )
        return False, f"the average had not settled after {self.options.max_steps} steps"

    def choose(self, start: Gaussian) -> tuple[Gaussian, Estimate]:
        """The average, or the last iterate, unless the start has clearly the better ELBO."""
        noise = antithetic(self.rng, 512, self.kernel.dim)
        rivals = [self._average(), self.gaussian, start]
        scored = [(one, elbo_terms(self.kernel, one, noise)) for one in rivals if one is not None]
        chosen, terms = scored[0]
        for rival, others in scored[1:]:
            if significantly_better(others, terms):
                chosen, terms = rival, others
        return chosen, summarize(terms)

    def _first_look(self) -> _Look:
        """What the start's draws say, drawn in while some are not finite."""
        here = self._look(self.gaussian)
        for _ in range(_MOST_DRAWN_IN):
            if np.isfinite(here.elbo):
                break
            self.gaussian = Gaussian(self.gaussian.mean, _DRAW_IN * self.gaussian.factor)
            here = self._look(self.gaussian)
        return here

    def _look(self, gaussian: Gaussian) -> _Look:
        noise = whitened(self.rng, self.num_draws, self.kernel.dim)
        log_density, gradient = self.kernel(gaussian.transform(noise))
        terms = log_density - log_normal(noise, gaussian.log_det)
        scores = gradient @ gaussian.factor
        estimate = summarize(0.5 * (terms[: len(terms) // 2] + terms[len(terms) // 2 :]))
        if not np.isfinite(scores).all():
            estimate = Estimate(-np.inf, np.inf)
        if self.options.curvature == "hessian":
            bend = self._hessians(gaussian, noise)
        else:
            # E[H] = E[z (g + z)'] - I in these coordinates: the noise is that of the residual
            residual = noise.T @ (scores + noise) / len(noise)
            bend = np.eye(len(residual)) - 0.5 * (residual + residual.T)
        return _Look(*estimate, scores.mean(axis=0), bend)

    def _hessians(self, gaussian: Gaussian, noise: Floats) -> Floats:
        bend = np.zeros((self.kernel.dim, self.kernel.dim))
        for point in gaussian.transform(noise):
            products = self.kernel.products(point, gaussian.factor.T)
            bend -= products @ gaussian.factor / len(noise)
        return 0.5 * (bend + bend.T)

    def _move(self, here: _Look, step: float) -> Gaussian:
        values, axes = np.linalg.eigh(here.bend)
        precision = np.clip((1 - step) + step * values, *_CLIP)
        factor = self.gaussian.factor @ (axes / np.sqrt(precision))
        shift = axes.T @ here.slope / np.sqrt(precision)
        return Gaussian(self.gaussian.mean + step * factor @ shift, factor)

    def _remember(self) -> None:
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

    def _settled(self) -> bool:
        """Whether the average's error, in nats, is small: KL of the iterates from it, divided.

        Steps shorter than one leave the share `1 - step` of the last error in the next: so many
        fewer are the iterates that count.
        """
        average = self._average()
        if average is None:
            return False
        total = 0.0
        for mean, precision in zip(self.means, self.precisions, strict=True):
            shift = np.linalg.solve(average.factor, mean - average.mean)
            stretch = average.factor.T @ precision @ average.factor - np.eye(len(shift))
            total += 0.5 * float(shift @ shift) + 0.25 * float(np.sum(stretch**2))
        count, shared = len(self.means), (2 - self.ceiling) / self.ceiling
        self.error = shared * total / (count * (count - 1))
        return self.error < self.options.tolerance


def _dense(gaussian: Any) -> Any:
    """The Gaussian with its factor written out; `None` stays."""
    return gaussian.dense if isinstance(gaussian, LowRankGaussian) else gaussian

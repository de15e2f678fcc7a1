"""Batch and match: a Gaussian, dense or diagonal plus low rank, whose scores match the target's."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from vijax.contracts import Data, Guide, Solution, Solver, Target, Variables
from vijax.contracts.kernel import Floats, Kernel
from vijax.runtime.keys import host_rng
from vijax.solvers.batch_and_match.families import Family, family_of
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
from vijax.solvers.pathfinder.candidates import top_indices
from vijax.solvers.pathfinder.pathfinder import Pathfinder, PathfinderResult

_FLOOR = 4.0  # `lam` does not fall below this while the fit still improves
_QUIET_STEP = 1.0  # `lam` in the first window of the averaging phase
_WORTHWHILE = 0.02  # nats per window for which steps stay large; smaller steps gain them as well
_ENTRANTS = 12  # candidates that are tried where paths disagree
_DRAW_IN = 0.7  # factor on all standard deviations when most draws are not finite
_COLLAPSE = 10.0  # nats below the best window at which the iteration goes back to it


class BatchAndMatchResult(NamedTuple):
    """What batch and match found.

    Attributes:
        gaussian: the fit, or `None` where there was no start.
        elbo: its ELBO from fresh draws.
        elbo_se: standard error of it.
        elbos: ELBO of the iterates, averaged over each window, in order.
        converged: whether the averages stopped changing.
        reason: one line about the outcome.
        num_iterations: updates made.
        start: the Pathfinder run it started from, if there was one.
    """

    gaussian: Gaussian | LowRankGaussian | None
    elbo: float
    elbo_se: float
    elbos: Floats
    converged: bool
    reason: str
    num_iterations: int
    start: PathfinderResult | None


class _Window(NamedTuple):
    gaussian: Gaussian | LowRankGaussian | None
    elbo: float
    se: float


@dataclasses.dataclass(frozen=True)
class BatchAndMatch(Solver):
    """A full-rank or low-rank Gaussian by matching scores, in closed-form steps.

    Each step draws a batch from the current Gaussian and moves to the one that balances agreement
    with the target's scores on the batch against closeness to the current one, see `update`. On
    a Gaussian target a step is exact in the directions of its batch. Steps come in windows. While
    the ELBO of the windows still rises the steps stay large; then the inverse regularization `lam`
    falls window by window and the iterates are averaged, until the average moves by less than
    `tolerance`. The average is returned unless another candidate has the better ELBO on fresh
    draws. Model `param` sites stay fixed. Source: Batch and match: black-box variational inference
    with a score-based divergence, Cai, Modi, Pillaud-Vivien, Margossian, Gower, Blei, Saul, 2024.

    The guide says which Gaussians: `FullRank` all of them, at `dim^2 num_draws` per step on the
    host, meant for up to about a thousand dimensions; `LowRank` those of its rank, and `MeanField`
    those of rank zero, at `dim (rank + num_draws)^2`, see `patched_update`.

    Args:
        start: the solver whose Gaussian it starts from; `None` starts from the guide's own.
        num_draws: draws per step, even.
        window: steps per window.
        max_windows: the limit.
        tolerance: root mean square change between averages, of means in posterior standard
            deviations and of log standard deviations, below which they count as settled.
    """

    maximizes_elbo: ClassVar[bool] = True
    start: Pathfinder | None = dataclasses.field(default_factory=Pathfinder)
    num_draws: int = 32
    window: int = 20
    max_windows: int = 40
    tolerance: float = 0.05

    def __post_init__(self) -> None:
        require_even("num_draws", self.num_draws)

    def solve(
        self, key: jax.Array, target: Target, guide: Guide, variables: Variables, batch: Data
    ) -> Solution:
        """Fills in a Gaussian guide; see `Solver.solve`.

        Raises:
            GuideError: the guide's parameters do not hold a Gaussian.
        """
        kernel = Kernel(target, batch, variables.model)
        result = self.run(kernel, host_rng(key), from_params(variables.guide, target.space))
        paths, found = result.start, [result.gaussian]
        if paths is not None:
            found += paths.other_modes(result.gaussian, result.elbo)
        return gaussian_solution(
            kernel, variables, found, result.reason, result.converged, result.elbos
        )

    def run(
        self, kernel: Kernel, rng: np.random.Generator, gaussian: Gaussian | LowRankGaussian
    ) -> BatchAndMatchResult:
        """Runs on a kernel, and returns everything there is to know.

        Args:
            kernel: the compiled log density and gradient.
            rng: source of randomness.
            gaussian: where to start; with `start` set, only its mean is used, for the first path.
        """
        found, family = None, family_of(gaussian)
        if self.start is not None:
            found = self.start.run(kernel, rng, gaussian.mean[None])
            if found.gaussian is None:
                nothing = np.zeros(0)
                return BatchAndMatchResult(
                    None, -np.inf, np.inf, nothing, False, found.reason, 0, found
                )
            gaussian = found.gaussian
        with host_algebra(family.order(kernel.dim)):
            gaussian = family.adopt(gaussian)
            matching = self._tournament(kernel, rng, family, gaussian, found)
            converged, reason = matching.run()
            best, estimate = matching.choose(gaussian)
        if found is not None and found.num_modes > 1:
            reason += f"; {found.reason}"
        return BatchAndMatchResult(
            gaussian=family.adopt(best),
            elbo=estimate.elbo,
            elbo_se=estimate.se,
            elbos=np.array([window.elbo for window in matching.windows]),
            converged=converged,
            reason=reason,
            num_iterations=matching.steps,
            start=found,
        )

    def _tournament(
        self,
        kernel: Kernel,
        rng: np.random.Generator,
        family: Family,
        gaussian: Any,
        found: PathfinderResult | None,
    ) -> _Matching:
        """A run begun at `gaussian`, or where paths disagree at the contender that does best.

        Pathfinder's ELBOs are those of crude covariances; a few steps tell more. Where paths fall
        into a funnel its best candidate often lies too deep, and an earlier one leads out of it.
        """
        runs = [_Matching(self, kernel, rng, gaussian, family)]
        if found is None or found.candidates is None:
            return runs[0]
        level = found.candidate_elbos.max() - 10 - 2 * kernel.dim
        for i in top_indices(found.candidate_elbos[found.at_other_modes], _ENTRANTS):
            j = int(found.at_other_modes[i])
            if found.candidate_elbos[j] > level:
                rival = family.adopt(found.candidates.component(j))
                runs.append(_Matching(self, kernel, rng, rival, family))
        while len(runs) > 1:
            for run in runs:
                run.window()
            runs.sort(key=lambda run: -np.nan_to_num(run.windows[-1].elbo, nan=-np.inf))
            runs = runs[: len(runs) // 3 if len(runs) > 2 else 1]
        return runs[0]


class _Matching:
    """One run: the current Gaussian and the windows so far."""

    def __init__(
        self,
        options: BatchAndMatch,
        kernel: Kernel,
        rng: np.random.Generator,
        gaussian: Any,
        family: Family,
    ) -> None:
        self.options, self.kernel, self.rng, self.family = options, kernel, rng, family
        self.gaussian, self.log_det = gaussian, gaussian.log_det
        self.windows: list[_Window] = []
        self.average: Any = None
        self.merged = 0  # windows in the average
        self.steps = 0
        self.ceiling = np.inf  # of `lam`; lowered when a step had to be taken back

    def run(self) -> tuple[bool, str]:
        """All windows; whether the averages settled, and how it ended."""
        quiet = 0
        change = np.inf
        for _ in range(self.options.max_windows):
            window = self.window(quiet)
            if self._collapsed(window):
                quiet = 0
                continue
            if quiet == 0 and self._rising(_WORTHWHILE):
                continue
            quiet += 1
            if quiet > 1 and window.gaussian is not None:
                change = self._merge(window.gaussian)
                if change < self.options.tolerance and not self._rising():
                    return True, f"averages settled after {self.steps} steps"
        if quiet == 0:
            return False, f"the ELBO was still rising after {self.steps} steps"
        return False, (
            f"averages still changed by {change:.2g} standard deviations (tolerance "
            f"{self.options.tolerance:g}) after {self.steps} steps"
        )

    def choose(self, start: Any) -> tuple[Any, Estimate]:
        """The average, unless the best window or the start has clearly the better ELBO."""
        noise = antithetic(self.rng, 256, self.kernel.dim)
        finite = [window for window in self.windows if window.gaussian is not None]
        best = max(finite, key=lambda window: window.elbo, default=None)
        rivals = [self.average, best.gaussian if best else None, start]
        scored = [
            (rival, elbo_terms(self.kernel, rival, noise)) for rival in rivals if rival is not None
        ]
        chosen, terms = scored[0]
        for rival, others in scored[1:]:
            if significantly_better(others, terms):
                chosen, terms = rival, others
        return chosen, summarize(terms)

    def window(self, quiet: int = 0) -> _Window:
        """Some steps: their last Gaussian, or the average of all in the averaging phase."""
        size, mean = self.options.window, self.family.mean(self.kernel.dim)
        elbos = []
        for _ in range(size):
            elbos.append(self._step(self._lam(quiet)))
            if quiet:  # a dense covariance costs dim^3, more than the step itself
                mean.add(self.gaussian, 1 / size)
        gaussian = mean.gaussian() if quiet else self.gaussian
        elbo, variance = np.mean(elbos, axis=0)
        self.windows.append(_Window(gaussian, float(elbo), float(np.sqrt(variance / size))))
        return self.windows[-1]

    def _lam(self, quiet: int) -> float:
        if quiet:
            return min(self.ceiling, _QUIET_STEP / quiet)
        opening = self.options.num_draws * self.kernel.dim / (self.steps + 1)
        return min(self.ceiling, max(_FLOOR, opening))

    def _step(self, lam: float) -> tuple[float, float]:
        """One update; the ELBO of the Gaussian it started from, and its variance."""
        self.steps += 1
        current = self.gaussian
        noise = whitened(self.rng, self.options.num_draws, self.kernel.dim)
        log_density, gradient = self.kernel(current.transform(noise))
        good = np.isfinite(log_density) & np.isfinite(gradient).all(axis=1)
        terms = log_density - log_normal(noise, self.log_det)
        elbo = float(terms.mean()), float(terms.var() / len(terms)) if good.all() else np.inf
        if 2 * good.sum() < good.size:
            # mostly outside the model's domain: draw in
            self._move(current.scaled(_DRAW_IN))
            return elbo
        step = self.family.update(current, noise[good], gradient[good], lam)
        if step is None:
            self.ceiling = lam / 4
        else:
            self.gaussian, self.log_det = step.gaussian, self.log_det + step.log_det
        return elbo

    def _move(self, gaussian: Any) -> None:
        self.gaussian, self.log_det = gaussian, gaussian.log_det

    def _collapsed(self, window: _Window) -> bool:
        """Whether the window fell far below the best one; then goes back, with smaller steps."""
        best = max(self.windows, key=lambda w: -np.inf if w.gaussian is None else w.elbo)
        lost = best.elbo - window.elbo
        if best.gaussian is None or not (np.isnan(lost) or lost > _COLLAPSE + 5 * window.se):
            return False
        self._move(best.gaussian)
        self.ceiling = min(self.ceiling, 4 * _FLOOR) / 4
        return True

    def _rising(self, margin: float = 0.01) -> bool:
        """Whether the ELBO of the last windows is clearly above those before, or all is new."""
        num = self.family.patience
        if len(self.windows) < 2 * num:
            return True
        elbos = np.array([window.elbo for window in self.windows[-2 * num :]]).reshape(2, num)
        errors = np.array([window.se for window in self.windows[-2 * num :]])
        before, last = elbos.mean(axis=1)
        if not np.isfinite(before):
            return True
        return bool(last > before + 2 * np.linalg.norm(errors) / num + margin)

    def _merge(self, gaussian: Any) -> float:
        """Adds a window to the average; how far it is from it, in standard deviations."""
        old = self.average
        if old is None or self._rising():
            # what came before had not arrived yet
            self.average, self.merged = gaussian, 1
            return np.inf if old is None else _distance(old, gaussian)
        self.merged += 1
        weight = 1 / self.merged
        mean = self.family.mean(self.kernel.dim)
        mean.add(old, 1 - weight)
        mean.add(gaussian, weight)
        self.average = mean.gaussian() or old
        return _distance(old, gaussian)


def _distance(one: Any, other: Any) -> float:
    """Root mean square difference of means, in sds, or of log sds, whichever is larger."""
    shift = np.sqrt(np.mean(((one.mean - other.mean) / other.sd) ** 2))
    stretch = np.sqrt(np.mean(np.log(one.sd / other.sd) ** 2))
    return float(max(shift, stretch))

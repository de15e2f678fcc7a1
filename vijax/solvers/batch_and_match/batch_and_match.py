"""Batch and match: a Gaussian, dense or diagonal plus low rank, whose scores match the target's."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from vijax.contracts import Data, Guide, Solution, Solver, Target, Variables
from vijax.contracts.kernel import Floats, Kernel
from vijax.runtime.deadline import end_reason, time_is_up
from vijax.runtime.keys import host_rng
from vijax.solvers.batch_and_match.families import Family, family_of
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
from vijax.solvers.pathfinder.candidates import top_indices
from vijax.solvers.pathfinder.pathfinder import Pathfinder, PathfinderResult

_MIN_LAM = 4.0  # lower bound of `lam` while the ELBO increases
_AVERAGING_LAM = 1.0  # `lam` in the first window of the averaging phase
_MIN_GAIN = 0.02  # nats per window: smallest gain for which `lam` stays large
_MAX_CANDIDATES = 12  # alternative starts that are tried if paths found several modes
_SHRINK = 0.7  # factor on all standard deviations when most draws are not finite
_MAX_LOSS = 10.0  # nats below the best window at which the iteration returns to it


class BatchAndMatchResult(NamedTuple):
    """Result of batch and match.

    Attributes:
        gaussian: the fit, or `None` without a finite starting point.
        elbo: its ELBO from fresh draws.
        elbo_se: standard error of the ELBO.
        elbos: ELBO of the iterates, averaged over each window, in order.
        converged: whether the averages converged.
        reason: one-line summary of the result.
        num_iterations: number of updates.
        start: the Pathfinder result it started from, if any.
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
    """Score matching for a full-rank or low-rank Gaussian, by closed-form proximal steps.

    Each step draws a batch from the current Gaussian and minimizes the score-based divergence from
    the target on the batch plus a KL penalty for leaving the current Gaussian, see `update`. On a
    Gaussian target a step is exact in the directions of its batch. Steps are grouped into windows.
    While the ELBO of the windows increases, steps stay large; then the inverse regularization `lam`
    decreases per window and the iterates are averaged, until the average changes by less than
    `tolerance`. The average is returned unless another candidate has a clearly better ELBO on fresh
    draws. Model `param` sites stay fixed. Source: Batch and match: black-box variational inference
    with a score-based divergence, Cai, Modi, Pillaud-Vivien, Margossian, Gower, Blei, Saul, 2024.

    The guide determines the family: `FullRank` all Gaussians, at `dim^2 num_draws` per step on the
    host, meant for up to about a thousand dimensions; `LowRank` those of its rank, and `MeanField`
    those of rank zero, at `dim (rank + num_draws)^2`, see `low_rank_update`.

    Args:
        start: solver of the initial Gaussian; `None` starts from the guide's parameters.
        num_draws: draws per step, even.
        window: steps per window.
        max_windows: maximum number of windows.
        tolerance: root mean square change between averages, of means in posterior standard
            deviations and of log standard deviations, below which they have converged.
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
        """Fits a Gaussian guide; see `Solver.solve`.

        Raises:
            GuideError: the guide's parameters do not represent a Gaussian.
        """
        kernel = offers_gaussians(Kernel(target, batch, variables.model), variables)
        result = self.run(kernel, host_rng(key), from_params(variables.guide, target.space))
        paths, gaussians = result.start, [result.gaussian]
        if paths is not None:
            gaussians += paths.other_modes(result.gaussian, result.elbo)
        unseen = None if paths is None else paths.unseen
        return gaussian_solution(
            kernel, variables, gaussians, result.reason, result.converged, result.elbos, unseen
        )

    def run(
        self, kernel: Kernel, rng: np.random.Generator, gaussian: Gaussian | LowRankGaussian
    ) -> BatchAndMatchResult:
        """Runs the solver on a kernel and returns the full result.

        Args:
            kernel: the compiled log density and gradient.
            rng: source of randomness.
            gaussian: initial Gaussian; with `start` set, only its mean is used, for the first path.
        """
        paths, family = None, family_of(gaussian)
        if self.start is not None:
            paths = self.start.run(kernel, rng, gaussian.mean[None])
            if paths.gaussian is None:
                empty = np.zeros(0)
                return BatchAndMatchResult(
                    None, -np.inf, np.inf, empty, False, paths.reason, 0, paths
                )
            gaussian = paths.gaussian
        with host_algebra(family.order(kernel.dim)):
            gaussian = family.approximate(gaussian)
            selected = self._select_start(kernel, rng, family, gaussian, paths)
            converged, reason = selected.run()
            best, estimate = selected.choose(gaussian)
        if paths is not None and paths.num_modes > 1:
            reason += f"; {paths.reason}"
        return BatchAndMatchResult(
            gaussian=family.approximate(best),
            elbo=estimate.elbo,
            elbo_se=estimate.se,
            elbos=np.array([window.elbo for window in selected.windows]),
            converged=converged,
            reason=reason,
            num_iterations=selected.steps,
            start=paths,
        )

    def _select_start(
        self,
        kernel: Kernel,
        rng: np.random.Generator,
        family: Family,
        gaussian: Any,
        paths: PathfinderResult | None,
    ) -> _Run:
        """A run from `gaussian`; if paths found several modes, the best after short trial runs.

        Pathfinder's ELBOs are those of crude covariances; a few steps are more informative. If
        paths enter a funnel, the best candidate is often too deep inside, an earlier one is not.
        """
        runs = [_Run(self, kernel, rng, gaussian, family)]
        if paths is None or paths.candidates is None:
            return runs[0]
        min_elbo = paths.candidate_elbos.max() - 10 - 2 * kernel.dim
        for i in top_indices(paths.candidate_elbos[paths.at_other_modes], _MAX_CANDIDATES):
            j = int(paths.at_other_modes[i])
            if paths.candidate_elbos[j] > min_elbo:
                alternative = family.approximate(paths.candidates.component(j))
                runs.append(_Run(self, kernel, rng, alternative, family))
        while len(runs) > 1:
            for count, run in enumerate(runs, 1):
                run.window()
                if time_is_up():
                    runs = runs[:count]
                    break
            runs.sort(key=lambda run: -np.nan_to_num(run.windows[-1].elbo, nan=-np.inf))
            runs = runs[: len(runs) // 3 if len(runs) > 2 and not time_is_up() else 1]
        return runs[0]


class _Run:
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
        self.num_averaged = 0  # windows in the average
        self.steps = 0
        self.max_lam = np.inf  # reduced after a failed step

    def run(self) -> tuple[bool, str]:
        """Runs all windows; returns whether the averages converged, and why it stopped."""
        averaging = 0  # windows since averaging started
        change = np.inf
        for _ in range(self.options.max_windows):
            if self.windows and time_is_up():
                return False, f"not converged: {end_reason()} after {self.steps} steps"
            window = self.window(averaging)
            if self._revert(window):
                averaging = 0
                continue
            latest = window.gaussian
            if latest is not None:
                self.kernel.found(functools.partial(self.family.approximate, latest))
            if averaging == 0 and self._increasing(_MIN_GAIN):
                continue
            averaging += 1
            if averaging > 1 and window.gaussian is not None:
                change = self._add_to_average(window.gaussian)
                if change < self.options.tolerance and not self._increasing():
                    return True, f"averages converged after {self.steps} steps"
        if averaging == 0:
            return False, f"the ELBO was still increasing after {self.steps} steps"
        return False, (
            f"averages still changed by {change:.2g} standard deviations (tolerance "
            f"{self.options.tolerance:g}) after {self.steps} steps"
        )

    def choose(self, start: Any) -> tuple[Any, Estimate]:
        """The average, unless the best window or the start has a clearly better ELBO."""
        noise = antithetic(self.rng, 256, self.kernel.dim)
        finite = [window for window in self.windows if window.gaussian is not None]
        best = max(finite, key=lambda window: window.elbo, default=None)
        candidates = [self.average, best.gaussian if best else None, start]
        evaluated = [
            (one, elbo_terms(self.kernel, one, noise)) for one in candidates if one is not None
        ]
        chosen, terms = evaluated[0]
        for other, other_terms in evaluated[1:]:
            if significantly_better(other_terms, terms):
                chosen, terms = other, other_terms
        return chosen, summarize(terms)

    def window(self, averaging: int = 0) -> _Window:
        """One window of steps: the last Gaussian, or in the averaging phase the average."""
        size, average = self.options.window, self.family.empty_average(self.kernel.dim)
        elbos = []
        for _ in range(size):
            elbos.append(self._step(self._lam(averaging)))
            if averaging:  # a dense covariance costs dim^3, more than the step itself
                average.add(self.gaussian, 1 / size)
        gaussian = average.gaussian() if averaging else self.gaussian
        elbo, variance = np.mean(elbos, axis=0)
        self.windows.append(_Window(gaussian, float(elbo), float(np.sqrt(variance / size))))
        return self.windows[-1]

    def _lam(self, averaging: int) -> float:
        if averaging:
            return min(self.max_lam, _AVERAGING_LAM / averaging)
        decaying = self.options.num_draws * self.kernel.dim / (self.steps + 1)
        return min(self.max_lam, max(_MIN_LAM, decaying))

    def _step(self, lam: float) -> tuple[float, float]:
        """One update; the ELBO of the Gaussian it started from, and its variance."""
        self.steps += 1
        current = self.gaussian
        noise = whitened(self.rng, self.options.num_draws, self.kernel.dim)
        log_density, gradient = self.kernel(current.transform(noise))
        finite = np.isfinite(log_density) & np.isfinite(gradient).all(axis=1)
        terms = log_density - log_normal(noise, self.log_det)
        elbo = float(terms.mean()), float(terms.var() / len(terms)) if finite.all() else np.inf
        if 2 * finite.sum() < finite.size:
            # mostly outside the model's domain: shrink
            self._set(current.scaled(_SHRINK))
            return elbo
        step = self.family.update(current, noise[finite], gradient[finite], lam)
        if step is None:
            self.max_lam = lam / 4
        else:
            self.gaussian, self.log_det = step.gaussian, self.log_det + step.log_det
        return elbo

    def _set(self, gaussian: Any) -> None:
        self.gaussian, self.log_det = gaussian, gaussian.log_det

    def _revert(self, window: _Window) -> bool:
        """Returns to the best window with smaller steps, and `True`, if this one is far below."""
        best = max(self.windows, key=lambda w: -np.inf if w.gaussian is None else w.elbo)
        loss = best.elbo - window.elbo
        if best.gaussian is None or not (np.isnan(loss) or loss > _MAX_LOSS + 5 * window.se):
            return False
        self._set(best.gaussian)
        self.max_lam = min(self.max_lam, 4 * _MIN_LAM) / 4
        return True

    def _increasing(self, margin: float = 0.01) -> bool:
        """Whether the ELBO clearly increased over the last windows, or there are too few."""
        num = self.family.patience
        if len(self.windows) < 2 * num:
            return True
        elbos = np.array([window.elbo for window in self.windows[-2 * num :]]).reshape(2, num)
        errors = np.array([window.se for window in self.windows[-2 * num :]])
        before, last = elbos.mean(axis=1)
        if not np.isfinite(before):
            return True
        return bool(last > before + 2 * np.linalg.norm(errors) / num + margin)

    def _add_to_average(self, gaussian: Any) -> float:
        """Adds a window to the average; returns its distance from it, in standard deviations."""
        old = self.average
        if old is None or self._increasing():
            # the windows before had not converged: restart the average
            self.average, self.num_averaged = gaussian, 1
            return np.inf if old is None else _distance(old, gaussian)
        self.num_averaged += 1
        weight = 1 / self.num_averaged
        average = self.family.empty_average(self.kernel.dim)
        average.add(old, 1 - weight)
        average.add(gaussian, weight)
        self.average = average.gaussian() or old
        return _distance(old, gaussian)


def _distance(one: Any, other: Any) -> float:
    """Root mean square difference of means, in sds, or of log sds, whichever is larger."""
    means = np.sqrt(np.mean(((one.mean - other.mean) / other.sd) ** 2))
    log_sds = np.sqrt(np.mean(np.log(one.sd / other.sd) ** 2))
    return float(max(means, log_sds))

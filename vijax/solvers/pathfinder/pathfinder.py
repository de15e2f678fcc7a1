"""Multi-path Pathfinder: the best normal approximation along quasi-Newton paths."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from vijax.contracts import Batch, Guide, Solution, Solver, Target, Variables
from vijax.contracts.kernel import Floats, Kernel
from vijax.runtime.keys import host_rng
from vijax.solvers.gaussians.conversion import gaussian_solution, location, offers_gaussians
from vijax.solvers.gaussians.dense import (
    Estimate,
    Gaussian,
    antithetic,
    elbo_terms,
    from_moments,
    require_even,
    significantly_better,
    summarize,
)
from vijax.solvers.gaussians.low_rank import LowRankGaussian
from vijax.solvers.host_algebra import host_algebra
from vijax.solvers.optimization.lbfgs import LBFGS
from vijax.solvers.optimization.modes import assign_modes
from vijax.solvers.optimization.paths import NO_START, Path, finite_starts
from vijax.solvers.pathfinder.candidates import (
    EvaluatedCandidates,
    evaluate_candidates,
    preselect,
    select_separated,
)
from vijax.solvers.pathfinder.inverse_hessian import CompactGaussians, concatenate

_NEGLIGIBLE_DROP = 10.0  # nats below the best, plus one per dimension: covariances are crude
MAX_LOSS = 4.6  # nats below the ELBO of a fit: a hundredth of its mass
MIN_EXCESS = 4.0  # nats by which a fit has too little mass where a candidate is
_COVERAGE_DRAWS = 32
_NUM_FINALISTS = 3  # candidates per path evaluated a second time


class PathfinderResult(NamedTuple):
    """Result of multi-path Pathfinder.

    Attributes:
        gaussian: the best single Gaussian, or `None` if no path gave a usable one.
        elbo: its ELBO from fresh draws.
        elbo_se: standard error of the ELBO.
        path_elbos: ELBO of the best candidate of each path, `(num_paths,)`; -inf if there is none.
        best_path: index of the path of the best candidate.
        path_reasons: why each path stopped.
        candidates: the best few candidates of every path, not adjacent on it.
        candidate_elbos: their ELBOs, `(num_candidates,)`.
        candidate_paths: index of the path of each, `(num_candidates,)`.
        components: the best candidate of each path that has one.
        draws: equally many draws from each component, `(num_draws, dim)`.
        log_weights: `log p - log q` of each draw with `q` the equal mixture of all components,
            `(num_draws,)`; their log mean exp estimates the log evidence.
        path_modes: index of the mode each path reached, from 0 for the highest; -1 for a path that
            did not converge. More than one distinct index indicates a multimodal posterior.
    """

    gaussian: Gaussian | LowRankGaussian | None
    elbo: float
    elbo_se: float
    path_elbos: Floats
    best_path: int
    path_reasons: tuple[str, ...]
    candidates: CompactGaussians | None
    candidate_elbos: Floats
    candidate_paths: np.ndarray
    components: CompactGaussians | None
    draws: Floats
    log_weights: Floats
    path_modes: np.ndarray

    @property
    def num_modes(self) -> int:
        """Number of distinct modes that paths converged to."""
        return int(self.path_modes.max(initial=-1)) + 1

    @property
    def unseen(self) -> float:
        """Estimated probability that a further path ends at a mode that none of these reached.

        The share of converged paths that are alone at their mode (Good, 1953); zero if all reached
        the same mode.
        """
        visits = np.bincount(self.path_modes[self.path_modes >= 0])
        return float(np.sum(visits == 1) / visits.sum()) if len(visits) > 1 else 0.0

    @property
    def at_other_modes(self) -> np.ndarray:
        """Indices of the candidates that are not at the best path's mode.

        Empty if all paths converged to one mode. Candidates of paths that did not converge are
        included, also those of the best path.
        """
        best_mode = self.path_modes[self.best_path]
        modes = self.path_modes[self.candidate_paths]
        return np.flatnonzero((modes != best_mode) | (modes < 0))

    def other_modes(
        self, gaussian: Gaussian | LowRankGaussian | list[Gaussian] | None, elbo: float
    ) -> list[LowRankGaussian]:
        """The best candidate at every mode of non-negligible mass, except the mode already fitted.

        Args:
            gaussian: the fit, or the components of a mixture; the mode nearest to each is excluded.
                No modes if `None`.
            elbo: ELBO of the fit; candidates far below it have negligible mass.
        """
        best = self._best_per_mode()
        if gaussian is None or self.candidates is None:
            return []
        fitted: list[Any] = gaussian if isinstance(gaussian, list) else [gaussian]
        means, min_elbo = self.candidates.mean, self._min_elbo(elbo)
        nearest = {
            best[int(np.argmin([np.abs((means[i] - one.mean) / one.sd).max() for i in best]))]
            for one in fitted
            if best
        }
        others = [i for i in best if i not in nearest and self.candidate_elbos[i] > min_elbo]
        modes = self.path_modes[self.candidate_paths]
        known = {modes[i] for i in others}
        uncovered = [i for i in self._uncovered(fitted, elbo) if modes[i] not in known]
        return [self.candidates.component(i) for i in (*others, *uncovered[:1])]

    def uncovered(
        self, fitted: Sequence[Gaussian | LowRankGaussian], elbo: float
    ) -> LowRankGaussian | None:
        """The best candidate of high mass that no component of a fit covers, if there is any."""
        if self.candidates is None:
            return None
        found = self._uncovered(fitted, elbo)
        return self.candidates.component(found[0]) if found else None

    def _uncovered(self, fitted: Sequence[Gaussian | LowRankGaussian], elbo: float) -> list[int]:
        """Candidates of high mass that a fit does not cover, by ELBO, highest first.

        With `c` the candidate and `q` the fit, `E_c[log p/q] = elbo_c + KL(c || q)` exceeds the
        ELBO of the fit by some nats: a narrow mode inside of a broad one, or the reverse.
        """
        assert self.candidates is not None
        order = np.argsort(-self.candidate_elbos)
        order = order[self.candidate_elbos[order] > elbo - MAX_LOSS]
        noise = antithetic(np.random.default_rng(0), _COVERAGE_DRAWS, self.candidates.mean.shape[1])
        found = []
        for i in order:
            candidate = self.candidates.component(int(i))
            draws = candidate.transform(noise)
            log_q = np.logaddexp.reduce([one.log_prob(draws) for one in fitted])
            kl = np.mean(candidate.log_prob(draws) - log_q + np.log(len(fitted)))
            if self.candidate_elbos[i] + kl > elbo + MIN_EXCESS:
                found.append(int(i))
        return found

    def modes(self, elbo: float) -> list[tuple[LowRankGaussian, int]]:
        """The best candidate at every mode of non-negligible mass, with the number of paths there.

        Args:
            elbo: best ELBO known; candidates far below it have negligible mass.
        """
        if self.candidates is None:
            return []
        min_elbo = self._min_elbo(elbo)
        return [
            (
                self.candidates.component(i),
                int(np.sum(self.path_modes == self.path_modes[self.candidate_paths[i]])),
            )
            for i in self._best_per_mode()
            if self.candidate_elbos[i] > min_elbo
        ]

    def _best_per_mode(self) -> list[int]:
        """Index of the candidate of highest ELBO at every mode that has any."""
        modes = self.path_modes[self.candidate_paths]
        members = (np.flatnonzero(modes == mode) for mode in range(self.num_modes))
        return [int(i[np.argmax(self.candidate_elbos[i])]) for i in members if i.size]

    def _min_elbo(self, elbo: float) -> float:
        """The ELBO below which a candidate has negligible mass."""
        return float(min(elbo, self.candidate_elbos.max()) - _NEGLIGIBLE_DROP - self.draws.shape[1])

    @property
    def reason(self) -> str:
        """One-line summary of the result."""
        if self.gaussian is None:
            return f"Pathfinder failed on all paths: {'; '.join(sorted(set(self.path_reasons)))}"
        text = f"best of {len(self.path_elbos)} paths by ELBO"
        if self.num_modes > 1:
            text += f"; the paths reached {self.num_modes} separate modes, this is one of them"
        return text


@dataclasses.dataclass(frozen=True)
class Pathfinder(Solver):
    """The Gaussian of highest ELBO along several quasi-Newton paths.

    Every path maximizes the log density by L-BFGS from a different starting point. Each iterate
    gives a normal approximation `N(x + H g, H)` with `H` the inverse Hessian estimate; the ELBO of
    those with the highest predicted ELBO, and of some equidistant ones, is estimated with a few
    draws, that of the best again with more. The draws of the best candidates of all paths, weighted
    by the full mixture density, give one more candidate: the Gaussian with their moments. The best
    by fresh draws is returned. Model `param` sites stay fixed. Source: Pathfinder: Parallel
    Quasi-Newton Variational Inference, Zhang, Carpenter, Gelman, Vehtari, 2022.

    Args:
        num_paths: number of paths; the first starts at the guide's location, the others at random.
        radius: random starting points are uniform on `(-radius, radius)` in each coordinate.
        num_draws: draws per candidate in the first round, even.
        num_final_draws: draws per finalist, even.
        num_candidates: candidates per path chosen by predicted ELBO; as many again are equidistant.
        optimizer: options of L-BFGS.
    """

    maximizes_elbo: ClassVar[bool] = True
    num_paths: int = 16
    radius: float = 2.0
    num_draws: int = 4
    num_final_draws: int = 32
    num_candidates: int = 16
    optimizer: LBFGS = dataclasses.field(default_factory=LBFGS)

    def __post_init__(self) -> None:
        require_even("num_draws", self.num_draws)
        require_even("num_final_draws", self.num_final_draws)

    def solve(
        self, key: jax.Array, target: Target, guide: Guide, variables: Variables, batch: Batch
    ) -> Solution:
        """Fits a Gaussian guide; see `Solver.solve`.

        Raises:
            GuideError: the guide's parameters do not represent a Gaussian.
        """
        kernel = offers_gaussians(Kernel(target, batch, variables.model), variables)
        result = self.run(kernel, host_rng(key), location(variables.guide, target.space)[None])
        return gaussian_solution(
            kernel, variables, [result.gaussian], result.reason, True, unseen=result.unseen
        )

    def run(
        self, kernel: Kernel, rng: np.random.Generator, starts: Floats | None = None
    ) -> PathfinderResult:
        """Runs the solver on a kernel and returns the full result.

        Args:
            kernel: the compiled log density and gradient.
            rng: source of randomness.
            starts: starting points of the first paths `(at most num_paths, dim)`.
        """
        with host_algebra(0):
            return self._run(kernel, rng, starts)

    def _run(
        self, kernel: Kernel, rng: np.random.Generator, starts: Floats | None
    ) -> PathfinderResult:
        points = finite_starts(kernel, rng, self.num_paths, starts, self.radius)
        paths = self.optimizer.maximize(kernel, points)
        finalists = self._select_finalists(kernel, rng, paths)
        elbos = np.full(len(paths), -np.inf)
        for i, evaluated in finalists.items():
            elbos[i] = evaluated.elbos[np.argmax(evaluated.lower_bounds)]
        reasons = tuple(path.reason for path in paths)
        path_modes = assign_modes(kernel, paths)
        empty = np.zeros(0)
        if not finalists:
            return PathfinderResult(
                gaussian=None,
                elbo=-np.inf,
                elbo_se=np.inf,
                path_elbos=elbos,
                best_path=0,
                path_reasons=reasons,
                candidates=None,
                candidate_elbos=empty,
                candidate_paths=np.zeros(0, int),
                components=None,
                draws=np.zeros((0, kernel.dim)),
                log_weights=empty,
                path_modes=path_modes,
            )
        winners = [
            (evaluated, int(np.argmax(evaluated.lower_bounds))) for evaluated in finalists.values()
        ]
        components = concatenate(
            [evaluated.gaussians.take(np.array([j])) for evaluated, j in winners]
        )
        draws = np.concatenate([evaluated.draws[j] for evaluated, j in winners])
        log_density = np.concatenate([evaluated.log_density[j] for evaluated, j in winners])
        log_weights = log_density - mixture_log_prob(components, draws)
        best = int(np.argmax([evaluated.lower_bounds[j] for evaluated, j in winners]))
        gaussian, (elbo, se) = self._choose(
            kernel, rng, components.component(best), draws, log_weights
        )
        kernel.found(lambda: gaussian)
        return PathfinderResult(
            gaussian=gaussian,
            elbo=elbo,
            elbo_se=se,
            path_elbos=elbos,
            best_path=list(finalists)[best],
            path_reasons=reasons,
            candidates=concatenate([evaluated.gaussians for evaluated in finalists.values()]),
            candidate_elbos=np.concatenate([evaluated.elbos for evaluated in finalists.values()]),
            candidate_paths=np.repeat(list(finalists), [len(s.elbos) for s in finalists.values()]),
            components=components,
            draws=draws,
            log_weights=log_weights,
            path_modes=path_modes,
        )

    def _choose(
        self,
        kernel: Kernel,
        rng: np.random.Generator,
        best: LowRankGaussian,
        draws: Floats,
        log_weights: Floats,
    ) -> tuple[Gaussian | LowRankGaussian, Estimate]:
        """The best path's Gaussian, or the one with the moments of the weighted mixture."""
        noise = antithetic(rng, 2 * self.num_final_draws, kernel.dim)
        terms = elbo_terms(kernel, best, noise)
        weighted = weighted_gaussian(draws, log_weights)
        if weighted is not None:
            weighted_terms = elbo_terms(kernel, weighted, noise)
            if significantly_better(weighted_terms, terms):
                return weighted, summarize(weighted_terms)
        return best, summarize(terms)

    def _select_finalists(
        self, kernel: Kernel, rng: np.random.Generator, paths: list[Path]
    ) -> dict[int, EvaluatedCandidates]:
        """Evaluates candidates of all paths in two rounds; paths without any are omitted."""
        candidates = {
            i: preselect(path, self.optimizer.history, self.num_candidates)
            for i, path in enumerate(paths)
            if path.reason != NO_START and len(path.points) > 1
        }
        if candidates:
            ends, _ = candidates[max(candidates, key=lambda i: paths[i].log_density[-1])]
            kernel.found(lambda: ends.component(len(ends.mean) - 1))
        first = evaluate_candidates(kernel, candidates, antithetic(rng, self.num_draws, kernel.dim))
        candidates = {
            i: select_separated(evaluated, len(paths[i].points), _NUM_FINALISTS)
            for i, evaluated in first.items()
            if np.isfinite(evaluated.elbos).any()
        }
        second = evaluate_candidates(
            kernel, candidates, antithetic(rng, self.num_final_draws, kernel.dim)
        )
        return {
            i: evaluated for i, evaluated in second.items() if np.isfinite(evaluated.elbos).any()
        }


def mixture_log_prob(components: CompactGaussians, points: Floats) -> Floats:
    """Log density `(num_points,)` of the equal mixture of the components."""
    log_probs = components.log_prob(points)
    return np.logaddexp.reduce(log_probs, axis=0) - np.log(len(log_probs))


def weighted_gaussian(draws: Floats, log_weights: Floats) -> Gaussian | None:
    """The Gaussian with the moments of weighted draws; `None` if these are effectively too few.

    Args:
        draws: `(num, dim)`.
        log_weights: `(num,)`, unnormalized.
    """
    if not np.isfinite(log_weights).any():
        return None
    weights = np.exp(log_weights - np.max(log_weights))
    weights /= weights.sum()
    # with fewer effective draws per dimension the covariance is worse than that of a single path
    if 1 / np.sum(weights**2) < 4 * draws.shape[1]:
        return None
    mean = weights @ draws
    centered = draws - mean
    return from_moments(mean, (centered * weights[:, None]).T @ centered)

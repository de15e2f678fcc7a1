"""Multi-path Pathfinder: the best normal approximation along quasi-Newton paths."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import numpy as np

from vijax.contracts import Batch, Guide, Solution, Solver, Target, Variables
from vijax.contracts.kernel import Floats, Kernel
from vijax.runtime.keys import host_rng
from vijax.solvers.gaussians.conversion import filled, location
from vijax.solvers.gaussians.dense import (
    Estimate,
    Gaussian,
    antithetic,
    clearly_better,
    elbo_terms,
    from_moments,
    require_even,
    summarize,
)
from vijax.solvers.gaussians.low_rank import Factored
from vijax.solvers.host_algebra import host_algebra
from vijax.solvers.optimization.basins import separate_basins
from vijax.solvers.optimization.lbfgs import LBFGS
from vijax.solvers.optimization.paths import NO_START, Path, finite_starts
from vijax.solvers.pathfinder.candidates import Scored, finalists, score, shortlist
from vijax.solvers.pathfinder.inverse_hessian import CompactGaussians, concatenate

_NEGLIGIBLE = 10.0  # nats below the best, and one a dimension for crude covariances
_FINALISTS = 3  # candidates per path scored a second time


class PathfinderResult(NamedTuple):
    """What multi-path Pathfinder found.

    Attributes:
        gaussian: the best single Gaussian, or `None` where no path gave a usable one.
        elbo: its ELBO from fresh draws.
        elbo_se: standard error of it.
        path_elbos: ELBO of the best candidate of each path, `(num_paths,)`; -inf for none.
        best_path: the path that the best candidate is on.
        path_reasons: why each path ended.
        contenders: the best few candidates of every path, well apart along it.
        contender_elbos: their ELBOs, `(num_contenders,)`.
        contender_paths: the path of each, `(num_contenders,)`.
        components: the best candidate of each path that has one.
        draws: draws from all components alike, `(num_draws, dim)`.
        log_weights: `log p - log q` of each draw for `q` the mixture of all components,
            `(num_draws,)`; their log mean exp estimates the evidence.
        basins: number of the basin each path ended in, from 0 for the highest; -1 for a path
            that did not converge. More than one basin is evidence of several modes.
    """

    gaussian: Gaussian | Factored | None
    elbo: float
    elbo_se: float
    path_elbos: Floats
    best_path: int
    path_reasons: tuple[str, ...]
    contenders: CompactGaussians | None
    contender_elbos: Floats
    contender_paths: np.ndarray
    components: CompactGaussians | None
    draws: Floats
    log_weights: Floats
    basins: np.ndarray

    @property
    def num_modes(self) -> int:
        """Number of distinct basins that paths converged in."""
        return int(self.basins.max(initial=-1)) + 1

    @property
    def unsettled(self) -> np.ndarray:
        """Positions of the contenders that do not share the best path's basin.

        Empty where all paths converged to one mode. Paths that did not converge count as
        elsewhere, also the best one itself.
        """
        home = self.basins[self.best_path]
        basins = self.basins[self.contender_paths]
        return np.flatnonzero((basins != home) | (basins < 0))

    def other_modes(self, gaussian: Gaussian | Factored | None, elbo: float) -> list[Factored]:
        """The best contender in every basin that may hold some mass, but for one's own.

        Args:
            gaussian: what has been reached: the basin nearest to it is its own. None, if `None`.
            elbo: of that; contenders far below it hold nothing.
        """
        best = self._best_of_basins()
        if gaussian is None or self.contenders is None or len(best) < 2:
            return []
        away = [np.abs((self.contenders.mean[i] - gaussian.mean) / gaussian.sd).max() for i in best]
        home, level = best[int(np.argmin(away))], self._level(elbo)
        return [
            self.contenders.one(i) for i in best if i != home and self.contender_elbos[i] > level
        ]

    def modes(self, elbo: float) -> list[tuple[Factored, int]]:
        """The best contender in every basin that may hold some mass, and how many paths end there.

        Args:
            elbo: reached elsewhere; contenders far below it hold nothing.
        """
        if self.contenders is None:
            return []
        level = self._level(elbo)
        return [
            (
                self.contenders.one(i),
                int(np.sum(self.basins == self.basins[self.contender_paths[i]])),
            )
            for i in self._best_of_basins()
            if self.contender_elbos[i] > level
        ]

    def _best_of_basins(self) -> list[int]:
        """The contender of highest ELBO in every basin that has any."""
        basins = self.basins[self.contender_paths]
        members = (np.flatnonzero(basins == basin) for basin in range(self.num_modes))
        return [int(some[np.argmax(self.contender_elbos[some])]) for some in members if some.size]

    def _level(self, elbo: float) -> float:
        """The ELBO below which a contender holds nothing."""
        return float(min(elbo, self.contender_elbos.max()) - _NEGLIGIBLE - self.draws.shape[1])

    @property
    def reason(self) -> str:
        """One line about the outcome."""
        if self.gaussian is None:
            return f"Pathfinder failed on all paths: {'; '.join(sorted(set(self.path_reasons)))}"
        text = f"best of {len(self.path_elbos)} paths by ELBO"
        if self.num_modes > 1:
            text += f"; the paths ended in {self.num_modes} separate modes, this is one of them"
        return text


@dataclasses.dataclass(frozen=True)
class Pathfinder(Solver):
    """The Gaussian of best ELBO along several quasi-Newton paths.

    Every path climbs the log density with L-BFGS from its own start. Each iterate gives a normal
    approximation `N(x + H g, H)` with `H` the inverse Hessian estimate; those of highest predicted
    ELBO and some at even distances are scored with a few draws, the leaders again with more. The
    draws of all paths' winners, weighted by the full mixture density, give one more candidate:
    the Gaussian with their moments. The best by fresh draws wins. Model `param` sites stay fixed.
    Source: Pathfinder: Parallel Quasi-Newton Variational Inference, Zhang, Carpenter, Gelman,
    Vehtari, 2022.

    Args:
        num_paths: paths; the first starts at the guide's location, the others at random.
        radius: random starts are uniform on `(-radius, radius)` in each coordinate.
        num_draws: draws per candidate in the first round, even.
        num_final_draws: draws per finalist, even.
        num_candidates: candidates per path chosen by predicted ELBO; as many again are spread out.
        optimizer: options of L-BFGS.
    """

    maximizes_elbo: ClassVar[bool] = True
    num_paths: int = 8
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
        """Fills in a Gaussian guide; see `Solver.solve`.

        Raises:
            GuideError: the guide's parameters do not hold a Gaussian.
        """
        kernel = Kernel(target, batch, variables.model)
        result = self.run(kernel, host_rng(key), location(variables.guide, target.space)[None])
        return filled(kernel, variables, [result.gaussian], result.reason, True)

    def run(
        self, kernel: Kernel, rng: np.random.Generator, starts: Floats | None = None
    ) -> PathfinderResult:
        """Runs on a kernel, and returns everything there is to know.

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
        paths = self.optimizer.climb(kernel, points)
        finals = self._finals(kernel, rng, paths)
        elbos = np.full(len(paths), -np.inf)
        for i, scored in finals.items():
            elbos[i] = scored.elbos[np.argmax(scored.bounds)]
        reasons = tuple(path.reason for path in paths)
        basins = separate_basins(kernel, paths)
        nothing = np.zeros(0)
        if not finals:
            return PathfinderResult(
                gaussian=None,
                elbo=-np.inf,
                elbo_se=np.inf,
                path_elbos=elbos,
                best_path=0,
                path_reasons=reasons,
                contenders=None,
                contender_elbos=nothing,
                contender_paths=np.zeros(0, int),
                components=None,
                draws=np.zeros((0, kernel.dim)),
                log_weights=nothing,
                basins=basins,
            )
        winners = [(scored, int(np.argmax(scored.bounds))) for scored in finals.values()]
        components = concatenate([scored.gaussians.take(np.array([j])) for scored, j in winners])
        draws = np.concatenate([scored.draws[j] for scored, j in winners])
        log_density = np.concatenate([scored.log_density[j] for scored, j in winners])
        log_weights = log_density - mixture_log_prob(components, draws)
        best = int(np.argmax([scored.bounds[j] for scored, j in winners]))
        gaussian, (elbo, se) = self._choose(kernel, rng, components.one(best), draws, log_weights)
        return PathfinderResult(
            gaussian=gaussian,
            elbo=elbo,
            elbo_se=se,
            path_elbos=elbos,
            best_path=list(finals)[best],
            path_reasons=reasons,
            contenders=concatenate([scored.gaussians for scored in finals.values()]),
            contender_elbos=np.concatenate([scored.elbos for scored in finals.values()]),
            contender_paths=np.repeat(list(finals), [len(s.elbos) for s in finals.values()]),
            components=components,
            draws=draws,
            log_weights=log_weights,
            basins=basins,
        )

    def _choose(
        self,
        kernel: Kernel,
        rng: np.random.Generator,
        best: Factored,
        draws: Floats,
        log_weights: Floats,
    ) -> tuple[Gaussian | Factored, Estimate]:
        """The best path's Gaussian or the one with the moments of the weighted mixture."""
        noise = antithetic(rng, 2 * self.num_final_draws, kernel.dim)
        terms = elbo_terms(kernel, best, noise)
        matched = weighted_gaussian(draws, log_weights)
        if matched is not None:
            others = elbo_terms(kernel, matched, noise)
            if clearly_better(others, terms):
                return matched, summarize(others)
        return best, summarize(terms)

    def _finals(
        self, kernel: Kernel, rng: np.random.Generator, paths: list[Path]
    ) -> dict[int, Scored]:
        """Two rounds of scoring, all paths together; the finalists of those that have any."""
        fields = {
            i: shortlist(path, self.optimizer.history, self.num_candidates)
            for i, path in enumerate(paths)
            if path.reason != NO_START and len(path.points) > 1
        }
        first = score(kernel, fields, antithetic(rng, self.num_draws, kernel.dim))
        fields = {
            i: finalists(scored, len(paths[i].points), _FINALISTS)
            for i, scored in first.items()
            if np.isfinite(scored.elbos).any()
        }
        second = score(kernel, fields, antithetic(rng, self.num_final_draws, kernel.dim))
        return {i: scored for i, scored in second.items() if np.isfinite(scored.elbos).any()}


def mixture_log_prob(components: CompactGaussians, points: Floats) -> Floats:
    """Log density `(num_points,)` of the equal mixture of the components."""
    log_probs = components.log_prob(points)
    return np.logaddexp.reduce(log_probs, axis=0) - np.log(len(log_probs))


def weighted_gaussian(draws: Floats, log_weights: Floats) -> Gaussian | None:
    """The Gaussian with the moments of weighted draws; `None` where they are too few to tell.

    Args:
        draws: `(num, dim)`.
        log_weights: `(num,)`, unnormalized.
    """
    if not np.isfinite(log_weights).any():
        return None
    weights = np.exp(log_weights - np.max(log_weights))
    weights /= weights.sum()
    # a covariance from fewer than a few draws per dimension is worse than any path's own
    if 1 / np.sum(weights**2) < 4 * draws.shape[1]:
        return None
    mean = weights @ draws
    centered = draws - mean
    return from_moments(mean, (centered * weights[:, None]).T @ centered)

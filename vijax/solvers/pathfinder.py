"""Multi-path Pathfinder: the best normal approximation along quasi-Newton paths."""

from __future__ import annotations

import dataclasses
import itertools
from typing import NamedTuple

import jax
import numpy as np

from vijax._contracts import Batch, Guide, Solution, Solver, Target, Variables
from vijax.solvers._blas import one_thread
from vijax.solvers.compact import CompactGaussians, candidates, predicted_elbo
from vijax.solvers.gaussian import (
    Estimate,
    Gaussian,
    antithetic,
    estimate_elbo,
    from_moments,
    from_params,
    host_rng,
    to_params,
)
from vijax.solvers.kernel import Floats, Kernel
from vijax.solvers.lbfgs import LBFGS, NO_START, Path, finite_starts

_SPACED = 10  # candidates per path taken at even distances, whatever their prediction
_FINALISTS = 3  # candidates per path scored a second time
_BARRIER = 3.0  # nats by which the log density dips between two modes


class PathfinderResult(NamedTuple):
    """What multi-path Pathfinder found.

    Attributes:
        gaussian: the best single Gaussian, or `None` where no path gave a usable one.
        elbo: its ELBO from fresh draws.
        elbo_se: standard error of it.
        path_elbos: ELBO of the best candidate of each path, `(num_paths,)`; -inf for none.
        path_reasons: why each path ended.
        components: the best candidate of each path that has one.
        draws: draws from all components alike, `(num_draws, dim)`.
        log_weights: `log p - log q` of each draw for `q` the mixture of all components,
            `(num_draws,)`; their log mean exp estimates the evidence.
        basins: number of the basin each path ended in, from 0 for the highest; -1 for a path
            that did not converge. More than one basin is evidence of several modes.
    """

    gaussian: Gaussian | None
    elbo: float
    elbo_se: float
    path_elbos: Floats
    path_reasons: tuple[str, ...]
    components: CompactGaussians | None
    draws: Floats
    log_weights: Floats
    basins: np.ndarray

    @property
    def num_modes(self) -> int:
        """Number of distinct basins that paths converged in."""
        return int(self.basins.max(initial=-1)) + 1

    @property
    def reason(self) -> str:
        """One line about the outcome."""
        if self.gaussian is None:
            return f"Pathfinder failed on all paths: {'; '.join(sorted(set(self.path_reasons)))}"
        text = f"best of {len(self.path_elbos)} paths by ELBO"
        if self.num_modes > 1:
            counts = np.bincount(self.basins[self.basins >= 0])
            text += f"; paths ended in {self.num_modes} separate modes ({counts.tolist()} paths)"
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
        num_candidates: candidates per path chosen by predicted ELBO.
        optimizer: options of L-BFGS.
    """

    num_paths: int = 8
    radius: float = 2.0
    num_draws: int = 4
    num_final_draws: int = 32
    num_candidates: int = 20
    optimizer: LBFGS = LBFGS()

    def solve(
        self, key: jax.Array, target: Target, guide: Guide, variables: Variables, batch: Batch
    ) -> Solution:
        """Fills in a Gaussian guide; see `Solver.solve`.

        Raises:
            GuideError: the guide's parameters do not hold a Gaussian.
        """
        kernel = Kernel(target, batch, variables.model)
        location = from_params(variables.guide).mean
        result = self.run(kernel, host_rng(key), location[None])
        if result.gaussian is None:
            return Solution(variables, result.reason, False, kernel.points)
        params = to_params(variables.guide, result.gaussian)
        solved = Variables(params, variables.model)
        return Solution(solved, result.reason, True, kernel.points)

    def run(
        self, kernel: Kernel, rng: np.random.Generator, starts: Floats | None = None
    ) -> PathfinderResult:
        """Runs on a kernel, and returns everything there is to know.

        Args:
            kernel: the compiled log density and gradient.
            rng: source of randomness.
            starts: starting points of the first paths `(at most num_paths, dim)`.
        """
        with one_thread(kernel.dim):
            return self._run(kernel, rng, starts)

    def _run(
        self, kernel: Kernel, rng: np.random.Generator, starts: Floats | None
    ) -> PathfinderResult:
        points = finite_starts(kernel, rng, self.num_paths, starts, self.radius)
        paths = self.optimizer.climb(kernel, points)
        winners = self._winners(kernel, rng, paths)
        elbos = np.full(len(paths), -np.inf)
        for i, winner in winners.items():
            elbos[i] = winner.elbo
        reasons = tuple(path.reason for path in paths)
        basins = separate_basins(kernel, paths)
        if not winners:
            nothing = np.zeros((0, kernel.dim)), np.zeros(0)
            return PathfinderResult(
                None, -np.inf, np.inf, elbos, reasons, None, *nothing, basins
            )
        components = _concatenate([winner.gaussian for winner in winners.values()])
        draws = np.concatenate([winner.draws for winner in winners.values()])
        log_density = np.concatenate([winner.log_density for winner in winners.values()])
        log_weights = log_density - mixture_log_prob(components, draws)
        best = components.dense(int(np.argmax([winner.elbo for winner in winners.values()])))
        gaussian, (elbo, se) = self._choose(kernel, rng, best, draws, log_weights)
        return PathfinderResult(
            gaussian, elbo, se, elbos, reasons, components, draws, log_weights, basins
        )

    def _choose(
        self,
        kernel: Kernel,
        rng: np.random.Generator,
        best: Gaussian,
        draws: Floats,
        log_weights: Floats,
    ) -> tuple[Gaussian, Estimate]:
        """The best path's Gaussian or the one with the moments of the weighted mixture."""
        noise = antithetic(rng, 2 * self.num_final_draws, kernel.dim)
        estimate = estimate_elbo(kernel, best, noise)
        matched = weighted_gaussian(draws, log_weights)
        if matched is not None:
            other = estimate_elbo(kernel, matched, noise)
            if other.elbo > estimate.elbo:
                return matched, other
        return best, estimate

    def _winners(
        self, kernel: Kernel, rng: np.random.Generator, paths: list[Path]
    ) -> dict[int, _Winner]:
        """The best candidate of every path that has one, all paths scored together."""
        fields = {
            i: self._shortlist(path)
            for i, path in enumerate(paths)
            if path.reason != NO_START and len(path.points) > 1
        }
        for num_draws in (self.num_draws, self.num_final_draws):
            noise = antithetic(rng, num_draws, kernel.dim)
            scored = _score(kernel, fields, noise)
            fields = {
                i: gaussians.take(_leaders(scored[i].elbos, _FINALISTS))
                for i, gaussians in fields.items()
                if np.isfinite(scored[i].elbos).any()
            }
        winners = {}
        for i, gaussians in fields.items():
            del gaussians
            best = int(np.argmax(scored[i].elbos))
            winners[i] = _Winner(
                scored[i].gaussians.take(np.array([best])),
                float(scored[i].elbos[best]),
                scored[i].draws[best],
                scored[i].log_density[best],
            )
        return winners

    def _shortlist(self, path: Path) -> CompactGaussians:
        """Candidates worth evaluating."""
        last = len(path.points) - 1
        rows = np.unique(np.linspace(1, last, min(last, 200)).round().astype(int))
        stacks = list(candidates(path, rows, self.optimizer.history))
        predicted = np.concatenate(
            [
                predicted_elbo(path, part, stack)
                for part, stack in zip(_parts(rows, stacks), stacks, strict=True)
            ]
        )
        spaced = np.linspace(0, len(rows) - 1, min(len(rows), _SPACED)).round().astype(int)
        keep = np.union1d(_leaders(predicted, self.num_candidates), spaced)
        return _concatenate(stacks).take(keep)


class _Winner(NamedTuple):
    gaussian: CompactGaussians  # a stack of one
    elbo: float
    draws: Floats
    log_density: Floats


class _Scored(NamedTuple):
    gaussians: CompactGaussians
    elbos: Floats  # (num,)
    draws: Floats  # (num, num_draws, dim)
    log_density: Floats  # (num, num_draws)


def _score(
    kernel: Kernel, fields: dict[int, CompactGaussians], noise: Floats
) -> dict[int, _Scored]:
    """ELBOs of all candidates of all paths, their draws sent through the kernel together."""
    draws = {i: gaussians.at(noise) for i, gaussians in fields.items()}
    if not draws:
        return {}
    points = np.concatenate([block.reshape(-1, kernel.dim) for block in draws.values()])
    log_density, _ = kernel(points)
    scored, start = {}, 0
    for i, block in draws.items():
        values = log_density[start : start + block.shape[0] * block.shape[1]]
        values = values.reshape(block.shape[:2])
        start += values.size
        log_q = -0.5 * np.sum(noise**2, axis=1) - fields[i].log_det[:, None]
        elbos = np.mean(values - log_q, axis=1) + 0.5 * kernel.dim * np.log(2 * np.pi)
        scored[i] = _Scored(fields[i], elbos, block, values)
    return scored


def _leaders(scores: Floats, num: int) -> np.ndarray:
    scores = np.where(np.isnan(scores), -np.inf, scores)
    return np.argsort(-scores, kind="stable")[:num]


def _parts(rows: np.ndarray, stacks: list[CompactGaussians]) -> list[np.ndarray]:
    return np.split(rows, np.cumsum([len(stack.mean) for stack in stacks])[:-1])


def _concatenate(stacks: list[CompactGaussians]) -> CompactGaussians:
    return CompactGaussians(*(np.concatenate(fields) for fields in zip(*stacks, strict=True)))


def mixture_log_prob(components: CompactGaussians, points: Floats) -> Floats:
    """Log density `(num_points,)` of the equal mixture of the components."""
    log_probs = components.log_prob(points)
    return np.logaddexp.reduce(log_probs, axis=0) - np.log(len(log_probs))


def weighted_gaussian(draws: Floats, log_weights: Floats) -> Gaussian | None:
    """The Gaussian with the moments of weighted draws; `None` where they are too few to tell.

    Args:
        draws: `(num, dim)`.
        log_weights: `(num,)`, unnormalised.
    """
    if not np.isfinite(log_weights).any():
        return None
    weights = np.exp(log_weights - np.max(log_weights))
    weights /= weights.sum()
    # a covariance from fewer than a few draws per dimension is worse than any path's own
    if 1 / np.sum(weights**2) < 4 * draws.shape[1]:
        return None
    mean = weights @ draws
    centred = draws - mean
    return from_moments(mean, (centred * weights[:, None]).T @ centred)


def separate_basins(kernel: Kernel, paths: list[Path]) -> np.ndarray:
    """Which basin each path ended in, `(num_paths,)`; -1 for one that did not converge.

    Two ends share a basin when the log density on the straight line between them does not dip
    more than `_BARRIER` nats below the lower one, directly or through other ends.
    """
    ends = [i for i, path in enumerate(paths) if path.converged]
    height = {i: paths[i].log_density[-1] for i in ends}
    pairs = list(itertools.combinations(ends, 2))
    labels = np.full(len(paths), -1)
    labels[ends] = ends
    if pairs:
        between = [
            paths[i].points[-1] + t * (paths[j].points[-1] - paths[i].points[-1])
            for i, j in pairs
            for t in (0.25, 0.5, 0.75)
        ]
        lowest = kernel(np.stack(between))[0].reshape(-1, 3).min(axis=1)
        for (i, j), low in zip(pairs, lowest, strict=True):
            if low > min(height[i], height[j]) - _BARRIER:
                labels[labels == labels[j]] = labels[i]
    top = {label: max(height[i] for i in ends if labels[i] == label) for label in labels[ends]}
    for rank, label in enumerate(sorted(top, key=lambda label: -top[label])):
        labels[labels == label] = -2 - rank  # below every index in use
    return np.where(labels < -1, -2 - labels, labels)

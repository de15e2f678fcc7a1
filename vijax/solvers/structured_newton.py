"""Structured Gaussians that maximize the ELBO, by second-order steps of linear cost."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import numpy as np

from vijax.contracts import Batch, Guide, Solution, Solver, Target, Variables
from vijax.contracts.kernel import Floats, Kernel
from vijax.runtime.deadline import end_reason, time_is_up
from vijax.runtime.keys import host_rng
from vijax.solvers.gaussians.dense import log_normal, moment_matched, require_even, summarize
from vijax.solvers.gaussians.structure import Blocks, StructuredGaussian
from vijax.solvers.gaussians.structured_conversion import (
    structured_from_params,
    structured_to_params,
)
from vijax.solvers.host_algebra import host_algebra

_MARGIN = 0.02  # nats: largest decrease of the ELBO in a step
_SHRINK = 0.7  # factor on all standard deviations while draws of the start are not finite
_MAX_SHRINKS = 30
_MAX_NOISE = 0.25  # nats: upper bound on the standard error in the test for a decrease
_GROWTH = 1.2  # factor by which the largest step size recovers
_MIN_STEP = 1e-4
_MIN_DRAWS, _MAX_DRAWS = 8, 32  # draws per step in the first stage, and in the last
_MAX_ELEMENTS = 2**18  # array elements of the draws of a step, at no fewer than `_MIN_DRAWS` draws
_FIRST_STAGE = 5  # tolerance of the first stage, in units of the final one
_MIN_MAX_STEP = 1 / 16  # lower bound of the largest step size, which is halved on oscillation


class _Evaluation(NamedTuple):
    """Draws of a Gaussian, `log p - log q` averaged over antithetic pairs, and the mean score."""

    points: Floats
    terms: Floats
    score: Floats

    @property
    def elbo(self) -> float:
        """Estimate of the ELBO; -inf if it or the score is not finite."""
        return summarize(self.terms).elbo if np.isfinite(self.score).all() else -np.inf


@dataclasses.dataclass(frozen=True)
class StructuredNewton(Solver):
    """Newton's method for the ELBO over Gaussians with a block-sparse precision.

    For `Markov` and `Plates`. At the optimum the precision is the mean negative Hessian under `q`
    and the mean score is zero, so a step is `P' = (1 - r) P - r E[H]`, `m' = m + r P'^-1 E[g]`. The
    blocks of `H` are estimated from products with vectors that are non-zero in many blocks, one per
    coordinate of one to three blocks, and one per coordinate shared by all blocks.
    Conditional precisions are bounded below, and a step that decreases the ELBO is rejected and
    shortened. All steps use the same draws, antithetic and of unit variance, which makes the
    iteration deterministic: a first stage with few draws, a second with more. Steps that oscillate
    are shortened. A Gaussian target with the structure of the guide takes two steps. Model `param`
    sites stay fixed. Source: The Variational Gaussian Approximation Revisited, Opper, Archambeau,
    2009.

    Args:
        num_draws: draws per step of the last stage, even; `None` for 32, fewer beyond about ten
            thousand coordinates.
        max_steps: maximum number of steps.
        tolerance: largest change of a mean in sds, and of a log sd, at convergence.

    Raises:
        VijaxError: an option is invalid.
    """

    maximizes_elbo: ClassVar[bool] = True
    num_draws: int | None = None
    max_steps: int = 100
    tolerance: float = 0.02

    def __post_init__(self) -> None:
        if self.num_draws is not None:
            require_even("num_draws", self.num_draws)

    def solve(
        self, key: jax.Array, target: Target, guide: Guide, variables: Variables, batch: Batch
    ) -> Solution:
        """Fits a structured Gaussian guide; see `Solver.solve`.

        Raises:
            GuideError: the guide is not a structured Gaussian.
        """
        gaussian = structured_from_params(variables.guide, target.space)
        kernel = Kernel(target, batch, variables.model)
        default = int(np.clip(_MAX_ELEMENTS // kernel.dim, _MIN_DRAWS, _MAX_DRAWS)) // 2 * 2
        final = self.num_draws or default
        stages = [(min(_MIN_DRAWS, final), _FIRST_STAGE * self.tolerance), (final, self.tolerance)]
        rng, converged, reason = host_rng(key), True, ""
        elbos: list[float] = []
        with host_algebra(0):  # threads do not pay off for small blocks
            for num_draws, tolerance in stages:
                noise = moment_matched(rng, num_draws, kernel.dim)
                ascent = _Ascent(kernel, noise, rng, gaussian)
                steps = self.max_steps - len(elbos)
                converged, reason = ascent.run(steps, tolerance)
                gaussian, elbos = ascent.gaussian, elbos + ascent.elbos
                if not converged:
                    break
        params = structured_to_params(variables.guide, gaussian, target.space)
        losses = tuple(-elbo for elbo in elbos)
        solved = variables._replace(guide=params)
        reason = f"{reason} after {len(elbos)} Newton steps"
        return Solution(solved, reason, converged, kernel.points, losses)


class _Ascent:
    """A run on fixed noise: the current Gaussian, and the ELBOs of the iterates."""

    def __init__(
        self,
        kernel: Kernel,
        noise: Floats,
        rng: np.random.Generator,
        gaussian: StructuredGaussian,
    ) -> None:
        self.kernel, self.noise, self.gaussian = kernel, noise, gaussian
        self.seed = rng.integers(2**63)
        self.elbos: list[float] = []

    def run(self, max_steps: int, tolerance: float) -> tuple[bool, str]:
        """Runs all steps; returns whether they converged, and why they stopped."""
        current = self._evaluate_start()
        if not np.isfinite(current.elbo):
            return False, "no draws of the start have a finite log density"
        structure, sds = self.gaussian.structure, self.gaussian.sd
        precision = structure.blocks(self.gaussian.conditionals)
        curvature = self._curvature(current)
        best, step, max_step, change = current, 1.0, 1.0, np.inf
        for _ in range(max_steps):
            if self.elbos and time_is_up():
                return False, f"not converged: {end_reason()} after {len(self.elbos)} steps"
            if not all(np.isfinite(block).all() for block in jax.tree.leaves(curvature)):
                return False, "second derivatives are not finite"
            proposal, blocks = self._propose(current, precision, curvature, step)
            proposed = self._evaluate(proposal)
            # compares with the best, so that small decreases do not accumulate
            if not _gain(proposed, best) > -1:
                step /= 4
                if step < _MIN_STEP:
                    return False, "every step size decreased the ELBO"
                continue
            new_sds = proposal.sd
            shift = np.max(np.abs(proposal.mean - self.gaussian.mean) / new_sds)
            previous, change = change, max(shift, np.max(np.abs(np.log(new_sds / sds)))) / step
            self.gaussian, precision, sds = proposal, blocks, new_sds
            self.elbos.append(proposed.elbo)
            if change < tolerance:
                return True, f"remaining change below {tolerance:g} sd"
            # oscillates around the optimum if steps become longer without a gain
            if change > previous and not _gain(proposed, best) > 1:
                max_step = max(max_step / 2, _MIN_MAX_STEP)
            else:
                max_step = min(_GROWTH * max_step, 1.0)
            current, best = proposed, max(best, proposed, key=lambda one: one.elbo)
            curvature, step = self._curvature(current), min(max_step, 2 * step)
        return False, f"not converged: remaining change {change:.2g} sd"

    def _evaluate_start(self) -> _Evaluation:
        """Evaluates the start, shrunk while some of its draws are not finite."""
        start = self._evaluate(self.gaussian)
        for _ in range(_MAX_SHRINKS):
            if np.isfinite(start.elbo):
                break
            self.gaussian = self.gaussian.scaled(_SHRINK)
            start = self._evaluate(self.gaussian)
        return start

    def _evaluate(self, gaussian: StructuredGaussian) -> _Evaluation:
        points = gaussian.transform(self.noise)
        log_density, scores = self.kernel(points)
        terms = log_density - log_normal(self.noise, gaussian.log_det)
        half = len(terms) // 2
        return _Evaluation(points, 0.5 * (terms[:half] + terms[half:]), scores.mean(axis=0))

    def _curvature(self, current: _Evaluation) -> Blocks:
        """Blocks of the mean negative Hessian at the draws."""
        rng = np.random.default_rng(self.seed)
        return self.gaussian.structure.estimate_blocks(
            lambda vectors: -self.kernel.paired_products(current.points, vectors),
            len(current.points),
            rng,
            self.gaussian.conditionals,
        )

    def _propose(
        self, current: _Evaluation, precision: Blocks, curvature: Blocks, step: float
    ) -> tuple[StructuredGaussian, Blocks]:
        structure, mean, previous = self.gaussian
        mixed = jax.tree.map(lambda old, new: (1 - step) * old + step * new, precision, curvature)
        blocks, conditionals = structure.eliminate(mixed, previous)
        new_mean = mean + step * structure.solve(conditionals, current.score)
        return StructuredGaussian(structure, new_mean, conditionals), blocks


def _gain(new: _Evaluation, old: _Evaluation) -> float:
    """ELBO difference on the same draws in units of its noise; significant beyond -1 and 1.

    A diverged Gaussian has a large standard error: that of the old one is an upper bound.
    """
    if not np.isfinite(new.elbo):
        return -np.inf
    gain = summarize(new.terms - old.terms)
    noise = min(gain.se, summarize(old.terms).se, _MAX_NOISE)
    return gain.elbo / (_MARGIN + 4 * noise)

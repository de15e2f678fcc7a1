"""Gaussians with structure at the optimum of the ELBO, by second-order steps of linear cost."""

from __future__ import annotations

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import numpy as np

from vijax.contracts import Batch, Guide, Solution, Solver, Target, Variables
from vijax.contracts.kernel import Floats, Kernel
from vijax.runtime.keys import host_rng
from vijax.solvers.gaussians.dense import log_normal, moment_matched, require_even, summarize
from vijax.solvers.gaussians.structure import Blocks, StructuredGaussian
from vijax.solvers.gaussians.structured_conversion import (
    structured_from_params,
    structured_to_params,
)
from vijax.solvers.host_algebra import host_algebra

_MARGIN = 0.02  # nats of ELBO that a step may lose
_DRAW_IN = 0.7  # factor on all standard deviations while draws of the start are not finite
_MOST_DRAWN_IN = 30
_MOST_NOISE = 0.25  # nats of standard error that a fall is measured against, at most
_FREER = 1.2  # factor by which it recovers
_SMALLEST_STEP = 1e-4
_FEW, _MANY = 8, 32  # draws of a step on the way, and at the end
_NUMBERS = 2**18  # of one step's draws, where that leaves as many as a few
_ON_THE_WAY = 5  # times the tolerance: how near the end more draws are taken
_SMALLEST_CEILING = 1 / 16  # of the step size; it is halved where steps do not become smaller


class _Look(NamedTuple):
    """What the draws of a Gaussian tell: `log p - log q` of mirrored pairs, and the mean score."""

    points: Floats
    terms: Floats
    slope: Floats

    @property
    def elbo(self) -> float:
        """Estimate of the ELBO; -inf where a draw is not finite."""
        return summarize(self.terms).elbo if np.isfinite(self.slope).all() else -np.inf


@dataclasses.dataclass(frozen=True)
class StructuredNewton(Solver):
    """Newton's method for the ELBO over Gaussians whose precision has few blocks.

    For `Markov` and `Plates`. At the optimum the precision is the mean negative Hessian under `q`
    and the mean score is zero, so a step is `P' = (1 - r) P - r E[H]`, `m' = m + r P'^-1 E[g]`. The
    blocks of `H` come from products with vectors that touch many blocks at once, their number
    being that of coordinates in a block or three, and one for each coordinate that all blocks
    share. Conditional precisions are kept from falling too low, and a step after which the ELBO is
    lower is taken back and shortened. Draws are the same at every step, in mirrored pairs of unit
    variance, which makes it a deterministic iteration with a limit: first few, and more when it
    is near. Where all steps go back and forth they are shortened. A Gaussian target of the guide's
    structure takes two steps. Model `param` sites stay fixed. Source: The Variational Gaussian
    Approximation Revisited, Opper and Archambeau, 2009.

    Args:
        num_draws: draws of one of the last steps, even; `None` for 32, fewer where there are more
            than some ten thousand coordinates.
        max_steps: the limit.
        tolerance: largest change of a mean in sds, and of a log sd, at which it has converged.

    Raises:
        VijaxError: an option makes no sense.
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
        """Fits a guide with structure; see `Solver.solve`.

        Raises:
            GuideError: the guide has none.
        """
        gaussian = structured_from_params(variables.guide, target.space)
        kernel = Kernel(target, batch, variables.model)
        affordable = int(np.clip(_NUMBERS // kernel.dim, _FEW, _MANY)) // 2 * 2
        most = self.num_draws or affordable
        stages = [(min(_FEW, most), _ON_THE_WAY * self.tolerance), (most, self.tolerance)]
        rng, converged, reason = host_rng(key), True, ""
        elbos: list[float] = []
        with host_algebra(0):  # small blocks and thin matrices never repay the threads
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
        found = variables._replace(guide=params)
        said = f"{reason} after {len(elbos)} Newton steps"
        return Solution(found, said, converged, kernel.points, losses)


class _Ascent:
    """One run: the current Gaussian, its precision, and what its draws say."""

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
        """All steps; whether they ended by having nothing left to change, and how."""
        here = self._first_look()
        if not np.isfinite(here.elbo):
            return False, "no draws of the start have a finite log density"
        structure, sds = self.gaussian.structure, self.gaussian.sd
        precision = structure.blocks(self.gaussian.conditionals)
        curvature = self._curvature(here)
        top, step, ceiling, left = here, 1.0, 1.0, np.inf
        for _ in range(max_steps):
            if not all(np.isfinite(block).all() for block in jax.tree.leaves(curvature)):
                return False, "second derivatives that are not finite"
            moved, blocks = self._move(here, precision, curvature, step)
            there = self._look(moved)
            # against the highest, lest small losses add up
            if not _gain(there, top) > -1:
                step /= 4
                if step < _SMALLEST_STEP:
                    return False, "no step kept the ELBO"
                continue
            spread = moved.sd
            shift = np.max(np.abs(moved.mean - self.gaussian.mean) / spread)
            before, left = left, max(shift, np.max(np.abs(np.log(spread / sds)))) / step
            self.gaussian, precision, sds = moved, blocks, spread
            self.elbos.append(there.elbo)
            if left < tolerance:
                return True, f"less than {tolerance:g} sd left to move"
            # it swings about the optimum, and should go on to less far each time
            swings = left > before and not _gain(there, top) > 1
            ceiling = max(ceiling / 2, _SMALLEST_CEILING) if swings else min(_FREER * ceiling, 1.0)
            here, top = there, max(top, there, key=lambda look: look.elbo)
            curvature, step = self._curvature(here), min(ceiling, 2 * step)
        return False, f"{left:.2g} sd left to move"

    def _first_look(self) -> _Look:
        """What the start's draws say, drawn in while some are not finite."""
        here = self._look(self.gaussian)
        for _ in range(_MOST_DRAWN_IN):
            if np.isfinite(here.elbo):
                break
            self.gaussian = self.gaussian.scaled(_DRAW_IN)
            here = self._look(self.gaussian)
        return here

    def _look(self, gaussian: StructuredGaussian) -> _Look:
        points = gaussian.transform(self.noise)
        log_density, scores = self.kernel(points)
        terms = log_density - log_normal(self.noise, gaussian.log_det)
        half = len(terms) // 2
        return _Look(points, 0.5 * (terms[:half] + terms[half:]), scores.mean(axis=0))

    def _curvature(self, here: _Look) -> Blocks:
        """Blocks of the mean negative Hessian at the draws."""
        rng = np.random.default_rng(self.seed)
        return self.gaussian.structure.estimate_blocks(
            lambda vectors: -self.kernel.paired_products(here.points, vectors),
            len(here.points),
            rng,
            self.gaussian.conditionals,
        )

    def _move(
        self, here: _Look, precision: Blocks, curvature: Blocks, step: float
    ) -> tuple[StructuredGaussian, Blocks]:
        structure, mean, before = self.gaussian
        mixed = jax.tree.map(lambda old, new: (1 - step) * old + step * new, precision, curvature)
        blocks, conditionals = structure.eliminate(mixed, before)
        moved = mean + step * structure.solve(conditionals, here.slope)
        return StructuredGaussian(structure, moved, conditionals), blocks


def _gain(there: _Look, here: _Look) -> float:
    """By how much more the ELBO differs than chance allows on the same draws: above 1 or below -1.

    A Gaussian that went astray is noisy, which is no excuse: the noise of the last one counts.
    """
    if not np.isfinite(there.elbo):
        return -np.inf
    gain = summarize(there.terms - here.terms)
    noise = min(gain.se, summarize(here.terms).se, _MOST_NOISE)
    return gain.elbo / (_MARGIN + 4 * noise)

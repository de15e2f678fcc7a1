"""The Laplace approximation: a Gaussian from the curvature at the mode, guarded."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import numpy as np

from vijax.contracts import Data, Guide, Solution, Solver, Target, Variables
from vijax.contracts.kernel import Floats, Kernel
from vijax.runtime.keys import host_rng
from vijax.solvers.gaussians.conversion import location, to_params
from vijax.solvers.gaussians.dense import LOG_2PI, Gaussian, antithetic, estimate_elbo
from vijax.solvers.host_algebra import host_algebra
from vijax.solvers.mode import Mode, ModeSolver, latent_density
from vijax.solvers.optimization.newton import (
    Curvature,
    NewtonResult,
    curvature,
    mode_failure,
    newton_ascent,
)


class LaplaceResult(NamedTuple):
    """What the Laplace solver found.

    Attributes:
        gaussian: `N(mode, H^-1)` of the latent sites, `None` where there was no start.
        mode: the mode, `param` sites included if joint.
        curvature: of the log density at the mode, latent sites only.
        log_evidence: Laplace's estimate, `log p + dim/2 log 2 pi - log |H| / 2`.
        gap: `log_evidence` less the ELBO: zero for a Gaussian posterior, otherwise positive.
        converged: whether the mode is one and the Hessian there positive definite.
        reason: one line about the outcome.
    """

    gaussian: Gaussian | None
    mode: Mode
    curvature: Curvature | None
    log_evidence: float
    gap: float
    converged: bool
    reason: str


@dataclasses.dataclass(frozen=True)
class LaplaceSolver(Solver):
    """`N(m, H^-1)` with `m` the mode and `H` the negative Hessian there.

    The mode is found by `ModeSolver`, then polished by Newton steps on the exact Hessian (a
    second compiled program). A Hessian that is not positive definite, or a mode that runs away,
    is reported as not converged. A mode that is one, but round which the posterior is not
    Gaussian, shows as a gap between Laplace's evidence and the ELBO and is named in the reason.
    Model `param` sites are optimized along with the latent ones; the covariance is that of the
    latent sites with those held fixed. Source: Accurate Approximations for Posterior Moments and
    Marginal Densities, Tierney and Kadane, 1986.

    Args:
        mode: how the mode is found; `None` takes the guide's own place to be near it.
        newton_steps: the most Newton steps.
        gap: nats of disagreement beyond which the reason mentions it.
    """

    mode: ModeSolver | None = dataclasses.field(default_factory=ModeSolver)
    newton_steps: int = 8
    gap: float = 1.0

    def solve(
        self, key: jax.Array, target: Target, guide: Guide, variables: Variables, batch: Data
    ) -> Solution:
        """Fills in a Gaussian guide; see `Solver.solve`.

        Raises:
            GuideError: the guide's parameters do not hold a Gaussian.
        """
        kernel = Kernel(target, batch, variables.model, joint=True)
        result = self.run(
            kernel, host_rng(key), kernel.pack(location(variables.guide, target.space))[None]
        )
        if result.gaussian is None:
            return Solution(variables, result.reason, False, kernel.points)
        _, model = kernel.unpack(result.mode.point)
        solved = Variables(to_params(variables.guide, result.gaussian, target.space), model)
        return Solution(solved, result.reason, result.converged, kernel.points)

    def run(
        self, kernel: Kernel, rng: np.random.Generator, starts: Floats | None = None
    ) -> LaplaceResult:
        """Runs on a kernel, and returns everything there is to know.

        Args:
            kernel: the compiled log density and gradient, joint if the model has `param` sites.
            rng: source of randomness.
            starts: the first starting points `(at most num_starts, dim)`.
        """
        with host_algebra(kernel.dim):
            if self.mode is not None:
                mode = self.mode.run(kernel, rng, starts)
            else:
                assert starts is not None
                mode = _near(kernel, starts)
            if not np.isfinite(mode.log_density):
                return LaplaceResult(None, mode, None, -np.inf, np.inf, False, mode.reason)
            polished = newton_ascent(kernel, mode.point, mode.log_density, self.newton_steps)
            return self._judge(kernel, rng, mode, polished)

    def _judge(
        self, kernel: Kernel, rng: np.random.Generator, mode: Mode, polished: NewtonResult
    ) -> LaplaceResult:
        dim = kernel.target.space.dim
        mode = mode._replace(point=polished.point, log_density=polished.log_density)
        latent = latent_density(kernel, mode.point)
        against = mode_failure(kernel, latent, polished, dim)
        if not np.isfinite(polished.hessian).all():
            reason = f"{against}; {mode.reason}"
            return LaplaceResult(None, mode, None, -np.inf, np.inf, False, reason)
        bend = curvature(-polished.hessian[:dim, :dim])
        gaussian = Gaussian(mode.point[:dim], bend.factor)
        log_evidence = mode.log_density + 0.5 * dim * LOG_2PI + gaussian.log_det
        gap = log_evidence - estimate_elbo(latent, gaussian, antithetic(rng, 64, dim)).elbo
        reason = mode.reason
        if against:
            reason = f"{'no mode' if mode.converged else reason}: {against}"
            if bend.num_modified:
                reason += "; these were replaced"
        elif gap > self.gap:
            reason += (
                "; the posterior is not Gaussian round its mode: Laplace's evidence exceeds the "
                f"ELBO by {gap:.3g} nats"
            )
        return LaplaceResult(gaussian, mode, bend, log_evidence, gap, not against, reason)


def _near(kernel: Kernel, starts: Floats) -> Mode:
    """The place `(1, dim)` where Newton's method is to begin, in place of a mode."""
    height = float(kernel(starts)[0][0])
    return Mode(starts[0], height, True, "mode reached by Newton's method", np.zeros(1, int))

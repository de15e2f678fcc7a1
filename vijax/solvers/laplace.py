"""The Laplace approximation: a Gaussian from the curvature at the mode, with verification."""

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
    """Result of the Laplace solver.

    Attributes:
        gaussian: `N(mode, H^-1)` of the latent sites, `None` without a finite starting point.
        mode: the mode, including `param` sites if the kernel is joint.
        curvature: curvature of the log density at the mode, latent sites only.
        log_evidence: Laplace estimate, `log p + dim/2 log 2 pi - log |H| / 2`.
        gap: `log_evidence` minus the ELBO; zero for a Gaussian posterior.
        converged: whether the point is a mode with a positive definite negative Hessian.
        reason: one-line summary of the result.
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

    The mode is found by `ModeSolver`, then refined by Newton steps with the exact Hessian (a
    second compiled program). A negative Hessian that is not positive definite, or a log density
    without a maximum, is reported as not converged. A posterior that is not Gaussian around its
    mode has a gap between the Laplace estimate of the evidence and the ELBO, which is reported.
    Model `param` sites are optimized jointly with the latent sites; the covariance is that of the
    latent sites with `param` sites fixed. Source: Accurate Approximations for Posterior Moments
    and Marginal Densities, Tierney and Kadane, 1986.

    Args:
        mode: solver for the mode; `None` if the guide's location is already near it.
        newton_steps: maximum number of Newton steps.
        gap: smallest gap in nats that is reported.
    """

    mode: ModeSolver | None = dataclasses.field(default_factory=ModeSolver)
    newton_steps: int = 8
    gap: float = 1.0

    def solve(
        self, key: jax.Array, target: Target, guide: Guide, variables: Variables, batch: Data
    ) -> Solution:
        """Fits a Gaussian guide; see `Solver.solve`.

        Raises:
            GuideError: the guide's parameters do not represent a Gaussian.
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
        """Runs the solver on a kernel and returns the full result.

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
                mode = _assumed_mode(kernel, starts)
            if not np.isfinite(mode.log_density):
                return LaplaceResult(None, mode, None, -np.inf, np.inf, False, mode.reason)
            refined = newton_ascent(kernel, mode.point, mode.log_density, self.newton_steps)
            return self._assess(kernel, rng, mode, refined)

    def _assess(
        self, kernel: Kernel, rng: np.random.Generator, mode: Mode, refined: NewtonResult
    ) -> LaplaceResult:
        dim = kernel.target.space.dim
        mode = mode._replace(point=refined.point, log_density=refined.log_density)
        latent = latent_density(kernel, mode.point)
        failure = mode_failure(kernel, latent, refined, dim)
        if not np.isfinite(refined.hessian).all():
            reason = f"{failure}; {mode.reason}"
            return LaplaceResult(None, mode, None, -np.inf, np.inf, False, reason)
        at_mode = curvature(-refined.hessian[:dim, :dim])
        gaussian = Gaussian(mode.point[:dim], at_mode.factor)
        log_evidence = mode.log_density + 0.5 * dim * LOG_2PI + gaussian.log_det
        gap = log_evidence - estimate_elbo(latent, gaussian, antithetic(rng, 64, dim)).elbo
        reason = mode.reason
        if failure:
            reason = f"{'no mode' if mode.converged else reason}: {failure}"
            if at_mode.num_modified:
                reason += "; these were replaced"
        elif gap > self.gap:
            reason += (
                "; the posterior is not Gaussian around its mode: the Laplace estimate of the "
                f"evidence exceeds the ELBO by {gap:.3g} nats"
            )
        return LaplaceResult(gaussian, mode, at_mode, log_evidence, gap, not failure, reason)


def _assumed_mode(kernel: Kernel, starts: Floats) -> Mode:
    """The starting point `(1, dim)` of Newton's method as a mode."""
    log_density = float(kernel(starts)[0][0])
    return Mode(starts[0], log_density, True, "mode reached by Newton's method", np.zeros(1, int))

"""Maximum a posteriori estimation, with verification that the point found is a mode."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import numpy as np

from vijax.contracts import Batch, Guide, Solution, Solver, Target, Variables
from vijax.contracts.kernel import Floats, Kernel
from vijax.runtime.deadline import time_is_up
from vijax.runtime.keys import host_rng
from vijax.solvers.gaussians.conversion import location, relocate
from vijax.solvers.gaussians.dense import Evaluate
from vijax.solvers.host_algebra import host_algebra
from vijax.solvers.optimization.lbfgs import LBFGS
from vijax.solvers.optimization.modes import assign_modes
from vijax.solvers.optimization.newton import mode_failure, newton_ascent
from vijax.solvers.optimization.paths import NO_START, Path, finite_starts, out_of_time

_MAX_RESTARTS = 3  # restarts of L-BFGS from the endpoints
_MIN_GAIN = 0.1  # nats: a restart that gains more was not at a maximum
_MAX_RANGE = 1.0  # nats: largest range of log densities among endpoints of one mode
_NEWTON_STEPS = 12


class Mode(NamedTuple):
    """Result of mode finding.

    Attributes:
        point: the best point `(dim,)`, `z` and the model's `param` sites if the kernel is joint.
        log_density: log density at the point.
        converged: whether it is a local maximum to working precision.
        reason: one-line summary of the result.
        path_modes: index of the mode each path reached, `(num_starts,)`, see `assign_modes`.
    """

    point: Floats
    log_density: float
    converged: bool
    reason: str
    path_modes: np.ndarray


@dataclasses.dataclass(frozen=True)
class ModeSolver(Solver):
    """Maximum a posteriori: the mode in unconstrained space, by L-BFGS from several starts.

    The log density includes `log |Jacobian|`, so the mode is that of the unconstrained posterior,
    not of the constrained one. Model `param` sites are optimized jointly with the latent sites.
    L-BFGS is restarted from every endpoint with an empty history; if endpoints of one mode keep
    increasing or disagree, the log density has no maximum (centered hierarchical models usually
    have none: it grows without bound as the scale goes to zero). This is reported as not converged,
    with the name of the diverging coordinate.

    Args:
        num_starts: number of paths; the first starts at the guide's location, the others at random.
        radius: random starting points are uniform on `(-radius, radius)` in each coordinate.
        max_newton_dim: dimension up to which an unconverged point is refined with the exact
            Hessian.
        optimizer: options of L-BFGS.
    """

    num_starts: int = 8
    radius: float = 2.0
    max_newton_dim: int = 500
    optimizer: LBFGS = dataclasses.field(default_factory=LBFGS)

    def solve(
        self, key: jax.Array, target: Target, guide: Guide, variables: Variables, batch: Batch
    ) -> Solution:
        """Moves the guide to the mode; see `Solver.solve`.

        Raises:
            GuideError: the guide's parameters have no location.
        """
        kernel = Kernel(target, batch, variables.model, joint=True)
        mode = self.run(
            kernel, host_rng(key), kernel.pack(location(variables.guide, target.space))[None]
        )
        if not np.isfinite(mode.log_density):
            return Solution(variables, mode.reason, False, kernel.points)
        point, model = kernel.unpack(mode.point)
        solved = Variables(relocate(variables.guide, point, target.space), model)
        return Solution(solved, mode.reason, mode.converged, kernel.points)

    def run(self, kernel: Kernel, rng: np.random.Generator, starts: Floats | None = None) -> Mode:
        """Runs the solver on a kernel and returns the full result.

        Args:
            kernel: the compiled log density and gradient.
            rng: source of randomness.
            starts: the first starting points `(at most num_starts, dim)`.
        """
        with host_algebra(kernel.dim):
            return self._run(kernel, rng, starts)

    def _run(self, kernel: Kernel, rng: np.random.Generator, starts: Floats | None) -> Mode:
        first = finite_starts(kernel, rng, self.num_starts, starts, self.radius)
        paths = self.optimizer.maximize(kernel, first, keep_iterates=False)
        paths = [path for path in paths if path.reason != NO_START]
        if not paths:
            return Mode(first[0], -np.inf, False, NO_START, np.full(self.num_starts, -1))
        for _ in range(_MAX_RESTARTS):
            before = paths
            paths = self.optimizer.maximize(kernel, _endpoints(before), keep_iterates=False)
            if not _still_increasing(before, paths).any() or time_is_up():
                break
        return self._assess(kernel, before, paths)

    def _assess(self, kernel: Kernel, before: list[Path], paths: list[Path]) -> Mode:
        log_densities = np.array([path.log_density[-1] for path in paths])
        best = int(np.argmax(log_densities))
        path_modes = assign_modes(kernel, paths)
        reached = log_densities[path_modes == path_modes[best]]
        increasing = _still_increasing(before, paths)[best] or not paths[best].converged
        mode = Mode(paths[best].points[-1], float(log_densities[best]), False, "", path_modes)
        # endpoints of one mode at different log densities: no maximum was reached
        if increasing or log_densities[best] - reached.min() > _MAX_RANGE:
            if time_is_up():
                return mode._replace(reason=out_of_time())
            return self._confirm(kernel, mode, mode.point - before[best].points[0])
        reason = f"mode reached from {reached.size} of {self.num_starts} starting points"
        if path_modes.max() > 0:
            reason += f"; {path_modes.max() + 1} separate modes were found, this is the highest"
        return mode._replace(converged=True, reason=reason)

    def _confirm(self, kernel: Kernel, mode: Mode, change: Floats) -> Mode:
        """Decides by Newton's method whether a mode exists that L-BFGS failed to reach."""
        failure = ""
        if kernel.dim <= self.max_newton_dim:
            result = newton_ascent(kernel, mode.point, mode.log_density, _NEWTON_STEPS)
            mode = mode._replace(point=result.point, log_density=result.log_density)
            failure = mode_failure(kernel, kernel, result, kernel.dim)
            if not failure:
                return mode._replace(converged=True, reason="mode reached by Newton's method")
        coordinate = int(np.argmax(np.abs(change)))
        reason = (
            "no mode found: the log density is still increasing, mainly along "
            f"{kernel.label(coordinate)} (unconstrained value {mode.point[coordinate]:.3g})"
            f"{failure and '; '}{failure}. A centered hierarchical model or an improper "
            "posterior has no mode; use another guide, or a non-centered parameterization"
        )
        return mode._replace(reason=reason)


def latent_density(kernel: Kernel, point: Floats) -> Evaluate:
    """The log density of the latent sites, with `param` sites fixed at their values in `point`."""
    dim = kernel.target.space.dim

    def evaluate(points: Floats) -> tuple[Floats, Floats]:
        rest = np.broadcast_to(point[dim:], (len(points), kernel.dim - dim))
        log_density, gradient = kernel(np.concatenate([points, rest], axis=1))
        return log_density, gradient[:, :dim]

    return evaluate


def _endpoints(paths: list[Path]) -> Floats:
    return np.stack([path.points[-1] for path in paths])


def _still_increasing(before: list[Path], after: list[Path]) -> np.ndarray:
    """Which paths increased further after a restart."""
    pairs = zip(before, after, strict=True)
    return np.array([new.log_density[-1] - old.log_density[-1] > _MIN_GAIN for old, new in pairs])

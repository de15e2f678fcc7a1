"""The highest point of a log density, or an honest account of why there is none."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import numpy as np

from vijax.contracts import Batch, Guide, Solution, Solver, Target, Variables
from vijax.contracts.kernel import Floats, Kernel
from vijax.runtime.keys import host_rng
from vijax.solvers.gaussians.conversion import location, relocate
from vijax.solvers.gaussians.dense import Evaluate
from vijax.solvers.host_algebra import host_algebra
from vijax.solvers.optimization.basins import separate_basins
from vijax.solvers.optimization.lbfgs import LBFGS
from vijax.solvers.optimization.newton import objection, polish
from vijax.solvers.optimization.paths import NO_START, Path, finite_starts

_ROUNDS = 3  # times the ends are climbed from again
_GAIN = 0.1  # nats a true maximum cannot be improved by
_SPREAD = 1.0  # nats between ends of one basin beyond which they are no maximum
_NEWTON_STEPS = 12


class Mode(NamedTuple):
    """The best point found.

    Attributes:
        point: `(dim,)`, `z` and the model's `param` sites if the kernel is joint.
        log_density: there.
        converged: whether it is a local maximum to working precision.
        reason: one line about the outcome.
        basins: the basin each path ended in `(num_starts,)`, see `separate_basins`.
    """

    point: Floats
    log_density: float
    converged: bool
    reason: str
    basins: np.ndarray


@dataclasses.dataclass(frozen=True)
class ModeSolver(Solver):
    """Maximum a posteriori: the mode in unconstrained space, by L-BFGS from several starts.

    The log density includes `log |Jacobian|`, so the mode is that of the unconstrained posterior,
    not of the constrained one. Model `param` sites are optimized along with the latent sites.
    Every end is climbed from again without memory of the way there; ends of one basin that keep
    rising or disagree mean that the log density has no maximum (hierarchies in centered form
    usually have none: it grows without bound as the scale goes to zero), which is reported as
    not converged, naming the coordinate that runs away.

    Args:
        num_starts: paths; the first starts at the guide's location, the others at random.
        radius: random starts are uniform on `(-radius, radius)` in each coordinate.
        max_newton_dim: up to this dimension a doubtful end is examined with the exact Hessian.
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
        where, model = kernel.unpack(mode.point)
        solved = Variables(relocate(variables.guide, where, target.space), model)
        return Solution(solved, mode.reason, mode.converged, kernel.points)

    def run(self, kernel: Kernel, rng: np.random.Generator, starts: Floats | None = None) -> Mode:
        """Runs on a kernel, and returns everything there is to know.

        Args:
            kernel: the compiled log density and gradient.
            rng: source of randomness.
            starts: the first starting points `(at most num_starts, dim)`.
        """
        with host_algebra(kernel.dim):
            return self._run(kernel, rng, starts)

    def _run(self, kernel: Kernel, rng: np.random.Generator, starts: Floats | None) -> Mode:
        first = finite_starts(kernel, rng, self.num_starts, starts, self.radius)
        paths = self.optimizer.climb(kernel, first, keep=False)
        paths = [path for path in paths if path.reason != NO_START]
        if not paths:
            return Mode(first[0], -np.inf, False, NO_START, np.full(self.num_starts, -1))
        for _ in range(_ROUNDS):
            before = paths
            paths = self.optimizer.climb(kernel, _ends(before), keep=False)
            if not _unsettled(before, paths).any():
                break
        return self._judge(kernel, before, paths)

    def _judge(self, kernel: Kernel, before: list[Path], paths: list[Path]) -> Mode:
        heights = np.array([path.log_density[-1] for path in paths])
        top = int(np.argmax(heights))
        basins = separate_basins(kernel, paths)
        home = heights[basins == basins[top]]
        rising = _unsettled(before, paths)[top] or not paths[top].converged
        mode = Mode(paths[top].points[-1], float(heights[top]), False, "", basins)
        # ends of one basin at different heights: where each stopped is an accident
        if rising or heights[top] - home.min() > _SPREAD:
            return self._confirm(kernel, mode, mode.point - before[top].points[0])
        reason = f"mode reached by {home.size} of {self.num_starts} starts"
        if basins.max() > 0:
            reason += f"; {basins.max() + 1} separate modes were found, this is the highest"
        return mode._replace(converged=True, reason=reason)

    def _confirm(self, kernel: Kernel, mode: Mode, move: Floats) -> Mode:
        """Tells a mode that L-BFGS was too weak for from none, with the exact Hessian."""
        against = ""
        if kernel.dim <= self.max_newton_dim:
            polished = polish(kernel, mode.point, mode.log_density, _NEWTON_STEPS)
            mode = mode._replace(point=polished.point, log_density=polished.log_density)
            against = objection(kernel, kernel, polished, kernel.dim)
            if not against:
                return mode._replace(converged=True, reason="mode reached by Newton's method")
        coordinate = int(np.argmax(np.abs(move)))
        reason = (
            "no mode found: the log density is still rising, most along "
            f"{kernel.label(coordinate)} (unconstrained value {mode.point[coordinate]:.3g})"
            f"{against and '; '}{against}. A centered hierarchy or an improper posterior has no "
            "mode; use another guide, or a non-centered form of the model"
        )
        return mode._replace(reason=reason)


def latent_density(kernel: Kernel, point: Floats) -> Evaluate:
    """The log density of the latent sites, with `param` sites held at their values in `point`."""
    dim = kernel.target.space.dim

    def evaluate(points: Floats) -> tuple[Floats, Floats]:
        rest = np.broadcast_to(point[dim:], (len(points), kernel.dim - dim))
        log_density, gradient = kernel(np.concatenate([points, rest], axis=1))
        return log_density, gradient[:, :dim]

    return evaluate


def _ends(paths: list[Path]) -> Floats:
    return np.stack([path.points[-1] for path in paths])


def _unsettled(before: list[Path], after: list[Path]) -> np.ndarray:
    """Which paths rose further when they were climbed from again."""
    pairs = zip(before, after, strict=True)
    return np.array([new.log_density[-1] - old.log_density[-1] > _GAIN for old, new in pairs])

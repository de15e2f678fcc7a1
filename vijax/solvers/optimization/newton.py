"""Newton's method on the exact Hessian: the last steps to a mode, and whether it is one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vijax.contracts.kernel import Floats, Kernel
from vijax.solvers.gaussians.dense import Evaluate

_LENGTHS = 0.5 ** np.arange(16)  # of a step, tried in one call of the kernel
_SETTLED = 1e-6  # nats that one more step would gain
_FLAT = 1e-7  # eigenvalues below this share of the largest, after scaling, are not trusted
_FALL = 0.02  # nats the log density must fall over one standard deviation; 0.5 for a Gaussian


class Curvature(NamedTuple):
    """Eigendecomposition of the negative Hessian, in coordinates scaled to a unit diagonal.

    Attributes:
        scale: of each coordinate, `(dim,)`.
        vectors: eigenvectors `(dim, dim)` in scaled coordinates.
        values: eigenvalues `(dim,)`, ascending, as they are.
        safe: eigenvalues `(dim,)` made positive.
    """

    scale: Floats
    vectors: Floats
    values: Floats
    safe: Floats

    @property
    def num_modified(self) -> int:
        """How many eigenvalues were not clearly positive."""
        return int(np.sum(self.values != self.safe))

    @property
    def factor(self) -> Floats:
        """A square root `(dim, dim)` of the inverse, its columns along the eigenvectors."""
        return self.scale[:, None] * self.vectors / np.sqrt(self.safe)


class Polished(NamedTuple):
    """Where Newton's method stopped.

    Attributes:
        point: `(dim,)`.
        log_density: there.
        hessian: of the log density there, `(dim, dim)`.
        gain: nats that one more step is predicted to gain; inf if the Hessian is not finite.
    """

    point: Floats
    log_density: float
    hessian: Floats
    gain: float


def polish(kernel: Kernel, point: Floats, log_density: float, num_steps: int) -> Polished:
    """Up to `num_steps` Newton steps uphill from `point` `(dim,)`.

    Directions in which the log density is convex or flat are treated as if it were concave. Each
    step tries every length in one call of the kernel and takes the highest point.
    """
    for step in range(num_steps + 1):
        hessian = kernel.hessian(point)
        gradient = kernel(point[None])[1][0]
        if not (np.isfinite(hessian).all() and np.isfinite(gradient).all()):
            return Polished(point, log_density, hessian, np.inf)
        root = curvature(-hessian).factor
        whitened = root.T @ gradient
        gain = 0.5 * float(whitened @ whitened)
        if gain < _SETTLED or step == num_steps:
            break
        trials = kernel.round(point + _LENGTHS[:, None] * (root @ whitened))
        heights, _ = kernel(trials)
        best = int(np.argmax(heights))
        noise = kernel.resolution * abs(log_density)
        if heights[best] < log_density - noise or not np.any(trials[best] != point):
            break
        point, log_density = trials[best], float(heights[best])
    return Polished(point, log_density, hessian, gain)


def curvature(matrix: Floats) -> Curvature:
    """Eigenvalues of a symmetric matrix `(dim, dim)` scaled to a unit diagonal, made positive.

    The scaling takes differences of unit out of the question what counts as flat. Eigenvalues
    that are negative are mirrored, those next to zero lifted to the smallest that is trusted.
    """
    diagonal = np.abs(np.diag(matrix))
    scale = 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    values, vectors = np.linalg.eigh(scale[:, None] * matrix * scale)
    least = _FLAT * max(np.abs(values).max(), np.finfo(float).tiny)
    safe = np.where(values > least, values, np.maximum(np.abs(values), least))
    return Curvature(scale, vectors, values, safe)


def objection(kernel: Kernel, evaluate: Evaluate, polished: Polished, dim: int) -> str:
    """What speaks against the point being a mode in its first `dim` coordinates; "" if nothing.

    Args:
        kernel: for the names of coordinates.
        evaluate: log density of the first `dim` coordinates.
        polished: the point and its Hessian.
        dim: coordinates that are looked at.
    """
    if not np.isfinite(polished.hessian).all():
        return "the Hessian is not finite"
    bend = curvature(-polished.hessian[:dim, :dim])
    worst = kernel.label(int(np.argmax(np.abs(bend.vectors[:, 0]))))
    if bend.num_modified:
        return (
            f"the negative Hessian has {bend.num_modified} of {dim} eigenvalues that are not "
            f"positive, most along {worst}"
        )
    noise = max(0.01, 8 * kernel.resolution * abs(polished.log_density))
    if polished.gain > noise:
        return f"Newton's method did not settle, most along {worst}"
    steps = bend.factor.T
    mode = polished.point[:dim]
    heights, _ = evaluate(np.concatenate([mode + steps, mode - steps]))
    fall = polished.log_density - np.maximum(*np.split(heights, 2))
    along = int(np.argmin(fall))
    if fall[along] < min(_FALL, _FALL - noise):
        worst = kernel.label(int(np.argmax(np.abs(bend.vectors[:, along]))))
        return (
            "the log density does not fall over one standard deviation as the Hessian says it "
            f"should, most along {worst}"
        )
    return ""

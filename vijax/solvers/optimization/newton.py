"""Newton's method with the exact Hessian: refines a mode, and verifies that it is one."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from vijax.contracts.kernel import Floats, Kernel
from vijax.runtime.deadline import time_is_up
from vijax.solvers.gaussians.dense import Evaluate

_STEP_LENGTHS = 0.5 ** np.arange(16)  # step lengths tried in one kernel call
_NEGLIGIBLE = 1e-6  # nats: predicted gain at which the iteration stops
_FLAT = 1e-7  # smallest reliable eigenvalue after scaling, relative to the largest
_MIN_DROP = 0.02  # nats: smallest drop of the log density over one sd; 0.5 for a Gaussian


class Curvature(NamedTuple):
    """Eigendecomposition of the negative Hessian, in coordinates scaled to a unit diagonal.

    Attributes:
        scale: scale of each coordinate, `(dim,)`.
        eigenvectors: eigenvectors `(dim, dim)` in scaled coordinates.
        eigenvalues: eigenvalues `(dim,)`, ascending.
        modified: eigenvalues `(dim,)` modified to be positive.
    """

    scale: Floats
    eigenvectors: Floats
    eigenvalues: Floats
    modified: Floats

    @property
    def num_modified(self) -> int:
        """Number of eigenvalues that were not clearly positive."""
        return int(np.sum(self.eigenvalues != self.modified))

    @property
    def factor(self) -> Floats:
        """A square root `(dim, dim)` of the inverse, with columns along the eigenvectors."""
        return self.scale[:, None] * self.eigenvectors / np.sqrt(self.modified)


class NewtonResult(NamedTuple):
    """Final state of Newton's method.

    Attributes:
        point: `(dim,)`.
        log_density: log density at the point.
        hessian: Hessian of the log density at the point, `(dim, dim)`.
        gain: predicted gain of another step, in nats; inf if the Hessian is not finite.
    """

    point: Floats
    log_density: float
    hessian: Floats
    gain: float


def newton_ascent(
    kernel: Kernel, point: Floats, log_density: float, num_steps: int
) -> NewtonResult:
    """Up to `num_steps` modified Newton steps that increase the log density, from `point` `(dim,)`.

    Eigenvalues of the negative Hessian that are not positive are modified, see `curvature`. Each
    step evaluates a grid of step lengths in one kernel call and moves to the best point.
    """
    for step in range(num_steps + 1):
        hessian = kernel.hessian(point)
        gradient = kernel(point[None])[1][0]
        if not (np.isfinite(hessian).all() and np.isfinite(gradient).all()):
            return NewtonResult(point, log_density, hessian, np.inf)
        root = curvature(-hessian).factor
        whitened = root.T @ gradient
        gain = 0.5 * float(whitened @ whitened)
        if gain < _NEGLIGIBLE or step == num_steps or time_is_up():
            break
        trials = kernel.round(point + _STEP_LENGTHS[:, None] * (root @ whitened))
        log_densities, _ = kernel(trials)
        best = int(np.argmax(log_densities))
        noise = kernel.eps * abs(log_density)
        if log_densities[best] < log_density - noise or not np.any(trials[best] != point):
            break
        point, log_density = trials[best], float(log_densities[best])
    return NewtonResult(point, log_density, hessian, gain)


def curvature(matrix: Floats) -> Curvature:
    """Eigendecomposition of a symmetric matrix `(dim, dim)` scaled to a unit diagonal.

    The scaling makes the threshold for flat directions independent of units. Negative eigenvalues
    are replaced by their absolute values, those near zero by the smallest reliable value.
    """
    diagonal = np.abs(np.diag(matrix))
    scale = 1 / np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    eigenvalues, eigenvectors = np.linalg.eigh(scale[:, None] * matrix * scale)
    floor = _FLAT * max(np.abs(eigenvalues).max(), np.finfo(float).tiny)
    modified = np.where(eigenvalues > floor, eigenvalues, np.maximum(np.abs(eigenvalues), floor))
    return Curvature(scale, eigenvectors, eigenvalues, modified)


def mode_failure(kernel: Kernel, evaluate: Evaluate, result: NewtonResult, dim: int) -> str:
    """Why the point is not a mode in its first `dim` coordinates; "" if it passes all checks.

    Args:
        kernel: for the names of coordinates.
        evaluate: log density of the first `dim` coordinates.
        result: the point and its Hessian.
        dim: number of coordinates checked.
    """
    if not np.isfinite(result.hessian).all():
        return "the Hessian is not finite"
    spectrum = curvature(-result.hessian[:dim, :dim])
    name = kernel.label(int(np.argmax(np.abs(spectrum.eigenvectors[:, 0]))))
    if spectrum.num_modified:
        return (
            f"{spectrum.num_modified} of {dim} eigenvalues of the negative Hessian are not "
            f"positive, the lowest mainly along {name}"
        )
    noise = max(0.01, 8 * kernel.eps * abs(result.log_density))
    if result.gain > noise:
        return f"Newton's method did not converge, mainly along {name}"
    steps = spectrum.factor.T
    mode = result.point[:dim]
    log_densities, _ = evaluate(np.concatenate([mode + steps, mode - steps]))
    drop = result.log_density - np.maximum(*np.split(log_densities, 2))
    axis = int(np.argmin(drop))
    if drop[axis] < min(_MIN_DROP, _MIN_DROP - noise):
        name = kernel.label(int(np.argmax(np.abs(spectrum.eigenvectors[:, axis]))))
        return (
            "the log density does not drop over one standard deviation as the Hessian predicts, "
            f"mainly along {name}"
        )
    return ""

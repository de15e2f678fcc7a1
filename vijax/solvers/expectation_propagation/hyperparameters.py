"""Hyper-parameters at the mode of the evidence of expectation propagation.

At a fixed point the evidence is stationary in the sites, so that its gradient in hyper-parameters
is that with the sites held fixed (Seeger, 2005). Their curvature, and how the mean of the normal
sites moves with them, are differences of gradients and means around the mode: the joint Gaussian of
both.
"""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from vijax.contracts import Position, Space
from vijax.contracts.kernel import Floats
from vijax.runtime.device_layout import on_host
from vijax.runtime.errors import ModelError
from vijax.solvers.expectation_propagation.propagation import Propagation
from vijax.solvers.expectation_propagation.sweeps import evidence_slope
from vijax.solvers.gaussians.dense import LOG_2PI, Gaussian
from vijax.solvers.optimization.lbfgs import LBFGS

_STEP = 1e-3  # of differences, in unconstrained space
_LARGEST_SD = 10.0  # of a hyper-parameter along which the evidence is flat or convex


class Evidence:
    """The log evidence plus log prior of hyper-parameters, and its gradient.

    Args:
        run: of expectation propagation.
    """

    def __init__(self, run: Propagation) -> None:
        self.run = run
        self._evaluate = run.target.program(evidence_slope, run.plan, run.options, quick=run.quick)

    @property
    def eps(self) -> float:
        """Relative precision: sweeps end before that of double precision."""
        return 1e-11

    def round(self, points: Floats) -> Floats:
        """Points as they are."""
        return points

    def __call__(self, points: Floats) -> tuple[Floats, Floats]:
        """Values `(num,)` and gradients `(num, dim)`; `-inf` where sweeps do not converge."""
        found = [self.at(point) for point in points]
        return np.array([v for v, _ in found]), np.stack([g for _, g in found])

    def at(self, point: Floats) -> tuple[float, Floats]:
        """Value and gradient at one point; the run is at its sites then."""
        run, failed = self.run, (-np.inf, np.full(len(point), np.nan))
        before = run.sites
        z = position(run.target.space, run.plan.hyperparameters, point)
        try:
            run.solve(z)
        except ModelError:
            return failed
        if not (run.converged and run.sites is not None):
            run.sites = before
            return failed
        value, slope = on_host(self._evaluate(z, run.sites, run.reading.support, run.batch))
        flat = [np.ravel(slope[name]) for name in run.plan.hyperparameters]
        gradient = np.concatenate(flat)
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            return failed
        return float(value), gradient


class Fitted(NamedTuple):
    """The result of the search for hyper-parameters.

    Attributes:
        gaussian: of hyper-parameters, then normal sites.
        log_evidence: with hyper-parameters integrated out by Laplace's method.
        converged: whether the search ended at a mode.
        reason: why it ended, in words.
    """

    gaussian: Gaussian
    log_evidence: float
    converged: bool
    reason: str


def fit(run: Propagation, start: Floats) -> Fitted:
    """Maximizes the evidence.

    Args:
        run: of expectation propagation.
        start: positions of the hyper-parameters `(num,)`.
    """
    # whatever is wrong with the model is an error here, and no evidence where the search fails
    run.solve(position(run.target.space, run.plan.hyperparameters, start))
    evidence = Evidence(run)
    (path,) = LBFGS(tolerance=1e-6, max_probe_dim=0).maximize(
        evidence, start[None], keep_iterates=False
    )
    at = np.asarray(path.points[-1], np.float64)
    num = len(at)
    hessian, slopes = np.zeros((num, num)), np.zeros((run.plan.dim, num))
    for i, step in enumerate(_STEP * np.eye(num)):
        for sign in (1, -1):
            _, gradient = evidence.at(at + sign * step)
            hessian[i] -= sign * gradient / (2 * _STEP)
            slopes[:, i] += sign * run.gaussian().mean / (2 * _STEP)
    value, _ = evidence.at(at)
    inner = run.gaussian()
    known = bool(np.isfinite(hessian).all())  # not if time was up
    symmetric = 0.5 * (hessian + hessian.T) if known else np.zeros((num, num))
    curvature, axes = np.linalg.eigh(symmetric)
    is_mode = known and curvature.min() > 0
    sd = 1 / np.sqrt(np.maximum(curvature, _LARGEST_SD**-2))
    root = axes * sd
    factor = np.block([[root, np.zeros((num, run.plan.dim))], [slopes @ root, inner.factor]])
    total = value + 0.5 * num * LOG_2PI + float(np.sum(np.log(sd)))
    where = "at the mode of the evidence, " if path.converged else ""
    reason = f"hyper-parameters {where}{path.reason}; {run.reason}"
    if not is_mode:
        reason = f"no mode of the evidence of hyper-parameters was found; {run.reason}"
    mean = np.concatenate([at, inner.mean])
    return Fitted(Gaussian(mean, factor), total, is_mode and path.converged, reason)


def position(space: Space, names: tuple[str, ...], point: Floats) -> Position:
    """Sites of a vector that holds their elements one after the other."""
    sites, found, start = {site.name: site for site in space.sites}, {}, 0
    for name in names:
        shape = sites[name].z_shape
        size = int(np.prod(shape, dtype=int))
        found[name] = jnp.reshape(jnp.asarray(point[start : start + size]), shape)
        start += size
    return found


def places(space: Space, names: tuple[str, ...]) -> np.ndarray:
    """Where the elements of some sites are in the vector of all."""
    spans, start = {}, 0
    for site in space.sites:
        size = int(np.prod(site.z_shape, dtype=int))
        spans[site.name] = np.arange(start, start + size)
        start += size
    return np.concatenate([spans[name] for name in names]) if names else np.zeros(0, int)

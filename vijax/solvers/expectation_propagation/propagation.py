"""A run of expectation propagation, from the host: sweeps until the moments agree."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from vijax.contracts import Batch, Position, Target
from vijax.contracts.projections import ProjectionPlan
from vijax.runtime.deadline import end_reason, time_is_up
from vijax.runtime.device_layout import on_host
from vijax.runtime.errors import GuideError, ModelError
from vijax.runtime.progress import advance, expect
from vijax.solvers.expectation_propagation.sweeps import (
    CHUNK,
    LEAST_RATE,
    Options,
    Reading,
    Sites,
    propagate,
    read_model,
)
from vijax.solvers.gaussians.dense import Gaussian

_FEW = 4096  # sites whose sweeps take less time than to compile them well
_MISFIT = 1e-4  # relative: rounding of data in single precision is below


class Propagation:
    """A run, from the host, in double precision.

    Attributes:
        evidence: `log Z` at the start of every sweep.
        sweeps: number of sweeps.
        converged: whether the last run converged.
        reason: why it stopped.
        quick: whether programs are compiled fast rather than well.
        keep: called after some sweeps.
    """

    def __init__(
        self,
        options: Options,
        max_sweeps: int,
        target: Target,
        plan: ProjectionPlan,
        batch: Batch,
    ) -> None:
        self.options, self.max_sweeps = options, max_sweeps
        self.target, self.plan, self.batch = target, plan, batch
        self.keep: Callable[[], None] = lambda: None
        self.sites: Sites | None = None
        self.evidence: list[float] = []
        self.sweeps, self.skipped, self.rate = 0, 0, options.damping
        self.converged, self.reason = False, ""
        self.quick = sum(count for _, count in plan.terms) <= _FEW

    def solve(self, z: Position) -> None:
        """Sweeps to convergence at hyper-parameters `z`, from the sites of the last run."""
        expect(self.max_sweeps, "sweep")
        self.reading = self._read(z)
        narrow = 1.0
        if self.sites is None:
            num, dim = self.reading.rows.shape
            zeros, narrow = jnp.zeros(num), max(1.0, num / dim)
            self.sites = Sites(zeros, zeros)
        program = self.target.program(propagate, self.plan, self.options, quick=self.quick)
        done, self.rate = 0, self.options.damping
        while True:
            count = min(CHUNK, self.max_sweeps - done)
            state = z, self.sites, self.reading.support, self.batch
            found = program(*state, count, self.rate, narrow)
            narrow = 1.0
            evidence, changes, skipped, steps, proper, rate = on_host(found[1:])
            number = int(steps)
            self.sites, self.skipped, self.rate = found.sites, int(skipped), float(rate)
            done, self.sweeps = done + number, self.sweeps + number
            advance(number, "sweep")
            self.evidence += evidence[: number + bool(proper)].tolist()
            self.keep()
            if bool(proper) and float(changes[number]) < self.options.tolerance:
                self._converge(done)
                return
            stop = self._stop(done, bool(proper))
            if stop is not None:
                self.converged, self.reason = False, stop
                return

    def _read(self, z: Position) -> Reading:
        """The model at hyper-parameters, on the host.

        Raises:
            GuideError: an element depends on several linear combinations.
            ModelError: the likelihood of an element is zero everywhere.
        """
        found: Reading = on_host(
            self.target.program(read_model, self.plan, quick=self.quick)(z, self.batch)
        )
        if not all(np.isfinite(x).all() for x in (found.rows, found.loc, found.factor)):
            raise ModelError(
                f"sites {', '.join(self.plan.normal)}: expected a prior with a finite mean and a "
                "positive-definite covariance, got one without. Add a larger number to the "
                "diagonal."
            )
        for name, misfit in found.misfit.items():
            if not misfit < _MISFIT:
                raise GuideError(
                    f"algorithm='expectation_propagation': expected each element of site {name!r} "
                    "to depend on one linear combination of normal sites, got several. Write a "
                    "factor for each, or use guide='auto'."
                )
        if found.support.empty.any():
            i = int(np.argmax(found.support.empty))
            names = [name for name, count in self.plan.terms for _ in range(count)]
            raise ModelError(
                f"site {names[i]!r}: expected a likelihood that is positive somewhere within "
                "45 prior standard deviations, got zero at all points tried for element "
                f"{i - names.index(names[i])}."
            )
        return found

    def _converge(self, done: int) -> None:
        self.converged = not self.skipped
        self.reason = (
            f"{done} sweeps of expectation propagation, moments agree to "
            f"{self.options.tolerance:g} sds"
        )
        if self.skipped:
            self.reason = (
                f"not converged: {self.skipped} of {len(self.reading.rows)} sites have no proper "
                f"cavity distribution after {done} sweeps; use a smaller power"
            )

    def _stop(self, done: int, proper: bool) -> str | None:
        """Why sweeps end without convergence; `None` if they go on."""
        if done >= self.max_sweeps:
            return f"not converged in {done} sweeps; use a smaller power or damping"
        if time_is_up():
            return f"not converged: {end_reason()} after {done} sweeps"
        if self.rate <= LEAST_RATE and not proper:
            return f"not converged: no proper Gaussian after {done} sweeps; use a smaller power"
        return None

    def gaussian(self) -> Gaussian:
        """The approximation of the normal sites, in the order of the plan."""
        read = self.reading
        rows = np.asarray(read.rows, np.float64)
        precision, shift = (np.asarray(x, np.float64) for x in on_host(self.sites))
        full = np.eye(rows.shape[1]) + rows.T @ (precision[:, None] * rows)
        lower = np.linalg.cholesky(full)
        mean = np.linalg.solve(lower.T, np.linalg.solve(lower, rows.T @ shift))
        half = np.linalg.solve(lower, np.asarray(read.factor).T)  # of covariance half' half
        root = np.linalg.qr(half).R.T
        root = root * np.where(np.diag(root) < 0, -1.0, 1.0)
        return Gaussian(np.asarray(read.loc) + np.asarray(read.factor) @ mean, root)

"""Coordinate ascent on the ELBO of a conditionally conjugate model, in closed form."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.contracts import Batch, Guide, Solution, Solver, Target, Variables
from vijax.contracts.blocks import ConjugatePlan
from vijax.guides.conjugate import BoundConjugate, Families
from vijax.runtime.deadline import end_reason, offer, time_is_up
from vijax.runtime.device_layout import on_host
from vijax.runtime.errors import GuideError, ModelError
from vijax.runtime.progress import advance, expect
from vijax.solvers.block_updates import (
    double_precision,
    entropy,
    expected_log_joint,
    of_color,
    single_precision,
)
from vijax.solvers.check_reading import check_reading
from vijax.solvers.perturbation import perturbed
from vijax.solvers.rotation import improved, rotated_elbo

_CHUNK = 32  # largest number of sweeps between two looks at the clock
_TRIAL = 10  # sweeps of each restart before the best is continued
_RESTARTS = 8
_FIRST_RATE, _LEAST_RATE = 0.5, 0.01  # of steps with expectations by quadrature
_ROUNDING = 1e-8  # relative decrease of the ELBO that rounding can cause


class _Sweeps(NamedTuple):
    """A run: the families, the ELBO before each of its sweeps, and their number."""

    families: Families
    elbos: Array
    num_sweeps: Array


@dataclasses.dataclass(frozen=True)
class CoordinateAscent(Solver):
    """Coordinate ascent variational inference (CAVI), which is variational message passing.

    A sweep sets the natural parameters of each block to the gradient of the expected log joint
    density in the block's mean parameters. It runs in double precision as one compiled program.
    The ELBO is exact and never falls. Where it may have several maxima, several starts are tried
    for a few sweeps, and the best one is continued. Sources: Winn and Bishop, 2005; Hoffman, Blei,
    Wang and Paisley, 2013.

    Args:
        max_sweeps: largest number of sweeps.
        tolerance: estimated further rise of the ELBO at convergence, in nats.
        num_restarts: number of perturbed starts; 0 starts at the initial values, `None` is 8 where
            there may be several maxima and none otherwise.
        rotate: whether products of two normal blocks are rotated, see `vijax.solvers.rotation`.
    """

    maximizes_elbo: ClassVar[bool] = True
    exhaustive: ClassVar[bool] = True
    max_sweeps: int = 2000
    tolerance: float = 1e-5
    num_restarts: int | None = None
    rotate: bool = True

    def solve(
        self, key: Array, target: Target, guide: Guide, variables: Variables, batch: Batch
    ) -> Solution:
        """Fits a conjugate guide; see `Solver.solve`.

        Raises:
            GuideError: the guide is not a conjugate one, or the model was not read correctly.
            ModelError: the model has `param` sites.
        """
        if not isinstance(guide, BoundConjugate):
            raise GuideError(
                f"algorithm: expected guide='conjugate' for coordinate ascent, got {guide!r}."
            )
        if variables.model:
            raise ModelError(
                f"param site {next(iter(variables.model))!r}: expected none in a model with a "
                "conjugate guide. Give it a prior (numpyro.sample), or use another guide."
            )
        check_reading(target, batch, key)
        with jax.enable_x64(True):
            run = _Ascent(self, target, guide.plan, double_precision(batch), key)
            families, converged, reason = run.solve(double_precision(variables.guide))
        return run.solution(families, converged, reason)


def coordinate_ascent(
    algorithm: Any, num_sweeps: int | None, num_restarts: int | None, random_init: bool
) -> Any:
    """The solver of a conjugate guide with these options; another one that the user chose as is."""
    solver = CoordinateAscent() if algorithm == "auto" else algorithm
    if not isinstance(solver, CoordinateAscent):
        return solver
    sweeps = solver.max_sweeps if num_sweeps is None else num_sweeps
    restarts = solver.num_restarts if num_restarts is None else num_restarts
    if restarts is None and not random_init:
        restarts = 0  # the user's initial values are the start
    return dataclasses.replace(solver, max_sweeps=sweeps, num_restarts=restarts)


class _Ascent:
    """A run, from the host.

    Attributes:
        elbos: after each sweep of the run that is continued.
        sweeps: number of all sweeps.
    """

    def __init__(
        self,
        options: CoordinateAscent,
        target: Target,
        plan: ConjugatePlan,
        batch: Batch,
        key: Array,
    ) -> None:
        self.options, self.plan, self.batch, self.key = options, plan, batch, key
        self.sweep = target.program(_sweep_many, plan)
        self.rotation = target.program(rotated_elbo, plan) if plan.products else None
        self.elbos: list[float] = []
        self.sweeps = 0
        self.rate = _FIRST_RATE if plan.quadrature else 1.0

    def solution(self, families: Families, converged: bool, reason: str) -> Solution:
        """Families as the solution of the run."""
        variables = Variables(single_precision(on_host(families)))
        losses = tuple(-elbo for elbo in self.elbos)
        solution = Solution(variables, reason, converged, self.sweeps, losses)
        return solution._replace(elbo=self.elbos[-1] if self.elbos else None)

    def solve(self, families: Families) -> tuple[Families, bool, str]:
        """The families at convergence, whether they converged, and why the run stopped."""
        restarts = self.options.num_restarts
        if restarts is None:
            restarts = _RESTARTS if self.plan.multimodal else 0
        if restarts:
            families = self._best_start(families, restarts)
        expect(self.options.max_sweeps, "sweep")
        size = 1
        while True:
            left = self.options.max_sweeps - len(self.elbos)
            run = self._run(families, min(size, left) + 1)
            elbos = run[1:]
            if not (len(elbos) and np.isfinite(elbos).all()):
                return families, False, "the ELBO is not finite"
            if self._overshoots(run):
                continue
            families, self.elbos = self.families, [*self.elbos, *elbos]
            offer(functools.partial(self.solution, families, False, "the best so far"))
            stop = self._stop(run)
            if stop is not None:
                return families, *stop
            if self.rotation is not None and self.options.rotate:
                families = improved(self.rotation, families, self.batch, self.plan)
            elif not self.plan.quadrature:
                size = min(2 * size, _CHUNK)

    def _overshoots(self, run: np.ndarray) -> bool:
        """Whether a sweep is to be repeated with shorter steps, as the bound is not convex."""
        if not self.plan.quadrature:
            return False
        overshoots = bool(run[1] < run[0]) and self.rate > _LEAST_RATE
        self.rate = self.rate / 2 if overshoots else min(1.0, 1.2 * self.rate)
        return overshoots

    def _run(self, families: Families, count: int) -> np.ndarray:
        """The ELBOs of `families` and after each of `count - 1` sweeps; sets `self.families`."""
        found = self.sweep(families, self.batch, count - 1, self.options.tolerance, self.rate)
        self.families = found.families
        elbos, done = on_host((found.elbos, found.num_sweeps))
        done = int(done)
        self.sweeps += done
        advance(done, "sweep")
        return elbos[: done + 1]

    def _stop(self, run: np.ndarray) -> tuple[bool, str] | None:
        """Whether the run converged, and why it ends; `None` if it goes on."""
        count = len(self.elbos)
        fall = run[:-1] - run[1:]
        if (fall > _ROUNDING * np.abs(run[1:]).clip(1)).any():
            return False, f"the ELBO fell by {fall.max():.2g} nats after {count} sweeps"
        history = run if len(run) > 2 else np.array(self.elbos[-3:])
        if estimated_rise(history) < self.options.tolerance:
            words = f"within an estimated {self.options.tolerance:g} nats of the maximum"
            return True, f"{count} sweeps of coordinate ascent, {words}"
        if count >= self.options.max_sweeps:
            return False, f"not converged in {count} sweeps"
        if time_is_up():
            return False, f"not converged: {end_reason()} after {count} sweeps"
        return None

    def _best_start(self, families: Families, restarts: int) -> Families:
        """The best of several perturbed starts after a few sweeps each."""
        self._run(families, 3)
        pooled, best = self.families, (-np.inf, families)
        for number in range(restarts):
            start = perturbed(pooled, self.plan, jax.random.fold_in(self.key, number))
            elbo = self._run(start, _TRIAL + 1)[-1]
            if elbo > best[0]:
                best = (elbo, self.families)
            if time_is_up():
                break
        return best[1]


def estimated_rise(elbos: np.ndarray) -> float:
    """The estimated further rise of a sequence that converges linearly (Aitken)."""
    if len(elbos) < 3:
        return np.inf
    last, before = elbos[-1] - elbos[-2], elbos[-2] - elbos[-3]
    rounding = 1e-13 * abs(elbos[-1])
    if abs(last) <= rounding:
        return 0.0
    rate = min(max(last / before, 0.0), 0.999) if before > 0 else 0.999
    return last * rate / (1 - rate) if rate > 0 else last


def _sweep_many(
    target: Target,
    plan: ConjugatePlan,
    families: Families,
    batch: Batch,
    count: Array,
    tolerance: Array,
    rate: Array,
) -> _Sweeps:
    """At most `count` sweeps, fewer if they converge, and the ELBO of the last families."""

    def sweep(families: Families) -> tuple[Families, Array]:
        before = jnp.zeros(())
        for color in range(plan.num_colors):
            names = of_color(plan, color, families)
            expected, gradient = expected_log_joint(target, plan, families, batch, names)
            if color == 0:
                before = expected + entropy(target, plan, families)
            families = families | {n: families[n].step(g, rate) for n, g in gradient.items()}
        return families, before

    def again(state: tuple[Families, Array, Array]) -> Array:
        _, elbos, done = state
        last, before = elbos[done - 1] - elbos[done - 2], elbos[done - 2] - elbos[done - 3]
        rate = jnp.clip(last / jnp.where(before > 0, before, 1.0), 0.0, 0.999)
        rise = jnp.where(before > 0, last * rate / (1 - rate), jnp.inf)
        rise = jnp.where(jnp.abs(last) <= 1e-13 * jnp.abs(elbos[done - 1]), 0.0, rise)
        return (done <= count) & ((done < 3) | (rise >= tolerance))

    def body(state: tuple[Families, Array, Array]) -> tuple[Families, Array, Array]:
        families, elbos, done = state
        new, before = sweep(families)
        elbos = elbos.at[done].set(before)
        # the last sweep only evaluates the ELBO of the families it starts from
        keep = done == count
        new = jax.tree.map(lambda a, b: jnp.where(keep, a, b), families, new)
        return new, elbos, done + 1

    elbos = jnp.zeros(_CHUNK + 2)
    families, elbos, done = jax.lax.while_loop(again, body, (families, elbos, jnp.zeros((), int)))
    return _Sweeps(families, *target.devices.replicate((elbos, done - 1)))

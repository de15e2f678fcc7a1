"""Coordinate ascent on the ELBO of a conditionally conjugate model, in closed form."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.contracts import Batch, Guide, Solution, Solver, Target, Variables
from vijax.contracts.conjugate import ConjugatePlan, WordCounts
from vijax.guides.conjugate import BoundConjugate, Families
from vijax.runtime.deadline import end_reason, offer, time_is_up
from vijax.runtime.device_layout import on_host
from vijax.runtime.errors import GuideError, ModelError
from vijax.runtime.keys import fold_in, host_rng
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
from vijax.solvers.topics.start import topics_start, word_counts

_CHUNK = 32  # largest number of sweeps between two looks at the clock
_TRIAL = 10  # sweeps of each restart before the best is continued
_RESTARTS = 8
_CONTINUED = 3  # chunks of sweeps by which the best is continued on some rows
_MANY_ENTRIES = 2**22  # rows times labels from which trials on all rows cost more than a program
_LEAST_RATE = 0.01  # of steps that are shortened because full ones overshoot
_ROUNDING = 1e-8  # relative decrease of the ELBO that rounding can cause


class _Sweeps(NamedTuple):
    """The families after some sweeps, the ELBO before the first and after each, their number."""

    families: Families
    elbos: Array
    num_sweeps: Array


@dataclasses.dataclass(frozen=True)
class CoordinateAscent(Solver):
    """Coordinate ascent variational inference (CAVI), which is variational message passing.

    A sweep sets the natural parameters of each block to the gradient of the expected log joint
    density in the block's mean parameters. It runs in double precision as one compiled program.
    The ELBO is exact and never falls: where a full step overshoots (expectations by quadrature,
    too many coupled elements for one block), steps are shortened. Where it may have several maxima,
    several starts are tried for a few sweeps, and the best one is continued; with many rows x
    labels on a sample of the rows first. Latent Dirichlet allocation starts from passes of the
    kernel in `vijax.solvers.topics`. Sources: Winn and
    Bishop, 2005; Hoffman, Blei, Wang and Paisley, 2013.

    Args:
        max_sweeps: largest number of sweeps.
        tolerance: estimated further rise of the ELBO at convergence, in nats; of latent Dirichlet
            allocation, in nats a token.
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
        elbos: of the start of the run that is continued, and after each of its sweeps.
        sweeps: number of all sweeps.
        rate: of the steps, 1 for those of coordinate ascent.
        words: the data of latent Dirichlet allocation, `None` of any other model.
        tolerance: estimated further rise at convergence, in nats.
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
        self.ascend = target.program(sweep_many, plan, False)
        sizes = {name: plate.size for name, plate in target.subsampling.plates.items()}
        in_use = math.prod(len(rows) / sizes[name] for name, rows in batch.index.items())
        many = in_use * target.marginalized.entries >= _MANY_ENTRIES
        self.try_out = target.program(sweep_many, plan, True) if many else self.ascend
        self.perturb = target.program(perturbed_start, plan, quick=True)
        rotates = plan.products and options.rotate
        self.rotation = target.program(rotated_elbo, plan) if rotates else None
        self.elbos: list[float] = []
        self.sweeps, self.rate = 0, 1.0
        self.words = word_counts(target, plan, batch)
        tokens = 1.0 if self.words is None else max(float(self.words.counts.sum()), 1.0)
        self.unit = "" if self.words is None else " a token"
        self.tolerance = options.tolerance * tokens

    def solution(self, families: Families, converged: bool, reason: str) -> Solution:
        """Families as the solution of the run."""
        variables = Variables(single_precision(on_host(families)))
        losses = tuple(-elbo for elbo in self.elbos[1:])
        solution = Solution(variables, reason, converged, self.sweeps, losses)
        return solution._replace(elbo=self.elbos[-1] if self.elbos else None)

    def solve(self, families: Families) -> tuple[Families, bool, str]:
        """The families at convergence, whether they converged, and why the run stopped."""
        expect(self.options.max_sweeps, "sweep")
        restarts = self.options.num_restarts
        if restarts is None:
            restarts = _RESTARTS if self.plan.multimodal else 0
        if restarts and self.words is not None:
            families = self._best_topics(self.words, restarts)
        elif restarts:
            families = self._best_start(families, restarts)
        size = 1
        while True:
            left = self.options.max_sweeps - len(self.elbos[1:])
            moved, elbos = self._run(families, min(size, left))
            if self._overshoots(elbos):
                if self.rate < _LEAST_RATE:
                    return families, False, "the ELBO falls at any step size"
                self.rate, size = self.rate / 2, 1
                continue
            families, self.elbos = moved, [*(self.elbos or elbos[:1]), *elbos[1:]]
            offer(functools.partial(self.solution, families, False, "the best so far"))
            stop = self._stop()
            if stop is not None:
                return families, *stop
            if self.rotation is not None:
                families = improved(self.rotation, families, self.batch, self.plan)
            elif self.rate == 1:
                size = min(2 * size, _CHUNK)

    def _run(
        self, families: Families, count: int, trial: bool = False
    ) -> tuple[Families, list[float]]:
        """The families after at most `count` sweeps, the ELBO before the first and after each."""
        limits = count, self.tolerance, self.rate
        program = self.try_out if trial else self.ascend
        found = program(families, self.batch, *limits)
        elbos, done = on_host((found.elbos, found.num_sweeps))
        self.sweeps += int(done)
        advance(int(done), "sweep")
        return found.families, elbos[: int(done) + 1].tolist()

    def _overshoots(self, elbos: list[float]) -> bool:
        """Whether the ELBO fell, by more than rounding, or is no longer finite."""
        if not np.isfinite(elbos[0]):
            return False
        falls = (a - b > _ROUNDING * max(abs(a), 1.0) for a, b in itertools.pairwise(elbos))
        return any(falls) or not np.isfinite(elbos).all()

    def _stop(self) -> tuple[bool, str] | None:
        """Whether the run converged, and why it ends; `None` if it goes on."""
        count = len(self.elbos) - 1
        if count < 1 or not np.isfinite(self.elbos[-1]):
            return False, "the ELBO is not finite"
        if estimated_rise(self.elbos[-3:]) < self.tolerance:
            words = f"within an estimated {self.options.tolerance:g} nats{self.unit} of the maximum"
            return True, f"{count} sweeps of coordinate ascent, {words}"
        if count >= self.options.max_sweeps:
            return False, f"not converged in {count} sweeps"
        if time_is_up():
            return False, f"not converged: {end_reason()} after {count} sweeps"
        return None

    def _best_topics(self, words: WordCounts, restarts: int) -> Families:
        """The best of several starts of latent Dirichlet allocation, one of a large corpus."""
        many = len(words.counts) * len(words.alpha) >= _MANY_ENTRIES
        best: Families = {}
        highest = -np.inf
        for number in range(1 if many else restarts):
            rng = host_rng(fold_in(self.key, number))
            found, passes = topics_start(words, self.options.max_sweeps, self.tolerance, rng)
            self.sweeps += passes
            _, (elbo, *_) = self._run(found, 1)
            if elbo > highest or not best:
                best, highest = found, elbo
            if time_is_up():
                break
        return best

    def _best_start(self, families: Families, restarts: int) -> Families:
        """The best of several perturbed starts after a few sweeps each, of many rows on some."""
        pooled, _ = self._run(families, 2, trial=True)
        best, highest = families, -np.inf
        for number in range(restarts):
            start = self.perturb(pooled, fold_in(self.key, number))
            found, elbos = self._run(start, _TRIAL, trial=True)
            if elbos[-1] > highest:
                best, highest = found, elbos[-1]
            if time_is_up():
                break
        for _ in range(_CONTINUED if self.try_out is not self.ascend else 0):
            best, _ = self._run(best, _CHUNK, trial=True)
        return best


def perturbed_start(
    target: Target, plan: ConjugatePlan, families: Families, key: Array
) -> Families:
    """See `perturbed`; as one program, since each of its operations would be compiled by itself."""
    return perturbed(families, plan, key)


def estimated_rise(elbos: Any) -> Any:
    """The estimated further rise of a sequence that converges linearly, from its last three.

    `d r / (1 - r)` for the last rise `d` and its ratio `r` to the one before (Aitken); infinite
    for a shorter sequence, zero where the last rise is a rounding error.
    """
    if len(elbos) < 3:
        return np.inf
    first, second, third = elbos
    last, before = third - second, second - first
    xp = jnp if isinstance(third, jax.Array) else np
    ratio = xp.clip(last / xp.where(before > 0, before, 1.0), 0.0, 0.999)
    rise = xp.where(before > 0, xp.maximum(last, 0.0) * ratio / (1 - ratio), np.inf)
    return xp.where(abs(last) <= 1e-13 * abs(third), 0.0, rise)


def sweep_many(
    target: Target,
    plan: ConjugatePlan,
    some_rows: bool,
    families: Families,
    batch: Batch,
    count: Array,
    tolerance: Array,
    rate: Array,
) -> _Sweeps:
    """At most `count` sweeps of steps of a `rate`, fewer if they converge.

    With `some_rows` a sample of the rows of discrete sites stands for all of them.
    """

    def sweep(families: Families) -> tuple[Families, Array]:
        """The families after a sweep, and the ELBO before it."""
        before = jnp.zeros(())
        for color in range(plan.num_colors):
            names = of_color(plan, color, families)
            state = families, batch, names, some_rows
            expected, gradient = expected_log_joint(target, plan, *state)
            if color == 0:
                before = expected + entropy(target, plan, families)
            families = families | {n: families[n].step(g, rate) for n, g in gradient.items()}
        return families, before

    def body(state: tuple[Families, Array, Array, Array]) -> tuple[Families, Array, Array, Array]:
        families, elbos, done, _ = state
        new, elbo = sweep(families)
        elbos = elbos.at[done].set(elbo)
        converged = estimated_rise([elbos[done - 2], elbos[done - 1], elbo]) < tolerance
        # the last sweep only evaluates the ELBO of the families it starts from
        stop = (done == count) | ((done >= 2) & converged) | ~jnp.isfinite(elbo)
        new = jax.tree.map(lambda a, b: jnp.where(stop, a, b), families, new)
        return new, elbos, done + 1, stop

    start = families, jnp.zeros(_CHUNK + 1), jnp.zeros((), int), jnp.zeros((), bool)
    families, elbos, done, _ = jax.lax.while_loop(lambda state: ~state[3], body, start)
    return _Sweeps(families, *target.devices.replicate((elbos, done - 1)))

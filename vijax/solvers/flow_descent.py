"""Fits a flow: its base first, by the base's own solver, then all of it by gradient descent."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.flatten_util import ravel_pytree

from vijax.contracts import (
    Batch,
    Guide,
    PyTree,
    Solution,
    Solver,
    Target,
    TransportGuide,
    Variables,
)
from vijax.contracts.kernel import Floats, Kernel
from vijax.diagnostics.importance import gain
from vijax.guides.flow import Flow
from vijax.runtime.errors import GuideError, mismatch
from vijax.runtime.keys import fold_in, host_rng

_PIECE = 100  # steps of one call to the device
_WARM_UP = 50  # steps at the start of a cycle in which the step size rises
_FIRST, _SECOND = 0.9, 0.999  # Adam's memories, of gradients and of their squares
_DRIFT = 0.05  # by how much a step moves the running median of log gradient norms
_CLIP, _SKIP = 3.0, 100.0  # multiples of that median: longer gradients are cut, or left out
_SCORES, _FEWEST_SCORES = 4000, 500  # draws that judge a cycle
_SCORED = 2**22  # numbers that these may hold, where that leaves as many as the fewest


class Descent(NamedTuple):
    """State of the optimizer, with all parameters in one vector `(num,)`.

    Attributes:
        values: the guide's parameters.
        mean: running mean of gradients.
        square: running mean of their squares.
        norm: running median of the log gradient norm, a scalar.
        steps: so far.
    """

    values: Array
    mean: Array
    square: Array
    norm: Array
    steps: Array


@dataclasses.dataclass(frozen=True)
class FlowDescent(Solver):
    """Path gradients of the ELBO, many draws a step, in cycles of falling step size.

    The base is fitted by `base`, the layers stay at the identity until then. A cycle warms up
    and falls to zero along a cosine; Adam's updates, gradients longer than three running median
    norms cut to that. The parameters with the best ELBO on fresh draws are kept: the flow is
    never worse than its base. Cycles, each half as fast as the one before, end when one gains
    less than it costs, or nothing that could be told from noise. Sources: Sticking the
    Landing, Roeder, Wu, Duvenaud, 2017; Flow Annealed Importance Sampling Bootstrap, Midgley et
    al., 2023, for the clipping by running medians.

    Args:
        base: the solver of the base, `None` if the variables hold it already.
        num_draws: draws of one step, even: every one comes with its mirror image.
        num_steps: steps of the first cycle; each later one takes twice as many as its forerunner.
        rate: largest step size of the first cycle.
        max_cycles: the limit.
        tolerance: smallest gain, in nats for every 1,000 steps, that is worth another cycle.

    Raises:
        GuideError: an option makes no sense.
    """

    maximizes_elbo: ClassVar[bool] = True
    exhaustive: ClassVar[bool] = True
    base: Solver | None = None
    num_draws: int = 64
    num_steps: int = 1000
    rate: float = 0.02
    max_cycles: int = 5
    tolerance: float = 0.01

    def __post_init__(self) -> None:
        if self.num_draws < 2 or self.num_draws % 2:
            raise GuideError(mismatch("num_draws", "an even number", self.num_draws))
        if self.num_steps < 1 or self.max_cycles < 1:
            raise GuideError(mismatch("num_steps, max_cycles", "at least 1", "less"))
        if not self.rate > 0:
            raise GuideError(mismatch("rate", "a positive number", self.rate))

    def solve(
        self, key: Array, target: Target, guide: Guide, variables: Variables, batch: Batch
    ) -> Solution:
        """Fits a flow; see `Solver.solve`.

        Raises:
            GuideError: the guide is not a `Flow`.
        """
        if not isinstance(guide, Flow):
            raise GuideError(mismatch("guide", "a Flow", repr(guide)))
        kernel = Kernel(target, batch, variables.model)
        params, alternatives, spent = variables.guide, (), 0
        if self.base is not None:
            held = variables._replace(guide=params.base)
            base = guide.base_for(target.space.dim)
            start = self.base.solve(key, target, base, held, batch)
            alternatives = tuple(params._replace(base=one) for one in start.alternatives)
            params, spent = params._replace(base=start.variables.guide), start.evaluations

        def score(params: PyTree) -> Floats:
            rng = host_rng(fold_in(key, 1))  # the same draws for every candidate
            num = int(np.clip(_SCORED // target.space.dim, _FEWEST_SCORES, _SCORES))
            draws = guide.host_draws(params, target.space, rng, num)
            return kernel.log_density(draws.points) - draws.log_q

        best, scored = params, score(params)
        losses: list[float] = []
        converged, number = False, 0
        while not converged and number < self.max_cycles:
            found, seen = self._cycle(number, key, target, guide, best, batch, variables.model)
            losses += seen
            number += 1
            fresh = score(found)
            gained, error = gain(fresh, scored)
            # a loss is no convergence: the step size was too large, the next one is smaller
            worth = self.tolerance * len(seen) / 1000
            converged = abs(gained) < max(worth, min(2 * error, 4 * self.tolerance))
            if gained > 0:
                best, scored = found, fresh
        gains = f"the last {len(seen)} gained {gained:.3g} +- {error:.2g} nats"
        done = f"after {len(losses)} steps: {gains}"
        if best is params:
            reason = f"the flow was no better than its base, which is kept, {done}"
        else:
            reason = f"{'converged' if converged else 'still gaining'} {done}"
        return Solution(
            variables._replace(guide=best),
            reason,
            converged,
            kernel.points + len(losses) * self.num_draws + spent,
            tuple(losses),
            alternatives,
        )

    def _cycle(
        self,
        number: int,
        key: Array,
        target: Target,
        guide: TransportGuide,
        params: PyTree,
        batch: Batch,
        model: dict[str, PyTree],
    ) -> tuple[PyTree, list[float]]:
        """Parameters at the end of a cycle, and the losses on the way."""
        program = target.program(descend, guide, self.num_draws)
        rng = host_rng(fold_in(key, 2 + number))
        state = _start(params)
        rates = self._rates(number)
        losses: list[float] = []
        for first in range(0, len(rates), _PIECE):
            part = rates[first : first + _PIECE]
            shape = (len(part), self.num_draws // 2, target.space.dim)
            # made here, they need no generator compiled into the program
            noise = rng.standard_normal(shape, np.float32)
            state, seen = program(state, params, noise, part, batch, model)
            losses += np.asarray(seen, np.float64).tolist()
        unravel = _unraveler(params)
        return unravel(np.asarray(state.values)), losses

    def _rates(self, number: int) -> Floats:
        """Step sizes of a cycle, `(num,)`, in whole pieces so that one program serves all."""
        length = -(-self.num_steps * 2**number // _PIECE) * _PIECE
        t = np.arange(length)
        warm = np.minimum(1.0, (t + 1) / _WARM_UP)
        rates = self.rate / 2**number * warm * 0.5 * (1 + np.cos(np.pi * t / length))
        return rates.astype(np.float32)


def descend(
    target: Target,
    guide: TransportGuide,
    num_draws: int,
    state: Descent,
    template: PyTree,
    noise: Array,
    rates: Array,
    batch: Batch,
    model: dict[str, PyTree],
) -> tuple[Descent, Array]:
    """One step for each of `rates` `(num,)`; also the losses `(num,)`.

    `noise` is `(num, num_draws / 2, dim)`; every draw comes with its mirror image.
    """
    unravel = ravel_pytree(template)[1]

    def loss_of(values: Array, noise: Array) -> Array:
        params = unravel(values)

        def one(noise: Array) -> Array:
            z, log_q = guide.path_transport(params, target.space, noise)
            return log_q - target.log_density(target.space.unravel(z), batch, model)

        return jnp.mean(jax.vmap(one)(jnp.concatenate([noise, -noise])))

    def step(state: Descent, now: tuple[Array, Array]) -> tuple[Descent, Array]:
        noise, rate = now
        loss, gradient = jax.value_and_grad(loss_of)(state.values, noise)
        return _update(state, loss, gradient, rate), loss

    return lax.scan(step, state, (noise, rates))


def _update(state: Descent, loss: Array, gradient: Array, rate: Array) -> Descent:
    """Adam on a clipped gradient; a step that is not finite, or out of all proportion, is none."""
    log_norm = 0.5 * jnp.log(jnp.sum(gradient**2))
    norm = jnp.where(state.steps == 0, log_norm, state.norm)
    ok = jnp.isfinite(loss) & jnp.isfinite(log_norm) & (log_norm < norm + math.log(_SKIP))
    gradient = gradient * jnp.exp(jnp.minimum(0.0, norm + math.log(_CLIP) - log_norm))
    count = state.steps + 1
    mean = _FIRST * state.mean + (1 - _FIRST) * gradient
    square = _SECOND * state.square + (1 - _SECOND) * gradient**2
    scale = jnp.sqrt(square / (1 - _SECOND**count)) + 1e-8
    values = state.values - rate / (1 - _FIRST**count) * mean / scale
    moved = Descent(values, mean, square, norm + _DRIFT * jnp.sign(log_norm - norm), count)
    # where steps are left out, what counts as out of proportion grows
    kept = state._replace(norm=jnp.where(jnp.isfinite(norm), norm + _DRIFT, 0.0))
    return jax.tree.map(lambda new, old: jnp.where(ok, new, old), moved, kept)


def _start(params: PyTree) -> Descent:
    values = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])
    zeros = np.zeros_like(values)
    scalar = np.zeros((), values.dtype)
    return jax.device_put(Descent(*(values, zeros, zeros, scalar, scalar)))  # type: ignore[arg-type]


def _unraveler(template: PyTree) -> Callable[[np.ndarray], PyTree]:
    """Cuts a vector on the host into a tree; `ravel_pytree` would compile a program for it."""
    leaves, treedef = jax.tree.flatten(template)
    cuts = np.cumsum([np.size(leaf) for leaf in leaves])[:-1]

    def unravel(values: np.ndarray) -> PyTree:
        parts = np.split(values, cuts)
        shaped = [part.reshape(np.shape(leaf)) for part, leaf in zip(parts, leaves, strict=True)]
        return jax.tree.unflatten(treedef, jax.device_put(shaped))

    return unravel

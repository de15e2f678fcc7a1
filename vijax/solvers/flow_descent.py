"""Fits a normalizing flow: the base by a solver, then all parameters by gradient descent."""

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
from vijax.runtime.deadline import end_reason, offer, partial_results, time_is_up
from vijax.runtime.errors import GuideError, mismatch
from vijax.runtime.keys import fold_in, host_rng
from vijax.runtime.progress import advance, expect

_CHUNK = 100  # steps per call to the device
_WARM_UP = 50  # linear warm-up steps of a cycle
_BETA1, _BETA2 = 0.9, 0.999  # Adam's decay rates of the two moments
_MEDIAN_STEP = 0.05  # step size of the running median of log gradient norms
_CLIP, _SKIP = 3.0, 100.0  # multiples of that median at which gradients are clipped, or skipped
_MAX_DRAWS, _MIN_DRAWS = 4000, 500  # draws for the ELBO of a cycle
_MAX_ELEMENTS = 2**22  # array elements of these draws, at no fewer than `_MIN_DRAWS` draws


class Descent(NamedTuple):
    """State of the optimizer, with all parameters in one vector `(num,)`.

    Attributes:
        values: the guide's parameters.
        mean: running mean of the gradients.
        square: running mean of their squares.
        norm: running median of the log gradient norm, a scalar.
        steps: number of steps.
    """

    values: Array
    mean: Array
    square: Array
    norm: Array
    steps: Array


@dataclasses.dataclass(frozen=True)
class FlowDescent(Solver):
    """Path gradients of the ELBO by Adam, in cycles of decreasing learning rate.

    The base is fitted first, by `base`, with the layers at the identity. The learning rate of a
    cycle warms up linearly and decays to zero along a cosine; gradients are clipped at three
    running median norms. The parameters with the best ELBO on common fresh draws are kept: the flow
    is never worse than its base. Each cycle has half the learning rate and twice the steps of the
    last; cycles stop when the gain is below `tolerance`, or insignificant. Sources: Sticking the
    Landing, Roeder, Wu, Duvenaud, 2017; Flow Annealed Importance Sampling Bootstrap, Midgley et
    al., 2023, for clipping by running medians.

    Args:
        base: the solver of the base, `None` if the variables contain a fitted base.
        num_draws: draws per step, even: they are antithetic pairs.
        num_steps: steps of the first cycle; each cycle takes twice as many as the last.
        rate: peak learning rate of the first cycle.
        max_cycles: maximum number of cycles.
        tolerance: smallest gain, in nats per 1,000 steps, for which another cycle is run.

    Raises:
        GuideError: an option is invalid.
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
        params, alternatives, evaluations, unseen = variables.guide, (), 0, None

        def with_base(found: Solution) -> Solution:
            """The flow that is not fitted, on a base."""
            of_flow = params._replace(base=found.variables.guide)
            return found._replace(variables=variables._replace(guide=of_flow), alternatives=())

        if self.base is not None:
            base_variables = variables._replace(guide=params.base)
            base = guide.base_for(target.space.dim)
            with partial_results(lambda found: offer(lambda: with_base(found()))):
                start = self.base.solve(key, target, base, base_variables, batch)
            alternatives = tuple(params._replace(base=one) for one in start.alternatives)
            unseen = start.unseen
            params, evaluations = params._replace(base=start.variables.guide), start.evaluations

        reason = "the flow was not fitted, this is its base"
        on_base = variables._replace(guide=params)
        base_only = Solution(on_base, reason, False, evaluations, (), alternatives, unseen)
        if time_is_up():  # the steps of the flow are another program, which takes long to compile
            return base_only._replace(reason=f"not converged: {end_reason()}; {reason}")
        offer(lambda: base_only)

        def elbo_terms(params: PyTree) -> Floats:
            rng = host_rng(fold_in(key, 1))  # the same draws for every candidate
            num = int(np.clip(_MAX_ELEMENTS // target.space.dim, _MIN_DRAWS, _MAX_DRAWS))
            draws = guide.host_draws(params, target.space, rng, num)
            return kernel.log_density(draws.points) - draws.log_q

        best, best_terms = params, elbo_terms(params)
        losses: list[float] = []
        converged, cycle = False, 0
        while not converged and cycle < self.max_cycles:
            candidate, new = self._run_cycle(
                cycle, key, target, guide, best, batch, variables.model
            )
            losses += new
            cycle += 1
            terms = elbo_terms(candidate)
            elbo_gain, se = gain(terms, best_terms)
            # a significant loss is no convergence: the learning rate was too large
            min_gain = self.tolerance * len(new) / 1000
            converged = abs(elbo_gain) < max(min_gain, min(2 * se, 4 * self.tolerance))
            if elbo_gain > 0:
                best, best_terms = candidate, terms
            if time_is_up():
                break
        last = f"ELBO gain of the last {len(new)}: {elbo_gain:.3g} ± {se:.2g} nats"
        summary = f"after {len(losses)} steps; {last}"
        if best is params:
            reason = f"the flow was no better than its base, which is kept, {summary}"
        else:
            reason = f"{'converged' if converged else 'not converged'} {summary}"
        return Solution(
            variables._replace(guide=best),
            reason,
            converged,
            kernel.points + len(losses) * self.num_draws + evaluations,
            tuple(losses),
            alternatives,
            unseen,
        )

    def _run_cycle(
        self,
        cycle: int,
        key: Array,
        target: Target,
        guide: TransportGuide,
        params: PyTree,
        batch: Batch,
        model: dict[str, PyTree],
    ) -> tuple[PyTree, list[float]]:
        """Parameters at the end of a cycle, and the loss of each step."""
        program = target.program(descend, guide, self.num_draws)
        rng = host_rng(fold_in(key, 2 + cycle))
        state = _start(params)
        rates = self._rates(cycle)
        losses: list[float] = []
        expect(len(rates), "step")
        for first in range(0, len(rates), _CHUNK):
            chunk = rates[first : first + _CHUNK]
            shape = (len(chunk), self.num_draws // 2, target.space.dim)
            # noise from the host: no generator is compiled into the program
            noise = rng.standard_normal(shape, np.float32)
            state, new = program(state, params, noise, chunk, batch, model)
            losses += np.asarray(new, np.float64).tolist()
            advance(len(chunk), "step")
            if time_is_up():
                break
        unravel = _unraveler(params)
        return unravel(np.asarray(state.values)), losses

    def _rates(self, cycle: int) -> Floats:
        """Learning rates of a cycle, `(num,)`, in full chunks so that one program serves all."""
        length = -(-self.num_steps * 2**cycle // _CHUNK) * _CHUNK
        t = np.arange(length)
        warm = np.minimum(1.0, (t + 1) / _WARM_UP)
        rates = self.rate / 2**cycle * warm * 0.5 * (1 + np.cos(np.pi * t / length))
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
    """One step for each of `rates` `(num,)`; returns also the losses `(num,)`.

    `noise` is `(num, num_draws / 2, dim)`; the other half of the draws is antithetic.
    """
    unravel = ravel_pytree(template)[1]

    def loss_of(values: Array, noise: Array) -> Array:
        params = unravel(values)

        def one(noise: Array) -> Array:
            z, log_q = guide.path_transport(params, target.space, noise)
            return log_q - target.log_density(target.space.unravel(z), batch, model)

        return jnp.mean(jax.vmap(one)(jnp.concatenate([noise, -noise])))

    def step(state: Descent, inputs: tuple[Array, Array]) -> tuple[Descent, Array]:
        noise, rate = inputs
        loss, gradient = jax.value_and_grad(loss_of)(state.values, noise)
        return _update(state, loss, gradient, rate), loss

    return lax.scan(step, state, (noise, rates))


def _update(state: Descent, loss: Array, gradient: Array, rate: Array) -> Descent:
    """Adam on a clipped gradient; skips a gradient that is not finite, or far too large."""
    log_norm = 0.5 * jnp.log(jnp.sum(gradient**2))
    norm = jnp.where(state.steps == 0, log_norm, state.norm)
    ok = jnp.isfinite(loss) & jnp.isfinite(log_norm) & (log_norm < norm + math.log(_SKIP))
    gradient = gradient * jnp.exp(jnp.minimum(0.0, norm + math.log(_CLIP) - log_norm))
    count = state.steps + 1
    mean = _BETA1 * state.mean + (1 - _BETA1) * gradient
    square = _BETA2 * state.square + (1 - _BETA2) * gradient**2
    scale = jnp.sqrt(square / (1 - _BETA2**count)) + 1e-8
    values = state.values - rate / (1 - _BETA1**count) * mean / scale
    updated = Descent(values, mean, square, norm + _MEDIAN_STEP * jnp.sign(log_norm - norm), count)
    # a skipped step raises the threshold
    skipped = state._replace(norm=jnp.where(jnp.isfinite(norm), norm + _MEDIAN_STEP, 0.0))
    return jax.tree.map(lambda new, old: jnp.where(ok, new, old), updated, skipped)


def _start(params: PyTree) -> Descent:
    values = np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(params)])
    zeros = np.zeros_like(values)
    scalar = np.zeros((), values.dtype)
    return jax.device_put(Descent(*(values, zeros, zeros, scalar, scalar)))  # type: ignore[arg-type]


def _unraveler(template: PyTree) -> Callable[[np.ndarray], PyTree]:
    """Unravels a vector on the host into a tree; `ravel_pytree` would compile a program."""
    leaves, treedef = jax.tree.flatten(template)
    offsets = np.cumsum([np.size(leaf) for leaf in leaves])[:-1]

    def unravel(values: np.ndarray) -> PyTree:
        parts = np.split(values, offsets)
        shaped = [part.reshape(np.shape(leaf)) for part, leaf in zip(parts, leaves, strict=True)]
        return jax.tree.unflatten(treedef, jax.device_put(shaped))

    return unravel

"""Stochastic gradient Hamiltonian Monte Carlo, whose states are the points of a particle guide."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from vijax.algorithms.collector import Collector
from vijax.algorithms.gradient import Adam, Optimizer, mixed_target
from vijax.algorithms.model_steps import (
    ascend_model,
    require_differentiable,
    require_shared,
    require_steps,
)
from vijax.contracts import Batch, Guide, Info, PyTree, Target, Variables
from vijax.guides import Particles
from vijax.guides.particles import ParticlesParams
from vijax.objectives.estimators.particles import merge_mutable, model_batch
from vijax.runtime.checks import check_count
from vijax.runtime.errors import GuideError, mismatch
from vijax.runtime.precision import check_precision

_DECAY = 0.99  # of the moving average of squared gradients
_LEAST = 1e-8  # of these, of a coordinate without a gradient


class SGHMCState(NamedTuple):
    """The state of SGHMC.

    Attributes:
        variables: the guide's points, the last states of the chains, and the `param` sites.
        positions: of the chains, `(chains, dim)`.
        momenta: in units of their standard deviation, `(chains, dim)`.
        squares: moving average of the squared gradient, `(dim,)`.
        mutable: the model's mutable state.
        optimizer: of the positions in the warm-up.
        model_optimizer: of the `param` sites.
        rate: factor of the step size.
        step: number of steps.
    """

    variables: Variables
    positions: Array
    momenta: Array
    squares: Array
    mutable: dict[str, PyTree]
    optimizer: PyTree
    model_optimizer: PyTree
    rate: Array
    step: Array


@dataclasses.dataclass(frozen=True)
class SGHMC(Collector):
    """Stochastic gradient Hamiltonian Monte Carlo: a sampler with one gradient a step.

    It is a check of other approximations of networks: its draws follow no parametric family, and on
    minibatches cost what a gradient step costs. With the gradient `g` of the log joint density,
    `h = rate`, `m = momentum` and standard normals `e`, chains move by

        p <- p + h s g,    x <- x + h/2 s p,    p <- m p + sqrt(1 - m^2) e,    x <- x + h/2 s p

    (the splitting BAOAB). For a Gaussian density and gradients of all rows, the stationary
    distribution of `x` is exact at any stable `h`, so that steps may be large. The noise of
    minibatches raises variances by a factor of at most about `1 + h^2 (1 + m) / (1 - m) / 4`, 5 %
    by default. `momentum=0` is stochastic gradient Langevin dynamics, with `h^2 / 2` the step size
    of its source, by the method of Leimkuhler and Matthews.

    In the first quarter of the fit, `start / 2` steps, an optimizer finds a mode; until `start` the
    scales `s` of the coordinates adapt, `1 / s^2` to the mean squared gradient, which under the
    posterior is the diagonal of the precision. `h` is therefore about the same in all models. From
    then on the chains are stationary Markov chains. The guide, `Particles(num)`, has their last
    `num` states, every `every` steps one of each chain.

    Sources: Bayesian Learning via Stochastic Gradient Langevin Dynamics, Welling and Teh, 2011;
    Stochastic Gradient Hamiltonian Monte Carlo, Chen, Fox and Guestrin, 2014; Rational Construction
    of Stochastic Numerical Methods for Molecular Sampling, Leimkuhler and Matthews, 2013.

    Args:
        rate: step size in units of the posterior's scale, at most 2 of the narrowest direction.
        momentum: share of the momentum that a step keeps.
        num_chains: number of chains, all in one program.
        start: steps of the warm-up; by default half of those of the fit.
        every: steps between two states that are kept; by default such that the last ones span all
            steps after the warm-up.
        optimizer: of the first half of the warm-up, and of `param` sites.
        precision: as in `Gradient`.

    Raises:
        ValueError: an option is out of its range, or on use, the fit has no `num_steps`, or too few
            for the number of particles.
        GuideError: on use, with another guide, or a number of particles that is no multiple of the
            number of chains.
    """

    rate: float = 0.1
    momentum: float = 0.9
    num_chains: int = 4
    start: int | None = None
    every: int | None = None
    optimizer: Optimizer = Adam(0.01)
    precision: str | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_precision(self.precision)
        if not self.rate > 0:
            raise ValueError(mismatch("rate", "a positive number", self.rate))
        if not 0 <= self.momentum < 1:
            raise ValueError(mismatch("momentum", "a number in [0, 1)", self.momentum))
        check_count("num_chains", self.num_chains)
        for name in ("start", "every"):
            check_count(name, getattr(self, name), optional=True)

    @property
    def default_guide(self) -> Guide:
        return Particles(100, init_scale=0.1)

    def for_fit(self, num_steps: int | None, guide: Guide) -> SGHMC:
        num_steps = require_steps(num_steps, "sghmc")
        if not isinstance(guide, Particles):
            expected = "a guide of particles, vijax.guides.Particles(100)"
            raise GuideError(mismatch("algorithm='sghmc'", expected, repr(guide)))
        if guide.num % self.num_chains:
            expected = f"a multiple of the number of chains, {self.num_chains}"
            raise GuideError(mismatch("Particles(num=...)", expected, guide.num))
        start = num_steps // 2 if self.start is None else self.start
        kept = guide.num // self.num_chains
        every = self.every or max(1, (num_steps - start) // kept)
        if num_steps < start + kept * every:
            expected = f"at least start + {kept} every = {start + kept * every}"
            remedy = f"Each of {self.num_chains} chains gives {kept} of {guide.num} particles."
            raise ValueError(mismatch("num_steps", expected, num_steps, remedy))
        return dataclasses.replace(self, start=start, every=every)

    def init(
        self,
        variables: Variables,
        mutable: dict[str, PyTree],
        key: Array,
        target: Target,
        guide: Guide,
        batch: Batch,
    ) -> SGHMCState:
        require_differentiable(target, "sghmc")
        require_shared(target, "sghmc")
        positions = variables.guide.points[: self.num_chains]
        transformation = self.optimizer.transformation
        return SGHMCState(
            variables,
            positions,
            jnp.zeros_like(positions),
            jnp.zeros_like(positions[0]),
            mutable,
            transformation.init(positions),
            transformation.init(variables.model),
            jnp.ones((), jnp.result_type(float)),
            jnp.zeros((), int),
        )

    def step(
        self, state: SGHMCState, key: Array, target: Target, guide: Guide, batch: Batch
    ) -> tuple[SGHMCState, Info]:
        if self.precision is not None:
            target = mixed_target(target, self.precision)
        start, every = self.start or 1, self.every or 1
        space, model = target.space, state.variables.model
        keys = jax.random.split(key, self.num_chains)
        optimizing, first = state.step < start // 2, state.step == 0

        def log_density(x: Array, model: Any, key: Array) -> tuple[Array, PyTree]:
            given = model_batch(key, batch)
            found = target.evaluate(space.unravel(x), given, model, state.mutable)
            return found.log_density, found.mutable

        noise = jax.vmap(lambda k: jax.random.normal(k, state.positions[0].shape))(keys)
        noise = noise.astype(state.positions.dtype)
        # at a mode itself the squared gradient would say nothing: the optimizer sees it near by
        scale = lax.rsqrt(jnp.maximum(state.squares, _LEAST))
        spread = jnp.where(optimizing & ~first, scale * noise, 0)
        with_gradients = jax.value_and_grad(log_density, argnums=(0, 1), has_aux=True)
        (log_p, states), (slope, of_model) = jax.vmap(with_gradients, (0, None, 0))(
            state.positions + spread, model, keys
        )
        found = jnp.mean(slope**2, axis=0)
        adapted = jnp.where(first, found, _DECAY * state.squares + (1 - _DECAY) * found)
        squares = jnp.where(state.step < start, adapted, state.squares)
        positions, momenta, optimizer = lax.cond(
            optimizing,
            lambda: self._optimize(state, slope, noise),
            lambda: (*self._move(state, scale, slope, noise), state.optimizer),
        )
        step = state.step + 1
        kept = state.variables.guide.points
        points = lax.cond(
            step % every == 0,
            lambda: self._keep(kept, positions, step // every - 1),
            lambda: kept,
        )
        variables = state.variables._replace(guide=ParticlesParams(points))
        variables, model_optimizer = ascend_model(
            self.optimizer,
            state.model_optimizer,
            variables,
            jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), of_model),
        )
        new = SGHMCState(
            variables,
            positions,
            momenta,
            squares,
            jax.tree.map(merge_mutable, states),
            optimizer,
            model_optimizer,
            state.rate,
            step,
        )
        return new, Info(-jnp.mean(log_p))

    def _optimize(
        self, state: SGHMCState, slope: Array, noise: Array
    ) -> tuple[Array, Array, PyTree]:
        """Positions after a step of the optimizer, momenta that are drawn anew, and its state."""
        update = self.optimizer.transformation.update
        updates, optimizer = update(-slope, state.optimizer, state.positions)
        return optax.apply_updates(state.positions, updates), noise, optimizer

    def _move(
        self, state: SGHMCState, scale: Array, slope: Array, noise: Array
    ) -> tuple[Array, Array]:
        """Positions and momenta after a step of the sampler."""
        h, m = self.rate * state.rate.astype(scale.dtype), self.momentum
        p = state.momenta + h * scale * slope
        x = state.positions + 0.5 * h * scale * p
        p = m * p + (1 - m**2) ** 0.5 * noise
        return x + 0.5 * h * scale * p, p

    def _keep(self, points: Array, positions: Array, number: Array) -> Array:
        """The points with the positions in place of the oldest.

        The first ones replace all, so that a fit that is left early has no initial values.
        """
        tiled = jnp.tile(positions, (len(points) // self.num_chains, 1))
        points = jnp.where(number == 0, tiled, points)
        at = (number * self.num_chains) % len(points)
        return lax.dynamic_update_slice_in_dim(points, positions, at, 0)

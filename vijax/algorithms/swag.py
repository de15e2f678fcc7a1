"""SWAG and stochastic weight averaging: moments of the iterates of stochastic gradient steps."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from vijax.algorithms.collector import Collector
from vijax.algorithms.gradient import Adam, Optimizer, mixed_target
from vijax.algorithms.model_steps import require_differentiable, require_shared, require_steps
from vijax.contracts import (
    Batch,
    Guide,
    Info,
    Position,
    PyTree,
    Space,
    Target,
    Variables,
)
from vijax.guides import Delta, LowRank, MeanField
from vijax.guides.delta import DeltaParams
from vijax.guides.location_scale.low_rank import LowRankParams
from vijax.guides.location_scale.mean_field import MeanFieldParams
from vijax.objectives.estimators.particles import model_batch
from vijax.runtime.checks import check_count
from vijax.runtime.errors import GuideError, mismatch
from vijax.runtime.precision import check_precision

_COLLECTED = 100  # iterates that are averaged by default
_LEAST_SD = 1e-6  # of a coordinate that does not move


class Moments(NamedTuple):
    """Moments of the iterates collected so far.

    Attributes:
        total: their number.
        mean: their mean.
        squares: sum of squared deviations from it; without leaves for a point estimate.
        deviations: of the last ones from the mean at that time, `(rank, dim)`; without leaves for
            guides without correlations.
    """

    total: Array
    mean: PyTree
    squares: PyTree
    deviations: PyTree


class SWAGState(NamedTuple):
    """The state of SWAG.

    Attributes:
        variables: the guide's parameters, by the moments, and the mean of the model's `param`
            sites.
        iterate: the position, and the `param` sites.
        moments: of the positions, in the layout of the guide's `loc`.
        mutable: the model's mutable state.
        optimizer: the optimizer's state.
        rate: factor of its updates.
        step: number of steps.
    """

    variables: Variables
    iterate: Variables
    moments: Moments
    mutable: dict[str, PyTree]
    optimizer: PyTree
    rate: Array
    step: Array


@dataclasses.dataclass(frozen=True)
class SWAG(Collector):
    """Stochastic weight averaging, Gaussian: a posterior from the iterates of gradient steps.

    Gradient steps on the log joint density, as for a point estimate, at a step size that does not
    fall. After `start` of them, every `every`-th iterate `x` enters a running mean, a running
    variance `V` and the last `K` deviations `D` from the mean, `(dim, K)`. The guide is

    - `N(mean, (diag(V) + D D' / (K - 1)) / 2)` of a `LowRank(K)` guide, the default with `K = 20`;
    - `N(mean, diag(V))` of a `MeanField` guide;
    - the mean, of a `Delta` guide (`"map"`): stochastic weight averaging.

    The spread is that of the iterates: it grows with the step size and the noise of minibatches,
    and is the posterior's only by the choice of these. On all rows there is no such noise, and only
    the mean has a meaning. `batch_size=` is therefore needed, and `num_steps=`. The mean of the
    iterates often predicts better than any of them. Running statistics of the network are those of
    the last iterate, not of the mean: prefer layers without.

    Sources: A Simple Baseline for Bayesian Uncertainty in Deep Learning, Maddox, Garipov, Izmailov,
    Vetrov and Wilson, 2019; Averaging Weights Leads to Wider Optima and Better Generalization,
    Izmailov, Podoprikhin, Garipov, Vetrov and Wilson, 2018.

    Args:
        optimizer: of all steps; a schedule that ends in a constant separates the warm-up from the
            averaging.
        start: steps before the first iterate that is averaged; by default half of those of the fit.
        every: steps between two of them; by default a hundredth of the rest. One pass over the
            data, in the source.
        precision: as in `Gradient`.

    Raises:
        ValueError: an option is out of its range, or on use, the fit has no `num_steps`, or too few
            to average two iterates.
        GuideError: on use, with another guide.
    """

    optimizer: Optimizer = Adam(0.01)
    start: int | None = None
    every: int | None = None
    precision: str | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_precision(self.precision)
        if self.start is not None and self.start != 0:
            check_count("start", self.start)
        check_count("every", self.every, optional=True)

    @property
    def default_guide(self) -> Guide:
        return LowRank(20)

    def for_fit(self, num_steps: int | None, guide: Guide) -> SWAG:
        if not isinstance(guide, LowRank | MeanField | Delta):
            expected = "guide='lowrank', 'meanfield' or, for the mean only, 'map'"
            raise GuideError(mismatch("algorithm='swag'", expected, repr(guide)))
        num_steps = require_steps(num_steps, "swag")
        start = num_steps // 2 if self.start is None else self.start
        every = self.every or max(1, (num_steps - start) // _COLLECTED)
        if num_steps < start + 2 * every:
            expected = f"at least start + 2 every = {start + 2 * every}, to average two iterates"
            raise ValueError(mismatch("num_steps", expected, num_steps))
        return dataclasses.replace(self, start=start, every=every)

    def init(
        self,
        variables: Variables,
        mutable: dict[str, PyTree],
        key: Array,
        target: Target,
        guide: Guide,
        batch: Batch,
    ) -> SWAGState:
        require_differentiable(target, "swag")
        require_shared(target, "swag")
        params = variables.guide
        position = _position(params, target.space)
        iterate = Variables(position, variables.model)
        moments = Moments(
            jnp.zeros((), int),
            params.loc,
            () if isinstance(guide, Delta) else jax.tree.map(jnp.zeros_like, params.loc),
            jnp.zeros_like(params.factor.T) if isinstance(guide, LowRank) else (),
        )
        return SWAGState(
            variables,
            iterate,
            moments,
            mutable,
            self.optimizer.transformation.init(iterate),
            jnp.ones((), jnp.result_type(float)),
            jnp.zeros((), int),
        )

    def step(
        self, state: SWAGState, key: Array, target: Target, guide: Guide, batch: Batch
    ) -> tuple[SWAGState, Info]:
        if self.precision is not None:
            target = mixed_target(target, self.precision)
        given = model_batch(key, batch)

        def loss_of(iterate: Variables) -> tuple[Array, dict[str, PyTree]]:
            found = target.evaluate(iterate.guide, given, iterate.model, state.mutable)
            return -found.log_density, found.mutable

        (loss, mutable), gradient = jax.value_and_grad(loss_of, has_aux=True)(state.iterate)
        updates, optimizer = self.optimizer.transformation.update(
            gradient, state.optimizer, state.iterate
        )
        updates = jax.tree.map(lambda u: state.rate.astype(u.dtype) * u, updates)
        iterate, step = optax.apply_updates(state.iterate, updates), state.step + 1
        start, every = self.start or 0, self.every or 1
        space, before = target.space, (state.variables, state.moments)
        variables, moments = lax.cond(
            (step - start) % every == 0,
            lambda: _collect(*before, iterate, space, step > start),
            lambda: before,
        )
        new = SWAGState(variables, iterate, moments, mutable, optimizer, state.rate, step)
        return new, Info(loss)


def _position(params: Any, space: Space) -> Position:
    """The location of the guide as a position."""
    return space.unravel(params.loc) if isinstance(params, LowRankParams) else dict(params.loc)


def _collect(
    variables: Variables, moments: Moments, iterate: Variables, space: Space, started: Array
) -> tuple[Variables, Moments]:
    """Variables and moments with one more iterate, which the next replaces unless `started`."""
    count = moments.total + 1  # 1 throughout the warm-up, which has its last iterate
    params: Any = variables.guide
    x = space.ravel(iterate.guide) if isinstance(params, LowRankParams) else iterate.guide

    def average(mean: Array, value: Array) -> Array:
        return mean + (value - mean) / count.astype(mean.dtype)

    old, mean = moments.mean, jax.tree.map(average, moments.mean, x)
    moments = moments._replace(total=jnp.where(started, count, 0), mean=mean)
    mean_params = jax.tree.map(average, variables.model, iterate.model)
    if isinstance(params, DeltaParams):
        return Variables(DeltaParams(mean), mean_params), moments
    squares = jax.tree.map(lambda s, v, a, b: s + (v - a) * (v - b), moments.squares, x, old, mean)
    moments = moments._replace(squares=squares)
    variance = jax.tree.map(lambda s: s / count.astype(s.dtype), squares)
    if isinstance(params, MeanFieldParams):
        log_scale = jax.tree.map(_log_sd, variance)
        return Variables(MeanFieldParams(mean, log_scale), mean_params), moments
    rank = len(moments.deviations)
    deviations = moments.deviations.at[(count - 1) % rank].set(x - mean)
    log_scale = _log_sd(0.5 * variance)
    collected = jnp.clip(count - 1, 1, max(rank - 1, 1)).astype(variance.dtype)
    factor = deviations.T / (jnp.sqrt(2 * collected) * jnp.exp(log_scale)[:, None])
    params = LowRankParams(mean, log_scale, factor)
    return Variables(params, mean_params), moments._replace(deviations=deviations)


def _log_sd(variance: Array) -> Array:
    return 0.5 * jnp.log(jnp.maximum(variance, _LEAST_SD**2))

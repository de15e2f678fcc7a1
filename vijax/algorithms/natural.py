"""Natural-gradient steps for Gaussian guides: the Bayesian learning rule."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vijax.algorithms.gaussian_updates import Draws, full_rank_update, mean_field_update
from vijax.algorithms.gradient import Adam, Optimizer, mixed_target
from vijax.algorithms.model_steps import ascend_model, require_differentiable
from vijax.contracts import (
    Algorithm,
    Axes,
    Batch,
    Draw,
    Guide,
    Info,
    Part,
    Position,
    PyTree,
    Target,
    Variables,
)
from vijax.guides import FullRank, MeanField
from vijax.guides.location_scale.full_rank import FullRankParams
from vijax.guides.location_scale.mean_field import MeanFieldParams
from vijax.objectives.estimators.particles import merge_mutable, model_batch
from vijax.runtime.checks import check_count
from vijax.runtime.errors import GuideError, mismatch
from vijax.runtime.keys import Normals
from vijax.runtime.precision import check_precision

_MEAN_FIELD_RATE, _MEAN_FIELD_DRAWS = 0.1, 4
_FULL_RANK_RATE, _FULL_RANK_DRAWS = 0.2, 8
_DIM_PER_DRAW = 3  # the noise of a dense precision grows with the dimension over the draws
_MAX_NOISE = 0.5  # bound on the rate times that ratio: steps diverge from about one on


class NaturalState(NamedTuple):
    """The state of natural-gradient steps.

    Attributes:
        variables: the guide's parameters and the model's `param` sites.
        velocity: by part of the guide the velocity of its mean, empty for full-rank parts.
        mutable: the model's mutable state.
        optimizer: the state of the optimizer of `param` sites.
        rate: the step size.
    """

    variables: Variables
    velocity: tuple[PyTree, ...]
    mutable: dict[str, PyTree]
    optimizer: PyTree
    rate: Array


@dataclasses.dataclass(frozen=True)
class NaturalGradient(Algorithm):
    """Natural-gradient steps on the ELBO, for `MeanField` and `FullRank` guides.

    Natural parameters take a step towards the gradient of `E_q[log p]` in the mean parameters,
    `eta <- (1 - rate) eta + rate grad_mu E_q[log p]`. For a Gaussian of mean `m` and precision `P`
    these are `P' = (1 - rate) P - rate E_q[Hessian]` and `m' = m + rate P'^-1 E_q[grad log p]`: a
    Newton step averaged over the guide, exact on a Gaussian posterior at rate 1. No step depends
    on the scale or, for a full-rank guide, the correlation of the posterior, so that tens of steps
    suffice where Adam takes thousands. The curvature comes from the gradients at the draws, by
    Stein's identity. See `vijax.algorithms.gaussian_updates` for how precisions stay positive.

    On minibatches, a local latent variable's parameters move when its row is in the batch. Sites
    may be divided among several such guides. The model's `param` sites follow an optimizer.
    Sources: Conjugate-computation variational inference, Khan, Lin, 2017; the Bayesian learning
    rule, Khan, Rue, 2023.

    Args:
        rate: step size, at most 1; reduced by the stopping rule. By default 0.1, or 0.2 with a
            full-rank guide, and less where `num_particles` is small for its dimension.
        num_particles: draws per step, in antithetic pairs. By default 4, or a third of a full-rank
            guide's dimension if that is more than 8.
        momentum: that of the means of mean-field guides, below 1.
        optimizer: optimizer of `param` sites.
        precision: as in `Gradient`.

    Raises:
        ValueError: an option is out of its range.
        GuideError: on use, with another guide.

    >>> NaturalGradient(rate=0.05).momentum
    0.9
    """

    rate: float | None = None
    num_particles: int | None = None
    momentum: float = 0.9
    optimizer: Optimizer = Adam(0.05)
    precision: str | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        check_count("num_particles", self.num_particles, optional=True)
        check_precision(self.precision)
        if not (self.rate is None or 0 < self.rate <= 1):
            raise ValueError(mismatch("rate", "None or a number in (0, 1]", self.rate))
        if not 0 <= self.momentum < 1:
            raise ValueError(mismatch("momentum", "a number in [0, 1)", self.momentum))

    def init(
        self,
        variables: Variables,
        mutable: dict[str, PyTree],
        key: Array,
        target: Target,
        guide: Guide,
        batch: Batch,
    ) -> NaturalState:
        parts = guide.independent_parts(variables.guide, target.space)
        _check_parts(parts)
        require_differentiable(target, "natural")
        velocity = jax.tree.map(jnp.zeros_like, _means(variables.guide))
        optimizer = self.optimizer.transformation.init(variables.model)
        rate = jnp.asarray(self._rate(parts), jnp.result_type(float))
        return NaturalState(variables, velocity, mutable, optimizer, rate)

    def _rate(self, parts: Sequence[Part]) -> float:
        dim = _dense_dim(parts)
        if self.rate is not None or not dim:
            return self.rate or _MEAN_FIELD_RATE
        return min(_FULL_RANK_RATE, _MAX_NOISE * self._num_draws(parts) / dim)

    def _num_draws(self, parts: Sequence[Part]) -> int:
        dim = _dense_dim(parts)
        fewest = _FULL_RANK_DRAWS if dim else _MEAN_FIELD_DRAWS
        return self.num_particles or max(fewest, 2 * round(dim / _DIM_PER_DRAW / 2))

    def step(
        self, state: NaturalState, key: Array, target: Target, guide: Guide, batch: Batch
    ) -> tuple[NaturalState, Info]:
        if self.precision is not None:
            target = mixed_target(target, self.precision)
        parts = guide.independent_parts(state.variables.guide, target.space)
        keys = target.devices.shard_particles(jax.random.split(key, self._num_draws(parts)))
        z: Position = {}
        noises, log_q = [], jnp.zeros(())
        for i, part in enumerate(parts):
            noise = _antithetic_normals(jax.random.fold_in(key, i), len(keys), part)
            noises.append(target.devices.shard_particles(noise))
            points, log_q_part = _draws(part, noises[-1], batch)
            z, log_q = z | points, log_q + log_q_part

        def log_density(model: PyTree, z: Position, key: Array) -> tuple[Array, PyTree]:
            return target.evaluate(z, model_batch(key, batch), model, state.mutable)

        with_gradients = jax.value_and_grad(log_density, argnums=(0, 1), has_aux=True)
        (log_p, mutable), (model_gradient, gradient) = jax.vmap(with_gradients, (None, 0, 0))(
            state.variables.model, z, keys
        )
        draws = [Draws(noise, gradient) for noise in noises]
        state = self._moved(state, target, guide, draws)
        mean = jax.tree.map(lambda g: jnp.mean(g, axis=0), model_gradient)
        parts_of_state = self.optimizer, state.optimizer, state.variables
        variables, optimizer = ascend_model(*parts_of_state, mean)
        mutable = jax.tree.map(merge_mutable, mutable)
        state = state._replace(variables=variables, optimizer=optimizer, mutable=mutable)
        return state, Info(jnp.mean(log_q - log_p))

    def _moved(
        self, state: NaturalState, target: Target, guide: Guide, draws: Sequence[Draws]
    ) -> NaturalState:
        """The state after a step of every part of the guide."""
        inputs, velocity = zip(draws, state.velocity, strict=True), []
        rest = iter(inputs)

        def update(part: Part) -> PyTree:
            (_, params, space), (drawn, moving) = part, next(rest)
            if isinstance(params, FullRankParams):
                params = full_rank_update(params, space, drawn, state.rate)
            else:
                momentum = (state.rate, self.momentum)
                params, moving = mean_field_update(params, moving, space, drawn, *momentum)
            velocity.append(moving)
            return params

        params = guide.map_parts(state.variables.guide, target.space, update)
        variables = state.variables._replace(guide=params)
        return state._replace(variables=variables, velocity=tuple(velocity))

    def row_axes(self, state: NaturalState, axes: Variables) -> NaturalState:
        rest = state._replace(variables=axes, velocity=())
        shared: NaturalState = jax.tree.map(lambda _: Axes(), rest)
        return shared._replace(variables=axes, velocity=_means(axes.guide))

    def rescale(self, state: NaturalState, factor: float | Array) -> NaturalState:
        return state._replace(rate=state.rate * factor)

    def move(self, state: NaturalState, variables: Variables, reset: bool) -> NaturalState:
        velocity = jax.tree.map(jnp.zeros_like, state.velocity) if reset else state.velocity
        return state._replace(variables=variables, velocity=velocity)


def _check_parts(parts: Sequence[Part]) -> None:
    """Checks that the guide consists of Gaussians whose natural gradients are known.

    Raises:
        GuideError: naming a site with another guide.
    """
    for guide, _, space in parts:
        if not isinstance(guide, (MeanField, FullRank)):
            expected = "'meanfield', 'fullrank' or a mapping to these"
            raise GuideError(
                f"algorithm='natural': expected guide={expected}, got {guide!r} for site "
                f"{space.names[0]!r}. Use one of these, or algorithm='gradient'."
            )


def _dense_dim(parts: Sequence[Part]) -> int:
    """The largest dimension of a full-rank part, 0 if there is none."""
    return max((p.space.dim for p in parts if isinstance(p.guide, FullRank)), default=0)


def _means(params: PyTree) -> tuple[PyTree, ...]:
    """By part of a guide the means of a mean-field one, in the order of its parts."""
    kinds = (MeanFieldParams, FullRankParams)
    parts = jax.tree.leaves(params, is_leaf=lambda one: isinstance(one, kinds))
    return tuple(part.loc if isinstance(part, MeanFieldParams) else () for part in parts)


def _antithetic_normals(key: Array, num: int, part: Part) -> Array:
    """Standard normals `(num, dim)`, the second half the negative of the first.

    Pairs cancel the mean score in the estimate of the curvature, where it would be the largest
    source of noise far from the optimum.
    """
    half = jax.random.normal(key, ((num + 1) // 2, part.space.dim))
    return jnp.concatenate([half, -half])[:num]


def _draws(part: Part, noise: Array, batch: Batch) -> tuple[Position, Array]:
    """The draws of one part, by site, and their log density, `(num,)`."""
    guide, params, space = part

    def one(noise: Array) -> Draw:
        normals: Any = Normals(noise)
        return guide.draw(params, space, normals, batch)

    draw = jax.vmap(one)(noise)
    return draw.z, draw.log_q

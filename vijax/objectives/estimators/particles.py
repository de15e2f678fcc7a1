"""Draws of a guide with their weights: what every objective of several particles starts from."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from vijax.contracts import (
    Batch,
    DensityGuide,
    Guide,
    Position,
    PyTree,
    RowGuide,
    LossContext,
    Site,
    Space,
    Variables,
)
from vijax.runtime.errors import GuideError

Way = Literal["plain", "path", "score"]


class Particles(NamedTuple):
    """Independent draws, a leading axis each.

    Attributes:
        log_p: log density of the target, `(num,)`, or of each row in use, `(num, rows)`.
        log_q: log density of the guide, likewise.
        mutable: the model's new mutable state, merged.
        scale: what rows count for, all of them over those in use.
    """

    log_p: Array
    log_q: Array
    mutable: dict[str, PyTree]
    scale: float = 1.0

    @property
    def log_weights(self) -> Array:
        """`log p - log q`."""
        return self.log_p - self.log_q


def draw_particles(
    way: Way,
    num: int,
    variables: Variables,
    setting: LossContext,
    by_row: bool = False,
    stretch: Array | None = None,
) -> Particles:
    """Draws `num` particles.

    Args:
        way: in which gradients reach the guide's parameters. `"plain"`: every one there is;
            `"path"`: through the draw alone, with the parameters held fixed in `log_q`;
            `"score"`: through `log_q` alone, with the draw held fixed.
        num: how many.
        variables: what the gradient is taken in.
        setting: what an objective is evaluated in.
        by_row: whether each row has weights of its own; only if `has_independent_rows`.
        stretch: what gradients from `log_p` to the draws are multiplied by, in its shape.

    Raises:
        GuideError: `"path"` or `"score"` of a guide without a density, or any but `"score"` where
            there are discrete sites among the draws.
    """
    mutable, key, target, guide, batch, *_ = setting
    if way != "score" and target.space.discrete.sites:
        raise GuideError(
            f"objective: expected gradients through the draws, but those of site "
            f"{target.space.discrete.names[0]!r} are discrete. Use ELBO, which has estimators for "
            "them, or ScoreELBO, CUBO or ForwardKL."
        )
    if way != "plain":
        require_density(guide)

    def one(key: Array, stretch: Array | None) -> tuple[Array, Array, dict[str, PyTree]]:
        draw = guide.draw(variables.guide, target.space, key, batch)
        z, log_q = draw.z, draw.log_q
        if way == "path":
            assert isinstance(guide, DensityGuide)
            log_q = guide.path_log_q(variables.guide, target.space, key, draw, batch)
        elif way == "score":
            assert isinstance(guide, DensityGuide)
            z = stop_gradient(z)
            log_q = guide.log_prob(variables.guide, target.space, z, batch)
        at = z if stretch is None else _stretched(z, stretch, target.space)
        if by_row:
            fixed = stop_gradient(variables.guide) if way == "path" else variables.guide
            assert isinstance(guide, RowGuide)
            log_q = guide.row_log_probs(fixed, target.space, z, batch)
            log_p, after = _by_row(at, model_batch(key, batch), variables, setting)
        else:
            state = (model_batch(key, batch), variables.model, mutable)
            log_p, after = target.evaluate(at, *state)
        return log_p, log_q, after

    keys = target.devices.shard_particles(jax.random.split(key, num))
    log_p, log_q, states = jax.vmap(one)(keys, stretch)
    scale = target.space.sites[0].scale if by_row else 1.0
    return Particles(log_p, log_q, jax.tree.map(merge, states), scale)


def model_batch(key: Array, batch: Batch) -> Batch:
    """The batch for the model.

    A step's key draws from the guide; one derived from it, never computed unless the model draws
    too, is for the model.
    """
    return batch._replace(key=jax.random.fold_in(key, 1))


def require_density(guide: Guide) -> DensityGuide:
    """The guide, which must have a density.

    Raises:
        GuideError: it has none.
    """
    if not isinstance(guide, DensityGuide):
        raise GuideError(
            f"objective: expected a guide with a density, got {guide!r}. Use another guide, or an "
            "objective with estimator='plain'."
        )
    return guide


def has_independent_rows(setting: LossContext) -> bool:
    """Whether rows are independent under guide and model, so that each has weights of its own.

    All latents are in one plate, and so is all that the log density is made of.
    """
    target, guide = setting.target, setting.guide
    if not isinstance(guide, RowGuide):
        return False
    names = {tuple(plate.name for plate in site.plates) for site in target.space.sites}
    if len(names) != 1 or len(inside := names.pop()) != 1:
        return False
    layout = target.term_info(setting.batch)
    shapes = jax.eval_shape(
        lambda: _terms({s.name: jnp.zeros(s.z_shape) for s in target.space.sites}, setting)
    )
    return all(inside[0] in {p.name for p in layout[name].plates} for name in shapes)


def _terms(z: Position, setting: LossContext) -> dict[str, Array]:
    return setting.target.terms(z, setting.batch, {}, setting.mutable).values


def _by_row(
    z: Position, batch: Batch, variables: Variables, setting: LossContext
) -> tuple[Array, dict[str, PyTree]]:
    """Log density of every row in use, unscaled."""
    target = setting.target
    values, after = target.terms(z, batch, variables.model, setting.mutable)
    site = target.space.sites[0]
    (plate,) = site.plates
    total = jnp.zeros(())
    for value in values.values():
        others = [axis for axis in range(-value.ndim, 0) if axis != plate.dim]
        total += jnp.sum(value, axis=others)
    return total / site.scale, after


def _stretched(z: Position, factor: Array, space: Space) -> Position:
    """The position, whose gradients are multiplied by a factor, a scalar or one for each row."""

    def along(site: Site) -> Array:
        if not factor.ndim:
            return factor
        shape = [1] * len(site.z_shape)
        shape[len(site.shape) - site.event_dim + site.plates[0].dim] = -1
        return factor.reshape(shape)

    return {site.name: _scaled_back(z[site.name], along(site)) for site in space.sites}


@jax.custom_vjp
def _scaled_back(value: Array, factor: Array) -> Array:
    return value


_scaled_back.defvjp(
    lambda value, factor: (value, factor),
    lambda factor, slope: (factor * slope, jnp.zeros_like(factor)),
)


def merge(leaf: Array) -> Array:
    """Mutable state over particles: running statistics average, counters and keys agree."""
    return jnp.mean(leaf, axis=0) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf[0]


def with_gradient_of(value: Array, surrogate: Array) -> Array:
    """`value`, with the gradient of `surrogate`."""
    return stop_gradient(value - surrogate) + surrogate


def check_num(num: int, least: int = 1) -> None:
    """Refuses too few particles.

    Raises:
        ValueError: naming the option.
    """
    if num < least:
        raise ValueError(f"num_particles: expected at least {least}, got {num}.")

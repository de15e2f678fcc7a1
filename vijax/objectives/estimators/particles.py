"""Weighted draws from a guide, for multi-particle objectives."""

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
    LossContext,
    Position,
    PyTree,
    RowGuide,
    Site,
    Space,
    Variables,
)
from vijax.runtime.errors import GuideError

GradientPath = Literal["plain", "path", "score"]


class Particles(NamedTuple):
    """Independent draws and their log importance weights.

    Attributes:
        log_p: log density of the target, `(num,)`, or of each row in use, `(num, rows)`.
        log_q: log density of the guide, of the same shape.
        mutable: the model's new mutable state, merged over draws.
        scale: scale of rows for subsampling, all rows over those in use.
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
    path: GradientPath,
    num: int,
    variables: Variables,
    context: LossContext,
    per_row: bool = False,
    gradient_scale: Array | None = None,
) -> Particles:
    """Draws `num` particles.

    Args:
        path: how gradients reach the guide's parameters. `"plain"`: through the draw and `log_q`;
            `"path"`: through the draw only, with the parameters fixed in `log_q`; `"score"`:
            through `log_q` only, with the draw fixed.
        num: number of particles.
        variables: the variables that are differentiated in.
        context: the other inputs of the objective.
        per_row: whether weights are per row; only if `has_independent_rows`.
        gradient_scale: factor of the gradients of `log_p` in the draws, of the shape of `log_p`.

    Raises:
        GuideError: `"path"` or `"score"` with a guide without a density, or another path than
            `"score"` with discrete sites.
    """
    mutable, key, target, guide, batch, *_ = context
    if path != "score" and target.space.discrete.sites:
        raise GuideError(
            f"objective: expected continuous sites, for pathwise gradients, got the discrete site "
            f"{target.space.discrete.names[0]!r}. Use ELBO, which has gradient estimators for "
            "discrete sites, or ScoreELBO, CUBO or ForwardKL."
        )
    if path != "plain":
        require_density(guide)

    def one(key: Array, scale: Array | None) -> tuple[Array, Array, dict[str, PyTree]]:
        draw = guide.draw(variables.guide, target.space, key, batch)
        z, log_q = draw.z, draw.log_q
        if path == "path":
            assert isinstance(guide, DensityGuide)
            log_q = guide.path_log_q(variables.guide, target.space, key, draw, batch)
        elif path == "score":
            assert isinstance(guide, DensityGuide)
            z = stop_gradient(z)
            log_q = guide.log_prob(variables.guide, target.space, z, batch)
        at = z if scale is None else _with_scaled_gradient(z, scale, target.space)
        if per_row:
            fixed = stop_gradient(variables.guide) if path == "path" else variables.guide
            assert isinstance(guide, RowGuide)
            log_q = guide.row_log_probs(fixed, target.space, z, batch)
            log_p, after = _row_log_densities(at, model_batch(key, batch), variables, context)
        else:
            state = (model_batch(key, batch), variables.model, mutable)
            log_p, after = target.evaluate(at, *state)
        return log_p, log_q, after

    keys = target.devices.shard_particles(jax.random.split(key, num))
    log_p, log_q, states = jax.vmap(one)(keys, gradient_scale)
    scale = target.space.sites[0].scale if per_row else 1.0
    return Particles(log_p, log_q, jax.tree.map(merge_mutable, states), scale)


def model_batch(key: Array, batch: Batch) -> Batch:
    """The batch with a key for the model's own randomness, derived from the step's key.

    XLA eliminates the derivation if the model uses no randomness. Networks are in training.
    """
    return batch._replace(key=jax.random.fold_in(key, 1), noise={})


def require_density(guide: Guide) -> DensityGuide:
    """Checks that a guide has a density, and returns it.

    Raises:
        GuideError: it has none.
    """
    if not isinstance(guide, DensityGuide):
        raise GuideError(
            f"objective: expected a guide with a density, got {guide!r}. Use another guide, or an "
            "objective with estimator='plain'."
        )
    return guide


def has_independent_rows(context: LossContext) -> bool:
    """Whether rows are independent under guide and model, so that weights can be per row.

    They are if all latent sites and all terms of the log density are in the same plate.
    """
    target, guide = context.target, context.guide
    if not isinstance(guide, RowGuide):
        return False
    names = {tuple(plate.name for plate in site.plates) for site in target.space.sites}
    if len(names) != 1 or len(plates := names.pop()) != 1:
        return False
    term_info = target.term_info(context.batch)
    shapes = jax.eval_shape(
        lambda: _terms({s.name: jnp.zeros(s.z_shape) for s in target.space.sites}, context)
    )
    return all(plates[0] in {p.name for p in term_info[name].plates} for name in shapes)


def _terms(z: Position, context: LossContext) -> dict[str, Array]:
    return context.target.terms(z, context.batch, {}, context.mutable).values


def _row_log_densities(
    z: Position, batch: Batch, variables: Variables, context: LossContext
) -> tuple[Array, dict[str, PyTree]]:
    """Log density of every row in use, unscaled."""
    target = context.target
    values, after = target.terms(z, batch, variables.model, context.mutable)
    site = target.space.sites[0]
    (plate,) = site.plates
    total = jnp.zeros(())
    for value in values.values():
        others = [axis for axis in range(-value.ndim, 0) if axis != plate.dim]
        total += jnp.sum(value, axis=others)
    return total / site.scale, after


def _with_scaled_gradient(z: Position, factor: Array, space: Space) -> Position:
    """The position with its gradients multiplied by a factor, a scalar or one per row."""

    def along(site: Site) -> Array:
        if not factor.ndim:
            return factor
        shape = [1] * len(site.z_shape)
        shape[len(site.shape) - site.event_dim + site.plates[0].dim] = -1
        return factor.reshape(shape)

    return {site.name: _scale_gradient(z[site.name], along(site)) for site in space.sites}


@jax.custom_vjp
def _scale_gradient(value: Array, factor: Array) -> Array:
    return value


_scale_gradient.defvjp(
    lambda value, factor: (value, factor),
    lambda factor, gradient: (factor * gradient, jnp.zeros_like(factor)),
)


def merge_mutable(leaf: Array) -> Array:
    """Merges mutable state over particles: averages running statistics; counters and keys agree."""
    return jnp.mean(leaf, axis=0) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf[0]


def with_gradient_of(value: Array, surrogate: Array) -> Array:
    """The value of `value` with the gradient of `surrogate`."""
    return stop_gradient(value - surrogate) + surrogate


def check_num(num: int, minimum: int = 1) -> None:
    """Checks the number of particles.

    Raises:
        ValueError: it is below `minimum`.
    """
    if num < minimum:
        raise ValueError(f"num_particles: expected at least {minimum}, got {num}.")

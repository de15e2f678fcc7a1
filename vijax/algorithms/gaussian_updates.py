"""Natural-gradient updates of Gaussians, each in the coordinates in which it is standard normal.

With `z = m + L e` the score in these coordinates is `s = L' grad log p(z)`. By the theorems of
Bonnet and Price the natural parameters move along the mean score `E[s]` and

    G = I + E[Hessian] = sym E[e (s + e)'],

so that the precision becomes `I - rate G` and the mean moves by `rate (I - rate G)^-1 E[s]`. All of
these are of order one at any scale of the posterior, as float32 requires, and both estimates are
means of the residual `s + e`, which vanishes where the Gaussian equals the posterior.

Where negative curvature or the noise of few draws would bring an eigenvalue of the precision below
`(1 - rate) / 2`, it is `I - rate G + (rate G)^2 / 2` instead, at least one half. `rate G` and the
movement of the mean are bounded, see `_MAX_CHANGE`, so that no draw can do lasting damage. Sources:
Conjugate-computation variational inference, Khan, Lin, 2017; Handling the positive-definite
constraint in the Bayesian learning rule, Lin, Schmidt, Khan, 2020.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import solve_triangular

from vijax.contracts import Position, Space
from vijax.guides.location_scale.full_rank import FullRankParams, cholesky_factor
from vijax.guides.location_scale.mean_field import MeanFieldParams
from vijax.runtime.precision import float32_products

# Bounds per step on a mean's movement in new standard deviations, and on the relative increase of a
# precision: of every coordinate, or as root mean square over the coordinates of a dense Gaussian.
_MAX_SHIFT = 1.0
_MAX_CHANGE = 1.0


class Draws(NamedTuple):
    """Draws `m + L e` of one Gaussian.

    Attributes:
        noise: the standard normals `e`, `(num, dim)`.
        gradient: gradient of the log density at each, by site `(num, *z_shape)`.
    """

    noise: Array
    gradient: Position


def mean_field_update(
    params: MeanFieldParams,
    velocity: Position,
    space: Space,
    draws: Draws,
    rate: Array,
    momentum: float,
) -> tuple[MeanFieldParams, Position]:
    """A step of a mean-field Gaussian, whose mean moves along a velocity.

    `v <- momentum v + rate E[grad log p]`, and `m <- m + v / precision`. Coordinates that are
    correlated in the posterior make the steps of a mean-field Gaussian as badly conditioned as
    their correlation matrix, which momentum compensates. The gradient at a row of a subsampled
    plate is that of its batch, `Site.scale` times that of the row.
    """
    noise = jax.vmap(space.unravel)(draws.noise)
    new, velocities = MeanFieldParams({}, {}), {}
    for site in space.sites:
        name, scale = site.name, jnp.exp(params.log_scale[site.name])
        residual = scale * draws.gradient[name] / site.scale + noise[name]
        change = jnp.maximum(rate * jnp.mean(noise[name] * residual, axis=0), -_MAX_CHANGE)
        retracted = 1 - change + 0.5 * change**2
        precision = jnp.where(1 - change > _floor(rate), 1 - change, retracted)
        limit = _MAX_SHIFT * precision
        push = rate * jnp.mean(residual, axis=0)
        most = (1 - momentum) * limit  # a push lasts for 1 / (1 - momentum) steps
        push = jnp.clip(push, -most, most)
        velocities[name] = momentum * velocity[name] + push / scale
        shift = jnp.clip(scale * velocities[name], -limit, limit) / precision
        new.loc[name] = params.loc[name] + scale * shift
        new.log_scale[name] = params.log_scale[name] - 0.5 * jnp.log(precision)
    return new, velocities


def full_rank_update(
    params: FullRankParams, space: Space, draws: Draws, rate: Array
) -> FullRankParams:
    """A step of a full-rank Gaussian, in `dim^3 + num dim^2` operations.

    With the new precision `U U'`, `U` upper triangular, the new Cholesky factor is `L U^-T`.
    """
    gradient = {name: draws.gradient[name] for name in space.names}
    with float32_products():  # rounding of the factor would accumulate over the steps
        factor = cholesky_factor(params)
        residual = jax.vmap(space.ravel)(gradient) @ factor + draws.noise
        product = draws.noise.T @ residual / len(residual)
        change = _bounded(0.5 * rate * (product + product.T), _MAX_CHANGE, len(product))
        identity = jnp.eye(len(product), dtype=product.dtype)
        exact, retracted = identity - change, identity - change + 0.5 * change @ change
        positive = jnp.isfinite(jnp.linalg.cholesky(exact - _floor(rate) * identity)).all()
        precision = jnp.where(positive, exact, retracted)
        upper = jnp.linalg.cholesky(precision[::-1, ::-1])[::-1, ::-1]
        factor = solve_triangular(upper, factor.T).T
        shift = solve_triangular(upper, rate * jnp.mean(residual, axis=0))
        loc = params.loc + factor @ _bounded(shift, _MAX_SHIFT, len(shift))
    scale = jnp.diag(factor)
    return FullRankParams(loc, jnp.log(scale), jnp.tril(factor / scale[:, None], -1))


def _floor(rate: Array) -> Array:
    """Half the smallest precision that a log-concave target can lead to."""
    return 0.5 * (1 - rate)


def _bounded(array: Array, bound: float, dim: int) -> Array:
    """The array, shortened if its squares sum to more than `bound^2 dim`."""
    square = jnp.sum(array**2) / (bound**2 * dim)
    return array / jnp.sqrt(jnp.maximum(square, 1))

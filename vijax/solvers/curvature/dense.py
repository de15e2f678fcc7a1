"""The generalized Gauss-Newton matrix of some latents, and the curvature of their prior."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from vijax.contracts import Position, Target
from vijax.solvers.curvature.point import Point

_TANGENTS = 64  # columns of a Jacobian that are computed at a time
_MOST_COLUMNS = 2048  # coordinates whose curvature is computed one by one
_NUM_SIGNS = 32  # of the estimate for more

Names = tuple[str, ...]


def gauss_newton(target: Target, names: Names, point: Point) -> Array:
    """`R'R` of the latents in `names`, `(dim, dim)`, see `Target.fisher_root`."""
    root, at = _root(target, names, point)
    columns = _map(lambda tangent: jax.jvp(root, (at,), (tangent,))[1], jnp.eye(at.size))
    return columns @ columns.T


def coordinate_curvature(target: Target, names: Names, point: Point) -> Array:
    """The diagonal of `R'R`, `(dim,)`; of very many latents an unbiased estimate.

    That is the mean square of `R's` for vectors `s` of random signs.
    """
    root, at = _root(target, names, point)
    if at.size <= _MOST_COLUMNS:
        return _map(
            lambda tangent: jnp.sum(jax.jvp(root, (at,), (tangent,))[1] ** 2), jnp.eye(at.size)
        )
    values, pull = jax.vjp(root, at)

    def add(total: Array, one: Array) -> tuple[Array, None]:
        signs = jax.random.rademacher(one, values.shape, values.dtype)
        return total + pull(signs)[0] ** 2, None

    keys = jax.random.split(jax.random.fold_in(point.key, 1), _NUM_SIGNS)
    return jax.lax.scan(add, jnp.zeros_like(at), keys)[0] / _NUM_SIGNS


def log_density_and_gradient(target: Target, names: Names, point: Point) -> Array:
    """The log density, and its gradient in the latents in `names`, `(1 + dim,)`."""
    space = target.space.subset(names)

    def log_density(vector: Array) -> Array:
        return point.log_density(target, space.unravel(vector))

    value, gradient = jax.value_and_grad(log_density)(space.ravel(point.z))
    return jnp.concatenate([value[None], gradient])


def prior_hessian(target: Target, names: Names, point: Point) -> Array:
    """Hessian of the log prior, log Jacobians included, in the latents in `names`, `(dim, dim)`."""
    log_prior, at = _log_prior(target, names, point)
    gradient = jax.grad(log_prior)
    return _map(lambda tangent: jax.jvp(gradient, (at,), (tangent,))[1], jnp.eye(at.size))


def prior_curvature(target: Target, names: Names, point: Point) -> Array:
    """Second derivatives of the log prior by coordinate, `(dim,)`.

    Elements of one site are assumed independent given the other sites.
    """
    log_prior, at = _log_prior(target, names, point)
    space = target.space.subset(names)
    gradient = jax.grad(lambda values: log_prior(space.ravel(values)))
    values = {name: jnp.asarray(point.z[name]) for name in names}

    def add(total: Position, number: Array) -> tuple[Position, None]:
        """Of one site; a loop over sites compiles one derivative, not one for each."""
        masks = {name: (number == i).astype(at.dtype) for i, name in enumerate(names)}
        tangents = {name: jnp.broadcast_to(masks[name], x.shape) for name, x in values.items()}
        _, found = jax.jvp(gradient, (values,), (tangents,))
        return {name: total[name] + masks[name] * found[name] for name in names}, None

    zeros = jax.tree.map(jnp.zeros_like, values)
    return space.ravel(jax.lax.scan(add, zeros, jnp.arange(len(names)))[0])


def _root(target: Target, names: Names, point: Point) -> tuple[Callable[[Array], Array], Array]:
    """The root of the information as a function of the latents in `names`, and these."""
    space = target.space.subset(names)

    def root(vector: Array) -> Array:
        found = point.fisher_root(target, space.unravel(vector))
        return jnp.concatenate([jnp.ravel(value) for value in found.values()] or [jnp.zeros(1)])

    return root, space.ravel(point.z)


def _log_prior(
    target: Target, names: Names, point: Point
) -> tuple[Callable[[Array], Array], Array]:
    space, structure = target.space.subset(names), target.structure
    likelihood = {*structure.observed, *structure.factors}

    def log_prior(vector: Array) -> Array:
        values = point.terms(target, space.unravel(vector))
        terms: Any = [jnp.sum(x) for name, x in values.items() if name not in likelihood]
        return sum(terms, jnp.zeros(()))

    return log_prior, space.ravel(point.z)


def _map(function: Callable[[Array], Array], tangents: Array) -> Array:
    return jax.lax.map(function, tangents, batch_size=min(_TANGENTS, len(tangents)))

"""Batches of small positive-definite matrices."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import solve_triangular


def symmetric(matrix: Array) -> Array:
    """The symmetric part, `(*B, k, k)`."""
    return 0.5 * (matrix + matrix.mT)


def outer(x: Array, y: Array) -> Array:
    """The products of all pairs of entries, `(*B, k, k)`."""
    return x[..., :, None] * y[..., None, :]


def product(matrix: Array, x: Array) -> Array:
    """Matrix times vector, `(*B, k)`."""
    return jnp.sum(matrix * x[..., None, :], axis=-1)


def inner(x: Array, y: Array) -> Array:
    """The inner product of vectors, `*B`."""
    return jnp.sum(x * y, axis=-1)


def trace_product(matrix: Array, other: Array) -> Array:
    """The trace of the product of symmetric matrices, `*B`."""
    return jnp.sum(matrix * other, axis=(-2, -1))


def inverse_factor(matrix: Array) -> Array:
    """`W = L^-1` of the Cholesky factor `L` of a positive-definite matrix: `W' W` is its inverse.

    Returns:
        `(*B, k, k)`, lower triangular; not finite where the matrix is not positive definite.
    """
    identity = jnp.broadcast_to(jnp.eye(matrix.shape[-1], dtype=matrix.dtype), matrix.shape)
    return solve_triangular(jnp.linalg.cholesky(matrix), identity, lower=True)


def gram(factor: Array) -> Array:
    """`W' W`, `(*B, k, k)`."""
    return factor.mT @ factor


def solve(factor: Array, x: Array) -> Array:
    """`W' W x`: the inverse of a matrix times a vector, from its `inverse_factor`; `(*B, k)`."""
    return product(factor.mT, product(factor, x))


def log_det(factor: Array) -> Array:
    """The log determinant of a triangular matrix with positive diagonal, `*B`."""
    return jnp.sum(jnp.log(jnp.diagonal(factor, axis1=-2, axis2=-1)), axis=-1)

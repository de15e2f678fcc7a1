"""`E log p` of distributions of positive-definite matrices."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from jax.scipy.special import multigammaln

from vijax.model.conjugacy.densities.arguments import Arguments, Row, data, times
from vijax.model.conjugacy.densities.real import precision_of
from vijax.model.conjugacy.expectation import Expectation
from vijax.model.conjugacy.polynomials import polynomial
from vijax.model.conjugacy.values import Known, Value, known


def _wishart(expectation: Expectation, arguments: Arguments, x: Value) -> Array:
    """`E log W(x; nu, V)`, of the inverse of `V = scale_tril scale_tril'`."""
    nu, root = (data(arguments[name], name) for name in ("concentration", "scale_tril"))
    size = x.dims[-1].size
    inverse_scale = jnp.linalg.inv(root @ jnp.swapaxes(root, -1, -2))
    with expectation.about("value"):
        _, log_det = precision_of(expectation, x, "precision_matrix")
        trace = _trace(expectation, inverse_scale, polynomial(x) if isinstance(x, Known) else x)
    log_det_scale = 2 * jnp.sum(jnp.log(jnp.diagonal(root, axis1=-2, axis2=-1)), -1)
    constant = -0.5 * nu * (size * math.log(2) + log_det_scale) - multigammaln(0.5 * nu, size)
    return 0.5 * (nu - size - 1) * log_det - 0.5 * trace + constant


def _inverse_wishart(expectation: Expectation, arguments: Arguments, x: Value) -> Array:
    """`E log W^-1(x; nu, Psi)` with `Psi = scale_tril scale_tril'`."""
    nu, root = (data(arguments[name], name) for name in ("concentration", "scale_tril"))
    size = x.dims[-1].size
    with expectation.about("value"):
        inverse, log_det = precision_of(expectation, x, "covariance_matrix")
        trace = _trace(expectation, root @ jnp.swapaxes(root, -1, -2), inverse)
    log_det_scale = 2 * jnp.sum(jnp.log(jnp.diagonal(root, axis1=-2, axis2=-1)), -1)
    constant = 0.5 * nu * (log_det_scale - size * math.log(2)) - multigammaln(0.5 * nu, size)
    return 0.5 * (nu + size + 1) * log_det - 0.5 * trace + constant


def _trace(expectation: Expectation, matrix: Array, value: Value) -> Array:
    return jnp.sum(expectation.mean(times(known(matrix), value)), axis=(-2, -1))


ROWS: dict[type, tuple[tuple[str, ...], Row]] = {
    dist.Wishart: (("concentration", "scale_tril"), _wishart),
    dist.InverseWishart: (("concentration", "scale_tril"), _inverse_wishart),
}

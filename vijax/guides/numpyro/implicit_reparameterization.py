"""Implicit reparameterization gradients for distributions without NumPyro's reparameterization.

The conditional distribution functions `S_d(x) = P(X_d <= x_d | x_1, ..., x_d-1)` of a draw are held
constant as the parameters change: `dx = -(dS/dx)^-1 dS`. This covers mixtures, although their
component is discrete, and the von Mises distribution, although it is sampled by rejection. For
well-separated mixture components the gradients are noisy at draws between them, where the density
is low. Source: Implicit reparameterization gradients, Figurnov, Mohamed, Mnih, 2018.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
from jax import Array
from jax.lax import stop_gradient
from jax.scipy.linalg import solve_triangular
from numpyro.distributions import Distribution
from numpyro.primitives import Messenger

_WRAPPERS = (dist.ExpandedDistribution, dist.Independent, dist.MaskedDistribution)
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(40)
_LARGE_CONCENTRATION = 40.0  # above it, asymptotic series
_MAX_LOG_RATIO = 25.0  # integration stops at this many nats below the density at the draw


class ImplicitReparameterization(Messenger):
    """Effect handler that adds implicit gradients to draws without any; wraps `seed`."""

    def process_message(self, message: dict[str, Any]) -> None:
        if message["type"] != "sample" or message["is_observed"] or message["value"] is not None:
            return
        fn = message["fn"]
        if fn.has_rsample or not has_gradient(fn):
            return
        # drawn at fixed parameters: a rejection sampler cannot be differentiated
        fixed = jax.tree.map(stop_gradient, fn)
        value = fixed(*message["args"], **message["kwargs"])
        message["value"] = with_implicit_gradient(fn, stop_gradient(value))


def has_gradient(fn: Distribution) -> bool:
    """Whether draws of a distribution have a gradient, NumPyro's or an implicit one."""
    if fn.has_rsample:
        return True
    if isinstance(fn, (*_WRAPPERS, dist.TransformedDistribution)):
        return has_gradient(fn.base_dist)
    if isinstance(fn, dist.MixtureSameFamily):
        components = fn.component_distribution
        elementwise = isinstance(components, dist.Independent) and not _base(components).event_dim
        supported = elementwise or isinstance(components, dist.MultivariateNormal)
        return not fn.is_discrete and (fn.event_dim == 0 or (fn.event_dim == 1 and supported))
    if isinstance(fn, dist.MixtureGeneral):
        return not fn.is_discrete and fn.event_dim == 0
    return isinstance(fn, dist.VonMises)


def with_implicit_gradient(fn: Distribution, value: Array) -> Array:
    """A given draw `value` with its implicit gradient with respect to the parameters of `fn`."""
    if isinstance(fn, _WRAPPERS):
        return with_implicit_gradient(fn.base_dist, value)
    if isinstance(fn, dist.TransformedDistribution):
        for transform in reversed(fn.transforms):
            value = stop_gradient(transform.inv(value))
        value = with_implicit_gradient(fn.base_dist, value)
        for transform in fn.transforms:
            value = transform(value)
        return value
    if isinstance(fn, dist.VonMises):
        concentration = jnp.asarray(fn.concentration)
        slope = stop_gradient(_concentration_slope(value - fn.loc, concentration))
        linear = fn.loc + slope * concentration
        return value + linear - stop_gradient(linear)
    if fn.event_dim:
        return _vector_mixture_gradient(fn, value)
    probability = fn.cdf(value)
    density = stop_gradient(jnp.exp(fn.log_prob(value)))
    return value - (probability - stop_gradient(probability)) / density


def _vector_mixture_gradient(fn: Distribution, value: Array) -> Array:
    """`with_implicit_gradient` for a mixture of vectors, `value` `(..., dim)`."""

    def conditional_cdf(value: Array) -> Array:
        log_q, cdf = _component_conditionals(fn.component_distribution, value[..., None, :])
        log_weights = jax.nn.log_softmax(fn.mixing_distribution.logits)[..., None]
        # component log probabilities given the preceding entries
        log_posterior = log_weights + jnp.cumsum(log_q, axis=-1) - log_q
        return jnp.sum(jax.nn.softmax(log_posterior, axis=-2) * cdf, axis=-2)

    def column(direction: Array) -> Array:
        tangent = jnp.broadcast_to(direction, value.shape)
        return jax.jvp(conditional_cdf, (value,), (tangent,))[1]

    jacobian = jax.vmap(column, out_axes=-1)(jnp.eye(value.shape[-1], dtype=value.dtype))
    probability = conditional_cdf(value)
    change = (probability - stop_gradient(probability))[..., None]
    return value - solve_triangular(stop_gradient(jacobian), change, lower=True)[..., 0]


def _component_conditionals(components: Distribution, value: Array) -> tuple[Array, Array]:
    """Log density and CDF of each entry given the preceding ones, `(..., num, dim)` each."""
    if isinstance(components, dist.MultivariateNormal):
        factor = components.scale_tril
        residual = (value - components.loc)[..., None]
        factor = jnp.broadcast_to(factor, (*residual.shape[:-2], *factor.shape[-2:]))
        noise = solve_triangular(factor, residual, lower=True)[..., 0]
        scale = jnp.diagonal(factor, axis1=-2, axis2=-1)
        return jax.scipy.stats.norm.logpdf(noise) - jnp.log(scale), jax.scipy.special.ndtr(noise)
    base = _base(components)
    return base.log_prob(value), base.cdf(value)


def _base(components: Distribution) -> Distribution:
    """The scalar distribution of the entries of vectors with independent entries."""
    while isinstance(components, (dist.Independent, dist.ExpandedDistribution)):
        components = components.base_dist
    return components


def _concentration_slope(angle: Array, concentration: Array) -> Array:
    """Derivative of a von Mises draw with respect to the concentration; `angle` from the center.

    `integral over (x, pi) of exp(k (cos t - cos x)) (cos t - A(k))` for `x > 0`, with `A` the mean
    cosine, antisymmetric in `x`; by Gauss-Legendre quadrature up to where the integrand is
    negligible.
    """
    x = jnp.arctan2(jnp.sin(angle), jnp.cos(angle))
    sign, x = jnp.sign(x), jnp.abs(x)
    width = 2 * jnp.arcsin(jnp.sqrt(jnp.minimum(1.0, _MAX_LOG_RATIO / (2 * concentration))))
    half = jnp.minimum(width, jnp.pi - x)[..., None] / 2
    k, x = concentration[..., None], x[..., None]
    delta = half * (1 + jnp.asarray(_NODES, x.dtype))  # t - x
    # cos t - cos x, without cancellation
    difference = -2 * jnp.sin(x + delta / 2) * jnp.sin(delta / 2)
    integrand = jnp.exp(k * difference) * (_dispersion(k) - 2 * jnp.sin((x + delta) / 2) ** 2)
    return sign * jnp.sum(half * jnp.asarray(_WEIGHTS, x.dtype) * integrand, axis=-1)


def _dispersion(concentration: Array) -> Array:
    """One minus the mean cosine; by an asymptotic series where Bessel functions would cancel."""
    k = jnp.minimum(concentration, _LARGE_CONCENTRATION)
    exact = 1 - jax.scipy.special.i1e(k) / jax.scipy.special.i0e(k)
    u = 1 / jnp.maximum(concentration, _LARGE_CONCENTRATION)
    return jnp.where(
        concentration < _LARGE_CONCENTRATION,
        exact,
        u * (1 / 2 + u * (1 / 8 + u * (1 / 8 + u * 25 / 128))),
    )

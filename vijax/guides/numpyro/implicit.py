"""Draws that carry a gradient where NumPyro's own do not, by implicit reparameterization.

A draw moves with the parameters such that its probabilities given the entries before stay what they
are: with `S_d(x) = P(X_d <= x_d | x_1, ..., x_d-1)`, `dx = -(dS/dx)^-1 dS`. Mixtures have such
gradients although a component was chosen on the way, and the von Mises distribution although its
draws are by rejection. Between two separate components of a mixture a draw has far to go: there
gradients are noisy, the more so the less density there is. Source: Implicit reparameterization
gradients, Figurnov, Mohamed, Mnih, 2018.
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
_LARGE = 40.0  # concentration
_NEGLIGIBLE = 25.0  # nats below the density at the draw


class ImplicitDraws(Messenger):
    """Gives draws their gradient where NumPyro's have none; goes round `seed`."""

    def process_message(self, message: dict[str, Any]) -> None:
        if message["type"] != "sample" or message["is_observed"] or message["value"] is not None:
            return
        fn = message["fn"]
        if fn.has_rsample or not has_gradient(fn):
            return
        # drawn with parameters held fixed: there is no way back through a rejection sampler
        held = jax.tree.map(stop_gradient, fn)
        value = held(*message["args"], **message["kwargs"])
        message["value"] = carried(fn, stop_gradient(value))


def has_gradient(fn: Distribution) -> bool:
    """Whether draws of a distribution can carry a gradient, NumPyro's own or an implicit one."""
    if fn.has_rsample:
        return True
    if isinstance(fn, (*_WRAPPERS, dist.TransformedDistribution)):
        return has_gradient(fn.base_dist)
    if isinstance(fn, dist.MixtureSameFamily):
        components = fn.component_distribution
        by_entry = isinstance(components, dist.Independent) and not _entries(components).event_dim
        known = by_entry or isinstance(components, dist.MultivariateNormal)
        return not fn.is_discrete and (fn.event_dim == 0 or (fn.event_dim == 1 and known))
    if isinstance(fn, dist.MixtureGeneral):
        return not fn.is_discrete and fn.event_dim == 0
    return isinstance(fn, dist.VonMises)


def carried(fn: Distribution, value: Array) -> Array:
    """A draw `value`, held fixed, with its gradient in the parameters of `fn`."""
    if isinstance(fn, _WRAPPERS):
        return carried(fn.base_dist, value)
    if isinstance(fn, dist.TransformedDistribution):
        for transform in reversed(fn.transforms):
            value = stop_gradient(transform.inv(value))
        value = carried(fn.base_dist, value)
        for transform in fn.transforms:
            value = transform(value)
        return value
    if isinstance(fn, dist.VonMises):
        concentration = jnp.asarray(fn.concentration)
        slope = stop_gradient(_by_concentration(value - fn.loc, concentration))
        moved = fn.loc + slope * concentration
        return value + moved - stop_gradient(moved)
    if fn.event_dim:
        return _vector(fn, value)
    probability = fn.cdf(value)
    density = stop_gradient(jnp.exp(fn.log_prob(value)))
    return value - (probability - stop_gradient(probability)) / density


def _vector(fn: Distribution, value: Array) -> Array:
    """The same of a mixture of vectors, `(..., dim)`."""

    def conditional(value: Array) -> Array:
        log_q, below = _by_component(fn.component_distribution, value[..., None, :])
        log_weights = jax.nn.log_softmax(fn.mixing_distribution.logits)[..., None]
        before = log_weights + jnp.cumsum(log_q, axis=-1) - log_q  # of the entries so far
        return jnp.sum(jax.nn.softmax(before, axis=-2) * below, axis=-2)

    def column(direction: Array) -> Array:
        along = jnp.broadcast_to(direction, value.shape)
        return jax.jvp(conditional, (value,), (along,))[1]

    columns = jax.vmap(column, out_axes=-1)(jnp.eye(value.shape[-1], dtype=value.dtype))
    probability = conditional(value)
    change = (probability - stop_gradient(probability))[..., None]
    return value - solve_triangular(stop_gradient(columns), change, lower=True)[..., 0]


def _by_component(components: Distribution, value: Array) -> tuple[Array, Array]:
    """Log density and probability of every entry given those before it, `(..., num, dim)`."""
    if isinstance(components, dist.MultivariateNormal):
        factor = components.scale_tril
        off = (value - components.loc)[..., None]
        factor = jnp.broadcast_to(factor, (*off.shape[:-2], *factor.shape[-2:]))
        noise = solve_triangular(factor, off, lower=True)[..., 0]
        scale = jnp.diagonal(factor, axis1=-2, axis2=-1)
        return jax.scipy.stats.norm.logpdf(noise) - jnp.log(scale), jax.scipy.special.ndtr(noise)
    entries = _entries(components)
    return entries.log_prob(value), entries.cdf(value)


def _entries(components: Distribution) -> Distribution:
    """The distribution of the entries of vectors with independent ones."""
    while isinstance(components, (dist.Independent, dist.ExpandedDistribution)):
        components = components.base_dist
    return components


def _by_concentration(angle: Array, concentration: Array) -> Array:
    """Slope of a von Mises draw, `angle` from its center, in the concentration.

    `integral over (x, pi) of exp(k (cos t - cos x)) (cos t - A(k))` for `x > 0`, with `A` the mean
    cosine, mirrored for `x < 0`; by Gauss and Legendre, up to where nothing is left of it.
    """
    x = jnp.arctan2(jnp.sin(angle), jnp.cos(angle))
    sign, x = jnp.sign(x), jnp.abs(x)
    width = 2 * jnp.arcsin(jnp.sqrt(jnp.minimum(1.0, _NEGLIGIBLE / (2 * concentration))))
    half = jnp.minimum(width, jnp.pi - x)[..., None] / 2
    k, x = concentration[..., None], x[..., None]
    off = half * (1 + jnp.asarray(_NODES, x.dtype))  # t - x
    # cos t - cos x, without the difference of two numbers that are all but equal
    fall = -2 * jnp.sin(x + off / 2) * jnp.sin(off / 2)
    integrand = jnp.exp(k * fall) * (_dispersion(k) - 2 * jnp.sin((x + off) / 2) ** 2)
    return sign * jnp.sum(half * jnp.asarray(_WEIGHTS, x.dtype) * integrand, axis=-1)


def _dispersion(concentration: Array) -> Array:
    """One less the mean cosine; by its asymptotic series where Bessel functions all but cancel."""
    k = jnp.minimum(concentration, _LARGE)
    exact = 1 - jax.scipy.special.i1e(k) / jax.scipy.special.i0e(k)
    u = 1 / jnp.maximum(concentration, _LARGE)
    return jnp.where(
        concentration < _LARGE, exact, u * (1 / 2 + u * (1 / 8 + u * (1 / 8 + u * 25 / 128)))
    )

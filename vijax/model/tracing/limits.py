"""Distributions whose gradient is defined where a probability or a rate is exactly zero.

A discrete site often switches a distribution off, as in `Bernoulli(p * alive)`. NumPyro limits the
probability to the smallest number of the precision, by whose inverse the gradient is multiplied: it
overflows where several rows or steps share the term, and that of `Poisson(0)` is undefined at once.
The log densities are the same as NumPyro's.
"""

from __future__ import annotations

import copy
from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from jax.lax import stop_gradient

from vijax.model.tracing.wrappers import WRAPPERS


def _log_prob(fn: Any, kind: type[dist.Distribution], parameter: str, value: Any) -> Array:
    """The log density, constant in the parameter where this is zero."""
    given = getattr(fn, parameter)
    zero = given < jnp.finfo(jnp.result_type(float)).tiny
    inside, outside = copy.copy(fn), copy.copy(fn)
    setattr(inside, parameter, jnp.where(zero, 0.5, given))
    setattr(outside, parameter, stop_gradient(given))
    return jnp.where(zero, kind.log_prob(outside, value), kind.log_prob(inside, value))


class BernoulliProbs(dist.BernoulliProbs):
    """A Bernoulli distribution whose probability may be zero."""

    def log_prob(self, value: Any) -> Array:
        """As NumPyro's, elementwise."""
        return _log_prob(self, dist.BernoulliProbs, "probs", value)


class BinomialProbs(dist.BinomialProbs):
    """A binomial distribution whose probability may be zero."""

    def log_prob(self, value: Any) -> Array:
        """As NumPyro's, elementwise."""
        return _log_prob(self, dist.BinomialProbs, "probs", value)


class Poisson(dist.Poisson):
    """A Poisson distribution whose rate may be zero."""

    def log_prob(self, value: Any) -> Array:
        """As NumPyro's, elementwise."""
        return _log_prob(self, dist.Poisson, "rate", value)


_DEFINED = {
    dist.BernoulliProbs: BernoulliProbs,
    dist.BinomialProbs: BinomialProbs,
    dist.Poisson: Poisson,
}


def with_defined_gradient(fn: dist.Distribution) -> dist.Distribution:
    """The same distribution, with a gradient that is defined where a parameter is zero."""
    if isinstance(fn, WRAPPERS):
        base = with_defined_gradient(fn.base_dist)
        if base is fn.base_dist:
            return fn
        wrapped = copy.copy(fn)
        wrapped.base_dist = base
        return wrapped
    kind = _DEFINED.get(type(fn))
    if kind is None:
        return fn
    found = copy.copy(fn)
    found.__class__ = kind
    return found

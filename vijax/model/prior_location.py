"""Location and scale of priors in unconstrained space, where their parameters are constants.

Starting points of optimization paths drawn from the prior reach modes far from the origin. They are
drawn on the host, from a normal distribution with the prior's moments, so that nothing is compiled.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import numpyro.distributions as dist
from scipy.special import digamma, polygamma

from vijax.model.tracing.location_scale import FAMILIES as LOCATION_SCALE_FAMILIES
from vijax.model.tracing.wrappers import base_distribution

Moments = tuple[np.ndarray, np.ndarray]


def prior_location(fn: dist.Distribution, shape: tuple[int, ...]) -> Moments | None:
    """Location and scale of the unconstrained value, each of `shape`; `None` if not known.

    Known are common families on the real line, on positive numbers (a logarithm is their
    unconstrained value) and `Beta`, with parameters that are neither data nor other sites.

    Args:
        fn: the prior of the site.
        shape: of its unconstrained value.
    """
    fn = base_distribution(fn)
    family = _FAMILIES.get(type(fn))
    if family is None:
        return None
    names, moments = family
    parameters = [getattr(fn, name) for name in names]
    if any(isinstance(value, jax.core.Tracer) for value in parameters):
        return None
    location, scale = moments(*(np.asarray(value, np.float64) for value in parameters))
    try:
        return np.broadcast_to(location, shape), np.broadcast_to(scale, shape)
    except ValueError:  # parameters of other rows than those in use
        return None


def is_improper(fn: dist.Distribution) -> bool:
    """Whether the prior is, or may be, improper by construction: flat, or masked out."""
    while isinstance(fn, (dist.ExpandedDistribution, dist.Independent)):
        fn = fn.base_dist
    return isinstance(fn, (dist.ImproperUniform, dist.MaskedDistribution))


def _log_gamma_moments(concentration: Any, rate: Any) -> tuple[Any, Any]:
    return digamma(concentration) - np.log(rate), np.sqrt(polygamma(1, concentration))


def _beta_moments(a: Any, b: Any) -> tuple[Any, Any]:
    return digamma(a) - digamma(b), np.sqrt(polygamma(1, a) + polygamma(1, b))


def _inverse_gamma_moments(concentration: Any, rate: Any) -> tuple[Any, Any]:
    location, scale = _log_gamma_moments(concentration, rate)
    return -location, scale


_LOCATION_SCALE: tuple[tuple[str, ...], Callable[..., tuple[Any, Any]]] = (
    ("loc", "scale"),
    lambda loc, scale: (loc, scale),
)
# log |x| of a standard normal variable has mean -0.635 and standard deviation 1.11; of a Cauchy
# variable 0 and pi / 2
_FAMILIES: dict[type, tuple[tuple[str, ...], Callable[..., tuple[Any, Any]]]] = {
    **dict.fromkeys(LOCATION_SCALE_FAMILIES, _LOCATION_SCALE),
    dist.HalfNormal: (("scale",), lambda scale: (np.log(scale) - 0.635, 1.11)),
    dist.HalfCauchy: (("scale",), lambda scale: (np.log(scale), np.pi / 2)),
    dist.Exponential: (("rate",), lambda rate: _log_gamma_moments(np.ones(()), rate)),
    dist.Gamma: (("concentration", "rate"), _log_gamma_moments),
    dist.InverseGamma: (("concentration", "rate"), _inverse_gamma_moments),
    dist.Beta: (("concentration1", "concentration0"), _beta_moments),
}

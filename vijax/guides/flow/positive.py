"""Numbers kept on one side of a bound, and at a chosen value where the parameter is zero."""

from __future__ import annotations

import math

import jax
from jax import Array

_LOG_EXPM1 = math.log(math.e - 1)  # where softplus is one


def above_minus_one(raw: Array) -> Array:
    """Increasing, onto `(-1, inf)`, zero at zero."""
    return jax.nn.softplus(raw + _LOG_EXPM1) - 1


def near_one(raw: Array) -> Array:
    """Increasing, onto `(0, inf)`, one at zero."""
    return jax.nn.softplus(raw + _LOG_EXPM1)

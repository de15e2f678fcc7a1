"""Log density and entropy of a Gaussian `loc + L e`, given the noise and the log scales."""

from __future__ import annotations

import math

import jax.numpy as jnp
from jax import Array

LOG_2PI = math.log(2 * math.pi)


def gaussian_log_prob(noise: Array, log_scale: Array) -> Array:
    """Log density at `loc + L noise`, where `log |L| = sum(log_scale)`."""
    return -0.5 * jnp.sum(noise**2) - jnp.sum(log_scale) - 0.5 * noise.size * LOG_2PI


def gaussian_entropy(log_scale: Array) -> Array:
    """Entropy in nats, where `log |L| = sum(log_scale)`."""
    return jnp.sum(log_scale) + 0.5 * log_scale.size * (1 + LOG_2PI)

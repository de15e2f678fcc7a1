"""Digests of programs: equal for equal programs, different for any constant or operation."""

import os
import subprocess
import sys

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


def called(factor):
    shape = jax.ShapeDtypeStruct((), np.float32)
    return lambda x: jax.pure_callback(lambda value: factor * value, shape, x)


def test_callbacks_are_compared_by_their_code_and_what_they_capture():
    assert digest(called(1.0)) == digest(called(1.0)) != digest(called(2.0))


def test_a_digest_is_the_same_in_another_process():
    command = """
import jax
from tests.runtime.test_jaxpr_digest import *
print(digest(scaled(2.0)), digest(in_loop(1.0)), digest(called(1.0)))
"""
    env = {**os.environ, "PYTHONHASHSEED": "123"}
    run = subprocess.run([sys.executable, "-c", command], env=env, capture_output=True, text=True)
    expected = [digest(scaled(2.0)), digest(in_loop(1.0)), digest(called(1.0))]
    assert run.stdout.split() == expected, run.stderr


def test_keys_and_further_values_count():
    def drawn(seed):
        key = jax.random.key(seed)
        return lambda x: x + jax.random.normal(key)

    assert digest(drawn(0)) == digest(drawn(0)) != digest(drawn(1))
    closed = jax.make_jaxpr(jnp.sin)(1.0)
    assert jaxpr_digest(closed, ["a"]) != jaxpr_digest(closed, ["b"])
    assert jaxpr_digest(closed, {"a": np.ones(2)}) != jaxpr_digest(closed, {"a": np.zeros(2)})


def test_the_order_of_independent_operations_does_not_count():
    def one(x):
        a, b = jnp.sin(x), jnp.cos(x)
        return a - b

    def other(x):
        b, a = jnp.cos(x), jnp.sin(x)
        return a - b

    assert digest(one) == digest(other) != digest(lambda x: jnp.cos(x) - jnp.sin(x))


def test_loops_and_branches_are_compared_by_what_they_are_given():
    def scan(first, second):
        def step(carry, x):
            return (carry[0] + x * first, carry[1] - second), carry[0]

        return lambda x: jax.lax.scan(step, (x, 2 * x), jnp.arange(3.0))

    def branch(first, second):
        return lambda x: jax.lax.cond(x > 0, lambda x: x + first, lambda x: x + second, x)

    def until(limit, step):
        return lambda x: jax.lax.while_loop(lambda y: y < limit, lambda y: y + step, x)

    for make in (scan, branch, until):
        assert digest(make(1.0, 2.0)) == digest(make(1.0, 2.0))
        assert len({digest(make(1.0, 2.0)), digest(make(2.0, 1.0)), digest(make(1.0, 3.0))}) == 3

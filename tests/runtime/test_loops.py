"""Loops that have no derivative in reverse mode."""

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.ode import odeint

from vijax.runtime.jaxpr import loops_over


def doubled(x):
    return jax.lax.while_loop(lambda y: y < 10.0, lambda y: 2 * y, x)


def nested(x, data):
    return jax.jit(lambda y: jnp.where(y > 0, doubled(y), 0.0))(x) + data


def in_a_scan(x, data):
    return jax.lax.scan(lambda c, d: (doubled(c) + d, None), x, data)[0]


def of_data(x, data):
    return x * doubled(data[0])


def of_data_in_jit(x, data):
    return jax.jit(lambda x, d: x * doubled(d[0]))(x, data)


def of_an_index(x, data):
    return data[jax.lax.while_loop(lambda i: data[i] < x, lambda i: i + 1, 0)]


def static(x, data):
    return jax.lax.fori_loop(0, 5, lambda i, y: y + data[i], x)


def ode(x, data):
    return odeint(lambda y, t, x: -x * y, 1.0, data, x)[-1]


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (nested, True),
        (in_a_scan, True),
        (of_data, False),
        (of_data_in_jit, False),
        (of_an_index, False),
        (static, False),
        (ode, False),
    ],
)
def test_loops_over_latents_are_found(function, expected):
    data = jnp.linspace(0.5, 1.0, 5)
    closed = jax.make_jaxpr(function)(1.0, data)
    assert loops_over(closed.jaxpr, [True, False]) == expected
    try:
        jax.grad(lambda x: jnp.sum(function(x, data)))(1.0)
        differentiable = True
    except ValueError:
        differentiable = False
    assert differentiable != expected

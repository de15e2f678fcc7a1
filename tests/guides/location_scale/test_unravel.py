"""`unravel` equals `Space.unravel`, gradients included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vijax.contracts import Site, Space
from vijax.guides.location_scale.unravel import unravel

SPACES = [
    Space((Site("a", (2, 3), (2, 3)), Site("b", (), ()), Site("c", (4,), (4,)))),
    Space((Site("a", (5,), (5,)),)),
    Space((Site("a", (0,), (0,)), Site("b", (3,), (3,)))),
]


def loss(f, space, vector):
    z = f(space, vector)
    return sum(jnp.sum(jnp.sin((i + 1) * z[name])) for i, name in enumerate(space.names))


@pytest.mark.parametrize("space", SPACES)
def test_values_and_gradients(space):
    vectors = jax.random.normal(jax.random.key(0), (4, space.dim))
    for name, value in unravel(space, vectors[0]).items():
        np.testing.assert_array_equal(value, space.unravel(vectors[0])[name])
    for transform in (lambda f: f, jax.jit):
        found = transform(jax.vmap(jax.grad(lambda v: loss(unravel, space, v))))(vectors)
        plain = jax.vmap(jax.grad(lambda v: loss(Space.unravel, space, v)))(vectors)
        np.testing.assert_allclose(found, plain, rtol=1e-6)


def test_sites_that_are_not_used():
    gradient = jax.grad(lambda v: jnp.sum(unravel(SPACES[0], v)["b"] ** 2))(jnp.arange(11.0))
    np.testing.assert_array_equal(gradient, 12.0 * (jnp.arange(11) == 6))


def test_forward_over_reverse():
    space = SPACES[0]
    vector, direction = jnp.linspace(-1, 1, 11), jnp.linspace(0, 2, 11)
    products = [
        jax.jvp(jax.grad(lambda v, f=f: loss(f, space, v)), (vector,), (direction,))[1]
        for f in (unravel, Space.unravel)
    ]
    np.testing.assert_allclose(*products, rtol=1e-6)

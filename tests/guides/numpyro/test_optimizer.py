"""Optimizers of `numpyro.optim` take the steps that they take in NumPyro."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.optim
import optax
import pytest

from vijax.algorithms import Optimizer
from vijax.guides.numpyro import as_optax


def quadratic(x):
    return jnp.sum((x["a"] - 1.0) ** 2) + (x["b"] + 2.0) ** 2


@pytest.mark.parametrize(
    "make",
    [
        lambda: numpyro.optim.Adam(0.1),
        lambda: numpyro.optim.SGD(0.05),
        lambda: numpyro.optim.Momentum(0.02, 0.9),
        lambda: numpyro.optim.ClippedAdam(0.1, clip_norm=0.5),
        lambda: numpyro.optim.optax_to_numpyro(optax.adam(0.1)),
    ],
)
def test_the_steps_are_those_of_numpyro(make):
    start = {"a": jnp.array([3.0, -1.0]), "b": jnp.array(0.5)}
    theirs, ours = make(), as_optax(make())
    expected, found, state = theirs.init(start), start, ours.init(start)
    for _ in range(5):
        value, gradient = jax.value_and_grad(quadratic)(theirs.get_params(expected))
        expected = theirs.update(gradient, expected, value=value)
        extra = {"value": value} if theirs.update_with_value else {}
        updates, state = ours.update(gradient, state, found, **extra)
        found = optax.apply_updates(found, updates)
    for name, value in theirs.get_params(expected).items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5)


def test_an_optimizer_without_gradients_is_refused():
    with pytest.raises(TypeError, match=r"optimizer: .*Minimize.*algorithm='mode'"):
        as_optax(numpyro.optim.Minimize())


def test_equal_optimizers_share_compiled_programs():
    one, other, another = (as_optax(numpyro.optim.Adam(rate)) for rate in (0.1, 0.1, 0.2))
    assert Optimizer(one) == Optimizer(other) != Optimizer(another)
    assert as_optax(None) is None

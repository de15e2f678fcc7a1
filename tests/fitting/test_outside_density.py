"""Log densities whose gradients are computed outside of JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.distributions import constraints

import vijax
from vijax.model.outside import outside_log_density

PRECISION = np.array([[2.0, 0.5], [0.5, 1.0]])
MEAN = np.array([1.0, -2.0])


def gaussian(x, mean):
    slope = -PRECISION @ (x - mean)
    return 0.5 * (x - mean) @ slope, slope


def gamma(values, shape, prior=2.0):
    rate = values["rate"]
    value = (shape + prior - 1) * np.log(rate) - 4.0 * rate
    return value.sum(), {"rate": (shape + prior - 1) / rate - 4.0}


def test_derivatives_in_batches():
    """Values, gradients and Hessians, with points and data that vary or not."""

    def of(x, mean):
        return outside_log_density(gaussian, x, (mean,), {})

    def exact(x, mean):
        return -0.5 * (x - mean) @ jnp.asarray(PRECISION) @ (x - mean)

    x, means = jax.random.normal(jax.random.key(0), (2, 5, 2))
    for axes in ((0, None), (0, 0), (None, 0)):
        args = tuple(a if axis == 0 else a[0] for a, axis in zip((x, means), axes, strict=True))
        for take in (jax.value_and_grad, jax.hessian):
            want = jax.vmap(take(exact), axes)(*args)
            got = jax.jit(jax.vmap(take(of), axes))(*args)
            for one, other in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
                np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5)
    nested = jax.vmap(jax.vmap(of, (0, None)), (None, 0))(x, means)
    np.testing.assert_allclose(nested[3, 1], exact(x[1], means[3]), rtol=1e-5)


def test_a_fit_is_that_of_the_same_density_in_jax():
    def in_jax(values, shape, prior=2.0):
        rate = values["rate"]
        return jnp.sum((shape + prior - 1) * jnp.log(rate) - 4.0 * rate)

    names = {"rate": (2,)}, {"rate": constraints.positive}
    shape = np.array([6.0, 30.0])
    fits = [
        vijax.fit(vijax.from_log_density(fn, *names, gradient=outside), shape, progress_bar=False)
        for fn, outside in ((in_jax, False), (gamma, True))
    ]
    assert fits[0].status == fits[1].status
    np.testing.assert_allclose(fits[0].elbo, fits[1].elbo, atol=1e-3)
    rate = fits[1].sample(4000)["rate"]
    np.testing.assert_allclose(rate.mean(0), (shape + 2) / 4, rtol=0.03)
    again = vijax.fit(
        vijax.from_log_density(gamma, *names, gradient=True), shape + 1, progress_bar=False
    )
    assert again._result.target is fits[1]._result.target


def test_curvature_is_in_double_precision():
    """Laplace's approximation of a Gaussian is exact; float32 differences would be off by 1e-3."""
    model = vijax.from_log_density(gaussian, 2, gradient=True)
    posterior = vijax.fit(model, MEAN, guide="laplace", progress_bar=False)
    np.testing.assert_allclose(posterior.covariance(), np.linalg.inv(PRECISION), rtol=1e-5)


def test_products_of_a_kink_are_refused():
    def kink(x):
        return -abs(float(x[0])), -np.sign(x)

    x, v = jnp.zeros(1), jnp.ones(1)
    gradient = jax.grad(lambda x: outside_log_density(kink, x, (), {}))
    assert np.isnan(jax.jvp(gradient, (x,), (v,))[1]).all()


def test_arithmetic_errors_are_impossible_values():
    def fails(x):
        raise FloatingPointError

    assert outside_log_density(fails, jnp.zeros(2), (), {}) == -jnp.inf


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (lambda x: 0.0, r"log density: expected \(log density, gradient\), got float"),
        (lambda x: (0.0, np.zeros(3)), r"gradient of 'x': expected shape \(2,\), got \(3,\)"),
    ],
)
def test_mistakes_are_named(fn, message):
    with pytest.raises(Exception, match=message):
        jax.block_until_ready(outside_log_density(fn, jnp.zeros(2), (), {}))

"""Gamma variates and their derivatives in the concentration, against closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special, stats

from vijax.families.gamma_variates import log_gamma_variates

CONCENTRATIONS = jnp.array([0.01, 0.3, 1.0, 1.5, 20.0, 1e4])


def test_variates_and_their_derivatives():
    def derivative(a, key):
        return jax.value_and_grad(lambda a: log_gamma_variates(key, a[None])[0])(a)

    keys = jax.random.split(jax.random.key(0), 4000)
    every = jax.jit(jax.vmap(jax.vmap(derivative, (None, 0)), (0, None)))
    logs, slopes = map(np.asarray, every(CONCENTRATIONS, keys))
    for a, log, slope in zip(np.asarray(CONCENTRATIONS, float), logs, slopes, strict=True):
        if a >= 0.3:  # others underflow
            assert stats.kstest(np.exp(log.astype(float)), stats.gamma(a).cdf).pvalue > 1e-3
        for found, exact in ((log, special.digamma(a)), (slope, special.polygamma(1, a))):
            assert abs(found.mean() - exact) < 5 * found.std() / np.sqrt(len(found)) + 1e-6


def test_draws_of_one_generator_end_under_vmap():
    keys = jax.random.split(jax.random.key(0, impl="unsafe_rbg"), 500)
    logs = jax.jit(jax.vmap(lambda key: log_gamma_variates(key, jnp.full(100, 0.5))))(keys)
    assert len(np.unique(logs)) > 49_900


def test_a_concentration_that_is_no_number_ends():
    logs = log_gamma_variates(jax.random.key(0), jnp.array([jnp.nan, jnp.inf, 2.0]))
    assert np.isnan(logs[0])
    assert np.isfinite(logs[2])

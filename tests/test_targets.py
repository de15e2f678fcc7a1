"""The closed forms in `tests.targets` hold for the targets that vijax builds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.laws import assert_mean, keys
from tests.targets import TARGETS, problem


@pytest.mark.parametrize("name", TARGETS)
def test_importance_sampling_finds_the_closed_forms(name):
    p = problem(name)
    target, dim = p.target, p.target.space.dim
    loc = np.zeros(dim) if p.z_mean is None else p.z_mean
    covariance = np.eye(dim) if p.z_covariance is None else 1.3 * p.z_covariance
    factor = np.linalg.cholesky(covariance)

    @jax.jit
    @jax.vmap
    def evaluate(key):
        noise = jax.random.normal(key, (dim,))
        z = target.space.unravel(loc + factor @ noise)
        log_q = jax.scipy.stats.norm.logpdf(noise).sum() - np.log(np.diag(factor)).sum()
        values = target.constrain(z, p.batch, {}, {})
        x = jnp.concatenate([jnp.ravel(values[name]) for name in target.space.names])
        return x, target.log_density(z, p.batch) - log_q

    x, log_weight = (np.asarray(a, float) for a in evaluate(keys(0, 20_000)))
    weight = np.exp(log_weight - p.log_evidence)
    assert_mean(weight, 1.0)
    assert_mean(weight[:, None] * (x - p.mean), 0.0)
    centered = x - p.mean
    outer = centered[:, :, None] * centered[:, None, :]
    assert_mean(weight[:, None, None] * (outer - p.covariance), 0.0)


def test_the_registry_makes_a_problem_once():
    assert problem("regression") is problem("regression")

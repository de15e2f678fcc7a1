"""Bijections in a NumPyro model."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints

import vijax
from tests.laws import perturb
from vijax.guides import BijectionTransform, flow

LAYERS = {
    "coupling": flow.Chain((flow.Coupling(hidden=(8,)), flow.Flip())),
    "autoregressive": flow.Autoregressive(hidden=(8,)),
    "planar": flow.Planar(),  # inverted by bisection
}


def transform(name, dim=3):
    layer = LAYERS[name]
    return BijectionTransform(layer, perturb(layer.init(jax.random.key(0), dim), 0.5))


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_it_equals_the_bijection_on_a_batch(name):
    t = transform(name)
    x = jax.random.normal(jax.random.key(1), (2, 4, 3))

    @jax.jit
    def evaluate(t, x):
        y, log_det = t.call_with_intermediates(x)
        log_dets = t.log_abs_det_jacobian(x, y), t.inv.log_abs_det_jacobian(y, x)
        return y, log_det, jax.vmap(jax.jacfwd(t))(x[1]), t.inv(y), *log_dets

    y, log_det, jacobian, back, forward, inverse = evaluate(t, x)
    assert y.shape == (2, 4, 3)
    assert log_det.shape == (2, 4)
    np.testing.assert_allclose(log_det[1], np.linalg.slogdet(jacobian)[1], atol=1e-4)
    np.testing.assert_allclose(forward, log_det, atol=1e-5)
    np.testing.assert_allclose(back, x, atol=1e-4)
    np.testing.assert_allclose(inverse, -log_det, atol=1e-4)
    assert np.abs(y - x).max() > 0.1


def test_it_is_a_pytree_with_equality():
    t = transform("coupling")
    assert jax.tree.map(lambda leaf: leaf, t) == t
    assert jax.tree.map(lambda leaf: leaf + 1, t) != t
    assert transform("planar") != t
    assert t.domain is t.codomain is constraints.real_vector
    assert len(jax.tree.leaves(t)) == len(jax.tree.leaves(t.params))


def test_a_transformed_prior_equals_a_deterministic_transform():
    """A prior transformed by a flow has the evidence and posterior of the noncentered model."""
    t = transform("coupling", dim=2)
    base = dist.Normal(0.0, 1.0).expand([2]).to_event(1)
    y = np.asarray([0.4, -0.3], np.float32)

    def transformed_prior(y, t):
        x = numpyro.sample("x", dist.TransformedDistribution(base, t))
        numpyro.sample("y", dist.Normal(x, 0.5).to_event(1), obs=y)

    def deterministic(y, t):
        e = numpyro.sample("e", base)
        x = numpyro.deterministic("x", t(e))
        numpyro.sample("y", dist.Normal(x, 0.5).to_event(1), obs=y)

    models = (transformed_prior, deterministic)
    fits = [vijax.fit(model, y, t, progress_bar=False) for model in models]
    evidence = [fit.importance(8000) for fit in fits]
    error = 5 * np.hypot(*(found.log_evidence_se for found in evidence))
    assert abs(evidence[0].log_evidence - evidence[1].log_evidence) < error + 1e-3
    draws = [fit.sample(4000)["x"] for fit in fits]
    sd = jnp.std(draws[1], axis=0)
    np.testing.assert_allclose((draws[0].mean(0) - draws[1].mean(0)) / sd, 0, atol=0.12)

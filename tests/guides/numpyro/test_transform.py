"""Bijections inside a NumPyro model."""

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
    "planar": flow.Planar(),  # its inverse is found by bisection
}


def transform(name, dim=3):
    layer = LAYERS[name]
    return BijectionTransform(layer, perturb(layer.init(jax.random.key(0), dim), 0.5))


@pytest.mark.slow
@pytest.mark.parametrize("name", LAYERS)
def test_it_is_the_bijection_over_a_batch(name):
    bend = transform(name)
    x = jax.random.normal(jax.random.key(1), (2, 4, 3))

    @jax.jit
    def everything(bend, x):
        y, log_det = bend.call_with_intermediates(x)
        there = bend.log_abs_det_jacobian(x, y), bend.inv.log_abs_det_jacobian(y, x)
        return y, log_det, jax.vmap(jax.jacfwd(bend))(x[1]), bend.inv(y), *there

    y, log_det, jacobian, back, forwards, backwards = everything(bend, x)
    assert y.shape == (2, 4, 3)
    assert log_det.shape == (2, 4)
    np.testing.assert_allclose(log_det[1], np.linalg.slogdet(jacobian)[1], atol=1e-4)
    np.testing.assert_allclose(forwards, log_det, atol=1e-5)
    np.testing.assert_allclose(back, x, atol=1e-4)
    np.testing.assert_allclose(backwards, -log_det, atol=1e-4)
    assert np.abs(y - x).max() > 0.1


def test_it_is_a_pytree_that_knows_its_like():
    bend = transform("coupling")
    again = jax.tree.map(lambda leaf: leaf, bend)
    assert again == bend
    assert jax.tree.map(lambda leaf: leaf + 1, bend) != bend
    assert transform("planar") != bend
    assert bend.domain is bend.codomain is constraints.real_vector
    assert len(jax.tree.leaves(bend)) == len(jax.tree.leaves(bend.params))


def test_a_model_may_use_one():
    """A prior bent by a flow, with data on the far side: against the model without."""
    bend = transform("coupling", dim=2)
    base = dist.Normal(0.0, 1.0).expand([2]).to_event(1)
    y = np.asarray([0.4, -0.3], np.float32)

    def bent(y, bend):
        x = numpyro.sample("x", dist.TransformedDistribution(base, bend))
        numpyro.sample("y", dist.Normal(x, 0.5).to_event(1), obs=y)

    def straight(y, bend):
        e = numpyro.sample("e", base)
        x = numpyro.deterministic("x", bend(e))
        numpyro.sample("y", dist.Normal(x, 0.5).to_event(1), obs=y)

    one, other = (vijax.fit(model, y, bend, progress_bar=False) for model in (bent, straight))
    evidence = [fit.importance(0, 8000) for fit in (one, other)]
    error = 5 * np.hypot(*(found.log_evidence_se for found in evidence))
    assert abs(evidence[0].log_evidence - evidence[1].log_evidence) < error + 1e-3
    draws = [fit.sample(0, 4000)["x"] for fit in (one, other)]
    spread = jnp.std(draws[1], axis=0)
    np.testing.assert_allclose((draws[0].mean(0) - draws[1].mean(0)) / spread, 0, atol=0.12)

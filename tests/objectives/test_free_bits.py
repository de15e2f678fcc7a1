"""Free bits: divergences from the prior are penalized above a threshold."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vijax
from tests.objectives.estimators.test_rao_blackwell import (
    KEYS,
    ROWS,
    context,
    hierarchy,
    transformed,
)
from vijax.contracts import Variables
from vijax.objectives import ELBO, FreeBits
from vijax.runtime.errors import GuideError


def loss_and_slopes(objective, at, params, key=KEYS[3]):
    def loss(params):
        return objective(Variables(params), at._replace(key=key))[0]

    return jax.jit(jax.value_and_grad(loss))(params)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "guide", "size"),
    [(hierarchy, "rows", 4), (hierarchy, "two groups", None), (transformed, "mean-field", 4)],
)
def test_with_zero_nats_it_equals_the_elbo_for_every_draw(model, guide, size):
    at, params = context(model, guide, size)
    # equal as long as no divergence estimate is negative, where it would be truncated at zero
    found, want = (loss_and_slopes(o, at, params) for o in (FreeBits(0.0, 8), ELBO(8, "plain")))
    for got, known in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(got, known, rtol=1e-4, atol=1e-3)


def test_below_the_threshold_the_gradient_is_that_of_the_likelihood():
    at, params = context(hierarchy, "mean-field")
    loss, slopes = loss_and_slopes(FreeBits(100.0, 4), at, params)
    assert slopes.loc["mu"] == slopes.log_scale["mu"] == 0  # only in priors
    assert (jnp.abs(slopes.loc["theta"]) > 0).all()

    def likelihood(key):
        theta = at.guide.draw(params, at.target.space, key, at.batch).z["theta"]
        return dist.Normal(theta[:, None], 1.5).log_prob(at.batch.data["y"]).sum()

    mean = jax.vmap(likelihood)(jax.random.split(KEYS[3], 4)).mean()
    np.testing.assert_allclose(loss, 100 * (ROWS + 1) - mean, rtol=1e-5)


@pytest.mark.slow
def test_divergences_reach_the_threshold():
    """Weak data: the posterior's divergence is 0.01 nats per row, the threshold 0.3."""

    def weak(y):
        with numpyro.plate("rows", len(y)):
            z = numpyro.sample("z", dist.Normal(0.0, 1.0))
            numpyro.sample("y", dist.Normal(0.3 * z, 1.0), obs=y)

    y = np.full(400, 0.5, np.float32)
    options = {"guide": "meanfield", "num_steps": 1500, "progress_bar": False}
    posterior = vijax.fit(weak, y, objective=FreeBits(0.3, 8), **options)
    loc, log_scale = posterior.params.loc["z"], posterior.params.log_scale["z"]
    divergence = 0.5 * (loc**2 + np.exp(2 * log_scale) - 1) - log_scale
    assert divergence.mean() == pytest.approx(0.3, abs=0.03)


def test_invalid_options_and_models_raise():
    with pytest.raises(ValueError, match="nats"):
        FreeBits(-1.0)
    with pytest.raises(ValueError, match="num_particles"):
        FreeBits(0.5, 0)

    def mixture(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 3.0))
        with numpyro.plate("rows", len(y)):
            k = numpyro.sample("k", dist.Bernoulli(0.5))
            numpyro.sample("y", dist.Normal(mu + 3.0 * k, 1.0), obs=y)

    with pytest.raises(GuideError, match="got 'k', which is discrete"):
        vijax.fit(mixture, np.zeros(3), objective=FreeBits(), num_steps=2, progress_bar=False)

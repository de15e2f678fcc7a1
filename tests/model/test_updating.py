"""The density of a model given earlier data: that of the model given all of them."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from numpyro.handlers import mask, scale
from numpyro.infer.util import log_density

from vijax.model.updating import Batches, Earlier, NormalPrior, Updated

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(3, 8)), RNG.normal(size=(3, 8))
W, TAU, WALK = jnp.float32(0.7), jnp.float32(1.3), jnp.array(RNG.normal(size=8), "f4")
ALL = {"w": W, "tau": TAU}


def regression(x, y):
    w = numpyro.sample("w", dist.Normal(0.0, 2.0))
    tau = numpyro.sample("tau", dist.LogNormal(0.0, 1.0))
    with numpyro.plate("rows", len(y)), scale(scale=0.5), mask(mask=x > -1):
        numpyro.sample("y", dist.Normal(w * x, tau), obs=y)


def walk(x, y):
    tau = numpyro.sample("tau", dist.LogNormal(0.0, 1.0))

    def step(state, given):
        offset, value = given
        state = numpyro.sample("state", dist.Normal(state, tau))
        numpyro.sample("y", dist.Normal(state + offset, 1.0), obs=value)
        return state, None

    scan(step, 0.0, (jnp.asarray(x), jnp.asarray(y)))


def prior(values):
    log_tau = dist.LogNormal(0.0, 1.0).log_prob(TAU)
    if "w" in values:
        return float(log_tau + dist.Normal(0.0, 2.0).log_prob(W))
    steps = jnp.diff(WALK, prepend=0.0)
    return float(log_tau + dist.Normal(0.0, TAU).log_prob(steps).sum())


@pytest.mark.parametrize(
    ("model", "values"), [(regression, ALL), (walk, {"tau": TAU, "state": WALK})]
)
def test_batches_add_their_log_likelihoods(model, values):
    def density(called, *args, **kwargs):
        return float(log_density(called, args, kwargs, values)[0])

    whole = sum(density(model, x, y) for x, y in zip(X, Y, strict=True)) - 2 * prior(values)
    stacked = tuple(np.stack([one[0], one[1], one[0], one[0]]).astype("f4") for one in (X, Y))
    batches = Batches(stacked, np.arange(4) < 2, np.float32(-3.5))
    found = density(Updated(model), X[2], Y[2], earlier=Earlier(None, batches))
    assert found == pytest.approx(whole + 3.5, abs=1e-3)
    assert density(Updated(model), X[2], Y[2]) == density(model, X[2], Y[2])


def test_a_normal_distribution_takes_the_place_of_the_priors():
    mean, root = jnp.array([0.3, -0.2]), jnp.array([[0.5, 0.0], [0.2, 0.4]])
    earlier = Earlier(NormalPrior(mean, root))
    found = log_density(Updated(regression, ("w", "tau")), (X[0], Y[0]), {"earlier": earlier}, ALL)
    likelihood = log_density(regression, (X[0], Y[0]), {}, ALL)[0]
    likelihood -= prior(ALL)
    z = jnp.array([W, jnp.log(TAU)])
    normal = jax.scipy.stats.multivariate_normal.logpdf(z, mean, root @ root.T) - jnp.log(TAU)
    assert float(found[0]) == pytest.approx(float(likelihood + normal), abs=1e-4)

"""What is read of a model is its log density, and what cannot be read is named."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from jax.scipy.special import ndtr
from numpyro.handlers import mask, scale

from vijax.contracts import Batch
from vijax.model import split_and_build
from vijax.runtime.errors import GuideError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 2)).astype(np.float32)
COUNTS = np.array([0, 2, 1, 4, 3])
GROUP = np.array([0, 1, 1, 2, 0])


def weights():
    return numpyro.sample("w", dist.Normal(0.3, 2.0).expand([2]).to_event(1))


def clutter(y):
    x = numpyro.sample("x", dist.Normal(0.0, 10.0))
    parts = dist.Normal(jnp.stack([x, 0 * x]), jnp.array([1.0, 3.0]))
    weights = dist.Categorical(probs=jnp.array([0.4, 0.6]))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.MixtureSameFamily(weights, parts), obs=y)


def exposures(x, n, y):
    eta = x @ weights()
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Poisson(n * jnp.exp(eta)), obs=y)


def several(x, y):
    """Masks, scales, events, and a sum of factors."""
    eta = 1.0 + x @ weights()
    with mask(mask=y > 0), numpyro.plate("rows", len(y)):
        numpyro.sample("a", dist.StudentT(3.0, eta, 2.0), obs=y)
    with scale(scale=0.5):
        numpyro.sample("b", dist.Laplace(eta, 1.5).to_event(1), obs=y)
    numpyro.factor("c", (-jnp.exp(eta)).sum() + jnp.log(ndtr(eta)).sum() - 3.0)


def shared(y):
    """One site that all rows share, in a function before it meets the data."""
    m = numpyro.sample("m", dist.Normal(0.0, 2.0))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Bernoulli(logits=m), obs=y % 2)


def hierarchy(group, y):
    m = numpyro.sample("m", dist.Normal(1.0, 2.0))
    tau = numpyro.sample("tau", dist.HalfNormal(1.0))
    with numpyro.plate("groups", 3):
        b = numpyro.sample("b", dist.Normal(m, tau))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Binomial(6, logits=b[group]), obs=y)


def process(x, y):
    gain = numpyro.sample("gain", dist.LogNormal(0.0, 1.0))
    square = jnp.sum((x[:, None] - x[None]) ** 2, axis=-1)
    kernel = gain**2 * jnp.exp(-square) + 1e-2 * jnp.eye(len(x))
    f = numpyro.sample("f", dist.MultivariateNormal(0.5, kernel))
    numpyro.sample("y", dist.Bernoulli(logits=f).to_event(1), obs=y % 2)


def ordinal(x, y):
    eta, cuts = x @ weights(), jnp.array([-1.0, 0.5])
    below = ndtr(cuts - eta[:, None])
    probs = jnp.stack([below[:, 0], below[:, 1] - below[:, 0], 1 - below[:, 1]])
    numpyro.factor("y", jnp.log(jnp.where(jnp.arange(3)[:, None] == y % 3, probs, 0.0).sum(0)))


def truncated(x, y):
    eta = x @ weights()
    numpyro.factor("above", jnp.where(eta > -y, 0.0, -jnp.inf))
    numpyro.sample("y", dist.TruncatedNormal(eta, 1.0, low=-1.0), obs=1.0 * y)


MODELS = {
    clutter: (np.array([0.1, 2.3]),),
    exposures: (X, np.array([1.0, 2.0, 0.5, 3.0, 1.0]), COUNTS),
    several: (X, 1.0 * COUNTS),
    shared: (COUNTS,),
    hierarchy: (GROUP, COUNTS),
    process: (X, COUNTS),
    ordinal: (X, COUNTS),
    truncated: (X, COUNTS),
}


_SLOW = (clutter, exposures, hierarchy, process)


@pytest.mark.parametrize(
    "model",
    [pytest.param(m, marks=pytest.mark.slow if m in _SLOW else ()) for m in MODELS],
    ids=lambda model: model.__name__,
)
def test_the_reading_is_the_log_density(model):
    """Up to the prior of the normal sites, whose density is that of standard normals."""
    _, data, target = split_and_build(model, MODELS[model], {}, None)
    plan = target.functions.projection_plan(())
    sites = {site.name: site for site in target.space.sites}
    given = {name: jnp.full(sites[name].z_shape, -0.3) for name in plan.hyperparameters}
    batch = Batch(data)

    def differences(e):
        read = target.functions.projections(plan, given, batch)
        z = read.loc + read.factor @ e
        position, start = dict(given), 0
        for name in plan.normal:
            part = z[start : start + sites[name].size]
            position[name], start = part.reshape(sites[name].shape), start + part.size
        log_density = target.log_density(position, batch)
        log_prior = -0.5 * e @ e - jnp.linalg.slogdet(read.factor)[1]
        log_prior -= 0.5 * len(e) * jnp.log(2 * jnp.pi)
        mine = read.constant + read.log_likelihood(read.rows @ e).sum() + log_prior
        return log_density, mine, jnp.stack([*read.misfit.values()])

    e = 0.5 * jax.random.normal(jax.random.key(1), (4, plan.dim))
    own, mine, misfit = jax.jit(jax.vmap(differences))(e)
    assert np.isfinite(own).any()
    np.testing.assert_allclose(mine, own, rtol=2e-4)
    assert misfit.max() < 1e-5


def two_directions(x, y):
    w = weights()
    numpyro.factor("both", -jnp.exp(w[0]) * (x @ w) ** 2)


def curved(y):
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    b = numpyro.sample("b", dist.Normal(jnp.exp(a), 1.0))
    numpyro.sample("y", dist.Normal(b, 1.0), obs=y)


def indexed(group, y):
    with numpyro.plate("groups", 3):
        b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Poisson(jnp.exp(b)[group]), obs=y)


def labeled(y):
    k = numpyro.sample("k", dist.Bernoulli(0.5))
    m = numpyro.sample("m", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(m + k, 1.0), obs=y)


def positive(y):
    rate = numpyro.sample("rate", dist.Gamma(1.0, 1.0))
    numpyro.sample("y", dist.Poisson(rate), obs=y)


@pytest.mark.parametrize(
    ("model", "args", "words"),
    [
        (curved, (1.0 * COUNTS,), "location of the normal site 'b' to be linear .* exp of a"),
        (indexed, (GROUP, COUNTS), "'y' .* operation 'gather' on a function of b"),
        (labeled, (1.0 * COUNTS,), "the discrete site 'k'"),
        (positive, (COUNTS,), r"a latent site with a normal prior, got \['rate'\]"),
    ],
    ids=["curved", "indexed", "labeled", "positive"],
)
def test_what_is_not_read_is_named(model, args, words):
    _, _, target = split_and_build(model, args, {}, None)
    with pytest.raises(GuideError, match=words):
        target.functions.projection_plan(())


def test_several_directions_are_seen():
    _, data, target = split_and_build(two_directions, (X, COUNTS), {}, None)
    plan = target.functions.projection_plan(())
    misfit = jax.jit(lambda data: target.functions.projections(plan, {}, Batch(data)).misfit)
    assert misfit(data)["both"] > 0.1


def test_sites_that_scale_others_are_hyperparameters():
    def model(y):
        log_tau = numpyro.sample("log_tau", dist.Normal(0.0, 1.0))
        b = numpyro.sample("b", dist.Normal(0.0, jnp.exp(log_tau)))
        numpyro.sample("y", dist.Poisson(jnp.exp(b)), obs=y)

    _, _, target = split_and_build(model, (COUNTS,), {}, None)
    plan = target.functions.projection_plan(())
    assert (plan.normal, plan.hyperparameters) == (("b",), ("log_tau",))
    assert plan.terms == (("y", 5),)

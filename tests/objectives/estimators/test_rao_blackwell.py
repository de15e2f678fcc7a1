"""Rao-Blackwellized score-function gradients: each factor uses only its Markov blanket."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from flax import nnx

from vijax.contracts import Batch, LossContext, Variables
from vijax.guides import Amortized, resolve
from vijax.model import batch_request, build, split
from vijax.objectives import ELBO, ScoreELBO
from vijax.objectives.estimators.particles import draw_particles, with_gradient_of

ROWS = 12
Y = np.random.default_rng(0).normal(1.0, 2.0, (ROWS, 2)).astype(np.float32)
KEYS = jax.random.split(jax.random.key(1), 3000)


def hierarchy(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    with numpyro.plate("rows", y.shape[0]):
        theta = numpyro.sample("theta", dist.Normal(mu, 1.0))
        numpyro.sample("y", dist.Normal(theta[:, None], 1.5).to_event(1), obs=y)


def transformed(y):
    """With a log Jacobian."""
    with numpyro.plate("rows", y.shape[0]):
        rate = numpyro.sample("rate", dist.Gamma(3.0, 1.0))
        numpyro.sample("y", dist.Poisson(rate), obs=jnp.round(jnp.abs(y[:, 0])))


class Encoder(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(2, 2, rngs=rngs)

    def __call__(self, y):
        return self.layer(y)


GUIDES = {
    "mean-field": "meanfield",
    "two groups": {"mu": "meanfield", ...: "fullrank"},
    "fullrank": "fullrank",
    "rows": {"theta": Amortized(Encoder, "y"), ...: "fullrank"},
}


@functools.cache
def context(model, guide, size=None):
    arguments, data = split(model, (Y,), {})
    target = build(model, arguments, batch_request(size, None)).on_batch
    index = {} if size is None else {"rows": jnp.array([7, 2, 0, 5])[:size]}
    chosen = resolve(GUIDES[guide], target)
    at = LossContext({}, KEYS[0], target, chosen, Batch(data, index), jnp.zeros(()))
    start = {site.name: jnp.full(site.z_shape, 0.4) for site in target.space.sites}
    params = chosen.init(jax.random.key(5), target.space, start, at.batch)
    return at, jax.tree.map(_moved, params)


def _moved(leaf):
    return leaf + 0.2 * jnp.cos(jnp.arange(leaf.size)).reshape(leaf.shape)


def slopes(objective, at, params):
    def one(key):
        def loss(params):
            return objective(Variables(params), at._replace(key=key))[0]

        return jax.tree.leaves(jax.value_and_grad(loss)(params))

    run = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=1000))
    return [np.asarray(leaf, float) for leaf in run(KEYS)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "guide", "size"),
    [
        (hierarchy, "mean-field", None),
        (hierarchy, "mean-field", 4),
        (hierarchy, "two groups", None),
        (hierarchy, "rows", 4),
        (transformed, "mean-field", None),
    ],
)
def test_value_and_gradient_are_those_of_reparameterized_draws(model, guide, size):
    at, params = context(model, guide, size)
    found, want = (slopes(o, at, params) for o in (ScoreELBO(4), ELBO(4, "plain")))
    for got, known in zip(found, want, strict=True):
        error = np.sqrt((got.var(0) + known.var(0)) / len(KEYS))
        assert (np.abs(got.mean(0) - known.mean(0)) < 5 * error + 1e-4).all()


@dataclasses.dataclass(frozen=True)
class Plain:
    """The score-function estimator without Rao-Blackwellization."""

    num_particles: int

    def __call__(self, variables, at):
        drawn = draw_particles("score", self.num_particles, variables, at)
        f = jax.lax.stop_gradient(drawn.log_weights)
        advantage = (f - jnp.mean(f)) * self.num_particles / (self.num_particles - 1)
        surrogate = -jnp.mean(advantage * drawn.log_q)
        return with_gradient_of(-jnp.mean(f), surrogate), drawn.mutable


@pytest.mark.slow
@pytest.mark.parametrize(("guide", "factor"), [("mean-field", 3), ("rows", 4), ("two groups", 1)])
def test_rao_blackwellization_reduces_the_variance(guide, factor):
    """The variance of the gradient decreases by a factor that grows with the number of rows."""
    at, params = context(hierarchy, guide)
    reduced, plain = (slopes(o, at, params)[1:] for o in (ScoreELBO(4), Plain(4)))
    ratios = []
    for seed in range(20):  # bootstrap: variances of heavy-tailed numbers are uncertain
        rows = np.random.default_rng(seed).integers(0, len(KEYS), len(KEYS))
        variances = [sum(leaf[rows].var(0).sum() for leaf in one) for one in (reduced, plain)]
        ratios.append(variances[1] / variances[0])
    assert np.mean(ratios) - 5 * np.std(ratios) > factor


def test_a_single_factor_uses_all_terms():
    """A full-rank guide."""
    at, params = context(transformed, "fullrank")
    for one, other in zip(*(slopes(o, at, params) for o in (ScoreELBO(4), Plain(4))), strict=True):
        np.testing.assert_allclose(one[:50], other[:50], rtol=1e-3, atol=1e-2)


def shifted(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    tau = numpyro.sample("tau", dist.LogNormal(0.0, 1.0))
    with numpyro.plate("rows", y.shape[0]):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta[:, None], 1.5).to_event(1), obs=y)


def test_the_parents_of_terms_depend_on_the_parameterization():
    target = build(shifted, split(shifted, (Y,), {})[0])
    own = target.term_info(Batch({}))
    assert {name: set(term.parents) for name, term in own.items()} == {
        "mu": {"mu"},
        "tau": {"tau"},
        "log |dtau|": {"tau"},
        "theta": {"theta", "mu", "tau"},
        "y": {"theta"},
    }
    # non-centered: the coordinate is the noise of `theta`
    moved = target.term_info(Batch({}, centering={"theta": jnp.zeros(ROWS)}))
    assert moved["y"].parents == {"theta", "mu", "tau"}
    assert [plate.name for plate in moved["y"].plates] == ["rows"]
    assert moved["mu"].plates == ()

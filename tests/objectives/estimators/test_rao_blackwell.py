"""The score function with each part of a guide hearing of its own terms alone."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from flax import nnx

from vijax.contracts import Batch, Setting, Variables
from vijax.guides import Amortized, resolve
from vijax.model import batch_request, build, split
from vijax.objectives import ELBO, ScoreELBO
from vijax.objectives.estimators.particles import particles, with_gradient_of

ROWS = 12
Y = np.random.default_rng(0).normal(1.0, 2.0, (ROWS, 2)).astype(np.float32)
KEYS = jax.random.split(jax.random.key(1), 3000)


def hierarchy(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    with numpyro.plate("rows", y.shape[0]):
        theta = numpyro.sample("theta", dist.Normal(mu, 1.0))
        numpyro.sample("y", dist.Normal(theta[:, None], 1.5).to_event(1), obs=y)


def bent(y):
    """A log Jacobian."""
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
    "whole": "fullrank",
    "rows": {"theta": Amortized(Encoder, "y"), ...: "fullrank"},
}


@functools.cache
def setting(model, guide, size=None):
    arguments, data = split(model, (Y,), {})
    target = build(model, arguments, batch_request(size, None)).on_batch
    index = {} if size is None else {"rows": jnp.array([7, 2, 0, 5])[:size]}
    chosen = resolve(GUIDES[guide], target)
    at = Setting({}, KEYS[0], target, chosen, Batch(data, index), jnp.zeros(()))
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
        (bent, "mean-field", None),
    ],
)
def test_value_and_gradient_are_those_of_reparameterized_draws(model, guide, size):
    at, params = setting(model, guide, size)
    found, want = (slopes(o, at, params) for o in (ScoreELBO(4), ELBO(4, "plain")))
    for got, known in zip(found, want, strict=True):
        error = np.sqrt((got.var(0) + known.var(0)) / len(KEYS))
        assert (np.abs(got.mean(0) - known.mean(0)) < 5 * error + 1e-4).all()


@dataclasses.dataclass(frozen=True)
class Whole:
    """The score function where all of the guide hears of all of the log density."""

    num_particles: int

    def __call__(self, variables, at):
        drawn = particles("score", self.num_particles, variables, at)
        f = jax.lax.stop_gradient(drawn.log_weights)
        advantage = (f - jnp.mean(f)) * self.num_particles / (self.num_particles - 1)
        surrogate = -jnp.mean(advantage * drawn.log_q)
        return with_gradient_of(-jnp.mean(f), surrogate), drawn.mutable


@pytest.mark.slow
@pytest.mark.parametrize(("guide", "factor"), [("mean-field", 3), ("rows", 4), ("two groups", 1)])
def test_what_a_part_has_no_part_in_adds_no_noise(guide, factor):
    """The variance of the gradient falls by a factor that grows with the twelve rows."""
    at, params = setting(hierarchy, guide)
    own, whole = (slopes(o, at, params)[1:] for o in (ScoreELBO(4), Whole(4)))
    shares = []
    for seed in range(20):  # bootstrap: variances of heavy-tailed numbers are uncertain
        rows = np.random.default_rng(seed).integers(0, len(KEYS), len(KEYS))
        variances = [sum(leaf[rows].var(0).sum() for leaf in one) for one in (own, whole)]
        shares.append(variances[1] / variances[0])
    assert np.mean(shares) - 5 * np.std(shares) > factor


def test_with_one_part_nothing_changes():
    """A full-rank guide hears of everything."""
    at, params = setting(bent, "whole")
    for one, other in zip(*(slopes(o, at, params) for o in (ScoreELBO(4), Whole(4))), strict=True):
        np.testing.assert_allclose(one[:50], other[:50], rtol=1e-3, atol=1e-2)


def shifted(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 2.0))
    tau = numpyro.sample("tau", dist.LogNormal(0.0, 1.0))
    with numpyro.plate("rows", y.shape[0]):
        theta = numpyro.sample("theta", dist.Normal(mu, tau))
        numpyro.sample("y", dist.Normal(theta[:, None], 1.5).to_event(1), obs=y)


def test_terms_know_what_they_depend_on_in_the_coordinates_in_use():
    target = build(shifted, split(shifted, (Y,), {})[0])
    own = target.term_info(Batch({}))
    assert {name: set(term.parents) for name, term in own.items()} == {
        "mu": {"mu"},
        "tau": {"tau"},
        "log |dtau|": {"tau"},
        "theta": {"theta", "mu", "tau"},
        "y": {"theta"},
    }
    # non-centered: what stands in the position is the noise of `theta`
    moved = target.term_info(Batch({}, centering={"theta": jnp.zeros(ROWS)}))
    assert moved["y"].parents == {"theta", "mu", "tau"}
    assert [plate.name for plate in moved["y"].plates] == ["rows"]
    assert moved["mu"].plates == ()

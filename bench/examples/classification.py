"""Classification: logistic and ordinal regression, ratings by several annotators."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import expit, logsumexp
from numpyro.infer.autoguide import AutoDAIS

from bench.examples.case import Example


def _logistic(rows, columns):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, columns))
    return x, rng.binomial(1, expit(x @ rng.normal(0, 0.7, columns)))


def _model(x, y):
    w = numpyro.sample("w", dist.Normal(jnp.zeros(x.shape[1]), 1.0).to_event(1))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Bernoulli(logits=x @ w), obs=y)


def covtype():
    return Example(_model, _logistic(20_000, 20), nuts=None)


def dais_demo():
    return Example(_model, _logistic(200, 6), {"guide": AutoDAIS(_model, K=4)})


def subsampled():
    """The model of the example of HMC with energy-conserving subsampling."""

    def model(x, y):
        w = numpyro.sample("w", dist.Normal(jnp.zeros(x.shape[1]), 1.0).to_event(1))
        with numpyro.plate("rows", len(y), subsample_size=100):
            some = numpyro.subsample(x, event_dim=1)
            numpyro.sample(
                "y", dist.Bernoulli(logits=some @ w), obs=numpyro.subsample(y, event_dim=0)
            )

    return Example(model, _logistic(5_000, 5), nuts=_model)


def ordinal_regression():
    rng = np.random.default_rng(1)
    x = rng.normal(size=200)
    y = np.digitize(0.8 * x + rng.logistic(size=200), [-1.0, 0.5, 1.5])

    def model(x, y):
        cuts = numpyro.sample(
            "cuts",
            dist.TransformedDistribution(
                dist.Normal(0.0, 2.0).expand([3]).to_event(1), dist.transforms.OrderedTransform()
            ),
        )
        slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.OrderedLogistic(slope * x, cuts), obs=y)

    return Example(model, (x, y))


def _ratings():
    rng = np.random.default_rng(2)
    truth = rng.integers(0, 3, 60)
    right = rng.random((5, 60)) < 0.75
    return (np.where(right, truth, rng.integers(0, 3, (5, 60))),)


def _rating_priors():
    shares = numpyro.sample("shares", dist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("annotators", 5, dim=-2), numpyro.plate("classes", 3):
        confusion = numpyro.sample("confusion", dist.Dirichlet(1.0 + 4 * jnp.eye(3)))
    return shares, confusion


def annotation():
    """Dawid and Skene: the true class of every item is a discrete latent."""

    def model(ratings):
        shares, confusion = _rating_priors()
        with numpyro.plate("items", ratings.shape[1]):
            truth = numpyro.sample("truth", dist.Categorical(shares))
            for i, given in enumerate(ratings):
                numpyro.sample(f"rating_{i}", dist.Categorical(confusion[i, truth]), obs=given)

    def marginal(ratings):
        shares, confusion = _rating_priors()
        terms = jnp.log(confusion)[np.arange(5)[:, None], :, ratings].sum(0)
        numpyro.factor("ratings", logsumexp(jnp.log(shares) + terms, axis=-1).sum())

    return Example(model, _ratings(), nuts=marginal)


def item_response():
    """Items and persons, with the sign fixed by the priors of the discriminations."""
    rng = np.random.default_rng(3)
    ability, difficulty = rng.normal(size=60), rng.normal(size=10)
    y = rng.binomial(1, expit(ability[:, None] - difficulty))

    def model(y):
        with numpyro.plate("items", y.shape[1]):
            b = numpyro.sample("b", dist.Normal(0.0, 1.5))
            a = numpyro.sample("a", dist.LogNormal(0.0, 0.5))
        with numpyro.plate("persons", y.shape[0]):
            ability = numpyro.sample("ability", dist.Normal(0.0, 1.0))
        logits = jax.vmap(lambda one: a * (one - b))(ability)
        numpyro.sample("y", dist.Bernoulli(logits=logits), obs=y)

    return Example(model, (y,))


EXAMPLES = {
    "covtype": covtype,
    "dais_demo": dais_demo,
    "hmcecs": subsampled,
    "ordinal_regression": ordinal_regression,
    "annotation": annotation,
    "item response": item_response,
}

"""Models given by a log density, and log densities without a gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.distributions import constraints
from scipy.special import gammaln

import vijax
from vijax.contracts import Batch
from vijax.model import build, split, unwrap
from vijax.objectives import ELBO, ScoreELBO
from vijax.runtime.errors import ModelError

Y = np.array([2.0, 0.0, 3.0, 1.0], np.float32)


def gamma(values, y, prior=2.0):
    rate = values["rate"]
    return (prior - 1) * jnp.log(rate) - prior * rate + jnp.sum(y * jnp.log(rate) - rate)


def make(fn, shapes, support=None):
    return vijax.from_log_density(fn, shapes, support)


def test_a_density_of_a_constrained_value():
    model = make(gamma, {"rate": ()}, {"rate": constraints.positive})
    posterior = vijax.fit(model, Y, progress_bar=False)
    a, b = 2 + Y.sum(), 2.0 + len(Y)
    rate = posterior.sample(8000)["rate"]
    assert abs(rate.mean() - a / b) < 5 * np.sqrt(a) / b / np.sqrt(8000) + 0.02
    assert rate.std() == pytest.approx(np.sqrt(a) / b, rel=0.05)
    evidence = posterior.log_evidence()
    assert abs(evidence.value - gammaln(a) + a * np.log(b)) < 5 * evidence.se + 1e-3
    again = vijax.fit(model, Y, prior=3.0, progress_bar=False)  # keyword arguments are passed on
    assert again.sample(8000)["rate"].mean() == pytest.approx((a + 1) / (b + 1), abs=0.02)


def test_the_target_is_the_given_density():
    def joint(values, y):
        return -0.5 * jnp.sum((y[:3] - values["w"]) ** 2) - jnp.sum(values["p"] ** 2)

    shapes = {"w": (3,), "p": (4,)}
    model, args, _ = unwrap(make(joint, shapes, {"p": constraints.simplex}), (Y,), {})
    arguments, data = split(model, args, {})
    target = build(model, arguments)
    assert [(s.name, s.shape, s.z_shape) for s in target.space.sites] == [
        ("w", (3,), (3,)),
        ("p", (4,), (3,)),
    ]
    z = {"w": jnp.array([0.1, -1.0, 2.0]), "p": jnp.array([0.2, -0.4, 1.0])}
    x = target.constrain(z, Batch(data), {}, {})
    log_dets = target.log_dets(z, Batch(data), {}, {})
    np.testing.assert_allclose(
        target.log_density(z, Batch(data)), joint(x, Y) + sum(log_dets.values()), rtol=1e-5
    )


def test_a_shape_is_that_of_one_array():
    """An exponential density of three rates, which `fn` gets as an array."""

    def rates(x, y):
        assert x.shape == (3,)
        return -jnp.sum(x * y[:3])

    scale = Y[:3] + 1
    for shape in (3, (3,)):
        model = vijax.from_log_density(rates, shape, constraints.positive)
        posterior = vijax.fit(model, scale, progress_bar=False)
    x = posterior.sample(4000)["x"]
    np.testing.assert_allclose(x.mean(0), 1 / scale, rtol=0.1)
    np.testing.assert_allclose(posterior.log_evidence().value, -np.log(scale).sum(), atol=0.02)


def test_another_fit_on_new_data_compiles_nothing():
    def model():
        return make(gamma, {"rate": ()}, {"rate": constraints.positive})

    first = vijax.fit(model(), Y, progress_bar=False)
    second = vijax.fit(model(), Y + 1, progress_bar=False)
    assert second._result.target is first._result.target
    assert second.sample(4000)["rate"].mean() > first.sample(4000)["rate"].mean()


def test_predict_is_rejected_without_observations():
    posterior = vijax.fit(
        make(gamma, {"rate": ()}, {"rate": constraints.positive}), Y, progress_bar=False
    )
    with pytest.raises(ModelError, match=r"predict: expected a model with observations"):
        posterior.predict()


@pytest.mark.parametrize(
    ("shapes", "support", "message"),
    [
        ({"rate": 3}, None, r"shapes\['rate'\]: expected a tuple of integers.*got 3"),
        ([3], None, r"shapes: expected shapes by name.*or the shape of one array.*got \[3\]"),
        ({"rate": ()}, {"rat": constraints.positive}, r"constraints\['rat'\]: expected one of"),
    ],
)
def test_mistakes_are_named(shapes, support, message):
    with pytest.raises(ModelError, match=message):
        make(gamma, shapes, support)


def test_a_density_must_be_a_scalar():
    with pytest.raises(ModelError, match=r"log density: expected a scalar, got shape \(4,\)"):
        vijax.fit(make(lambda values, y: values["a"] * y, {"a": ()}), Y, progress_bar=False)


def simulated(mu, y):
    """A likelihood computed outside of JAX."""

    def outside(mu, y):
        difference = np.asarray(y) - np.asarray(mu)[..., None]
        return (-0.5 * np.sum(difference**2, axis=-1)).astype(np.float32)

    shape = jax.ShapeDtypeStruct((), jnp.float32)
    return jax.pure_callback(outside, shape, mu, y, vmap_method="broadcast_all")


def behind_a_callback(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    numpyro.factor("likelihood", simulated(mu, y))


def test_a_likelihood_behind_a_callback_is_fitted_by_score_gradients():
    posterior = vijax.fit(behind_a_callback, Y, num_steps=1500, progress_bar=False)
    assert isinstance(posterior._result.engine.algorithm.objective, ScoreELBO)
    mu = posterior.sample(4000)["mu"]
    precision = 1.0 + len(Y)
    assert abs(mu.mean() - Y.sum() / precision) < 0.1 / np.sqrt(precision)
    assert mu.std() == pytest.approx(1 / np.sqrt(precision), rel=0.1)
    exact = -0.5 * (np.log(precision) + (Y**2).sum() - Y.sum() ** 2 / precision)
    evidence = posterior.log_evidence()
    assert abs(evidence.value - exact) < 5 * evidence.se + 1e-3


@pytest.mark.slow
def test_a_piecewise_constant_likelihood():
    """A likelihood with a step: its gradient is zero almost everywhere."""

    def model(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        rate = jnp.where(mu > 0.5, 0.9, 0.2)
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Bernoulli(rate), obs=y)

    votes = np.array([1, 1, 0, 1, 1, 1, 1, 1])
    options = {"guide": "meanfield", "num_steps": 1500, "progress_bar": False}
    score = vijax.fit(model, votes, objective=ScoreELBO(64), **options)
    pathwise = vijax.fit(
        model, votes, objective=ELBO(64), **options
    )  # its gradient is that of the prior
    assert abs(pathwise.sample(4000)["mu"].mean()) < 0.1
    assert (score.sample(4000)["mu"] > 0.5).mean() > 0.9
    assert score.elbo > pathwise.elbo + 1

"""The posterior predictive distribution, and the pointwise log likelihood."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro import handlers
from numpyro.contrib.control_flow import scan

from tests.model.zoo import CASES, X, Y
from vijax.contracts import Batch
from vijax.model import build, predictive_program, split, unwrap
from vijax.model.fitted_values import NO_GROWTH
from vijax.runtime.errors import ModelError

NUM_DRAWS = 4


class Fit:
    """Some draws that stand for a posterior."""

    def __init__(self, model, *args, num_draws=NUM_DRAWS, **kwargs):
        self.model, args, kwargs = unwrap(model, args, kwargs)
        self.arguments, data = split(self.model, args, kwargs)
        self.target, self.batch = build(self.model, self.arguments), Batch(data)
        self.start = jax.jit(self.target.initialize)(jax.random.key(0), self.batch)
        self.num_draws = num_draws
        points = jax.random.normal(jax.random.key(1), (num_draws, self.target.space.dim))
        self.z = jax.vmap(self.target.space.unravel)(points)
        every = jax.jit(jax.vmap(lambda z: self.target.constrain(z, self.batch, *self.start)))
        self.sites = every(self.z)
        self.x = {name: self.sites[name] for name in self.target.space.names}

    def predict(self, *args, seed=2, growing=NO_GROWTH, do=None, **kwargs):
        if not args and not kwargs:
            args, kwargs = self.arguments.join(self.batch.data)
        do = do or {}
        program, batch, _, redrawn = predictive_program(
            self.model, args, kwargs, self.target, growing=growing, do=do
        )
        keys = jax.random.split(jax.random.key(seed), self.num_draws)
        values = {name: x for name, x in self.x.items() if name not in redrawn}
        values |= {n: np.broadcast_to(v, (self.num_draws, *np.shape(v))) for n, v in do.items()}
        return program(keys, values, batch, *self.start)


def of(name, **options):
    case = CASES[name]
    return Fit(case.model, *case.args, **case.kwargs, **options)


def test_new_inputs_of_another_size():
    fit = of("regression")
    new = np.ones((4, 2), np.float32)
    draws = fit.predict(new)
    assert set(draws) == {"mean", "y"}
    assert draws["y"].shape == (NUM_DRAWS, 4)
    np.testing.assert_allclose(draws["mean"], fit.x["w"] @ new.T, rtol=1e-5, atol=1e-6)


def test_draws_have_the_moments_of_the_model():
    fit = of("regression", num_draws=4000)
    residual = (fit.predict(X)["y"] - fit.sites["mean"]) / fit.x["sigma"][:, None]
    assert abs(residual.mean()) < 5 / np.sqrt(residual.size)
    assert abs(residual.var() - 1) < 5 * np.sqrt(2 / residual.size)
    assert abs(np.corrcoef(residual.T) - np.eye(6)).max() < 5 / np.sqrt(4000)


def test_draws_depend_on_the_key_and_deterministics_do_not():
    fit = of("regression")
    one, same, other = fit.predict(X), fit.predict(X), fit.predict(X, seed=3)
    np.testing.assert_array_equal(one["y"], same["y"])
    np.testing.assert_array_equal(one["mean"], other["mean"])
    assert not np.any(one["y"] == other["y"])


def test_given_data_are_replicated():
    fit = of("regression")
    draws = fit.predict()
    assert draws["y"].shape == (NUM_DRAWS, 6)
    assert not np.any(draws["y"] == Y)
    np.testing.assert_allclose(draws["mean"], fit.sites["mean"], rtol=1e-5, atol=1e-6)


def test_data_without_a_plate_keeps_its_shape():
    draws = of("params").predict()
    assert draws["y"].shape == (NUM_DRAWS, 6)
    assert len(np.unique(draws["y"][0])) == 6


def test_missing_data_are_predicted_given_the_rest():
    def model(x, y=None):
        b = numpyro.sample("b", dist.Normal())
        with numpyro.plate("n", len(x)):
            x = numpyro.sample("x", dist.Normal(0.0, 1.0), obs=x)
            numpyro.deterministic("line", b * x)
            numpyro.sample("y", dist.Normal(b * x, 0.01), obs=y)

    fit = Fit(model, X[:, 0], y=Y)
    new = np.array([10.0, 20.0, 30.0], np.float32)
    draws = fit.predict(new)
    np.testing.assert_allclose(draws["line"], fit.x["b"][:, None] * new, rtol=1e-5)
    assert set(draws) == {"y", "line"}
    both = fit.predict(new, y=np.zeros(3, np.float32))
    assert np.abs(both["x"]).max() < 9.0  # all data given: all are replicated
    np.testing.assert_allclose(both["line"], fit.x["b"][:, None] * both["x"], rtol=1e-5)


def test_discrete_observations():
    def model(y=None):
        rate = numpyro.sample("rate", dist.Gamma(3.0, 1.0))
        with numpyro.plate("n", 5):
            numpyro.sample("y", dist.Poisson(rate), obs=y)

    draws = Fit(model, np.arange(5)).predict(y=None)
    assert draws["y"].shape == (NUM_DRAWS, 5)
    assert jnp.issubdtype(draws["y"].dtype, jnp.integer)


def test_the_total_count_of_a_binomial_may_be_data():
    def model(trials, y=None):
        p = numpyro.sample("p", dist.Beta(2.0, 2.0))
        with numpyro.plate("n", len(trials)):
            numpyro.sample("y", dist.Binomial(trials, p), obs=y)

    fit = Fit(model, np.array([5, 10]), np.array([1, 2]), num_draws=500)
    draws = fit.predict(np.array([0, 3, 1000]))["y"]
    assert draws.shape == (500, 3)
    assert (draws[:, 0] == 0).all()
    assert draws[:, 1].max() == 3
    # given p the fraction of 1,000 trials is within five standard errors of it
    np.testing.assert_allclose(draws[:, 2] / 1000, fit.x["p"], atol=5 * 0.5 / 1000**0.5)


def test_a_series_in_a_scan_is_simulated():
    fit = of("state_space")
    given, missing = fit.predict(y=Y), fit.predict()
    for draws in (given, missing):
        np.testing.assert_allclose(draws["twice"], 2 * fit.x["level"], rtol=1e-6)
        assert not np.any(draws["y"] == Y)


def test_a_longer_scan_continues_the_fitted_one():
    fit = of("state_space", num_draws=2000)
    draws = fit.predict(length=9)
    level = draws["twice"] / 2
    np.testing.assert_allclose(level[:, :6], fit.x["level"], rtol=1e-5)
    step = level[:, 6:] - fit.x["decay"][:, None] * level[:, 5:-1]
    assert np.abs(step.mean(0)).max() < 5 / np.sqrt(2000)
    assert np.abs(step.var(0) - 1).max() < 5 * np.sqrt(2 / 2000)


def test_a_shorter_scan_is_refused():
    with pytest.raises(ModelError, match=r"site 'level': expected the shape \(6,\).*got \(4,\)"):
        of("state_space").predict(length=4)


def test_another_group_count_is_refused():
    def model(group, groups, y=None):
        with numpyro.plate("groups", groups):
            theta = numpyro.sample("theta", dist.Normal())
        numpyro.sample("y", dist.Normal(theta[group], 1.0), obs=y)

    group = np.arange(6) % 3
    fit = Fit(model, group, 3, y=Y)
    assert fit.predict(np.array([0, 2]), 3)["y"].shape == (NUM_DRAWS, 2)
    with pytest.raises(
        ModelError, match=r"'theta': expected the shape \(3,\).*\(5,\).*from_prior=\['theta'\]"
    ):
        fit.predict(group, 5)


def test_new_sites_come_from_their_prior_given_the_rest():
    def model(y=None, new=False):
        mu = numpyro.sample("mu", dist.Normal(50.0, 1.0))
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)
        if new:
            numpyro.sample("theta", dist.Normal(mu, 0.01).expand([2]))
            numpyro.sample("label", dist.Categorical(probs=jnp.ones(3)))

    fit = Fit(model, Y)
    draws = fit.predict(new=True)
    np.testing.assert_allclose(draws["theta"], fit.x["mu"][:, None] + np.zeros(2), atol=0.1)
    assert set(draws) == {"y", "theta", "label"}


def test_a_new_site_that_cannot_be_sampled():
    def model(new=False):
        numpyro.sample("mu", dist.Normal())
        if new:
            numpyro.sample("flat", dist.ImproperUniform(dist.constraints.real, (), ()))

    with pytest.raises(ModelError, match="site 'flat': expected a distribution that can be sam"):
        Fit(model).predict(new=True)


def test_params_and_mutable_state_are_the_fitted_ones():
    fit = of("params")
    model, mutable = fit.start
    fit.start = ({**model, "weights": jnp.array([500.0, 500.0])}, mutable)
    assert fit.predict()["y"].min() > 900


@pytest.mark.parametrize(
    "name",
    ["obs_mask", "scoped_scan", "nested_scan", "branches", "seeded", "subsampled", "delta_sites",
     "one_batch_of_rows", "flax_dropout", "nnx_batch_norm_and_dropout", "conditioned", "reparam",
     "reverse_scan", "events_and_masks_in_scan", "obs_mask_in_scan", "flax_bayesian", "circle"],
)  # fmt: skip
def test_every_model_predicts(name):
    fit = of(name)
    draws = fit.predict()
    for site in fit.target.structure.observed:
        shape = fit.target.observations(fit.batch, *fit.start)[site].shape
        rows = fit.target.subsampling.plates["n"].size if name == "subsampled" else None
        assert draws[site].shape == (NUM_DRAWS, *((rows,) if rows else shape))
        assert len(np.unique(draws[site])) == draws[site].size  # no noise is shared
    for site in set(draws) & set(fit.sites) - set(fit.target.structure.observed):
        if site != "y":  # the mix of imputed and new observations
            np.testing.assert_allclose(draws[site], fit.sites[site], rtol=1e-4, atol=1e-5)


def test_a_seeded_model_still_varies():
    def inner(y=None):
        mu = numpyro.sample("mu", dist.Normal())
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)

    fit = Fit(handlers.seed(inner, 0), Y)
    noise = fit.predict()["y"] - fit.x["mu"][:, None]
    assert len(np.unique(np.round(noise, 4))) == noise.size


def test_an_equal_call_compiles_once():
    fit = of("regression")
    first = predictive_program(fit.model, (X,), {}, fit.target)[0]
    assert predictive_program(fit.model, (X + 1,), {}, fit.target)[0] is first
    assert predictive_program(fit.model, (X[:3],), {}, fit.target)[0] is not first


def log_likelihood(fit, z):
    parts = fit.target.site_log_probs(z, fit.batch, {}, {})
    return {name: parts[name] for name in fit.target.structure.observed}


def test_log_likelihood_is_elementwise_and_unscaled():
    fit = of("nested_plates")
    z = jax.tree.map(lambda leaf: leaf[0], fit.z)
    x = {name: value[0] for name, value in fit.x.items()}
    found = log_likelihood(fit, z)
    expected = dist.Normal(x["a"] + x["b"], 1.0).log_prob(fit.batch.data["y"])
    assert set(found) == {"y"}
    np.testing.assert_allclose(found["y"], expected, rtol=1e-5)


def test_log_likelihood_in_scan_and_without_factors():
    fit = of("moving_support_in_scan")
    z = jax.tree.map(lambda leaf: leaf[0], fit.z)
    found = log_likelihood(fit, z)
    assert set(found) == {"y"}
    expected = dist.Normal(fit.x["x"][0], 1.0).log_prob(Y)
    np.testing.assert_allclose(found["y"], expected, rtol=1e-5)


def test_a_reversed_scan_predicts_by_index():
    def model(y=None):
        def step(carry, y):
            level = numpyro.sample("level", dist.Normal(0.0, 1.0))
            numpyro.sample("y", dist.Normal(100.0 * level, 0.01), obs=y)
            return carry, None

        scan(step, jnp.array(0.0), y, length=6, reverse=True)

    fit = Fit(model, Y)
    np.testing.assert_allclose(fit.predict()["y"], 100 * fit.x["level"], atol=0.1)


def test_sites_are_independent_given_the_latents():
    def model(x, one=None, two=None):
        mean = numpyro.sample("mean", dist.Normal(0.0, 1.0))
        numpyro.sample("one", dist.Normal(mean, 1.0), obs=one)
        numpyro.sample("two", dist.Normal(mean, 1.0), obs=two)

    fit = Fit(model, 0.0, 1.0, 1.0, num_draws=4000)
    draws = fit.predict(0.0)
    noise = np.stack([draws["one"], draws["two"]]) - fit.x["mean"]
    assert abs(np.corrcoef(noise)[0, 1]) < 5 / np.sqrt(4000)

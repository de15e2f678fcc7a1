"""Draws from the prior of a model, before a fit and of one."""

import pickle

import arviz_plots
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan
from scipy import stats

import vijax
from vijax import ModelError, VijaxWarning

NUM = 20_000
GROUP = np.array([0, 1, 1, 2])
Y = np.zeros(4, np.float32)


def groups(group, y=None):
    """Continuous and discrete latents, one of which cannot be marginalized."""
    mu = numpyro.sample("mu", dist.Normal(1.0, 2.0))
    with numpyro.plate("groups", 3):
        theta = numpyro.sample("theta", dist.Normal(mu, 0.5))
        count = numpyro.sample("count", dist.Poisson(2.0))
    total = numpyro.deterministic("total", theta + count)
    with numpyro.plate("rows", len(group)):
        label = numpyro.sample("label", dist.Bernoulli(0.3))
        numpyro.sample("y", dist.Normal(total[group] + 10 * label, 1.0), obs=y)


def line(x, y=None):
    slope = numpyro.sample("slope", dist.Normal(0.0, 3.0))
    numpyro.sample("y", dist.Normal(slope * x, 1.0), obs=y)


@pytest.fixture(scope="module")
def prior():
    return vijax.prior(groups, GROUP, Y, coords={"groups": ["a", "b", "c"]})


@pytest.fixture(scope="module")
def draws(prior):
    return prior.predict(num_draws=NUM)


def test_draws_are_ancestral(draws):
    assert list(draws) == ["mu", "theta", "count", "total", "label", "y"]
    mu, theta, count, label = (draws[name] for name in ("mu", "theta", "count", "label"))
    assert theta.shape == (NUM, 3)
    assert draws["y"].shape == (NUM, 4)
    noise = draws["y"] - (theta + count)[:, GROUP] - 10 * label
    for value, exact in (
        (mu, stats.norm(1, 2)),
        ((theta - mu[:, None])[:, 1], stats.norm(0, 0.5)),
        (noise[:, 2], stats.norm()),
    ):
        assert stats.kstest(value, exact.cdf).pvalue > 1e-3
    flat = np.column_stack([mu, theta - mu[:, None], count, label, noise])
    correlations = np.corrcoef(flat.T) - np.eye(flat.shape[1])
    assert np.abs(correlations).max() < 5 / np.sqrt(NUM)
    frequencies = np.bincount(count.ravel(), minlength=9)[:9] / count.size
    assert np.abs(frequencies - stats.poisson(2).pmf(np.arange(9))).max() < 0.01
    assert abs(label.mean() - 0.3) < 5 * np.sqrt(0.21 / label.size)
    np.testing.assert_allclose(draws["total"], theta + count, rtol=1e-5, atol=1e-5)


def test_samples_are_those_of_the_predictive_draws(prior, draws):
    latent = prior.sample(NUM)
    assert list(latent) == ["mu", "theta", "count", "total", "label"]
    for name, value in latent.items():
        np.testing.assert_array_equal(value, draws[name])
    assert not np.any(prior.sample(9, rng_key=1)["mu"] == latent["mu"][:9])
    again = pickle.loads(pickle.dumps(prior))
    for one in (prior, again):
        np.testing.assert_array_equal(one.sample(9)["mu"], latent["mu"][:9])
    assert list(again.summary("theta", num_draws=9).index) == ["theta[a]", "theta[b]", "theta[c]"]


def test_predictions_at_other_inputs_and_with_set_values(prior):
    found = prior.predict(np.array([2, 2]), num_draws=9, do={"mu": 100.0, "count": 0})
    assert found["y"].shape == (9, 2)
    assert (found["mu"] == 100).all()
    np.testing.assert_array_equal(found["total"], found["theta"])
    assert (found["theta"] > 90).all()
    with pytest.raises(TypeError, match="Did you mean 'num_draws'"):
        prior.predict(num_samples=9)
    with pytest.raises(TypeError, match=r"prior: expected arguments.*\(group, y\).*'num_draws'"):
        vijax.prior(groups, GROUP, num_draws=9)
    assert repr(prior) == "Prior of groups(mu, theta, count, total, label; data: y)"


def test_summaries(prior):
    found = prior.summary(["mu", "theta"], num_draws=NUM)
    assert list(found.index) == ["mu", "theta[a]", "theta[b]", "theta[c]"]
    assert list(found.columns) == ["mean", "sd", "5.5%", "94.5%", "mcse"]
    assert found.loc["mu", "sd"] == pytest.approx(2, rel=0.03)
    assert "status: prior" in str(found)


def test_a_site_without_data_is_a_latent():
    assert vijax.prior(line, np.ones(4)).sample(7)["y"].shape == (7, 4)


def test_export_to_arviz(prior):
    tree = prior.to_datatree(50)
    assert set(tree.children) == {"prior", "prior_predictive", "observed_data"}
    assert tree["prior"]["theta"].dims == ("chain", "draw", "groups")
    assert tree["prior"]["theta"].coords["groups"].values.tolist() == ["a", "b", "c"]
    assert tree["prior_predictive"]["y"].dims == ("chain", "draw", "rows")


def test_the_prior_of_a_fit_is_compared_with_its_posterior():
    x = np.arange(4, dtype=np.float32)
    posterior = vijax.fit(line, x, 2 * x, guide="laplace", progress_bar=False)
    tree = posterior.to_datatree(400, prior=True)
    assert {"prior", "prior_predictive", "posterior"} <= set(tree.children)
    assert tree["prior"]["slope"].values.std() == pytest.approx(3, rel=0.2)
    assert tree["prior_predictive"]["y"].shape == (1, 400, 4)
    arviz_plots.plot_prior_posterior(tree, backend="none")


def test_what_cannot_be_drawn_is_named():
    def flat():
        numpyro.sample("free", dist.ImproperUniform(dist.constraints.real, (), ()))

    def weighted():
        x = numpyro.sample("x", dist.Normal())
        numpyro.factor("penalty", -(x**2))

    with pytest.raises(ModelError, match="site 'free': expected a distribution that can be samp"):
        vijax.prior(flat).sample(2)
    with pytest.warns(VijaxWarning, match="factor 'penalty': draws are those of the model without"):
        assert vijax.prior(weighted).sample(2)["x"].shape == (2,)
    with pytest.raises(ModelError, match="prior: expected a model with priors"):
        vijax.prior(vijax.from_log_density(lambda v: -(v["x"] ** 2), {"x": ()}))


def test_a_model_that_reads_sizes_and_has_parameters_and_a_scan():
    def model(group):
        scale = numpyro.param("scale", 2.0, constraint=dist.constraints.positive)
        with numpyro.plate("groups", int(group.max()) + 1):
            numpyro.sample("effect", dist.Normal(0.0, scale))

        def step(level, _):
            level = numpyro.sample("level", dist.Normal(level, 1.0))
            return level, None

        scan(step, jnp.array(0.0), None, length=3)

    with pytest.warns(VijaxWarning, match="argument 'group': the model reads its values"):
        prior = vijax.prior(model, GROUP)
    draws = prior.sample(4000)
    assert draws["effect"].shape == (4000, 3)
    assert draws["effect"].std() == pytest.approx(2, rel=0.05)
    np.testing.assert_allclose(draws["level"].var(0), [1, 2, 3], rtol=0.15)

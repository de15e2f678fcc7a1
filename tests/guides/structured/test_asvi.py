"""Automatic structured variational inference."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.stats import norm

import vijax
from tests.targets import problem
from vijax.guides import ASVI, MeanField
from vijax.runtime.errors import GuideError

STEPS, NOISE = 6, 0.5


def walk(y):
    """A random walk whose last state is observed with noise."""
    x = 0.0
    for t in range(STEPS):
        x = numpyro.sample(f"x{t}", dist.Normal(x, 1.0))
    numpyro.sample("y", dist.Normal(x, NOISE), obs=y)


def fit(model, *args, **options):
    return vijax.fit(model, *args, progress_bar=False, **options)


@pytest.mark.slow
def test_a_chain_observed_at_its_end_is_exact():
    """Given the previous state and the data, each state is normal with a slope in (0, 1)."""
    y = np.float32(3.0)
    posterior = fit(walk, y, guide="asvi")
    assert isinstance(posterior.guide, ASVI)
    evidence = norm.logpdf(3.0, scale=np.sqrt(STEPS + NOISE**2))
    np.testing.assert_allclose(posterior.elbo, evidence, atol=0.02)
    assert fit(walk, y, guide=MeanField()).elbo < evidence - 0.8
    draws = posterior.sample(4000, corrected=False)
    found = np.column_stack([draws[f"x{t}"] for t in range(STEPS)]).astype(float)
    prior = np.minimum.outer(np.arange(1, STEPS + 1), np.arange(1, STEPS + 1)).astype(float)
    gain = prior[:, -1] / (STEPS + NOISE**2)
    covariance = prior - np.outer(gain, prior[-1])
    sd = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose((found.mean(0) - 3.0 * gain) / sd, 0, atol=0.15)
    np.testing.assert_allclose(found.std(0) / sd, 1, atol=0.1)
    correlation = covariance / np.outer(sd, sd)
    np.testing.assert_allclose(np.corrcoef(found.T), correlation, atol=0.1)


def test_save_and_load(tmp_path):
    exact = problem("normal_mean")
    posterior = fit(exact.model, *exact.args, guide=ASVI)
    np.testing.assert_allclose(posterior.elbo, exact.log_evidence, atol=0.02)
    posterior.save(tmp_path / "asvi.vijax")
    again = vijax.load(tmp_path / "asvi.vijax", exact.model, *exact.args, guide="asvi")
    np.testing.assert_array_equal(again.sample(10)["mu"], posterior.sample(10)["mu"])


def test_it_requires_all_sites_and_a_target():
    exact = problem("regression")
    with pytest.raises(GuideError, match=r"ASVI: expected all sites.*got all but \['beta'\]"):
        fit(exact.model, *exact.args, guide={"alpha": "asvi", ...: "meanfield"})
    space, z = exact.target.space, {"alpha": 0.0, "beta": np.zeros(2)}
    with pytest.raises(GuideError, match=r"Pass it to vijax\.fit"):
        ASVI().init(None, space, z)

"""Simulation-based calibration: what it must find, and what it must not."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vijax
from vijax.posterior.calibration import Calibration, shares_below


def location(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)


def test_ranks_are_uniform_if_truth_and_draws_are_exchangeable():
    rng = np.random.default_rng(0)
    values = rng.poisson(3.0, size=(2000, 100)).astype(float)  # with ties
    ranks = shares_below(values[:, 0], values[:, 1:], rng)
    status = np.array(["certified"] * 2000)
    assert Calibration({"n": ranks}, status, 99).calibrated
    for wrong in (values[:, 0] + 1, 3 + 1.2 * (values[:, 0] - 3)):
        ranks = shares_below(wrong, values[:, 1:], rng)
        assert not Calibration({"n": ranks}, status, 99).calibrated
    values[3, 7] = np.nan
    assert np.isnan(shares_below(values[:, 0], values[:, 1:], rng)).nonzero()[0].tolist() == [3]


def test_exact_inference_is_calibrated_also_around_data():
    found = vijax.calibrate(location, np.zeros(10), num=100)
    assert found.calibrated
    assert {*found.status} <= {"certified", "corrected"}
    for row in found.by_status().to_dict("records"):
        assert row["fits"] < 20 or abs(row["coverage_90"] - 0.9) < 4 * row["coverage_90_se"]
    posterior = vijax.fit(location, np.full(5, 3.0), progress_bar=False)
    around = vijax.calibrate(location, around=posterior, num=100)
    assert around.calibrated
    with pytest.raises(TypeError, match="around"):
        vijax.calibrate(location, np.zeros(10), around=posterior)


@pytest.mark.slow
def test_a_guide_without_correlations_and_a_wrong_quantity_are_found():
    def collinear(y):
        a, b = (numpyro.sample(name, dist.Normal(0.0, 1.0)) for name in "ab")
        with numpyro.plate("rows", len(y)):
            numpyro.sample("y", dist.Normal(a + b, 1.0), obs=y)

    found = vijax.calibrate(
        collinear,
        np.zeros(20),
        num=100,
        guide="meanfield",
        algorithm="gradient",
        num_steps=1000,
        quantities={"sum": lambda draws: draws["a"] + draws["b"]},
    )
    table = found.summary()
    assert not found.calibrated
    # sd of a coordinate: 0.72; of the mean-field guide: 1 / sqrt(21) = 0.22
    assert (table.loc[["a", "b"], "spread"] > 1.5).all()


def lagged(y, earlier):
    rho = numpyro.sample("rho", dist.Normal(0.0, 0.5))
    numpyro.sample("y", dist.Normal(rho * earlier, 1.0), obs=y)


def weighted(y):
    mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
    numpyro.sample("y", dist.Normal(mu, 1.0), obs=y)
    numpyro.factor("weight", -(mu**2))


def test_models_that_no_data_can_be_drawn_from_are_refused():
    y = np.arange(4.0)
    cases = [
        (weighted, (y,), "factor, 'weight'"),
        (lambda y: lagged(y[1:], y[:-1]), (y,), "function of 'y'"),
        (lambda y: lagged(y, y**2), (y,), "'y' to be the data of a site and nothing else"),
    ]
    for model, args, match in cases:
        with pytest.raises(vijax.ModelError, match=match):
            vijax.calibrate(model, *args, num=20)

"""Predictive uncertainty, scores and conformal prediction against closed forms."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import vijax
from vijax.posterior import scoring, uncertainty

RNG = np.random.default_rng(0)


def linear(x, y=None):
    b = numpyro.sample("b", dist.Normal(0, 2))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", dist.Normal(b * x, 0.5), obs=y)


def classes(x, y=None):
    b = numpyro.sample("b", dist.Normal(0, 2).expand([3]).to_event())
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", dist.Categorical(logits=x[:, None] * b), obs=y)


@pytest.fixture(scope="module")
def fits():
    x = RNG.normal(size=400)
    y = 1.5 * x + 0.5 * RNG.normal(size=400)
    logits = x[:, None] * np.array([1.0, -1.0, 0.0])
    k = np.array([RNG.choice(3, p=p) for p in np.exp(logits) / np.exp(logits).sum(1)[:, None]])
    data = {"linear": (x, y), "classes": (x, k)}
    models = {"linear": linear, "classes": classes}
    return data, {
        name: vijax.fit(models[name], *(a[:40] for a in data[name]), progress_bar=False)
        for name in data
    }


def test_variance_has_two_parts(fits):
    data, posteriors = fits
    x = data["linear"][0]
    precision = 1 / 4 + np.sum(x[:40] ** 2) / 0.25
    found = posteriors["linear"].uncertainty(x[:5], num_draws=20_000)
    np.testing.assert_allclose(found.epistemic, x[:5] ** 2 / precision, rtol=0.05)
    np.testing.assert_allclose(found.aleatoric, 0.25, rtol=1e-5)
    np.testing.assert_allclose(found.total, found.aleatoric + found.epistemic)
    assert found.unit == "variance"


def test_entropy_has_two_parts(fits):
    data, posteriors = fits
    posterior, x = posteriors["classes"], data["classes"][0][:4]
    found = posterior.uncertainty(x, rng_key=1)
    b = posterior.sample(1000, rng_key=2)["b"]
    logits = x[:, None] * b[:, None]
    probs = np.exp(logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True))
    expected = uncertainty.of_classes(probs)
    np.testing.assert_allclose(found.total, stats.entropy(probs.mean(0), axis=-1), atol=0.02)
    np.testing.assert_allclose(found.epistemic, expected.epistemic, atol=0.01)
    assert found.unit == "nats"
    assert np.all(found.epistemic >= 0)


def test_scores_of_a_normal_prediction_are_the_closed_forms():
    y, z = RNG.normal(size=200), RNG.normal(size=(2000, 200))
    crps = scoring.continuous_ranked_probability_score(y, z)
    exact = y * (2 * stats.norm.cdf(y) - 1) + 2 * stats.norm.pdf(y) - 1 / np.sqrt(np.pi)
    assert np.mean(crps - exact) == pytest.approx(0, abs=5 * 0.6 / np.sqrt(2000))
    pit = scoring.probability_integral_transform(y, z, RNG)
    assert stats.kstest(pit, "uniform").pvalue > 0.001
    counts = RNG.poisson(2.0, (500, 4000))
    pit = scoring.probability_integral_transform(RNG.poisson(2.0, 4000), counts, RNG)
    assert stats.kstest(pit, "uniform").pvalue > 0.001


def test_calibration_error_is_the_gap():
    probs = np.tile([0.9, 0.1], (1000, 1))
    y = np.where(np.arange(1000) % 10 < 6, 0, 1)  # right in 60 %
    RNG.shuffle(y)
    assert scoring.expected_calibration_error(y, probs) == pytest.approx(0.3, abs=0.02)


def test_score_tables(fits):
    data, posteriors = fits
    x, y = data["linear"]
    table = posteriors["linear"].score(x[40:], y=y[40:])
    exact = stats.norm(1.5 * x[40:], 0.5).logpdf(y[40:]).mean()
    assert table.loc["log score", "value"] == pytest.approx(exact, abs=0.05)
    for level in (0.5, 0.9):
        row = table.loc[f"coverage of {level:.0%}"]
        assert abs(row["value"] - level) < 4 * row["se"] + 0.02
    x, k = data["classes"]
    table = posteriors["classes"].score(x[40:], y=k[40:])
    assert 0.3 < table.loc["accuracy", "value"] < 0.8
    assert table.loc["Brier score", "value"] < 2 / 3
    assert table.loc["calibration error", "se"] > 0
    assert "±" in repr(table)


@pytest.mark.parametrize("name", ["linear", pytest.param("classes", marks=pytest.mark.slow)])
def test_conformal_prediction_covers_whatever_the_model(name, fits):
    data, posteriors = fits
    x, y = data[name]
    wrong = x[::-1] * 3  # inputs that have nothing to do with outcomes
    rates = []
    for i in range(20):
        rows = np.random.default_rng(i).permutation(np.arange(40, 400))
        one, two = rows[:200], rows[200:]
        calibrated = vijax.conformal(posteriors[name], wrong[one], y=y[one], rng_key=i)
        found = calibrated.predict(wrong[two], rng_key=100 + i)
        if name == "classes":
            rates.append(np.mean(found[np.arange(len(two)), y[two]]))
        else:
            rates.append(np.mean((found[:, 0] <= y[two]) & (y[two] <= found[:, 1])))
    # each split's rate has variance about p (1 - p) (1 / n + 1 / m)
    error = np.sqrt(0.09 * (1 / 200 + 1 / 160))
    assert -3 * error / np.sqrt(20) - 0.01 < np.mean(rates) - 0.9 < 0.02


def test_what_cannot_be_scored_is_named(fits):
    data, posteriors = fits
    x, y = data["linear"]
    with pytest.raises(vijax.ModelError, match="y"):
        posteriors["linear"].score(x[40:])
    with pytest.raises(vijax.ModelError, match="NaN"):
        posteriors["linear"].score(x[40:], y=np.full(360, np.nan))
    with pytest.raises(ValueError, match="at least 9 rows"):
        vijax.conformal(posteriors["linear"], x[40:45], y=y[40:45])

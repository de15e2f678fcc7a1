"""Curves of calibrated predictions are in the band, others leave it."""

import matplotlib.pyplot as plt
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy import stats

import vijax
import vijax.plot
from vijax.plot.calibration import ranks, reliability, simultaneous_band
from vijax.posterior import scoring
from vijax.runtime.keys import as_key

RNG = np.random.default_rng(0)


def inside(curve):
    return bool(np.all((curve.low <= curve.value) & (curve.value <= curve.high)))


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close("all")


def test_the_band_has_all_of_95_in_100_curves():
    curves = np.cumsum(RNG.normal(size=(2, 2000, 50)), axis=2)
    low, high = simultaneous_band(curves[0])
    share = np.mean(np.all((low <= curves[1]) & (curves[1] <= high), axis=1))
    assert share == pytest.approx(0.95, abs=5 * np.sqrt(2 * 0.95 * 0.05 / 2000))


def test_the_reliability_of_probabilities_with_few_values_is_their_share():
    predicted = np.repeat([0.2, 0.5, 0.9], 1000)
    happened = RNG.random(3000) < predicted
    curve = reliability(predicted, happened, np.random.default_rng(1))
    expected = np.interp(curve.at, [0.2, 0.5, 0.9], happened.reshape(3, -1).mean(axis=1))
    np.testing.assert_allclose(curve.value, expected)
    assert inside(curve)
    width = (curve.high - curve.low)[[0, -1]]
    one = 2 * stats.norm.ppf(0.975) * np.sqrt(np.array([0.2, 0.9]) * np.array([0.8, 0.1]) / 1000)
    assert np.all((width / one > 1.0) & (width / one < 1.5))  # that of three points at once
    assert not inside(reliability(predicted, RNG.random(3000) < predicted**1.3, RNG))


def test_ranks_of_predictions_that_are_too_narrow_rise_at_both_ends():
    y, draws = RNG.normal(size=250), RNG.normal(size=(400, 250))
    assert inside(ranks(y, draws, RNG))
    narrow, wide, low = (ranks(y, d, RNG) for d in (0.6 * draws, 1.7 * draws, draws - 0.4))
    assert not any(map(inside, (narrow, wide, low)))
    first, last = len(y) // 5, 4 * len(y) // 5
    assert narrow.value[first] > 0 > narrow.value[last]
    assert wide.value[first] < 0 < wide.value[last]
    assert low.value.max() < 0.03  # ranks are too high


def classes(x, y=None):
    b = numpyro.sample("b", dist.Normal(0, 2).expand([3]).to_event())
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", dist.Categorical(logits=x[:, None] * b), obs=y)


def binary(x, y=None):
    b = numpyro.sample("b", dist.Normal(0, 2))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", dist.Bernoulli(logits=b * x), obs=y)


def normal(x, y=None):
    b = numpyro.sample("b", dist.Normal(0, 2))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", dist.Normal(b * x, 0.5), obs=y)


X = RNG.normal(size=300)
CASES = {
    normal: (1.5 * X + 0.5 * RNG.normal(size=300), "intervals have", "rank"),
    binary: (
        (RNG.random(300) < 1 / (1 + np.exp(-X))).astype(int),
        "calibration error",
        "probability of 1",
    ),
    classes: (
        np.argmax(X[:, None] * [1.0, -1, 0] + RNG.gumbel(size=(300, 3)), axis=1),
        "calibration error",
        "the most probable class",
    ),
}


@pytest.mark.parametrize(
    "model", [binary, *(pytest.param(m, marks=pytest.mark.slow) for m in (normal, classes))]
)
def test_a_figure_shows_held_out_rows_by_the_kind_of_outcome(model):
    y, title, label = CASES[model]
    posterior = vijax.fit(model, X[:50], y[:50], guide="laplace", progress_bar=False)
    axes = vijax.plot.calibration(posterior, X[50:], y=y[50:])
    assert title in axes.get_title(loc="left")
    assert label in axes.get_xlabel()
    assert len(axes.patches) == (0 if model is normal else 30)
    if model is binary:
        state = (posterior._result, as_key(0), (X[50:],), {"y": y[50:]}, 1000, None, "")
        found = scoring.outcomes(*state)
        expected = reliability(found.probs[:, 1], found.y == 1, RNG)
        (line,) = (one for one in axes.get_lines() if one.get_label() == "predictions")
        np.testing.assert_allclose(line.get_ydata(), expected.value, atol=1e-6)

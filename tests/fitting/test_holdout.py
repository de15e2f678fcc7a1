"""Rows that are held out of a fit: which, and what they say of it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from flax import nnx
from scipy import stats

import vijax
from vijax.diagnostics.diagnosis import Diagnostics
from vijax.diagnostics.predictions import Predictions
from vijax.diagnostics.status import diagnose
from vijax.fitting.holdout import held_out_rows
from vijax.posterior import held_out, scoring

RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 2))
Y = X @ np.array([1.0, -1.0]) + 0.5 * RNG.normal(size=120)


class Linear(nnx.Module):
    def __init__(self, rngs):
        self.out = nnx.Linear(2, 1, use_bias=False, rngs=rngs)

    def __call__(self, x):
        return self.out(x)[:, 0]


def network(x, y=None, noise=0.5):
    net = vijax.nn.network("net", Linear)
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", dist.Normal(net(x), noise), obs=y)


def linear(x, y=None, noise=0.5):
    b = numpyro.sample("b", dist.Normal(0, 1).expand([2]).to_event(1))
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", dist.Normal(jnp.asarray(x) @ b, noise), obs=y)


def local(x, y=None):
    with numpyro.plate("rows", len(x)):
        z = numpyro.sample("z", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(z, 0.5), obs=y)


def test_a_share_splits_the_rows():
    call, held = held_out_rows(0.25, linear, ((X,), {"y": Y, "noise": 0.5}), jax.random.key(0))
    one, two = call[0][0], held[0][0]
    assert (len(one), len(two)) == (90, 30)
    both = np.concatenate(
        [np.column_stack([one, call[1]["y"]]), np.column_stack([two, held[1]["y"]])]
    )
    rows = np.column_stack([X, Y])
    np.testing.assert_array_equal(np.unique(both, axis=0), np.unique(rows, axis=0))
    assert held[1]["noise"] == 0.5


def test_held_out_rows_judge_a_model_as_a_fit_without_them_does():
    posterior = vijax.fit(
        linear, X[:80], y=Y[:80], holdout=(X[80:], Y[80:]), guide="fullrank", progress_bar=False
    )
    found = posterior.diagnostics.predictions
    precision = np.eye(2) + X[:80].T @ X[:80] / 0.25
    mean = np.linalg.solve(precision, X[:80].T @ Y[:80] / 0.25)
    variance = 0.25 + np.sum(X[80:] * np.linalg.solve(precision, X[80:].T).T, axis=1)
    exact = stats.norm(X[80:] @ mean, variance**0.5).logpdf(Y[80:])
    assert found.num_rows == 40
    assert found.log_score == pytest.approx(exact.mean(), abs=0.01)
    assert found.log_score_se == pytest.approx(exact.std(ddof=1) / 40**0.5, rel=0.1)
    assert found.calibrated
    assert (found.gain, found.gain_se) == (0, 0)
    assert posterior.status == "certified"
    assert "held-out" in posterior.report()


@pytest.fixture(scope="module")
def fit():
    options = {"holdout": 0.3, "num_restarts": 2, "num_steps": 400, "progress_bar": False}
    return vijax.fit(network, X, y=Y, **options)


def test_predictions_decide_the_status_of_a_network(fit, tmp_path):
    found = fit.diagnostics.predictions
    assert fit.status == "approximate"
    assert found.num_rows == 36
    assert len(found.restarts) == 1
    assert abs(found.restarts[0][0]) < 0.05
    assert "predictions checked" in fit.diagnostics.reasons
    fit.save(tmp_path / "fit.vijax")
    loaded = vijax.load(tmp_path / "fit.vijax", network)
    assert loaded.diagnostics.predictions == found
    assert fit.resume(20).diagnostics.predictions.num_rows == 36


def test_uncertainty_that_does_harm_fails(fit):
    """Weights with a posterior that is far too wide predict worse than their means."""
    result = fit._result
    wide = jax.tree.map(lambda s: s + 3.0, result.variables.guide.log_scale)
    guide = result.variables.guide._replace(log_scale=wide)
    worse = dataclasses.replace(result, variables=result.variables._replace(guide=guide))
    found = held_out.with_predictions(worse, jax.random.key(0))
    assert found.status == "failed"
    assert any("point estimate" in line for line in found.assessment.diagnosis.reasons)


@pytest.mark.parametrize("sharpness", [1.0, 4.0])
def test_calibration_of_classes(sharpness):
    logits = RNG.normal(size=(2000, 3))
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    y = np.array([RNG.choice(3, p=p) for p in probs])
    wrong = probs**sharpness / np.sum(probs**sharpness, axis=1, keepdims=True)
    (one,) = held_out.calibration_of(scoring.Outcomes(y, np.zeros(2000), probs=wrong), RNG)
    assert one.inside == (sharpness == 1.0)


def test_no_prediction_certifies_a_network():
    good = Predictions(1000, -0.1, 0.01, 0.1, 0.01, ())
    assert diagnose(Diagnostics(None, None, network=True, predictions=good)).status == "approximate"
    bad = good._replace(gain=-0.1)
    assert diagnose(Diagnostics(None, None, network=True, predictions=bad)).status == "failed"


@pytest.mark.parametrize(
    ("model", "holdout", "message"),
    [
        (linear, 1.5, "holdout: expected a share"),
        (linear, 0.001, "0.001 of 120 rows"),
        (linear, (X[:9],), "all arrays of rows"),
        (linear, {"z": X[:9]}, "arguments of the model"),
        (local, (X[:9], Y[:9]), "'z'"),
    ],
)
def test_what_cannot_be_held_out_is_named(model, holdout, message):
    with pytest.raises(vijax.VijaxError, match=message):
        vijax.fit(model, X, Y, holdout=holdout)

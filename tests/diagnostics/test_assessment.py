"""Number of draws of an assessment."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vijax
from vijax.contracts import Batch
from vijax.diagnostics import assessment as assess
from vijax.diagnostics import importance as weights
from vijax.model import split_and_build

ROWS = 400
X = np.random.default_rng(0).normal(size=(ROWS, 2)) @ np.array([[1.0, 0.9], [0.0, 0.5]])
Y = X @ np.array([1.0, -1.0]) + np.random.default_rng(1).normal(size=ROWS)
PRECISION = X.T @ X + np.eye(2)
MEAN = np.linalg.solve(PRECISION, X.T @ Y)
EVIDENCE = -0.5 * (
    ROWS * np.log(2 * np.pi) + np.linalg.slogdet(PRECISION)[1] + Y @ Y - MEAN @ PRECISION @ MEAN
)


def regression(x, y):
    beta = numpyro.sample("beta", dist.Normal(jnp.zeros(2), 1.0).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.Normal(x @ beta, 1.0), obs=y)


@pytest.fixture
def costly(monkeypatch):
    """The budget allows about 1,200 draws."""
    monkeypatch.setattr(assess, "_MAX_ELEMENTS", 1210 * (3 * ROWS + 2))


def fit(guide):
    return vijax.fit(regression, X, Y, guide=guide, progress_bar=False)


def test_costly_assessment_uses_few_draws_if_weights_are_nearly_equal(costly):
    posterior = fit("fullrank")
    assert posterior.status == "certified"
    assert len(posterior._result.assessment.draws.log_p) == 302
    assert abs(posterior.elbo - EVIDENCE) < 0.01


def test_costly_assessment_uses_its_budget_if_weights_vary(costly):
    posterior = fit("meanfield")
    draws = posterior._result.assessment.draws
    assert len(draws.log_p) == posterior._result.assessment.diagnostics.num_draws == 1210
    assert len(np.unique(draws.z["beta"][:, 0])) == 1210
    # the best mean-field Gaussian has the conditional variances: KL is half the log ratio
    _, log_det = np.linalg.slogdet(PRECISION)
    gap = 0.5 * (np.log(np.diag(PRECISION)).sum() - log_det)
    assert gap > 0.5
    assert abs(posterior.elbo - (EVIDENCE - gap)) < 5 * posterior.elbo_se


def test_labels_count_in_the_cost_of_a_draw():
    """A row with one of ten labels is about forty elements of data."""

    def mixture(y):
        mu = numpyro.sample("mu", dist.Normal(0.0, 5.0).expand([10]).to_event(1))
        with numpyro.plate("rows", len(y)):
            label = numpyro.sample("label", dist.Categorical(logits=jnp.zeros(10)))
            numpyro.sample("y", dist.Normal(mu[label], 1.0), obs=y)

    y = np.zeros(300_000, np.float32)
    _, arrays, target = split_and_build(mixture, (y,), {}, None, frozenset())
    number = assess.num_assessment_draws(Batch(arrays), target)
    assert number == assess._MAX_ELEMENTS // (41 * len(y) + 10) == 698


def test_summary_of_a_certified_fit_computes_no_weights(monkeypatch):
    posterior = fit("fullrank")
    assert posterior.status == "certified"

    def refuse(*_):
        raise AssertionError

    monkeypatch.setattr(weights, "draw", refuse)
    summary = posterior.summary()
    sd = np.sqrt(np.diag(np.linalg.inv(PRECISION)))
    assert np.all(np.abs(summary["mean"] - MEAN) < 5 * sd / np.sqrt(4000))
    np.testing.assert_allclose(summary["sd"], sd, rtol=5 / np.sqrt(2 * 4000))

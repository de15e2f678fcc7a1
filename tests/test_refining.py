"""Automatic fits on batches: steps find the place, Newton's method on all rows the covariance."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vijax

ROWS, DIM = 3000, 25
rng = np.random.default_rng(0)
X = rng.normal(size=(ROWS, DIM)).astype(np.float32)
X[:, 1:] += 0.8 * X[:, :1]  # correlated columns
Y = (X[:, :3].sum(1) + rng.normal(size=ROWS)).astype(np.float32)
PRECISION = X.astype(float).T @ X + np.eye(DIM)
MEAN, COVARIANCE = np.linalg.solve(PRECISION, X.astype(float).T @ Y), np.linalg.inv(PRECISION)
SD = np.sqrt(np.diag(COVARIANCE))


def regression(x, y):
    beta = numpyro.sample("beta", dist.Normal(jnp.zeros(x.shape[1]), 1.0).to_event(1))
    with numpyro.plate("rows", x.shape[0]):
        numpyro.sample("y", dist.Normal(x @ beta, 1.0), obs=y)


def fit(model, *args, **options):
    return vijax.fit(model, *args, batch_size=100, progress_bar=False, **options)


@pytest.fixture(scope="module")
def fitted():
    return fit(regression, X, Y)


def test_the_answer_is_that_of_all_rows(fitted):
    assert fitted.status == "certified"
    assert [attempt.rung for attempt in fitted.history] == ["steps", "laplace"]
    np.testing.assert_allclose(fitted.covariance(), COVARIANCE, atol=0.002 * SD.max() ** 2)
    draws = fitted.sample(1, 20_000)["beta"]
    assert np.abs((draws.mean(0) - MEAN) / SD).max() < 5 / np.sqrt(20_000)
    _, log_det = np.linalg.slogdet(PRECISION)
    quadratic = Y.astype(float) @ Y - MEAN @ PRECISION @ MEAN
    evidence = -0.5 * (ROWS * np.log(2 * np.pi) + log_det + quadratic)
    assert abs(fitted.elbo - evidence) < 0.02


def test_it_says_what_was_done(fitted):
    assert "steps on batches, then mode reached by Newton's method" in fitted.stop_reason
    assert len(fitted.losses) > 0
    with pytest.raises(vijax.VijaxError, match="resume: expected a fit by gradient steps"):
        fitted.resume(10)


def test_where_the_posterior_is_skewed_the_elbo_decides():
    def rates(y):
        rate = numpyro.sample("rate", dist.Gamma(0.5, 0.1).expand([3]).to_event(1))
        with numpyro.plate("rows", y.shape[0]):
            numpyro.sample("y", dist.Poisson(0.003 * rate).to_event(1), obs=y)

    y = np.zeros((400, 3), np.float32)
    y[[3, 77, 200, 5], [0, 0, 1, 2]] = 1  # Gamma(0.5 + count, 0.1 + 1.2)
    posterior = fit(rates, y)
    rungs = [attempt.rung for attempt in posterior.history]
    assert rungs == ["steps", "laplace", "gaussian"]
    draws = posterior.sample(0, 4000)["rate"]
    shape = 0.5 + y.sum(0)
    assert posterior.status in ("certified", "corrected")
    np.testing.assert_allclose(draws.mean(0), shape / 1.3, rtol=0.07)
    np.testing.assert_allclose(draws.var(0), shape / 1.3**2, rtol=0.2)


def test_options_of_steps_are_steps_alone():
    posterior = fit(regression, X, Y, num_steps=50)
    assert posterior.num_steps == 50
    assert type(posterior.guide).__name__ == "MeanField"  # of 25 coordinates, told by batches
    assert posterior.history == ()


def test_time_is_kept():
    posterior = fit(regression, X, Y, max_seconds=1e-9)
    assert "max_seconds" in posterior.stop_reason
    assert posterior.status in ("approximate", "failed")

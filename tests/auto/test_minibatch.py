"""Automatic minibatch fits: gradient steps for the location, Newton's method for the covariance."""

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vijax
from vijax import ModelError, data
from vijax.auto.minibatch import GRADIENT_STEPS, LAPLACE
from vijax.auto.stages import CENTERING, GAUSSIAN
from vijax.data import arrays
from vijax.engine import all_rows as _all_rows

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


@pytest.fixture
def on_disk(monkeypatch):
    """Small sources are not loaded; the rows above are read in eight blocks."""
    monkeypatch.setattr(arrays, "_MAX_IN_MEMORY", 0)
    monkeypatch.setattr(_all_rows, "_BLOCK_ELEMENTS", (DIM + 1) * 430)


def fit(model, *args, **options):
    return vijax.fit(model, *args, batch_size=100, progress_bar=False, **options)


@pytest.fixture(scope="module")
def fitted():
    return fit(regression, X, Y)


def test_the_posterior_is_that_of_the_full_data(fitted):
    assert fitted.status == "certified"
    assert [attempt.stage for attempt in fitted.history] == [LAPLACE]
    np.testing.assert_allclose(fitted.covariance(), COVARIANCE, atol=0.002 * SD.max() ** 2)
    draws = fitted.sample(20_000, rng_key=1)["beta"]
    assert np.abs((draws.mean(0) - MEAN) / SD).max() < 5 / np.sqrt(20_000)
    _, log_det = np.linalg.slogdet(PRECISION)
    quadratic = Y.astype(float) @ Y - MEAN @ PRECISION @ MEAN
    evidence = -0.5 * (ROWS * np.log(2 * np.pi) + log_det + quadratic)
    assert abs(fitted.elbo - evidence) < 0.02


def test_the_stop_reason_lists_both_methods(fitted):
    assert "minibatch steps, then mode reached by Newton's method" in fitted.stop_reason
    assert fitted.num_steps == len(fitted.losses) > 0
    with pytest.raises(vijax.VijaxError, match="resume: expected a fit by gradient steps"):
        fitted.resume(10)


@pytest.mark.slow
def test_skewed_posteriors_are_fitted_by_the_elbo():
    def rates(y):
        rate = numpyro.sample("rate", dist.Gamma(0.5, 0.1).expand([3]).to_event(1))
        with numpyro.plate("rows", y.shape[0]):
            numpyro.sample("y", dist.Poisson(0.003 * rate).to_event(1), obs=y)

    y = np.zeros((400, 3), np.float32)
    y[[3, 77, 200, 5], [0, 0, 1, 2]] = 1  # Gamma(0.5 + count, 0.1 + 1.2)
    posterior = fit(rates, y)
    stages = [attempt.stage for attempt in posterior.history]
    assert stages == [LAPLACE, GRADIENT_STEPS, GAUSSIAN]
    draws = posterior.sample(4000)["rate"]
    shape = 0.5 + y.sum(0)
    assert posterior.status in ("certified", "corrected")
    np.testing.assert_allclose(draws.mean(0), shape / 1.3, rtol=0.07)
    np.testing.assert_allclose(draws.var(0), shape / 1.3**2, rtol=0.2)


GROUPS = np.repeat(np.arange(12), 50)
SCORES = np.random.default_rng(5).normal(0.1 * np.sin(GROUPS), 1.0).astype(np.float32)


def varying(group, y):
    """Groups that hardly differ: a funnel in the centered parametrization."""
    tau = numpyro.sample("tau", dist.HalfNormal(1.0))
    with numpyro.plate("groups", 12):
        effect = numpyro.sample("effect", dist.Normal(0.0, tau))
    with numpyro.plate("rows", y.shape[0]):
        numpyro.sample("y", dist.Normal(effect[group], 1.0), obs=y)


def exact_evidence():
    """Log evidence, and the mean and sd of `tau`, by quadrature: `y` is Gaussian given `tau`."""
    log_tau = np.linspace(-12.0, 1.5, 4000)
    tau, y = np.exp(log_tau), SCORES.astype(float)
    means, num = y.reshape(12, 50).mean(1), 50
    within = -0.5 * ((y.reshape(12, 50) - means[:, None]) ** 2).sum() - 6 * np.log(num)
    variance = tau[:, None] ** 2 + 1 / num
    between = -0.5 * (means**2 / variance + np.log(variance)).sum(1)
    prior = 0.5 * np.log(2 / np.pi) - 0.5 * tau**2 + log_tau
    density = within + between + prior - 0.5 * len(y) * np.log(2 * np.pi)
    weight = np.exp(density - density.max())
    step = log_tau[1] - log_tau[0]
    mean = np.average(tau, weights=weight)
    sd = np.sqrt(np.average((tau - mean) ** 2, weights=weight))
    return density.max() + np.log(weight.sum() * step), mean, sd


@pytest.mark.slow
@pytest.mark.parametrize("source", ["memory", "disk"])
def test_the_centering_of_hierarchical_sites_is_learned_from_the_full_data(
    source, on_disk, tmp_path, monkeypatch
):
    monkeypatch.setattr(_all_rows, "_BLOCK_ELEMENTS", 16 * 130)  # five blocks
    group = GROUPS
    if source == "disk":
        np.save(tmp_path / "group.npy", GROUPS)
        group = np.load(tmp_path / "group.npy", mmap_mode="r")
    posterior = fit(varying, group, SCORES)
    tried = {attempt.stage: attempt for attempt in posterior.history}
    assert LAPLACE not in tried  # no mode
    assert set(posterior.centering) == {"effect"}
    evidence, mean, sd = exact_evidence()
    gap = {stage: evidence - attempt.elbo for stage, attempt in tried.items()}
    assert 0 < gap[CENTERING] < 0.6 * gap[GAUSSIAN] < 0.6 * gap[GRADIENT_STEPS]
    assert posterior.elbo < evidence + 4 * posterior.elbo_se
    assert abs(posterior.log_evidence().value - evidence) < 0.1
    assert posterior.status in ("certified", "corrected")
    tau = posterior.sample(4000, rng_key=1)["tau"]
    assert abs(tau.mean() - mean) < 0.1 * sd
    assert abs(tau.std() / sd - 1) < 0.1


@pytest.mark.slow
def test_options_of_gradient_steps_disable_the_refinement():
    posterior = fit(regression, X, Y, num_steps=50)
    assert posterior.num_steps == 50
    assert type(posterior.guide).__name__ == "MeanField"  # in 25 dimensions
    assert posterior.history == ()


def test_max_seconds_is_respected():
    posterior = fit(regression, X, Y, max_seconds=1e-9)
    assert "max_seconds" in posterior.stop_reason
    assert posterior.status in ("approximate", "failed")


def assert_same_gaussian(one, other):
    np.testing.assert_allclose(one.covariance(), other.covariance(), atol=1e-4 * SD.max() ** 2)
    np.testing.assert_allclose(one.params.loc, other.params.loc, atol=1e-3 * SD.min())


@pytest.mark.slow
def test_rows_on_disk_give_the_same_posterior_as_in_memory(fitted, on_disk, tmp_path):
    np.save(tmp_path / "x.npy", X)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    posterior = fit(regression, mapped, Y)
    assert posterior.status == "certified"
    assert [attempt.stage for attempt in posterior.history] == [LAPLACE]
    assert_same_gaussian(posterior, fitted)
    assert posterior.elbo == pytest.approx(fitted.elbo, abs=0.005)
    assert posterior.khat < 0.5
    posterior.save(tmp_path / "fit")
    loaded = vijax.load(tmp_path / "fit", regression, mapped, Y)
    for one in (posterior, loaded):
        found, expected = one.importance(500, rng_key=1), fitted.importance(500, rng_key=1)
        assert found.log_evidence == pytest.approx(expected.log_evidence, abs=0.01)
        assert found.log_weights.shape == (500,)
    for name in ("log_likelihood", "log_predictive_density"):
        found, expected = (getattr(one, name)(2, num_draws=9)["y"] for one in (posterior, fitted))
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
    found, expected = (one.stein_discrepancy(100, rng_key=3) for one in (posterior, fitted))
    assert found.value == pytest.approx(expected.value, rel=0.05)
    assert set(posterior.sample(10)) == {"beta"}
    with pytest.raises(ModelError, match=r"predict.*'x' is read batch by batch"):
        posterior.predict()
    with pytest.raises(ModelError, match="loaded without"):
        vijax.load(tmp_path / "fit", regression).log_likelihood()


class Loader:
    """Batches in a fixed order, with counts of passes and batches."""

    passes = read = 0

    def __iter__(self):
        self.passes += 1
        for start in range(0, ROWS, 70):
            self.read += 1
            yield X[start : start + 70], Y[start : start + 70]


@pytest.mark.slow
def test_a_stream_is_read_in_order_once_a_pass(fitted, on_disk):
    loader = Loader()
    posterior = fit(regression, *data.stream(loader, ROWS))
    assert posterior.status == "certified"
    assert_same_gaussian(posterior, fitted)
    passes, read = loader.passes, loader.read
    posterior.importance(200)
    assert (loader.passes - passes, loader.read - read) == (1, -(-ROWS // 70))


class Slow(arrays.MappedRows):
    read_cost = 2**30


@pytest.mark.slow
def test_slow_sources_are_fitted_by_gradient_steps_only(fitted, on_disk):
    posterior = fit(regression, Slow(X), Y)
    assert type(posterior.guide).__name__ == "MeanField"
    assert (posterior.status, posterior.history) == ("approximate", ())
    assert np.isnan(posterior.khat)
    # the evidence can still be estimated
    assert posterior.log_evidence("elbo", num_draws=200).value < fitted.elbo

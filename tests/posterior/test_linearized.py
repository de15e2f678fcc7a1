"""Laplace approximations with Gauss-Newton curvature, and predictions linear in the weights."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest
from flax import nnx

import vijax
from vijax.contracts import Site, Space
from vijax.guides import Delta, Laplace
from vijax.runtime.errors import GuideError, ModelError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 2)).astype(np.float32)
Y = (np.sin(2 * X[:, 0]) + 0.3 * RNG.normal(size=24)).astype(np.float32)
NEW = RNG.normal(size=(3, 2)).astype(np.float32)
SD = 0.3
fit = functools.partial(vijax.fit, progress_bar=False)


def linear(rngs):
    return nnx.Linear(2, 1, rngs=rngs)


class Net(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(2, 3, rngs=rngs)
        self.out = nnx.Linear(3, 1, rngs=rngs)

    def __call__(self, x):
        return self.out(jnp.tanh(self.hidden(x)))


def regression(x, y=None, factory=linear, prior="fan_in"):
    net = vijax.nn.network("net", factory, prior=prior)
    with numpyro.plate("rows", len(x)):
        mean = numpyro.deterministic("mean", net(x)[:, 0])
        numpyro.sample("y", dist.Normal(mean, SD), obs=y)


def nonlinear(x, y=None):
    regression(x, y, Net)


def moments(posterior):
    result = posterior._result
    state = result.params, result.target.space
    return (np.asarray(f(*state), float) for f in (result.guide.mean, result.guide.covariance))


@functools.cache
def small():
    return fit(nonlinear, X, Y, guide=Laplace("ggn"), optimizer=optax.adam(0.03), num_steps=100)


def by_hand(posterior, x):
    """Outputs at the mode, and their Jacobian in bias and kernel of both layers."""
    space = posterior._result.target.space
    mean, _ = moments(posterior)

    def outputs(vector):
        w = space.unravel(vector)
        hidden = jnp.tanh(x @ w["net/hidden/kernel"] + w["net/hidden/bias"])
        return (hidden @ w["net/out/kernel"] + w["net/out/bias"])[:, 0]

    at = jnp.asarray(mean, jnp.float32)
    return np.asarray(outputs(at)), np.asarray(jax.jacobian(outputs)(at)), mean


def test_covariance_of_a_network_is_the_inverse_gauss_newton_matrix():
    posterior = small()
    _, jacobian, _ = by_hand(posterior, X)
    prior = {"hidden/bias": 1.0, "hidden/kernel": 2.0, "out/bias": 1.0, "out/kernel": 3.0}
    space = posterior._result.target.space
    precision = np.concatenate(
        [np.full(s.size, prior[s.name.removeprefix("net/")]) for s in space.sites]
    )
    expected = np.linalg.inv(jacobian.T @ jacobian / SD**2 + np.diag(precision))
    np.testing.assert_allclose(list(moments(posterior))[1], expected, rtol=2e-3, atol=1e-5)


def test_predictions_are_linear_in_the_weights():
    posterior = small()
    space = posterior._result.target.space
    draws = posterior.sample(50)
    weights = np.stack([space.host_ravel({n: draws[n][i] for n in space.names}) for i in range(50)])
    value, jacobian, mean = by_hand(posterior, X)
    expected = value + (weights - mean) @ jacobian.T
    np.testing.assert_allclose(draws["mean"], expected, atol=2e-4)
    log_likelihood = posterior.log_likelihood(50)["y"]
    normal = -0.5 * ((Y - expected) / SD) ** 2 - np.log(SD) - 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(log_likelihood, normal, rtol=1e-3, atol=1e-2)


def test_predictive_variance_is_that_of_the_linear_model():
    posterior = small()
    _, jacobian, _ = by_hand(posterior, NEW)
    variance = np.einsum("ni,ij,nj->n", jacobian, list(moments(posterior))[1], jacobian)
    parts = posterior.uncertainty(NEW, num_draws=4000)
    np.testing.assert_allclose(parts.epistemic, variance, rtol=5 * np.sqrt(2 / 4000))
    np.testing.assert_allclose(parts.aleatoric, SD**2, rtol=1e-5)


@pytest.mark.slow
def test_predictive_density_is_that_of_the_linear_model():
    posterior = small()
    value, jacobian, _ = by_hand(posterior, NEW)
    variance = np.einsum("ni,ij,nj->n", jacobian, list(moments(posterior))[1], jacobian)
    means = posterior.predict(NEW, num_draws=4000)["mean"].mean(0)
    np.testing.assert_allclose(means, value, atol=5 * np.sqrt(variance.max() / 4000))
    y = np.array([0.1, 0.2, -0.3], np.float32)
    density = posterior.log_predictive_density(NEW, y=y, num_draws=4000)["y"]
    total = variance + SD**2
    expected = -0.5 * (y - value) ** 2 / total - 0.5 * np.log(2 * np.pi * total)
    np.testing.assert_allclose(density, expected, atol=0.1)


@pytest.mark.slow
def test_a_predictor_is_linear_in_the_weights():
    draws = small().predict(NEW, num_draws=50)["mean"]
    served = small().predictor(X, num_draws=50)(NEW)["mean"]
    np.testing.assert_allclose(served, draws, atol=1e-5)


def test_a_file_has_the_curvature_and_steps_go_on(tmp_path):
    guide = Laplace("kronecker")
    posterior = fit(nonlinear, X, Y, guide=guide, optimizer=optax.adam(0.03), num_steps=30)
    posterior.save(tmp_path / "fit.npz")
    loaded = vijax.load(tmp_path / "fit.npz", nonlinear, X, Y, optimizer=optax.adam(0.03))
    assert loaded._result.guide == posterior._result.guide
    for name, value in posterior.predict(NEW, num_draws=5).items():
        np.testing.assert_array_equal(loaded.predict(NEW, num_draws=5)[name], value)
    more = loaded.resume(num_steps=30)
    whole = fit(nonlinear, X, Y, guide=guide, optimizer=optax.adam(0.03), num_steps=60)
    assert repr(more._result.guide) == repr(guide)
    jax.tree.map(np.testing.assert_array_equal, more._result.params, whole._result.params)


def last_layer(x, y=None):
    regression(x, y, Net, {"out/*": "fan_in", "*": None})


@pytest.mark.slow
def test_last_layer_with_point_estimates_of_the_others():
    posterior = fit(last_layer, X, Y, guide="laplace", optimizer=optax.adam(0.03), num_steps=200)
    assert posterior._result.target.space.names == ("net/out/bias", "net/out/kernel")
    params = posterior.model_params
    hidden = np.tanh(X @ params["net/hidden/kernel"] + params["net/hidden/bias"])
    design = np.concatenate([np.ones((24, 1)), hidden], axis=1).astype(float)
    expected = np.linalg.inv(design.T @ design / SD**2 + np.diag([1.0, 3.0, 3.0, 3.0]))
    np.testing.assert_allclose(list(moments(posterior))[1], expected, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_last_layer_with_priors_of_the_others():
    last = ("net/out/kernel", "net/out/bias")
    guide = {"net/out/*": Laplace("kronecker"), ...: "map"}
    posterior = fit(nonlinear, X, Y, guide=guide, optimizer=optax.adam(0.03), num_steps=200)
    draws = posterior.sample(3000)
    assert np.ptp(draws["net/hidden/kernel"], axis=0).max() == 0
    hidden = np.tanh(X @ draws["net/hidden/kernel"][0] + draws["net/hidden/bias"][0])
    design = np.concatenate([hidden, np.ones((24, 1))], axis=1).astype(float)
    expected = np.linalg.inv(design.T @ design / SD**2 + np.diag([3.0, 3.0, 3.0, 1.0]))
    found = np.concatenate([draws[name].reshape(3000, -1) for name in last], axis=1)
    sd = np.sqrt(np.diag(expected))
    errors = np.abs(np.cov(found.T) - expected) / sd / sd[:, None]
    assert errors.max() < 5 * np.sqrt(2 / 3000)


@pytest.mark.slow
def test_held_out_rows_are_predicted_by_the_linear_network_of_each_restart():
    options = {"optimizer": optax.adam(0.03), "num_steps": 100, "num_restarts": 2}
    posterior = fit(nonlinear, X, Y, guide=Laplace("ggn"), holdout=(X[:8], Y[:8]), **options)
    found = posterior.diagnostics.predictions
    density = posterior.log_predictive_density(X[:8], y=Y[:8], num_draws=400)["y"]
    np.testing.assert_allclose(found.log_score, density.mean(), atol=0.1)
    assert len(found.restarts) == 1


def space_of(*sites):
    return Space(
        tuple(Site(n, (s,), (s,), init_scale=0.1 if "net" in n else None) for n, s in sites)
    )


def test_auto_is_chosen_by_networks_and_size():
    guide = Laplace()
    assert guide.structure(space_of(("w", 5000))) == "hessian"
    assert guide.structure(space_of(("w", 1), ("net/w", 999))) == "ggn"
    assert guide.structure(space_of(("net/w", 1001))) == "kronecker"
    assert guide.point_guide(space_of(("net/w", 3))) == Delta()
    assert guide.point_guide(space_of(("w", 3))) is guide


def with_factor(x, y):
    regression(x, y)
    numpyro.factor("penalty", -jnp.square(numpyro.sample("z", dist.Normal(0, 1))))


def mixture(x, y):
    net = vijax.nn.network("net", linear)
    with numpyro.plate("rows", len(x)):
        label = numpyro.sample("label", dist.Bernoulli(0.5))
        numpyro.sample("y", dist.Normal(net(x)[:, 0] + label, SD), obs=y)


def offsets(x, y):
    with numpyro.plate("rows", len(x)):
        offset = numpyro.sample("offset", dist.Normal(0, 1))
        numpyro.sample("y", dist.Normal(offset, SD), obs=y)


LAST_SITES = ("net/out/kernel", "net/out/bias")


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        (with_factor, {}, ModelError, "factor 'penalty'"),
        (mixture, {}, ModelError, "without discrete latents, got 'label'"),
        (offsets, {"batch_size": 4}, ModelError, "latents that all rows share, got 'offset'"),
        (
            nonlinear,
            {"guide": {LAST_SITES: Laplace("ggn"), ...: "meanfield"}},
            GuideError,
            "expected 'map' or a Laplace",
        ),
        (
            nonlinear,
            {"guide": vijax.guides.Ensemble(2, Laplace("ggn"))},
            GuideError,
            "Ensemble, member",
        ),
    ],
)
def test_what_has_no_curvature_is_refused(model, options, error, message):
    with pytest.raises(error, match=message):
        fit(model, X, Y, **{"guide": Laplace("ggn")} | options)


def test_an_unknown_curvature_is_refused():
    with pytest.raises(GuideError, match="curvature: expected one of"):
        Laplace("kfac")


@pytest.mark.slow
def test_flat_directions_are_reported():
    def flat(x, y):
        a, b = (
            numpyro.sample(n, dist.ImproperUniform(dist.constraints.real, (), ())) for n in "ab"
        )
        with numpyro.plate("rows", len(x)):
            numpyro.sample("y", dist.Normal(a + b, SD), obs=y)

    posterior = fit(flat, X, Y, guide=Laplace("ggn"), optimizer=optax.adam(0.05), num_steps=100)
    assert "flat in 1 of 2 directions" in posterior.stop_reason
    assert not posterior.converged

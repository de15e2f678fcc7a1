"""Gaussian chains: the exact smoother, and unknown dynamics and noise."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

import vijax
from tests.conjugacy.reading import read
from vijax.contracts import Variables
from vijax.guides import Conjugate
from vijax.solvers import CoordinateAscent

C, Q, R = 0.9, 0.25, 0.49  # coefficient, and variances of states and observations


def known(y):
    """A first-order autoregression with noise, all parameters known."""
    first = numpyro.sample("first", dist.Normal(0.0, 1.0))

    def step(before, y):
        x = numpyro.sample("x", dist.Normal(C * before, Q**0.5))
        numpyro.sample("y", dist.Normal(x, R**0.5), obs=y)
        return x, None

    scan(step, first, y)


def unknown(y):
    """Likewise with an unknown coefficient and unknown precisions."""
    c = numpyro.sample("c", dist.Normal(0.0, 1.0))
    q = numpyro.sample("q", dist.Gamma(1.0, 0.1))
    r = numpyro.sample("r", dist.Gamma(1.0, 0.1))

    def step(before, y):
        x = numpyro.sample("x", dist.Normal(c * before, 1 / jnp.sqrt(q)))
        numpyro.sample("y", dist.Normal(x, 1 / jnp.sqrt(r)), obs=y)
        return x, None

    scan(step, 0.0, y)


def switching(y):
    """A chain whose coefficient and noise depend on a regime."""
    with numpyro.plate("regimes", 2):
        c = numpyro.sample("c", dist.Normal(0.0, 1.0))
        q = numpyro.sample("q", dist.Gamma(1.0, 0.1))
        p = numpyro.sample("p", dist.Dirichlet(jnp.ones(2)))

    def step(carry, y):
        z, x = carry
        z = numpyro.sample("z", dist.Categorical(p[z]))
        x = numpyro.sample("x", dist.Normal(c[z] * x, 1 / jnp.sqrt(q[z])))
        numpyro.sample("y", dist.Normal(x, 0.1), obs=y)
        return (z, x), None

    scan(step, (0, 0.0), y)


def series(size, seed=0):
    rng = np.random.default_rng(seed)
    x, y = rng.normal(), []
    for _ in range(size):
        x = C * x + Q**0.5 * rng.normal()
        y.append(x + R**0.5 * rng.normal())
    return np.asarray(y, np.float32)


def smoothed(y):
    """Means, variances and the log evidence, by Kalman, and Rauch, Tung, Striebel."""
    means, variances, predicted, log_evidence = [0.0], [1.0], [], 0.0
    for value in np.asarray(y, float):
        m, p = C * means[-1], C**2 * variances[-1] + Q
        predicted.append((m, p))
        log_evidence -= 0.5 * (np.log(2 * np.pi * (p + R)) + (value - m) ** 2 / (p + R))
        gain = p / (p + R)
        means.append(m + gain * (value - m))
        variances.append(p - gain * p)
    for t in reversed(range(len(y))):
        m, p = predicted[t]
        gain = C * variances[t] / p
        means[t] += gain * (means[t + 1] - m)
        variances[t] += gain**2 * (variances[t + 1] - p)
    return np.asarray(means), np.asarray(variances), log_evidence


def solved(model, y, num_restarts=0, **options):
    """The solution by coordinate ascent alone, without diagnostics."""
    target, _, batch = read(model, (y,))
    guide = Conjugate().bind(target, target.space)
    zeros = {site.name: jnp.zeros(site.z_shape) for site in target.space.sites}
    start = guide.init(jax.random.key(0), target.space, zeros, batch)
    solver = CoordinateAscent(num_restarts=num_restarts, **options)
    return solver.solve(jax.random.key(0), guide.target, guide, Variables(start), batch)


def check_smoother(family, elbo, y):
    mean, variance, log_evidence = smoothed(y)
    assert elbo == pytest.approx(log_evidence, rel=1e-9)
    np.testing.assert_allclose(family.mean[:, 0], mean, atol=1e-5)
    covariance = family.expectations["covariance"]
    np.testing.assert_allclose(covariance[:, 0, 0], variance, rtol=1e-4)


@pytest.mark.parametrize("size", [150, pytest.param(10_000, marks=pytest.mark.slow)])
def test_known_parameters_are_the_exact_smoother(size):
    y = series(size)
    solution = solved(known, y)
    (family,) = solution.variables.guide.values()
    check_smoother(family, solution.elbo, y)


@pytest.mark.slow
def test_unknown_dynamics_and_noise():
    solution = solved(unknown, series(1_000), tolerance=1e-3)
    losses = np.asarray(solution.losses)
    assert (np.diff(losses) <= 1e-8 * np.abs(losses[1:])).all()
    found = solution.variables.guide
    of = {name: float(found[name].expectations["value"]) for name in "qr"}
    assert float(found["c"].mean) == pytest.approx(C, abs=0.06)
    assert 1 / of["q"] == pytest.approx(Q, rel=0.4)
    assert 1 / of["r"] == pytest.approx(R, rel=0.2)


@pytest.mark.slow
def test_a_discrete_and_a_normal_chain():
    rng, x, y = np.random.default_rng(1), 0.0, []
    for z in np.repeat([0, 1, 0, 1], [150, 100, 100, 150]):
        x = (0.98, -0.7)[z] * x + (0.3, 1.0)[z] * rng.normal()
        y.append(x + 0.1 * rng.normal())
    solution = solved(switching, np.asarray(y, np.float32), num_restarts=4, tolerance=1e-3)
    assert (np.diff(solution.losses) <= 1e-5).all()
    found = solution.variables.guide
    order = np.argsort(found["c"].mean)
    sds = 1 / np.sqrt(found["q"].expectations["value"])
    np.testing.assert_allclose(found["c"].mean[order], [-0.7, 0.98], atol=0.1)
    np.testing.assert_allclose(sds[order], [1.0, 0.3], rtol=0.15)


@pytest.mark.slow
def test_a_fit_draws_predicts_and_can_be_saved(tmp_path):
    y = series(70)
    posterior = vijax.fit(known, y, guide="conjugate")
    assert posterior.diagnostics.plan == ("first, x: normal chain of 71 steps",)
    assert posterior.status == "certified"
    assert posterior.khat < 0.1  # the guide is the posterior
    posterior.save(tmp_path / "chain.vijax")
    again = vijax.load(tmp_path / "chain.vijax", known, y)
    draws = [one.sample(100, rng_key=0)["x"] for one in (posterior, again)]
    np.testing.assert_array_equal(*draws)
    assert draws[0].shape == (100, 70)
    assert posterior.predict(rng_key=0)["y"].shape[-1] == 70

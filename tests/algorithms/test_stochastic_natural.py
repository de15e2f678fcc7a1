"""Stochastic variational inference agrees with coordinate ascent on all rows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import optax
import pytest

import vijax
from vijax.algorithms import StochasticVI
from vijax.solvers.block_updates import double_precision, elbo, updated

RNG = np.random.default_rng(0)


def components(y, rank):
    """Principal components: a vector for every row, local, and every column, global."""
    tau = numpyro.sample("tau", dist.Gamma(1.0, 1.0))
    with numpyro.plate("columns", y.shape[1]):
        loadings = numpyro.sample("loadings", dist.Normal(0.0, 1.0).expand([rank]).to_event(1))
    with numpyro.plate("rows", len(y)):
        scores = numpyro.sample("scores", dist.Normal(0.0, 1.0).expand([rank]).to_event(1))
        row = dist.Normal(scores @ loadings.T, 1 / jnp.sqrt(tau)).to_event(1)
        numpyro.sample("y", row, obs=y)


def mixture(y):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(3)))
    with numpyro.plate("components", 3):
        mu = numpyro.sample("mu", dist.Normal(0.0, 10.0))
    with numpyro.plate("rows", len(y)):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("y", dist.Normal(mu[z], 1.0), obs=y)


SCORES = RNG.normal(size=(1000, 2))
TABLE = SCORES @ RNG.normal(size=(2, 5)) + 0.5 * RNG.normal(size=(1000, 5))
CLUSTERS = np.array([-4.0, 0.0, 5.0])[RNG.integers(3, size=3000)] + RNG.normal(size=3000)

fit = functools.partial(vijax.fit, guide="conjugate", progress_bar=False)


def after_sweeps(posterior, count):
    """The ELBO before and after sweeps of coordinate ascent on all rows, in float64."""
    result = posterior._result
    target, plan, batch = result.target, result.guide.plan, result.batch
    with jax.enable_x64(True):

        @jax.jit
        def ascend(families, batch):
            def sweep(_, families):
                return updated(target, plan, families, batch, families)

            return jax.lax.fori_loop(0, count, sweep, families)

        batch, families = double_precision((batch, result.variables.guide))
        return [float(elbo(target, plan, f, batch)) for f in (families, ascend(families, batch))]


@pytest.fixture(scope="module")
def of_components():
    return fit(components, TABLE, 2, batch_size=100, num_steps=330)


def test_rows_are_solved_given_the_global_blocks(of_components):
    result = of_components._result
    before = result.variables.guide
    after = jax.jit(
        lambda families, batch: updated(
            result.target, result.guide.plan, families, batch, ["scores"]
        )
    )(before, result.batch)
    np.testing.assert_allclose(after["scores"].mean, before["scores"].mean, atol=1e-4)
    np.testing.assert_allclose(after["scores"].precision, before["scores"].precision, rtol=1e-4)


@pytest.mark.slow
def test_local_blocks_agree_with_coordinate_ascent(of_components):
    elbo, best = after_sweeps(of_components, 20)
    assert best - elbo < 0.5
    error = abs(of_components.elbo - elbo)
    assert error < 4 * of_components.elbo_se


def test_a_resumed_fit_equals_an_uninterrupted_one_bit_for_bit(of_components):
    part = fit(components, TABLE, 2, batch_size=100, num_steps=130)
    resumed = part.resume(200, progress_bar=False)
    np.testing.assert_array_equal(resumed.losses, of_components.losses)
    pair = (resumed._result.variables, of_components._result.variables)
    assert jax.tree.all(jax.tree.map(np.array_equal, *pair))


@pytest.mark.slow
def test_a_mixture_agrees_with_coordinate_ascent(monkeypatch):
    monkeypatch.setattr("vijax.posterior.finish._SMALL_DATA", 0)  # assessed by the ELBO alone
    posterior = fit(mixture, CLUSTERS, batch_size=100, num_steps=600)
    before, best = after_sweeps(posterior, 20)
    assert posterior.elbo == pytest.approx(before, rel=1e-9)
    assert posterior.elbo_se == 0
    assert best - before < 0.5
    block = next(f for name, f in posterior._result.variables.guide.items() if "mu" in name)
    np.testing.assert_allclose(np.sort(np.ravel(block.mean)), [-4.0, 0.0, 5.0], atol=0.2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": optax.adam(0.1)}, "optimizer: expected None with guide="),
        ({"precision": "bfloat16", "batch_size": 100}, "precision: expected None with guide='conj"),
        ({"callbacks": [print]}, "Use batch_size="),
        ({"algorithm": "gradient", "batch_size": 100}, "algorithm: expected a StochasticVI"),
        ({"algorithm": StochasticVI()}, "algorithm: expected a solver"),
    ],
)
def test_options_of_gradient_steps_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        fit(components, TABLE, 2, **options)


@pytest.mark.parametrize("arguments", [{"rate": 0.0}, {"forgetting": 0.5}, {"delay": 0.0}])
def test_rates_are_checked(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        StochasticVI(**arguments)

"""Memoized coordinate ascent over blocks of rows: the fixed points of that over all rows."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vijax
from vijax.contracts import Batch, Blocks, Variables
from vijax.contracts.space import Plate
from vijax.engine.initialization import origin
from vijax.guides import resolve
from vijax.model import batch_request, split_and_build
from vijax.solvers import CoordinateAscent
from vijax.solvers.memoized import memoized_ascent
from vijax.solvers.perturbation import perturbed

ROWS = 230  # no multiple of a block


def mixture(y):
    weights = numpyro.sample("weights", dist.Dirichlet(jnp.ones(2)))
    with numpyro.plate("components", 2):
        tau = numpyro.sample("tau", dist.Gamma(2.0, 1.0))
        mu = numpyro.sample("mu", dist.Normal(0.0, 1 / jnp.sqrt(0.01 * tau)))
    with numpyro.plate("rows", ROWS, dim=-1):
        z = numpyro.sample("z", dist.Categorical(weights))
        numpyro.sample("y", dist.Normal(mu[z], 1 / jnp.sqrt(tau[z])), obs=y)


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    labels = rng.random(ROWS) < 0.4
    return np.where(labels, rng.normal(-2, 1, ROWS), rng.normal(2, 1, ROWS)).astype(np.float32)


@pytest.fixture(scope="module")
def problem(data):
    request = batch_request({"rows": 50}, None)
    _, arrays, target = split_and_build(mixture, (data,), {}, request, frozenset())
    guide = resolve("conjugate", target)
    target, batch = guide.target, Batch(arrays)
    params = guide.init(jax.random.key(0), target.space, origin(target.space), batch)
    return target, guide, batch, perturbed(params, guide.plan, jax.random.key(1))


def test_it_ends_where_coordinate_ascent_on_all_rows_does(problem, data):
    target, guide, batch, start = problem
    blocks = Blocks(batch, Plate("rows", -1, ROWS, 50), lambda rows: {"y": data[rows]})
    found = memoized_ascent(target, guide.plan, start, blocks, 1e-9, 300)
    assert found.converged
    solver = CoordinateAscent(num_restarts=0, tolerance=1e-9)
    families = jax.tree.map(lambda leaf: jnp.asarray(leaf, float), found.variables.guide)
    again = solver.solve(jax.random.key(0), target, guide, Variables(families), batch)
    # from there, coordinate ascent on all rows has nothing to gain
    np.testing.assert_allclose([found.elbo, -again.losses[0]], again.elbo, rtol=1e-8)
    assert (np.diff(found.losses) <= 1e-8 * abs(found.elbo)).all()


@pytest.mark.slow
def test_minibatches_of_data_in_memory_have_the_exact_answer(data):
    posterior = vijax.fit(mixture, data, guide="conjugate", batch_size=50, progress_bar=False)
    assert posterior.elbo_se == 0
    whole = vijax.fit(mixture, data, guide="conjugate", progress_bar=False)
    np.testing.assert_allclose(posterior.elbo, whole.elbo, atol=1e-3)

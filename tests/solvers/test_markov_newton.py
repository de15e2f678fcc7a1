"""Chains of Gaussians: the algebra, and state-space models whose posteriors are known."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

import vijax
from vijax._errors import GuideError
from vijax.guides import FullRank, Markov
from vijax.solvers import MarkovNewton
from vijax.solvers import chain_gaussian as chains
from vijax.solvers.conversion import from_params

STEP, NOISE = 0.3, 1.0


def local_level(y):
    def step(x, y):
        x = numpyro.sample("x", dist.Normal(x, STEP))
        numpyro.sample("y", dist.Normal(x, NOISE), obs=y)
        return x, None

    scan(step, 0.0, y)


def counts(y):
    """Poisson counts whose log rate walks."""
    walk = numpyro.sample("walk", dist.GaussianRandomWalk(0.3, num_steps=len(y)))
    numpyro.sample("y", dist.Poisson(np.e**walk).to_event(1), obs=y)


def fit(model, *args, **options):
    return vijax.fit(model, *args, progress_bar=False, **options)


def random_precision(length=6, width=2):
    rng = np.random.default_rng(0)
    below = 0.4 * rng.normal(size=(length - 1, width, width))
    root = rng.normal(size=(length, width, width))
    diagonal = np.einsum("tij,tkj->tik", root, root) + 4 * np.eye(width)
    dense = np.zeros((length * width, length * width))
    for t in range(length):
        here = slice(t * width, (t + 1) * width)
        dense[here, here] = diagonal[t]
        if t:
            before = slice((t - 1) * width, t * width)
            dense[here, before], dense[before, here] = below[t - 1], below[t - 1].T
    return chains.Tridiagonal(diagonal, below), dense


def test_the_algebra_is_that_of_the_dense_matrix():
    precision, dense = random_precision()
    chain, covariance = chains.conditionals(precision), np.linalg.inv(dense)
    right = np.random.default_rng(1).normal(size=(6, 2))
    np.testing.assert_allclose(chains.solve(chain, right).ravel(), covariance @ right.ravel())
    np.testing.assert_allclose(chains.marginal_sds(chain).ravel() ** 2, np.diag(covariance))
    # the map from normals to draws is a root of the covariance
    root = chains.draws(chain, np.eye(12).reshape(12, 6, 2)).reshape(12, 12)
    np.testing.assert_allclose(root.T @ root, covariance, atol=1e-12)


def test_a_precision_that_is_none_is_refused():
    precision, _ = random_precision()
    with pytest.raises(np.linalg.LinAlgError):
        chains.conditionals(precision._replace(diagonal=-precision.diagonal))


def test_a_linear_gaussian_model_is_exact():
    """Against the dense posterior of a local level model, which the Kalman smoother computes."""
    rng = np.random.default_rng(0)
    length = 40
    y = (np.cumsum(STEP * rng.normal(size=length)) + rng.normal(size=length)).astype(np.float32)
    posterior = fit(local_level, y, guide="markov")
    change = np.eye(length) - np.eye(length, k=-1)
    precision = change.T @ change / STEP**2 + np.eye(length) / NOISE**2
    covariance = np.linalg.inv(precision)
    chain = chains.Conditionals(
        np.exp(2 * np.asarray(posterior.params.log_scale, float))[:, :, None],
        np.asarray(posterior.params.gain, float),
    )
    sd = np.sqrt(np.diag(covariance))
    mean = np.asarray(posterior.params.loc)[:, 0]
    np.testing.assert_allclose((mean - covariance @ y) / sd, 0, atol=1e-4)
    np.testing.assert_allclose(chains.marginal_sds(chain)[:, 0], sd, rtol=1e-5)
    marginal = np.eye(length) - covariance  # the precision of y: all noise has variance one
    evidence = 0.5 * (
        np.linalg.slogdet(marginal)[1] - y @ marginal @ y - length * np.log(2 * np.pi)
    )
    np.testing.assert_allclose(posterior.elbo, evidence, atol=1e-3)
    assert posterior.status == "certified"


def test_beyond_linear_it_is_the_optimum_of_the_elbo():
    y = np.random.default_rng(0).poisson(3.0, 30).astype(np.int32)
    posterior = fit(counts, y, guide=Markov())
    assert posterior.converged
    dense = fit(counts, y, guide=FullRank(), algorithm="variational_newton")
    np.testing.assert_allclose(posterior.elbo, dense.elbo, atol=0.02)
    gaussian = from_params(dense.params, dense.target.space)
    mean = np.asarray(posterior.params.loc)[:, 0]
    np.testing.assert_allclose((mean - gaussian.mean) / gaussian.sd, 0, atol=0.1)


def test_sites_must_share_the_axis():
    def model():
        numpyro.sample("x", dist.Normal(0.0, 1.0).expand([5]).to_event(1))
        numpyro.sample("level", dist.Normal(0.0, 1.0))

    with pytest.raises(GuideError, match="Markov site 'level': expected a leading axis"):
        fit(model, guide="markov")


def test_the_solver_wants_its_guide():
    with pytest.raises(GuideError, match="guide: expected a Markov"):
        fit(local_level, np.zeros(5, np.float32), guide="fullrank", algorithm=MarkovNewton())
    with pytest.raises(GuideError, match="num_draws"):
        MarkovNewton(num_draws=3)

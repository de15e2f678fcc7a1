"""Gaussian Markov chains: the algebra, and state-space models with known posteriors."""

import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from numpyro.contrib.control_flow import scan

import vijax
from vijax.guides import FullRank, Markov
from vijax.guides.structured.markov import block_indices
from vijax.model import build, split
from vijax.runtime.errors import GuideError, VijaxError
from vijax.solvers import StructuredNewton
from vijax.solvers.gaussians.chain import Chain, Tridiagonal
from vijax.solvers.gaussians.conversion import from_params
from vijax.solvers.gaussians.structured_conversion import gaussian_from_params

STEP, NOISE = 0.3, 1.0


def local_level(y):
    def step(x, y):
        x = numpyro.sample("x", dist.Normal(x, STEP))
        numpyro.sample("y", dist.Normal(x, NOISE), obs=y)
        return x, None

    scan(step, 0.0, y)


def counts(y):
    """Poisson counts whose log rate is a random walk."""
    walk = numpyro.sample("walk", dist.GaussianRandomWalk(0.3, num_steps=len(y)))
    numpyro.sample("y", dist.Poisson(np.e**walk).to_event(1), obs=y)


def fit(model, *args, **options):
    return vijax.fit(model, *args, progress_bar=False, **options)


def random_precision(length=6, width=2):
    """A chain with randomly permuted coordinates, its blocks, and the dense matrix."""
    rng = np.random.default_rng(0)
    chain = Chain(rng.permutation(length * width).reshape(length, width))
    below = 0.4 * rng.normal(size=(length - 1, width, width))
    root = rng.normal(size=(length, width, width))
    diagonal = np.einsum("tij,tkj->tik", root, root) + 4 * np.eye(width)
    dense = np.zeros((length * width, length * width))
    for t, current in enumerate(chain.coords):
        dense[np.ix_(current, current)] = diagonal[t]
        if t:
            previous = chain.coords[t - 1]
            dense[np.ix_(current, previous)] = below[t - 1]
            dense[np.ix_(previous, current)] = below[t - 1].T
    return chain, Tridiagonal(diagonal, below), dense


def test_the_algebra_matches_the_dense_matrix():
    chain, precision, dense = random_precision()
    kept, conditionals = chain.eliminate(precision, None)
    covariance, rhs = np.linalg.inv(dense), np.random.default_rng(1).normal(size=12)
    np.testing.assert_allclose(chain.solve(conditionals, rhs), covariance @ rhs)
    np.testing.assert_allclose(chain.sds(conditionals) ** 2, np.diag(covariance))
    log_det = 0.5 * np.linalg.slogdet(covariance)[1]
    np.testing.assert_allclose(chain.log_det(conditionals), log_det)
    # the map from normals to draws is a root of the covariance
    root = chain.draws(conditionals, np.eye(12))
    np.testing.assert_allclose(root.T @ root, covariance, atol=1e-12)
    for again in (kept, chain.blocks(conditionals)):
        np.testing.assert_allclose(again.diagonal, precision.diagonal, atol=1e-12)
        np.testing.assert_allclose(again.below, precision.below, atol=1e-12)
    np.testing.assert_allclose(chain.diagonal_of(kept), np.diag(dense))


def test_blocks_are_estimated_from_few_products():
    chain, precision, dense = random_precision()
    products = []

    def apply(vectors):
        products.append(len(vectors))
        return vectors @ dense

    _, at = chain.eliminate(precision, None)
    found = chain.estimate_blocks(apply, 4, np.random.default_rng(2), at)
    assert products == [4] * 6  # three colors, two coordinates
    np.testing.assert_allclose(found.diagonal, precision.diagonal, atol=1e-12)
    np.testing.assert_allclose(found.below, precision.below, atol=1e-12)


def test_an_indefinite_precision_is_rejected_or_bounded():
    chain, precision, _ = random_precision()
    negative = precision._replace(diagonal=-precision.diagonal)
    with pytest.raises(np.linalg.LinAlgError):
        chain.eliminate(negative, None)
    _, previous = chain.eliminate(precision, None)
    kept, after = chain.eliminate(negative, previous)
    # every conditional precision is a hundredth of what it was
    np.testing.assert_allclose(after.covariance, 100 * previous.covariance, rtol=1e-9)
    again = chain.blocks(after)
    np.testing.assert_allclose(kept.diagonal, again.diagonal, atol=1e-10)


def test_a_linear_gaussian_model_is_exact():
    """Against the dense posterior of a local level model, which the Kalman smoother computes."""
    rng = np.random.default_rng(0)
    length = 40
    y = (np.cumsum(STEP * rng.normal(size=length)) + rng.normal(size=length)).astype(np.float32)
    posterior = fit(local_level, y, guide="markov")
    change = np.eye(length) - np.eye(length, k=-1)
    precision = change.T @ change / STEP**2 + np.eye(length) / NOISE**2
    covariance = np.linalg.inv(precision)
    found = gaussian_from_params(posterior.params, posterior.space)
    sd = np.sqrt(np.diag(covariance))
    np.testing.assert_allclose((found.mean - covariance @ y) / sd, 0, atol=1e-4)
    np.testing.assert_allclose(found.sd, sd, rtol=1e-5)
    marginal = np.eye(length) - covariance  # the precision of y: all noise has variance one
    log_evidence = 0.5 * (
        np.linalg.slogdet(marginal)[1] - y @ marginal @ y - length * np.log(2 * np.pi)
    )
    np.testing.assert_allclose(posterior.elbo, log_evidence, atol=1e-3)
    assert posterior.status == "certified"


@pytest.mark.slow
def test_on_a_nonlinear_model_it_maximizes_the_elbo():
    y = np.random.default_rng(0).poisson(3.0, 30).astype(np.int32)
    posterior = fit(counts, y, guide=Markov())
    assert posterior.converged
    dense = fit(counts, y, guide=FullRank(), algorithm="variational_newton")
    np.testing.assert_allclose(posterior.elbo, dense.elbo, atol=0.02)
    gaussian = from_params(dense.params, dense.space)
    mean = np.asarray(posterior.params.loc)[:, 0]
    np.testing.assert_allclose((mean - gaussian.mean) / gaussian.sd, 0, atol=0.1)


def test_sites_must_share_the_axis():
    def model():
        numpyro.sample("x", dist.Normal(0.0, 1.0).expand([5]).to_event(1))
        numpyro.sample("level", dist.Normal(0.0, 1.0))

    with pytest.raises(
        GuideError, match=r"Markov site 'level': expected a leading axis.*'fullrank'\}"
    ):
        block_indices(build(model, split(model, (), {})[0]).space)


def test_other_guides_and_odd_draws_are_rejected():
    with pytest.raises(
        GuideError, match=r"guide: expected a structured Gaussian guide \(Markov, Pl"
    ):
        fit(local_level, np.zeros(5, np.float32), guide="fullrank", algorithm="structured_newton")
    with pytest.raises(VijaxError, match="num_draws"):
        StructuredNewton(num_draws=3)

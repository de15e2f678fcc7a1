"""Gaussians from the Gauss-Newton curvature against exact posteriors and Hessians."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from flax import nnx

import vijax
from vijax.contracts import Batch
from vijax.contracts.kernel import Kernel
from vijax.engine.problem import Problem
from vijax.guides import Delta, Laplace, resolve
from vijax.model import batch_request, split_and_build
from vijax.solvers.curvature.gaussian import Mode, gaussian_at

RNG = np.random.default_rng(0)
ROWS, SD = 24, 0.3
X = RNG.normal(size=(ROWS, 2)).astype(np.float32)
Y = (np.sin(2 * X[:, 0]) + SD * RNG.normal(size=ROWS)).astype(np.float32)
LABELS = (X[:, 0] + RNG.normal(size=ROWS) > 0).astype(np.float32)
DESIGN = np.concatenate([np.ones((ROWS, 1)), X], axis=1).astype(float)
PRECISION = DESIGN.T @ DESIGN / SD**2 + np.diag([1.0, 2.0, 2.0])  # of bias and kernel
COVARIANCE = np.linalg.inv(PRECISION)
MEAN = COVARIANCE @ DESIGN.T @ Y.astype(float) / SD**2


def linear(rngs):
    return nnx.Linear(2, 1, rngs=rngs)


def regression(x, y):
    net = vijax.nn.network("net", linear)
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", dist.Normal(net(x)[:, 0], SD), obs=y)


def logistic(x, y):
    net = vijax.nn.network("net", linear)
    with numpyro.plate("rows", len(x)):
        numpyro.sample("y", dist.Bernoulli(logits=net(x)[:, 0]), obs=y)


def found_at(model, guide, y=Y, batch_size=None, at=0.0):
    """A guide at `z = at` in all coordinates, and the problem."""
    request = batch_request(batch_size, None)
    arguments, data, target = split_and_build(model, (X, y), {}, request, frozenset())
    problem = Problem(model, arguments, target, Delta(), Batch(data), jax.random.key(0))
    z = {s.name: np.full(s.z_shape, at, np.float32) for s in target.space.sites}
    mode = Mode(target, z, {}, {}, problem.passes(), problem.key)
    return gaussian_at(mode, resolve(guide, target), target.space), problem


def gaussian(*args, **options):
    """Mean and covariance, before the results of `found_at`."""
    found, problem = found_at(*args, **options)
    state = found.params, problem.target.space
    moments = (np.asarray(f(*state), float) for f in (found.guide.mean, found.guide.covariance))
    return (*moments, found, problem)


@pytest.mark.parametrize("batch_size", [None, 7])
@pytest.mark.parametrize("curvature", ["ggn", "kronecker", "diagonal"])
def test_a_linear_model_is_exact(curvature, batch_size, monkeypatch):
    """Kronecker factors as well: gradients of a single output do not depend on inputs.

    Of blocks of seven of 24 rows the last is padded. The dense matrix leads to the mode.
    """
    monkeypatch.setattr("vijax.engine.problem._ROWS", 1)
    mean, covariance, *_ = gaussian(regression, Laplace(curvature), batch_size=batch_size)
    expected = np.diag(1 / np.diag(PRECISION)) if curvature == "diagonal" else COVARIANCE
    np.testing.assert_allclose(covariance, expected, atol=1e-4 * expected.max())
    np.testing.assert_allclose(mean, MEAN if curvature == "ggn" else 0.0, atol=1e-4)


def test_rows_of_models_that_subsample_themselves_are_those_of_an_epoch():
    def subsampled(x, y):
        net = vijax.nn.network("net", linear)
        with numpyro.plate("rows", len(x), subsample_size=6) as rows:
            numpyro.sample("y", dist.Normal(net(x[rows])[:, 0], SD), obs=y[rows])

    covariance = gaussian(subsampled, Laplace("ggn"))[1]
    np.testing.assert_allclose(covariance, COVARIANCE, atol=1e-4 * COVARIANCE.max())


def test_logistic_regression_equals_the_hessian():
    """The link is canonical: at any point, not at the mode only; found by Newton's method."""
    mean, covariance, found, problem = gaussian(logistic, Laplace("ggn"), LABELS, at=0.3)
    kernel = Kernel(problem.target, problem.batch, {})
    hessian, at = kernel.hessian(mean), kernel(mean[None])[1][0]
    np.testing.assert_allclose(covariance, np.linalg.inv(-hessian), rtol=1e-3)
    assert found.flat == 0
    assert np.abs(at * np.sqrt(np.diag(covariance))).max() < 0.01  # of a standard deviation


def test_other_latents_and_priors_without_curvature():
    """Of `log sigma` the information is `2 N`, its prior's second derivative `-exp(2 z) / s^2`.

    A Laplace prior has none, a double-well prior a negative one.
    """

    def model(x, y):
        loc = numpyro.sample("loc", dist.Laplace(0.0, 1.0))
        sigma = numpyro.sample("sigma", dist.HalfNormal(2.0))
        wells = dist.MixtureSameFamily(
            dist.Categorical(probs=jnp.ones(2) / 2), dist.Normal(jnp.array([-9.0, 9.0]), 1.0)
        )
        numpyro.sample("wells", wells)
        with numpyro.plate("rows", len(x)):
            numpyro.sample("y", dist.Normal(loc, sigma), obs=y)

    _, covariance, found, _ = gaussian(model, Laplace("diagonal"), at=0.1)
    assert found.flat == 1  # `wells`, of which the data say nothing
    sigma = np.exp(0.1)
    expected = [ROWS / sigma**2, 2 * ROWS + 2 * sigma**2 / 4]
    np.testing.assert_allclose(1 / np.diag(covariance)[:2], expected, rtol=1e-4)


class Net(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(2, 3, rngs=rngs)
        self.out = nnx.Linear(3, 1, rngs=rngs)

    def __call__(self, x):
        return self.out(jnp.tanh(self.hidden(x)))


def test_last_layer_given_point_estimates_of_the_others():
    def model(x, y):
        net = vijax.nn.network("net", Net)
        with numpyro.plate("rows", len(x)):
            numpyro.sample("y", dist.Normal(net(x)[:, 0], SD), obs=y)

    last = ("net/out/bias", "net/out/kernel")
    guide = {last: Laplace("kronecker"), ...: "map"}
    found, problem = found_at(model, guide, at=0.2)
    at, params = found.params
    hidden = np.tanh(X @ np.asarray(at.loc["net/hidden/kernel"]) + 0.2)
    design = np.concatenate([np.ones((ROWS, 1)), hidden], axis=1)
    expected = np.linalg.inv(design.T @ design / SD**2 + np.diag([1.0, 3.0, 3.0, 3.0]))
    part = found.guide.parts[1][1]
    covariance = part.covariance(params, problem.target.space.subset(last))
    np.testing.assert_allclose(covariance, expected, rtol=1e-3, atol=1e-5)

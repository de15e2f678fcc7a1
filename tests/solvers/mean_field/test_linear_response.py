import jax
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import vijax
from tests.solvers import problems
from vijax import GuideError, VijaxError
from vijax.solvers import BatchAndMatch, FixedDraws
from vijax.solvers.mean_field.covariance import linear_response
from vijax.solvers.mean_field.linear_response import conjugate_gradients


def mean_field(case, seed=0):
    start = case.standard()
    rng = np.random.default_rng(seed)
    return FixedDraws().run(case.kernel(), rng, start.mean, 0.1 * start.sd)


@pytest.mark.parametrize(("dim", "condition"), [(2, 100.0), (20, 1e3), (50, 1e3)])
def test_is_exact_on_gaussians(dim, condition):
    known = problems.gaussian(dim, condition)
    found = mean_field(known.case)
    rng = np.random.default_rng(1)
    covariance = linear_response(known.case.kernel(), rng, found.mean, found.sd)
    scale = np.outer(known.sd, known.sd)
    np.testing.assert_allclose(covariance / scale, known.covariance / scale, atol=1e-3)
    assert (found.sd / known.sd).min() < 0.6  # underestimated by mean-field


def test_is_exact_in_double_precision_from_any_start():
    with jax.enable_x64(True):
        known = problems.gaussian(10, 1e4)
        rng = np.random.default_rng(0)
        covariance = linear_response(known.case.kernel(), rng, known.mean + 1, np.full(10, 0.3))
    np.testing.assert_allclose(covariance, known.covariance, rtol=1e-7, atol=1e-8)


def test_a_few_of_many_coordinates_by_conjugate_gradients():
    known = problems.gaussian(100, 100.0)
    kernel, rows = known.case.kernel(), np.array([3, 70])
    conditional = 1 / np.sqrt(np.diag(np.linalg.inv(known.covariance)))
    rng = np.random.default_rng(0)
    some = linear_response(kernel, rng, known.mean, conditional, rows)
    names = {program.__name__ for program in known.case.target.programs.compiled.values()}
    assert "solver_paired_products" in names
    expected = known.covariance[np.ix_(rows, rows)]
    scale = np.outer(known.sd[rows], known.sd[rows])
    np.testing.assert_allclose(some / scale, expected / scale, atol=1e-3)


def test_conjugate_gradients_solve_and_detect_an_indefinite_matrix():
    rng = np.random.default_rng(0)
    root = rng.normal(size=(12, 12))
    matrix, rhs = root @ root.T + np.eye(12), rng.normal(size=(3, 12))
    solved = conjugate_gradients(lambda rows: rows @ matrix, rhs, 1e-10)
    np.testing.assert_allclose(solved @ matrix, rhs, atol=1e-7)
    assert conjugate_gradients(lambda rows: -rows, rhs) is None


def test_logistic_regression_with_correlated_columns():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(300, 6)) + 1.5 * rng.normal(size=(300, 1))
    y = rng.random(300) < 1 / (1 + np.exp(-x @ [1.0, -1, 0.5, 0, 1, -0.5]))
    case = problems.case(problems.logistic_model, x.astype(np.float32), y.astype(np.float32))
    kernel, found = case.kernel(), mean_field(case)
    dense = BatchAndMatch().run(kernel, np.random.default_rng(0), case.standard()).gaussian
    truth = problems.importance_moments(kernel, dense)
    covariance = linear_response(kernel, np.random.default_rng(1), found.mean, found.sd)
    ratio = np.sqrt(np.diag(covariance)) / truth.sd
    assert (found.sd / truth.sd).min() < 0.7
    assert np.abs(np.log(ratio)).max() < 0.04


def test_a_hierarchy():
    case = problems.schools()
    found = mean_field(case)
    covariance = linear_response(case.kernel(), np.random.default_rng(1), found.mean, found.sd)
    ratio = np.sqrt(np.diag(covariance)) / problems.schools_moments()[1]
    assert found.sd[1] / problems.schools_moments()[1][1] < 0.7  # log tau
    assert 0.85 < ratio[1] < 1.05
    assert np.abs(np.delete(ratio, 1) - 1).max() < 0.05


def line(x, y):
    a = numpyro.sample("a", dist.Normal(0.0, 1.0))
    b = numpyro.sample("b", dist.Normal(0.0, 1.0))
    with numpyro.plate("rows", len(y)):
        numpyro.sample("y", dist.Normal(a + b * x, 1.5), obs=y)


X = (1.0 + np.random.default_rng(0).normal(size=20)).astype(np.float32)
Y = (0.5 + X + np.random.default_rng(1).normal(size=20)).astype(np.float32)
DESIGN = np.column_stack([np.ones(20), X]).astype(float)
COVARIANCE = np.linalg.inv(np.eye(2) + DESIGN.T @ DESIGN / 2.25)


def fit(model, *args, **options):
    return vijax.fit(model, *args, progress_bar=False, **options)


@pytest.mark.parametrize("algorithm", ["auto", "gradient"])
def test_posterior_covariance_of_any_mean_field_fit(algorithm):
    posterior = fit(line, X, Y, guide="meanfield", algorithm=algorithm)
    covariance = posterior.covariance("linear_response")
    np.testing.assert_allclose(covariance, COVARIANCE, rtol=1e-3, atol=1e-5)
    assert np.diag(posterior.covariance()).max() < 0.9 * np.diag(COVARIANCE).max()
    some = posterior.covariance("linear_response", sites=["b"])
    np.testing.assert_allclose(some, COVARIANCE[1:, 1:], rtol=1e-3)


def test_covariance_of_some_sites_by_every_method():
    posterior = fit(line, X, Y)
    for method in ("guide", "importance"):
        full = posterior.covariance(method)
        some = posterior.covariance(method, sites="b")
        np.testing.assert_allclose(some, full[1:, 1:], rtol=1e-6)
    with pytest.raises(VijaxError, match=r"sites: expected names among \['a', 'b'\].*, got 'c'"):
        posterior.covariance(sites=["c"])
    with pytest.raises(ValueError, match=r"method: expected one of .*'linear_response'"):
        posterior.covariance("laplace")


def test_other_guides_are_rejected():
    posterior = fit(line, X, Y)
    with pytest.raises(GuideError, match=r"expected a mean-field guide, got FullRank.*meanfield"):
        posterior.covariance("linear_response")


@pytest.mark.slow
def test_minibatch_fits_are_rejected():
    def model(x, y):
        a = numpyro.sample("a", dist.Normal(0.0, 1.0))
        with numpyro.plate("rows", len(y), subsample_size=5):
            batch = numpyro.subsample(y, event_dim=0)
            numpyro.sample("y", dist.Normal(a, 1.5), obs=batch)

    posterior = fit(model, X, Y, guide="meanfield", num_steps=20)
    with pytest.raises(GuideError, match="expected a full-batch fit, got one on minibatches"):
        posterior.covariance("linear_response")


def unbounded(scale):
    v = numpyro.sample("v", dist.ImproperUniform(dist.constraints.real, (), ()))
    numpyro.factor("density", 0.5 * scale * v**2)


def test_no_maximum_is_reported():
    case = problems.case(unbounded, np.ones((), np.float32))
    with pytest.raises(VijaxError, match="linear response: expected a fit at a maximum"):
        linear_response(case.kernel(), np.random.default_rng(0), np.zeros(1), np.ones(1))

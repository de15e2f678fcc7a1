import jax
import numpy as np
import pytest

from tests.solvers import problems
from vijax import VijaxError
from vijax.guides import FullRank, LowRank, MeanField
from vijax.solvers import BatchAndMatch, VariationalNewton
from vijax.solvers.gaussians.dense import Gaussian, antithetic, elbo_terms


def run(case, seed=0, gaussian=None, **options):
    rng = np.random.default_rng(seed)
    return VariationalNewton(**options).run(case.kernel(), rng, gaussian or case.standard())


def paired_gain(case, one, other, num=8192):
    """ELBO of `one` minus that of `other`, with its standard error."""
    noise = antithetic(np.random.default_rng(99), num, case.dim)
    kernel = case.kernel()
    gain = elbo_terms(kernel, one, noise) - elbo_terms(kernel, other, noise)
    return gain.mean(), gain.std() / np.sqrt(len(gain))


@pytest.mark.parametrize("curvature", ["scores", "hessian"])
@pytest.mark.parametrize(
    ("dim", "condition"), [(2, 100.0), pytest.param(20, 1e3, marks=pytest.mark.slow), (50, 1e6)]
)
def test_is_exact_on_gaussians(dim, condition, curvature):
    known = problems.gaussian(dim, condition)
    result = run(known.case, curvature=curvature)
    assert result.converged, result.reason
    tolerance = 1e-3 + 3e-8 * condition
    assert np.abs((result.gaussian.mean - known.mean) / known.sd).max() < tolerance
    assert np.abs(np.log(result.gaussian.sd / known.sd)).max() < tolerance
    assert len(result.elbos) < 20
    assert abs(result.elbo - known.log_evidence) < 5 * result.elbo_se + 0.05


@pytest.mark.parametrize("curvature", ["scores", "hessian"])
def test_one_step_is_exact_on_a_nearby_gaussian(curvature):
    with jax.enable_x64(True):
        known = problems.gaussian(5, 5.0)
        start = Gaussian(known.mean + 0.3, 0.8 * np.eye(5))
        result = run(known.case, gaussian=start, start=None, max_steps=1, curvature=curvature)
    np.testing.assert_allclose(result.gaussian.mean, known.mean, rtol=1e-8)
    np.testing.assert_allclose(result.gaussian.covariance, known.covariance, rtol=1e-8, atol=1e-10)


def test_scores_and_hessians_agree():
    case = problems.logistic(dim=4)
    scores, hessians = (
        run(case, curvature=curvature, tolerance=2e-4) for curvature in ("scores", "hessian")
    )
    assert np.abs((scores.gaussian.mean - hessians.gaussian.mean) / scores.gaussian.sd).max() < 0.02
    np.testing.assert_allclose(scores.gaussian.sd, hessians.gaussian.sd, rtol=0.02)


@pytest.mark.parametrize("seed", range(2))
def test_logistic_regression_has_the_right_moments(seed):
    case = problems.logistic()
    result = run(case, seed)
    moments = problems.importance_moments(case.kernel(), result.gaussian)
    assert result.converged
    error = np.abs(result.gaussian.mean - moments.mean) / moments.sd
    assert error.max() < 0.05 + 5 * (moments.mean_se / moments.sd).max()
    log_sd = np.abs(np.log(result.gaussian.sd / moments.sd))
    assert log_sd.max() < 0.04 + 5 * moments.log_sd_se.max()


def correlated_logistic():
    rng = np.random.default_rng(3)
    x = rng.normal(size=(100, 10)) + 1.5 * rng.normal(size=(100, 1))
    y = rng.random(100) < 1 / (1 + np.exp(-2 * x[:, 0] + 2 * x[:, 1]))
    return problems.case(problems.logistic_model, x.astype(np.float32), y.astype(np.float32))


@pytest.mark.parametrize("make", [correlated_logistic, problems.schools])
def test_elbo_is_not_below_that_of_batch_and_match(make):
    case = make()
    matched = BatchAndMatch().run(case.kernel(), np.random.default_rng(0), case.standard())
    for start in ({}, {"start": BatchAndMatch()}):
        gain, se = paired_gain(case, run(case, **start).gaussian, matched.gaussian)
        assert gain > -0.01 - 3 * se


@pytest.mark.parametrize("seed", range(3))
def test_converges_on_a_funnel(seed):
    result = run(problems.schools(centered=True), seed)
    assert result.elbo > -33.2


def test_raw_scales():
    regression = problems.raw_regression()
    result = run(regression.case)
    assert result.converged, result.reason
    error = np.abs(result.gaussian.mean - regression.mode)[:2] / regression.sd[:2]
    assert error.max() < 0.01
    np.testing.assert_allclose(result.gaussian.sd[:2], regression.sd[:2], rtol=0.02)


def test_a_start_mostly_outside_the_domain_is_shrunk():
    wide = Gaussian(np.array([0.0, 0.0, 0.0]), 30 * np.eye(3))
    result = run(problems.fenced(), gaussian=wide, start=None)
    np.testing.assert_allclose(result.gaussian.mean, [1.0, -2.0, 0.5], atol=1e-3)
    np.testing.assert_allclose(result.gaussian.sd, 0.5, rtol=1e-3)


def test_no_finite_start_is_reported():
    case = problems.case(problems.fenced_model, np.full(3, np.nan, np.float32))
    assert not run(case).converged
    result = run(case, start=None)
    assert not result.converged
    assert "no draws of the start" in result.reason


def test_running_out_of_steps_is_not_convergence():
    result = run(problems.gaussian(20, 1e4).case, start=None, max_steps=3)
    assert not result.converged
    assert "did not converge in 3 steps" in result.reason


@pytest.mark.parametrize("guide", [FullRank(), LowRank(3), MeanField()])
def test_fits_any_gaussian_guide(guide):
    known = problems.gaussian(6, 30.0)
    case = known.case
    variables, key = case.variables(guide), jax.random.key(0)
    solution = VariationalNewton().solve(key, case.target, guide, variables, case.batch)
    params, space = solution.variables.guide, case.target.space
    np.testing.assert_allclose(guide.mean(params, space), known.mean, atol=1e-3)
    if isinstance(guide, FullRank):
        covariance = jax.jit(guide.covariance, static_argnums=1)(params, space)
        np.testing.assert_allclose(covariance, known.covariance, atol=2e-3 * known.sd.max() ** 2)
    assert solution.converged
    assert len(solution.losses) > 0


def test_rejects_invalid_options():
    with pytest.raises(VijaxError, match=r"curvature: expected one of \('scores', 'hessian'\)"):
        VariationalNewton(curvature="exact")
    with pytest.raises(VijaxError, match="num_draws: expected an even number"):
        VariationalNewton(num_draws=7)

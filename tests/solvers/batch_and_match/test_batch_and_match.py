import jax
import numpy as np
import pytest

from tests.solvers import problems
from vijax.guides import FullRank
from vijax.solvers import BatchAndMatch
from vijax.solvers.batch_and_match.dense_update import update
from vijax.solvers.gaussians.dense import Gaussian, whitened


def run(case, seed=0, gaussian=None, **options):
    kernel = case.kernel()
    return BatchAndMatch(**options).run(
        kernel, np.random.default_rng(seed), gaussian or case.standard()
    )


@pytest.mark.parametrize(("dim", "num_draws"), [(5, 8), (5, 32), (30, 8), (1, 4)])
@pytest.mark.parametrize("lam", [1e-3, 2.0, 1e4])
def test_a_step_solves_the_matching_equations(dim, num_draws, lam):
    rng = np.random.default_rng(dim)
    current = Gaussian(rng.normal(size=dim), rng.normal(size=(dim, dim)) + 2 * np.eye(dim))
    noise, gradient = rng.normal(size=(2, num_draws, dim))
    step = update(current, noise, gradient, lam)
    points = current.transform(noise)
    center, score = points.mean(axis=0), gradient.mean(axis=0)
    weight = lam / (1 + lam)
    g = np.cov(gradient.T, bias=True).reshape(dim, dim)
    c = np.cov(points.T, bias=True).reshape(dim, dim)
    shift = current.mean - center
    u = lam * g + weight * np.outer(score, score)
    v = current.covariance + lam * c + weight * np.outer(shift, shift)
    new = step.gaussian.covariance
    np.testing.assert_allclose(new @ u @ new + new, v, atol=1e-8 * np.abs(v).max())
    mean = current.mean / (1 + lam) + weight * (new @ score + center)
    np.testing.assert_allclose(step.gaussian.mean, mean, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(step.log_det, step.gaussian.log_det - current.log_det, atol=1e-8)


def test_a_step_commutes_with_affine_maps():
    rng = np.random.default_rng(0)
    dim, scale = 4, np.diag([1e-4, 1.0, 1e3, 1e6]) @ (np.eye(4) + 0.3 * rng.normal(size=(4, 4)))
    current = Gaussian(rng.normal(size=dim), np.eye(dim) + 0.2 * rng.normal(size=(dim, dim)))
    noise, gradient = rng.normal(size=(2, 16, dim))
    plain = update(current, noise, gradient, 3.0).gaussian
    mapped = Gaussian(scale @ current.mean, scale @ current.factor)
    moved = update(mapped, noise, np.linalg.solve(scale.T, gradient.T).T, 3.0).gaussian
    np.testing.assert_allclose(moved.mean, scale @ plain.mean, rtol=1e-9)
    np.testing.assert_allclose(moved.factor, scale @ plain.factor, rtol=1e-9, atol=1e-12)


def test_a_step_that_overflows_is_none():
    current = Gaussian(np.zeros(2), np.eye(2))
    with np.errstate(all="ignore"):
        assert update(current, np.ones((4, 2)), np.full((4, 2), 1e300), 1.0) is None


@pytest.mark.parametrize(("num", "dim"), [(32, 3), (32, 16), (8, 20)])
def test_whitened_noise_has_the_documented_moments(num, dim):
    rng = np.random.default_rng(0)
    noise = whitened(rng, num, dim)
    np.testing.assert_allclose(noise.mean(axis=0), 0, atol=1e-12)
    if num // 2 >= dim:
        np.testing.assert_allclose(noise.T @ noise / num, np.eye(dim), atol=1e-10)
    else:
        gram = noise[: num // 2] @ noise[: num // 2].T
        np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-10)
    # each draw is still (nearly) standard normal: squared lengths have mean `dim`
    squares = np.array([np.sum(whitened(rng, num, dim) ** 2) / num for _ in range(400)])
    assert abs(squares.mean() - dim) < 5 * squares.std() / 20 + 1e-9


GAUSSIANS = [(2, 100.0), (2, 1e6), (20, 1e3), (50, 1e6)]


@pytest.mark.parametrize(("dim", "condition"), GAUSSIANS)
def test_is_exact_on_gaussians(dim, condition):
    known = problems.gaussian(dim, condition)
    result = run(known.case)
    assert result.converged, result.reason
    # rounding of the scores to float32, in posterior sds
    tolerance = 1e-3 + 3e-8 * condition
    assert np.abs((result.gaussian.mean - known.mean) / known.sd).max() < tolerance
    assert np.abs(np.log(result.gaussian.sd / known.sd)).max() < tolerance
    correlation = result.gaussian.covariance / np.outer(known.sd, known.sd)
    exact = known.covariance / np.outer(known.sd, known.sd)
    np.testing.assert_allclose(correlation, exact, atol=3 * tolerance)
    # rounding of the log density itself, of size dim * condition * eps at worst
    assert abs(result.elbo - known.log_evidence) < 5 * result.elbo_se + 0.05


def test_is_exact_in_double_precision_if_badly_conditioned():
    with jax.enable_x64(True):
        known = problems.gaussian(4, 1e7)
        result = run(known.case)
    assert np.abs((result.gaussian.mean - known.mean) / known.sd).max() < 1e-6
    assert np.abs(np.log(result.gaussian.sd / known.sd)).max() < 1e-6
    assert result.elbo == pytest.approx(known.log_evidence, abs=1e-6)


def test_converges_without_pathfinder():
    known = problems.gaussian(10, 100.0)
    result = run(known.case, start=None)
    assert result.start is None
    assert np.abs((result.gaussian.mean - known.mean) / known.sd).max() < 1e-3
    assert np.abs(np.log(result.gaussian.sd / known.sd)).max() < 1e-3


@pytest.mark.parametrize("seed", range(3))
def test_logistic_regression_has_the_right_moments(seed):
    case = problems.logistic()
    result = run(case, seed)
    moments = problems.importance_moments(case.kernel(), result.gaussian)
    mean_se, log_sd_se = (moments.mean_se / moments.sd).max(), moments.log_sd_se.max()
    mean = np.abs(result.gaussian.mean - moments.mean) / moments.sd
    log_sd = np.abs(np.log(result.gaussian.sd / moments.sd))
    assert result.converged
    assert mean.max() < 0.05 + 5 * mean_se
    assert log_sd.max() < 0.05 + 5 * log_sd_se
    assert max(mean_se, log_sd_se) < 0.015


@pytest.mark.parametrize("seed", range(3))
def test_eight_schools_non_centered(seed):
    case = problems.schools()
    result = run(case, seed)
    assert case.target.space.names == ("mu", "tau", "effect")
    mean, sd = problems.schools_moments()
    # log tau is skewed with an exponential tail: its sd is underestimated by a factor of 0.6
    error = (result.gaussian.mean - mean) / sd
    assert np.sqrt(np.mean(error**2)) < 0.1
    assert np.abs(np.delete(error, 1)).max() < 0.1
    log_sd = np.log(result.gaussian.sd / sd)
    assert np.abs(np.delete(log_sd, 1)).max() < 0.1
    assert -0.6 < log_sd[1] < 0
    assert result.elbo > -31.9


def test_regression_thousands_of_sds_from_the_start():
    regression = problems.raw_regression()
    result = run(regression.case)
    assert result.converged
    beta = slice(0, 2)
    error = np.abs(result.gaussian.mean - regression.mode)[beta] / regression.sd[beta]
    # uncertainty of `sigma` widens beta by t versus normal: sqrt((num - 2) / (num - 4))
    assert error.max() < 0.01
    np.testing.assert_allclose(result.gaussian.sd[beta], regression.sd[beta], rtol=0.02)


def test_non_finite_draws_are_excluded():
    result = run(problems.fenced())
    np.testing.assert_allclose(result.gaussian.mean, [1.0, -2.0, 0.5], atol=0.02)
    np.testing.assert_allclose(result.gaussian.sd, 0.5, rtol=0.03)


def test_a_start_mostly_outside_the_domain_is_shrunk():
    wide = Gaussian(np.array([0.0, 0.0, 0.0]), 30 * np.eye(3))
    result = run(problems.fenced(), gaussian=wide, start=None)
    np.testing.assert_allclose(result.gaussian.mean, [1.0, -2.0, 0.5], atol=0.02)
    np.testing.assert_allclose(result.gaussian.sd, 0.5, rtol=0.03)


@pytest.mark.parametrize("make", [problems.logistic, problems.schools, problems.two_modes])
def test_is_not_worse_than_its_start(make):
    result = run(make())
    assert result.elbo > result.start.elbo - 4 * np.hypot(result.elbo_se, result.start.elbo_se)


def test_a_centered_hierarchy_does_not_end_in_the_neck_of_the_funnel():
    elbos = []
    for seed in range(3):
        result = run(problems.schools(centered=True), seed)
        tau = result.gaussian.mean[problems.schools(centered=True).target.space.names.index("tau")]
        elbos.append(result.elbo)
        # optimization paths reach log tau = -20
        assert tau > -1
    assert np.ptp(elbos) < 0.5
    assert min(elbos) > -33.5


def test_several_modes_are_reported_and_the_heaviest_is_kept():
    result = run(problems.two_modes())
    np.testing.assert_allclose(result.gaussian.mean, [4, 4], atol=0.05)
    np.testing.assert_allclose(result.gaussian.covariance, np.eye(2), atol=0.05)
    assert "2 separate modes" in result.reason


@pytest.mark.parametrize(("windows", "expected"), [(1, "still increasing"), (3, "still changed")])
def test_running_out_of_windows_is_not_convergence(windows, expected):
    known = problems.gaussian(20, 1e3)
    result = run(known.case, start=None, max_windows=windows, num_draws=4)
    assert not result.converged
    assert "still" in result.reason
    assert result.num_iterations == 20 * windows
    assert len(result.elbos) == windows


def test_fits_a_full_rank_guide():
    known = problems.gaussian(6, 30.0)
    guide, case = FullRank(), known.case
    variables = case.variables(guide)
    solution = BatchAndMatch().solve(jax.random.key(0), case.target, guide, variables, case.batch)
    params, space = solution.variables.guide, case.target.space
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), variables.guide
    )
    np.testing.assert_allclose(guide.mean(params, space), known.mean, atol=1e-3)
    covariance = guide.covariance(params, space)
    np.testing.assert_allclose(covariance, known.covariance, atol=2e-3 * known.sd.max() ** 2)
    assert solution.converged

import jax
import numpy as np
import pytest

import vijax
from tests.solvers import problems
from vijax import GuideError, VijaxError
from vijax.guides import FullRank, MeanField
from vijax.solvers import FixedDraws
from vijax.solvers.gaussians.dense import Gaussian, antithetic, estimate_elbo, moment_matched
from vijax.solvers.mean_field.sample_average import SampleAverageObjective


def run(case, seed=0, **options):
    start = case.standard()
    rng = np.random.default_rng(seed)
    return FixedDraws(**options).run(case.kernel(), rng, start.mean, 0.1 * start.sd)


def fresh_elbo(case, result, num=4096):
    noise = antithetic(np.random.default_rng(99), num, case.dim)
    return estimate_elbo(case.kernel(), Gaussian(result.mean, np.diag(result.sd)), noise)


@pytest.mark.parametrize(("num", "dim"), [(32, 5), (32, 16), (8, 20)])
def test_moment_matched_noise_has_the_documented_moments(num, dim):
    noise = moment_matched(np.random.default_rng(0), num, dim)
    np.testing.assert_allclose(noise.mean(axis=0), 0, atol=1e-12)
    second = noise.T @ noise / num
    np.testing.assert_allclose(np.diag(second), 1, atol=1e-10)
    if num // 2 >= dim:
        np.testing.assert_allclose(second, np.eye(dim), atol=1e-10)


def test_gradient_and_products_are_derivatives_of_the_objective():
    with jax.enable_x64(True):
        case = problems.logistic(dim=3)
        rng = np.random.default_rng(0)
        mean, sd = rng.normal(size=3), np.exp(rng.normal(size=3))
        objective = SampleAverageObjective(case.kernel(), moment_matched(rng, 10, 3), mean, sd)
        point, steps = 0.3 * rng.normal(size=6), 1e-5 * np.eye(6)
        values, gradients = objective(np.concatenate([point + steps, point - steps]))
        (gradient,) = objective(point[None])[1]
        np.testing.assert_allclose(gradient, (values[:6] - values[6:]) / 2e-5, rtol=1e-6, atol=1e-6)
        hessian = objective.products(point, np.eye(6))
        expected = (gradients[:6] - gradients[6:]) / 2e-5
    np.testing.assert_allclose(hessian, expected, rtol=1e-6, atol=1e-6)


def test_points_are_copied():
    objective = SampleAverageObjective(
        problems.logistic(dim=3).kernel(), np.eye(3), np.zeros(3), np.ones(3)
    )
    points = np.zeros((1, 6))
    assert objective.round(points) is not points


@pytest.mark.parametrize("optimizer", ["lbfgs", "trust-ncg"])
@pytest.mark.parametrize(("dim", "condition"), [(2, 100.0), (20, 1e3), (50, 1e4)])
def test_is_the_exact_optimum_on_gaussians(dim, condition, optimizer):
    known = problems.gaussian(dim, condition)
    result = run(known.case, optimizer=optimizer)
    assert result.converged, result.reason
    # all second moments of the noise match: only rounding of the scores remains
    conditional = 1 / np.sqrt(np.diag(np.linalg.inv(known.covariance)))
    assert np.abs((result.mean - known.mean) / known.sd).max() < 2e-3
    np.testing.assert_allclose(result.sd, conditional, rtol=2e-3)
    assert result.error < 1e-4


def test_is_exact_in_double_precision():
    with jax.enable_x64(True):
        known = problems.gaussian(10, 1e3)
        result = run(known.case)
    conditional = 1 / np.sqrt(np.diag(np.linalg.inv(known.covariance)))
    assert np.abs((result.mean - known.mean) / known.sd).max() < 1e-6
    np.testing.assert_allclose(result.sd, conditional, rtol=1e-6)


@pytest.mark.parametrize("make", [problems.logistic, problems.schools])
def test_the_reported_error_matches_that_between_seeds(make):
    case = make()
    results = [run(case, seed, num_draws=128, max_draws=128) for seed in range(8)]
    means = np.array([result.mean for result in results])
    log_sds = np.log([result.sd for result in results])
    unit = results[0].sd  # smaller than the sds in the reported error
    actual = max((means.std(axis=0, ddof=1) / unit).max(), log_sds.std(axis=0, ddof=1).max())
    reported = np.median([result.error for result in results])
    assert actual / 3 < reported < 5 * actual


def test_converges_on_raw_scales_and_funnels():
    regression = problems.raw_regression()
    result = run(regression.case)
    assert result.converged, result.reason
    assert np.abs((result.mean - regression.mode)[:2] / regression.sd[:2]).max() < 0.02
    elbos = []
    for seed in range(3):
        result = run(problems.schools(centered=True), seed)
        assert result.converged, result.reason
        elbos.append(fresh_elbo(problems.schools(centered=True), result).elbo)
    assert np.ptp(elbos) < 0.1
    assert min(elbos) > -33.6


def test_draws_outside_the_domain_are_avoided():
    result = run(problems.fenced())
    assert result.converged
    np.testing.assert_allclose(result.mean, [1.0, -2.0, 0.5], atol=1e-3)
    np.testing.assert_allclose(result.sd, 0.5, rtol=1e-3)


def test_draws_are_doubled_until_the_error_is_small():
    case = problems.logistic()
    coarse, fine = (run(case, tolerance=tolerance, num_draws=16) for tolerance in (1.0, 2e-3))
    assert coarse.num_draws < fine.num_draws == 16 * 2 ** (len(fine.elbos) - 1)
    assert fine.converged
    assert fine.error <= 2e-3
    assert f"optimum of the ELBO on {fine.num_draws} fixed draws" in fine.reason
    capped = run(case, tolerance=1e-5, max_draws=64)
    assert not capped.converged
    assert "at the maximum number of draws" in capped.reason


def logistic_args():
    data = problems.logistic().batch.data
    return data["x"], data["y"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "args"),
    [
        (problems.logistic_model, logistic_args()),
        (problems.schools_model, (problems.SCHOOLS_SD, problems.SCHOOLS)),
    ],
    ids=["logistic", "schools"],
)
def test_is_not_worse_than_gradient_steps(model, args):
    options = {"guide": "meanfield", "progress_bar": False}
    direct = vijax.fit(model, *args, **options)
    steps = vijax.fit(model, *args, algorithm="gradient", **options)
    assert direct.num_steps == 0 < steps.num_steps
    assert direct.converged
    se = np.hypot(direct.elbo_se, steps.elbo_se)
    assert direct.elbo > steps.elbo - 0.05 - 4 * se


@pytest.mark.slow
def test_gradient_steps_follow_if_it_does_not_converge(monkeypatch):
    monkeypatch.setattr(
        "vijax.solvers.mean_field.fixed_draws._MAX_LOSS", -1.0
    )  # impossible to satisfy
    args = (problems.SCHOOLS_SD, problems.SCHOOLS)
    posterior = vijax.fit(problems.schools_model, *args, guide="meanfield", progress_bar=False)
    assert posterior.num_steps > 0
    assert posterior.elbo > -31.8
    explicit = vijax.fit(
        problems.schools_model,
        *args,
        guide="meanfield",
        algorithm=FixedDraws(),
        progress_bar=False,
    )
    assert not explicit.converged
    assert explicit.num_steps == 0


def test_models_with_param_sites_use_gradient_steps():
    y = np.array([1.0, 2.0, 6.0], np.float32)
    posterior = vijax.fit(problems.param_model, y, guide="meanfield", progress_bar=False)
    assert posterior.num_steps > 0
    assert posterior.model_params["shift"] == pytest.approx(3.0, abs=0.1)


def test_fits_a_mean_field_guide():
    known = problems.gaussian(6, 30.0)
    guide, case = MeanField(), known.case
    variables = case.variables(guide)
    solution = FixedDraws().solve(jax.random.key(0), case.target, guide, variables, case.batch)
    params, space = solution.variables.guide, case.target.space
    np.testing.assert_allclose(guide.mean(params, space), known.mean, atol=1e-3)
    variance = 1 / np.diag(np.linalg.inv(known.covariance))
    np.testing.assert_allclose(np.diag(guide.covariance(params, space)), variance, rtol=1e-3)
    assert len(solution.losses) == 1


def test_rejects_other_guides_and_invalid_options():
    case = problems.logistic(dim=3)
    guide = FullRank()
    with pytest.raises(GuideError, match="FixedDraws: expected a mean-field guide, got FullRank"):
        FixedDraws().solve(jax.random.key(0), case.target, guide, case.variables(guide), case.batch)
    with pytest.raises(VijaxError, match=r"optimizer: expected one of \('lbfgs', 'trust-ncg'\)"):
        FixedDraws(optimizer="adam")
    with pytest.raises(VijaxError, match="num_draws: expected an even number"):
        FixedDraws(num_draws=7)


def test_no_finite_start_is_reported():
    case = problems.case(problems.fenced_model, np.full(3, np.nan, np.float32))
    result = run(case)
    assert not result.converged
    assert "no starting point" in result.reason

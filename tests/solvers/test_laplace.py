import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.solvers import problems
from vijax.guides import Delta, Laplace
from vijax.solvers import Kernel, LaplaceSolver, ModeSolver
from vijax.solvers.gaussians.conversion import location
from vijax.solvers.optimization.newton import curvature


def run(case, seed=0, **options):
    return LaplaceSolver(**options).run(case.kernel(), np.random.default_rng(seed))


@pytest.mark.parametrize(("dim", "condition"), [(2, 100.0), (20, 1e3), (50, 1e5)])
def test_is_exact_on_gaussians(dim, condition):
    known = problems.gaussian(dim, condition)
    result = run(known.case)
    assert result.converged, result.reason
    tolerance = 1e-3 + 3e-8 * condition
    assert np.abs((result.gaussian.mean - known.mean) / known.sd).max() < tolerance
    assert np.abs(np.log(result.gaussian.sd / known.sd)).max() < tolerance
    assert result.log_evidence == pytest.approx(known.log_evidence, abs=0.01)
    assert abs(result.gap) < 0.01


def test_regression_on_raw_scales_has_its_exact_mode_and_curvature():
    regression = problems.raw_regression()
    result = run(regression.case)
    assert result.converged, result.reason
    assert np.abs((result.gaussian.mean - regression.mode) / regression.sd).max() < 0.05
    np.testing.assert_allclose(result.gaussian.sd, regression.sd, rtol=0.01)


def test_logistic_regression_matches_newton_in_double_precision():
    case = problems.logistic()
    result = run(case)
    x, y = (np.asarray(case.batch.data[name], float) for name in "xy")
    weights = np.zeros(x.shape[1])
    for _ in range(30):
        p = 1 / (1 + np.exp(-x @ weights))
        hessian = (x * (p * (1 - p))[:, None]).T @ x + np.eye(len(weights))
        weights += np.linalg.solve(hessian, x.T @ (y - p) - weights)
    covariance = np.linalg.inv(hessian)
    sd = np.sqrt(np.diag(covariance))
    assert np.abs((result.gaussian.mean - weights) / sd).max() < 1e-3
    np.testing.assert_allclose(result.gaussian.covariance, covariance, atol=1e-4 * sd.max() ** 2)
    assert result.converged
    assert result.mode.path_modes.tolist() == [0] * 8


@pytest.mark.parametrize("solver", [LaplaceSolver(), ModeSolver()], ids=["laplace", "mode"])
@pytest.mark.parametrize("seed", range(2))
def test_a_centered_hierarchy_has_no_mode(solver, seed):
    kernel = problems.schools(centered=True).kernel()
    result = solver.run(kernel, np.random.default_rng(seed))
    assert not result.converged
    assert "still increasing, mainly along tau" in result.reason
    assert "non-centered" in result.reason


def test_a_mode_outside_the_typical_set_is_reported():
    result = run(problems.case(problems.funnel_model))
    # the mode of the funnel is in its neck: v = -9 * 9 / 2, x = 0
    assert result.converged
    assert result.gaussian.mean[0] == pytest.approx(-40.5, abs=0.1)
    assert "not Gaussian around its mode" in result.reason
    assert result.gap > 1


@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_an_improper_posterior_has_no_mode(scale):
    result = run(problems.case(problems.improper_model, np.float32(scale) * np.ones(())))
    assert not result.converged
    assert "along v" in result.reason


def test_param_sites_are_optimized():
    y = np.array([1.0, 2.0, 6.0], np.float32)
    case = problems.case(problems.param_model, y)
    model = {"shift": jnp.asarray(0.5)}
    for solver, guide in ((LaplaceSolver(), Laplace()), (ModeSolver(), Delta())):
        variables = case.variables(guide, model)
        solution = solver.solve(jax.random.key(0), case.target, guide, variables, case.batch)
        assert solution.converged, solution.reason
        loc = location(solution.variables.guide, case.target.space)
        np.testing.assert_allclose(loc, [0.0], atol=1e-3)
        np.testing.assert_allclose(solution.variables.model["shift"], 3.0, atol=1e-3)
    kernel = Kernel(case.target, case.batch, model, joint=True)
    result = LaplaceSolver().run(kernel, np.random.default_rng(0))
    # the covariance is that of z given the shift: precision 1 + 3
    np.testing.assert_allclose(result.gaussian.sd, [0.5], rtol=1e-4)


def test_the_highest_of_several_modes_is_found_and_the_others_reported():
    result = run(problems.two_modes())
    np.testing.assert_allclose(result.gaussian.mean, [4, 4], atol=0.01)
    assert "2 separate modes" in result.reason
    assert set(result.mode.path_modes.tolist()) == {0, 1}


def test_mode_solver_moves_a_delta_guide_to_the_mode():
    known = problems.gaussian(10, 100.0)
    guide, case = Delta(), known.case
    solution = ModeSolver().solve(
        jax.random.key(0), case.target, guide, case.variables(guide), case.batch
    )
    assert solution.converged
    error = (location(solution.variables.guide, case.target.space) - known.mean) / known.sd
    assert np.abs(error).max() < 0.05


def test_curvature_distinguishes_units_from_flat_directions():
    scale = np.array([1e-5, 1.0, 1e6])
    correlation = np.array([[1, 0.5, 0.2], [0.5, 1, 0.3], [0.2, 0.3, 1]])
    matrix = correlation * np.outer(scale, scale)
    spectrum = curvature(matrix)
    assert spectrum.num_modified == 0
    np.testing.assert_allclose(
        spectrum.factor @ spectrum.factor.T, np.linalg.inv(matrix), rtol=1e-9
    )
    indefinite = curvature(np.array([[1.0, 2.0], [2.0, 1.0]]))
    assert indefinite.num_modified == 1
    np.testing.assert_allclose(indefinite.eigenvalues, [-1, 3])
    np.testing.assert_allclose(indefinite.modified, [1, 3])
    assert curvature(np.zeros((2, 2))).num_modified == 2

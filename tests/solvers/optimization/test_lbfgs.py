import numpy as np
import pytest

from tests.solvers import problems
from vijax.solvers.optimization.lbfgs import LBFGS
from vijax.solvers.optimization.paths import (
    CONVERGED,
    NO_START,
    finite_starts,
    positive_curvature,
    update_diagonal,
)
from vijax.solvers.pathfinder.inverse_hessian import normal_approximations


def maximize(case, num=8, first=None, **options):
    kernel = case.kernel()
    starts = finite_starts(kernel, np.random.default_rng(0), num, first)
    return LBFGS(**options).maximize(kernel, starts), kernel


def whitened_distance(point, known):
    residual = point - known.mean
    return np.sqrt(residual @ np.linalg.solve(known.covariance, residual))


@pytest.mark.parametrize(("dim", "condition"), [(2, 1e4), (10, 1e3), (50, 1e3)])
def test_reaches_the_mode_of_a_gaussian_from_every_start(dim, condition):
    known = problems.gaussian(dim, condition)
    paths, _ = maximize(known.case)
    assert [path.reason for path in paths] == [CONVERGED] * 8
    for path in paths:
        # at most 0.01 nats below the maximum, and the log density never decreases
        assert whitened_distance(path.points[-1], known) < np.sqrt(0.02)
        noise = 1e-5 * np.abs(path.log_density[:-1])
        assert (np.diff(path.log_density) > -noise).all()


def test_reaches_an_optimum_thousands_of_sds_away():
    regression = problems.raw_regression()
    assert np.abs(regression.mode / regression.sd).max() > 3000
    paths, kernel = maximize(regression.case)
    for path in paths:
        # at most 0.1^2 / 2 nats below the maximum in each coordinate
        np.testing.assert_array_less(np.abs(path.points[-1] - regression.mode) / regression.sd, 0.1)
    assert kernel.calls < 400


def test_a_non_finite_start_is_redrawn_individually():
    case = problems.fenced()
    kernel = case.kernel()
    given = np.array([[0.0, 0.0, 0.0], [-3.0, 0.0, 0.0]])
    starts = finite_starts(kernel, np.random.default_rng(1), 8, given)
    assert np.isfinite(kernel(starts)[0]).all()
    np.testing.assert_array_equal(starts[0], given[0])
    assert starts[1, 0] > -1
    same = finite_starts(kernel, np.random.default_rng(1), 8, given[:1])
    first = np.random.default_rng(1).uniform(-2, 2, (8, 3))
    first[3:6] *= 2  # three in eight are spread twice as far
    good = np.isfinite(kernel(first)[0])
    np.testing.assert_array_equal(starts[2:][good[2:]], same[2:][good[2:]])


def test_steps_into_a_non_finite_region_shrink():
    case = problems.fenced()
    # the first, unscaled step crosses the boundary of the domain
    paths, _ = maximize(case, first=np.array([[-0.99, 1.9, 1.9]]))
    assert paths[0].reason == CONVERGED
    np.testing.assert_allclose(paths[0].points[-1], [1.0, -2.0, 0.5], atol=0.01)


def test_a_non_finite_start_ends_only_its_path():
    kernel = problems.fenced().kernel()
    bad, good = LBFGS().maximize(kernel, np.array([[-3.0, 0, 0], [0.0, 0, 0]]))
    assert bad.reason == NO_START
    assert len(bad.points) == 1
    assert good.converged


def test_endpoints_do_not_depend_on_keeping_iterates():
    known = problems.gaussian(10, 1e3)
    kernel = known.case.kernel()
    starts = np.random.default_rng(0).normal(size=(3, 10))
    for full, short in zip(
        LBFGS().maximize(kernel, starts),
        LBFGS().maximize(kernel, starts, keep_iterates=False),
        strict=True,
    ):
        assert len(short.points) == 2
        np.testing.assert_array_equal(full.points[[0, -1]], short.points)


def test_inverse_hessian_is_exact_if_the_history_spans_the_space():
    known = problems.gaussian(5, 50.0)
    paths, _ = maximize(known.case, num=1, history=10)
    last = len(paths[0].points) - 1
    stack = next(normal_approximations(paths[0], np.array([last]), 10))
    dense = stack.component(0)
    np.testing.assert_allclose(dense.sd, known.sd, rtol=0.05)
    np.testing.assert_allclose(dense.mean, known.mean, atol=0.02 * known.sd.max())


def test_compact_gaussians_agree_with_their_dense_form():
    case = problems.logistic(dim=6)
    paths, _ = maximize(case, num=1, history=4)
    rows = np.arange(1, len(paths[0].points))
    stack = next(normal_approximations(paths[0], rows, 4))
    rng = np.random.default_rng(2)
    noise = rng.standard_normal((7, 6))
    draws, log_probs = stack.transform(noise), stack.log_prob(rng.standard_normal((7, 6)))
    points = np.random.default_rng(2).standard_normal((14, 6))[7:]
    for i in range(len(rows)):
        dense = stack.component(i)
        np.testing.assert_allclose(draws[i], dense.transform(noise), rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(stack.log_det[i], dense.log_det, rtol=1e-7, atol=1e-9)
        np.testing.assert_allclose(log_probs[i], dense.log_prob(points), rtol=1e-6)


def dense_bfgs(path, row, history):
    """`H` after the last pairs, by the textbook recursion on dense matrices."""
    s, y = np.diff(path.points[: row + 1], axis=0), -np.diff(path.gradient[: row + 1], axis=0)
    good = positive_curvature(s, y)
    s, y = s[good], y[good]
    diagonal = np.full((1, s.shape[1]), s[0] @ y[0] / (y[0] @ y[0]))
    for i in range(len(s)):
        diagonal = update_diagonal(diagonal, s[i : i + 1], y[i : i + 1])
    inverse = np.diag(diagonal[0])
    for a, b in zip(s[-history:], y[-history:], strict=True):
        project = np.eye(len(a)) - np.outer(a, b) / (a @ b)
        inverse = project @ inverse @ project.T + np.outer(a, a) / (a @ b)
    return inverse


def test_compact_inverse_hessian_matches_the_bfgs_recursion():
    case = problems.logistic(dim=6)
    paths, _ = maximize(case, num=1, history=4)
    rows = np.arange(1, len(paths[0].points))
    stack = next(normal_approximations(paths[0], rows, 4))
    for i, row in enumerate(rows):
        expected = dense_bfgs(paths[0], row, 4)
        np.testing.assert_allclose(
            stack.component(i).covariance, expected, rtol=1e-5, atol=1e-8 * np.trace(expected)
        )
        mean = paths[0].points[row] + expected @ paths[0].gradient[row]
        np.testing.assert_allclose(stack.mean[i], mean, rtol=1e-5, atol=1e-7)

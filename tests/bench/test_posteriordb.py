"""Scores of draws, and the correctness of a status, as printed by `bench.posteriordb`."""

import numpy as np
import pytest

pytest.importorskip("bench.posteriors.score")  # an installed wheel has no benchmarks

from bench.posteriors import exact, table
from bench.posteriors.clock import covered
from bench.posteriors.score import score, truthful


def test_errors_of_moments():
    right = np.random.default_rng(0).normal(size=(4000, 2))
    right = (right - right.mean(0)) / right.std(0, ddof=1) * [1.0, 10.0] + [0.0, 5.0]
    found = score({"x": right * [1.0, 2.0] + [0.5, -5.0], "other": right}, {"x": right})
    assert found.mean == pytest.approx(np.sqrt(0.5**2 / 2), abs=1e-9)
    assert found.log_sd == pytest.approx(np.log(2) / np.sqrt(2))
    assert found.worst == pytest.approx(np.log(2))
    assert found.where == "x[1] log sd"


def test_robust_errors_ignore_tails():
    right = np.random.default_rng(0).standard_cauchy(100_001)
    found = score({"x": 3 * right}, {"x": right}, robust=True)
    assert found.log_sd == pytest.approx(np.log(3))
    assert abs(found.mean) < 0.05


def test_nan_is_the_largest_error():
    right = np.random.default_rng(0).normal(size=(100, 2))
    wrong = right + [0.0, 100.0]
    wrong[3, 0] = np.nan
    found = score({"x": wrong}, {"x": right})
    assert np.isnan(found.worst)
    assert not truthful("certified", found.worst)


def test_missing_sites_and_wrong_shapes_are_errors():
    right = {"x": np.zeros((10, 2))}
    with pytest.raises(KeyError, match="x"):
        score({"y": np.zeros(10)}, right)
    with pytest.raises(ValueError, match=r"x: expected shape \(2,\), got \(3,\)"):
        score({"x": np.zeros((10, 3))}, right)


@pytest.mark.parametrize(
    ("status", "worst", "expected"),
    [("certified", 0.29, True), ("corrected", 0.31, False), ("approximate", 9.0, True)],
)
def test_truthful(status, worst, expected):
    assert truthful(status, worst) is expected


def test_overlapping_spans_count_once():
    assert covered([(4.0, 5.0), (0.0, 2.0), (1.0, 3.0), (1.5, 1.7)]) == 4.0


def test_a_failed_run_is_a_row(capsys):
    table.methods({"one": [{"failed": "took longer than 1 s"}]})
    assert "failed: took longer than 1 s" in capsys.readouterr().out


def test_exact_regression():
    random = np.random.default_rng(0)
    x = np.stack([np.ones(500), random.normal(size=500)], axis=1)
    y = x @ [1.0, 2.0] + random.normal(size=500)
    draws = exact.flat_regression(x, y)
    mean, squares, *_ = np.linalg.lstsq(x, y, rcond=None)
    sigma = np.sqrt(squares[0] / 498)
    sd = sigma * np.sqrt(np.diag(np.linalg.inv(x.T @ x)))
    np.testing.assert_allclose(draws["beta"].mean(0), mean, atol=5 * sd.max() / 300)
    np.testing.assert_allclose(draws["beta"].std(0), sd, rtol=0.02)
    assert draws["sigma"].mean() == pytest.approx(sigma, rel=0.01)

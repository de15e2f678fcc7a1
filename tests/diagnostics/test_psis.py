"""Pareto smoothing compared with ArviZ, and on tails of known shape."""

import math

import numpy as np
import pytest
from arviz_stats.base import array_stats

from vijax.diagnostics import psis


def log_ratios(shape: float, num_draws: int, seed: int = 0) -> np.ndarray:
    """Logs of generalized Pareto ratios of a given shape."""
    exponential = np.random.default_rng(seed).exponential(size=num_draws)
    return np.log1p(np.expm1(shape * exponential) / shape if shape else exponential)


@pytest.mark.parametrize("num_draws", [30, 100, 224, 225, 2000, 10_000])
@pytest.mark.parametrize("shape", [-0.5, 0.0, 0.4, 0.7, 1.5])
def test_equals_arviz(shape, num_draws):
    values = log_ratios(shape, num_draws) - 3.0
    expected, expected_khat = array_stats.psislw(-values)
    smoothed, khat = psis.smooth(values)
    normalized = smoothed - np.logaddexp.reduce(smoothed)
    assert khat == pytest.approx(float(expected_khat), abs=1e-10)
    np.testing.assert_allclose(normalized, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.9])
def test_recovers_the_shape(shape):
    khats = [psis.smooth(log_ratios(shape, 20_000, seed))[1] for seed in range(30)]
    error = np.std(khats, ddof=1) / math.sqrt(len(khats))
    bias = (
        10 * abs(0.5 - shape) / 434
    )  # of the prior: weight of 10 draws, mean 0.5, to 424 of the tail
    assert np.mean(khats) == pytest.approx(shape, abs=4 * error + 2 * bias + 0.01)


def test_keeps_the_order_and_the_body():
    values = log_ratios(0.5, 1000)
    smoothed, _ = psis.smooth(values)
    order = np.argsort(values)
    body = order[: -psis.tail_size(1000)]
    assert np.all(np.diff(smoothed[order]) >= 0)
    np.testing.assert_allclose(smoothed[body], (values - values.max())[body])


def test_equal_ratios_have_no_tail():
    smoothed, khat = psis.smooth(np.full(1000, 2.0))
    assert khat == 0.0
    np.testing.assert_array_equal(smoothed, np.zeros(1000))


def test_too_few_draws():
    values = log_ratios(0.5, 24)
    smoothed, khat = psis.smooth(values)
    assert khat == math.inf
    np.testing.assert_allclose(smoothed, values - values.max())


@pytest.mark.parametrize("sd", [0.0, 1e-7, 1e-6, 1e-5])
def test_weights_that_are_equal_but_for_rounding_have_no_tail(sd):
    rounded = (np.random.default_rng(0).normal(size=4000) * sd - 100).astype(np.float32)
    smoothed, khat = psis.smooth(rounded.astype(float))
    assert khat == 0
    assert np.ptp(smoothed) < 1e-3

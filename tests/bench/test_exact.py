"""Exact draws obey Stein's identities: `E[g] = 0` and `E[z_i g_i] = -1`, `g` the score at `z`.

The scores are derived by hand, independently of the code that generates the draws.
"""

import numpy as np
import pytest

pytest.importorskip("bench.posteriors.exact")  # an installed wheel has no benchmarks

from bench.posteriors import exact

ERRORS = 4.5  # standard errors, for the largest of a few dozen


def deviation(values, expected):
    """Largest deviation of a mean over rows, in standard errors."""
    return np.max(np.abs(values.mean(0) - expected) / (values.std(0) / np.sqrt(len(values))))


def test_varying_intercepts():
    random = np.random.default_rng(0)
    group = np.repeat(np.arange(20), np.arange(3, 23))
    x = random.normal(size=len(group))
    y = random.normal(1.5, 0.4, 20)[group] - 0.7 * x + random.normal(0, 0.8, len(group))
    found = exact.varying_intercepts(group, x, y, 40_000)
    mu, tau, slope, sigma, intercept = found.values()
    rest = y - intercept[:, group] - slope[:, None] * x
    between = intercept - mu[:, None]
    z = np.column_stack([mu, np.log(tau), slope, np.log(sigma), intercept])
    sums = np.stack([rest[:, group == g].sum(1) for g in range(20)], axis=1)
    scores = (
        between.sum(1) / tau**2 - mu / 25,
        (between**2).sum(1) / tau**2 - 20 - tau**2 + 1,
        rest @ x / sigma**2 - slope / 25,
        (rest**2).sum(1) / sigma**2 - len(y) - sigma**2 + 1,
        sums / sigma[:, None] ** 2 - between / tau[:, None] ** 2,
    )
    score = np.column_stack(scores)
    assert deviation(score, 0.0) < ERRORS
    assert deviation(z * score, -1.0) < ERRORS


def test_logistic():
    random = np.random.default_rng(1)
    x = random.normal(size=(200, 3))
    y = (random.random(200) < 1 / (1 + np.exp(-x @ [1.0, -2.0, 0.0]))).astype(float)
    beta = exact.logistic(x, y, 40_000)["beta"]
    score = (y - 1 / (1 + np.exp(-beta @ x.T))) @ x - beta
    # resampled with replacement from twice as many: errors larger by half
    assert deviation(score, 0.0) < 1.5 * ERRORS
    assert deviation(beta * score, -1.0) < 1.5 * ERRORS

"""The exact posteriors of the simulations, and what counts as a false status."""

import numpy as np
import pytest
from scipy import stats

from bench import statuses
from bench.posteriors.simulated import KINDS, integrate, moments


def test_a_grid_gives_evidence_and_moments_of_a_narrow_normal():
    covariance = np.array([[1.0, 0.8], [0.8, 1.0]]) * 1e-4
    normal = stats.multivariate_normal([1.7, -0.4], covariance)

    def log_joint(a, b):
        return normal.logpdf(np.stack([a, b], axis=1)) + 3.0

    mass, (a, _), total = integrate(log_joint, (-30, 30), (-30, 30))
    mean, sd, kurtosis = moments(mass, a)
    np.testing.assert_allclose([total, mean, sd, kurtosis], [3.0, 1.7, 0.01, 3.0], rtol=1e-4)


def test_moments_of_a_mixture_of_normals():
    mass, mean, var = np.array([0.3, 0.7]), np.array([-1.0, 2.0]), np.array([0.5, 2.0])
    draws = np.random.default_rng(0).normal(size=(2, 200_000)) * np.sqrt(var)[:, None]
    draws = draws + mean[:, None]
    found = moments(mass, mean, var)
    exact = mass @ mean, np.sqrt(mass @ ((draws - mass @ mean) ** 2).mean(1))
    np.testing.assert_allclose(found[:2], exact, rtol=0.01)
    fourth = mass @ ((draws - mass @ mean) ** 4).mean(1)
    np.testing.assert_allclose(found[2], fourth / exact[1] ** 4, rtol=0.02)


def test_fits_of_simulated_data_are_compared_with_the_truth():
    kind = "linear regression"
    exact = KINDS[kind].simulate(np.random.default_rng(1))
    found = statuses.compare(kind, "default", 1, exact, {})
    assert found.right
    assert not found.false
    shifted = exact._replace(mean={name: value + 1.0 for name, value in exact.mean.items()})
    wrong = statuses.compare(kind, "default", 1, shifted, {})
    assert wrong.false == (wrong.status in ("certified", "corrected"))
    rows = statuses.summary([found, wrong])
    assert rows[0][:2] == (kind, "2")


@pytest.mark.slow
def test_connected_modes_that_a_gaussian_does_not_cover_are_added():
    """All paths end in one group of modes, connected by a ridge of amplitudes near zero."""
    kind, seed = "period search", 32
    rng = np.random.default_rng((seed, list(KINDS).index(kind)))
    assert not statuses.compare(kind, "default", seed, KINDS[kind].simulate(rng), {}).false

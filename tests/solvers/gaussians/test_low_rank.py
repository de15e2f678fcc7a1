import numpy as np
import pytest

from vijax.solvers.batch_and_match.low_rank_update import LowRankAverage
from vijax.solvers.gaussians.dense import Gaussian
from vijax.solvers.gaussians.low_rank import (
    LowRankGaussian,
    low_rank_approximation,
    rescale_diagonal,
    truncate,
)

DIM = 7


def some(rank=3, seed=0, narrow=False):
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(rng.normal(size=(DIM, rank))).Q
    axis_sd = rng.uniform(1.5, 4, rank)
    if narrow:
        axis_sd[0] = 0.3
    return LowRankGaussian(rng.normal(size=DIM), rng.uniform(0.1, 10, DIM), basis, axis_sd)


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("rank", [0, 3, DIM])
def test_agrees_with_the_dense_gaussian(rank, narrow):
    gaussian = some(rank, narrow=narrow and rank > 0)
    scale = np.diag(gaussian.scale)
    middle = np.eye(DIM) + (gaussian.basis * (gaussian.axis_sd**2 - 1)) @ gaussian.basis.T
    np.testing.assert_allclose(gaussian.covariance, scale @ middle @ scale)
    dense = Gaussian(gaussian.mean, gaussian.factor)
    for name in ("sd", "conditional_sd", "log_det", "cholesky"):
        np.testing.assert_allclose(getattr(gaussian, name), getattr(dense, name), err_msg=name)
    noise = np.random.default_rng(1).standard_normal((5, DIM))
    np.testing.assert_allclose(gaussian.transform(noise), dense.transform(noise))
    np.testing.assert_allclose(gaussian.log_prob(noise), dense.log_prob(noise))
    np.testing.assert_allclose(gaussian.scaled(0.5).covariance, 0.25 * dense.covariance)


def test_projection_has_the_covariance_along_the_span():
    gaussian = some()
    other = np.random.default_rng(2).normal(size=(DIM, 2))
    span = np.linalg.qr(np.concatenate([gaussian.basis, other], axis=1)).Q
    standard = gaussian.covariance / np.outer(gaussian.scale, gaussian.scale)
    expected = span.T @ standard @ span
    np.testing.assert_allclose(gaussian.project(span).covariance, expected, atol=1e-12)


def test_rescaling_the_diagonal_preserves_the_low_rank_part():
    gaussian, factors = some(), np.linspace(0.5, 2, DIM)
    new = rescale_diagonal(gaussian, factors)
    change = (factors**2 - 1) * gaussian.scale**2
    np.testing.assert_allclose(new.covariance, gaussian.covariance + np.diag(change))
    np.testing.assert_allclose(new.basis.T @ new.basis, np.eye(3), atol=1e-12)


def kl(q, p):
    """KL(q || p) between Gaussians of one mean, up to `dim / 2`."""
    return 0.5 * np.trace(np.linalg.solve(p.covariance, q.covariance)) - q.log_det + p.log_det


@pytest.mark.parametrize("narrow", [False, True])
def test_approximation_keeps_the_widest_directions_and_rescales_the_diagonal(narrow):
    gaussian = some(narrow=narrow)
    truncated, approximation = truncate(gaussian, 1), low_rank_approximation(gaussian, 1)
    assert truncated.axis_sd == [gaussian.axis_sd.max()]
    assert approximation.rank == 1
    assert kl(approximation, gaussian) < kl(truncated, gaussian)


def test_members_of_the_family_are_represented_exactly():
    gaussian = some()
    np.testing.assert_allclose(low_rank_approximation(gaussian, 5).covariance, gaussian.covariance)
    independent = Gaussian(np.zeros(3), np.diag([1.0, 2.0, 3.0]))
    np.testing.assert_allclose(low_rank_approximation(independent, 1).sd, [1, 2, 3])
    assert low_rank_approximation(independent, 0).rank == 0


def test_the_average_of_several_gaussians():
    gaussian, mean = some(), LowRankAverage(3)
    for weight in (0.25, 0.75):
        mean.add(gaussian, weight)
    np.testing.assert_allclose(mean.gaussian().covariance, gaussian.covariance)
    np.testing.assert_allclose(mean.gaussian().mean, gaussian.mean)
    mixed = LowRankAverage(6)
    mixed.add(gaussian, 0.5)
    mixed.add(some(seed=1), 0.5)
    half = 0.5 * (gaussian.covariance + some(seed=1).covariance)
    np.testing.assert_allclose(mixed.gaussian().covariance, half)

import jax
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from tests.solvers import problems
from vijax.contracts import Batch, Site, Space
from vijax.guides import Delta, FullRank, Laplace, LowRank, MeanField
from vijax.runtime.errors import GuideError
from vijax.solvers import (
    BatchAndMatch,
    FixedDraws,
    LaplaceSolver,
    ModeSolver,
    VariationalNewton,
    default_solver,
)
from vijax.solvers.gaussians.conversion import (
    factor_analysis,
    from_params,
    location,
    relocate,
    to_params,
)
from vijax.solvers.gaussians.dense import Gaussian, from_moments

DIM = 6
SPACE = problems.logistic(dim=DIM).target.space


def some_gaussian():
    rng = np.random.default_rng(0)
    scale = np.geomspace(0.01, 100, DIM)
    return Gaussian(
        rng.normal(size=DIM) * scale,
        scale[:, None] * (np.eye(DIM) + 0.4 * rng.normal(size=(DIM, DIM))),
    )


def params_of(guide):
    return problems.logistic(dim=DIM).variables(guide).guide


def moments_by_guide(guide, params):
    return np.asarray(guide.mean(params, SPACE)), np.asarray(guide.covariance(params, SPACE))


@pytest.mark.parametrize("guide", [FullRank(), Laplace()])
def test_full_rank_parameters_represent_a_gaussian_exactly(guide):
    gaussian = some_gaussian()
    params = to_params(params_of(guide), gaussian, SPACE)
    mean, covariance = moments_by_guide(guide, params)
    outer = np.outer(gaussian.sd, gaussian.sd)
    np.testing.assert_allclose(mean / gaussian.sd, gaussian.mean / gaussian.sd, rtol=1e-5)
    np.testing.assert_allclose(covariance / outer, gaussian.covariance / outer, atol=1e-5)
    back = from_params(params, SPACE)
    np.testing.assert_allclose(back.covariance / outer, gaussian.covariance / outer, atol=1e-5)


def kl(q, p):
    """KL(q || p) between Gaussians, up to a constant in p."""
    precision = np.linalg.inv(p.covariance)
    return 0.5 * np.trace(precision @ q.covariance) - q.log_det


def test_mean_field_parameters_are_the_closest_factorized_gaussian():
    gaussian, guide = some_gaussian(), MeanField()
    params = to_params(params_of(guide), gaussian, SPACE)
    mean, covariance = moments_by_guide(guide, params)
    np.testing.assert_allclose(mean, gaussian.mean, rtol=1e-5)
    precision = np.linalg.inv(gaussian.covariance)
    np.testing.assert_allclose(np.diag(covariance), 1 / np.diag(precision), rtol=1e-4)
    best = from_params(params, SPACE)
    for i in range(DIM):
        for factor in (0.95, 1.05):
            scale = np.ones(DIM)
            scale[i] = factor
            other = Gaussian(best.mean, best.factor * scale)
            assert kl(other, gaussian) > kl(best, gaussian)


def test_low_rank_parameters_recover_a_covariance_of_their_form():
    rng = np.random.default_rng(1)
    loadings, noise = rng.normal(size=(DIM, 2)), rng.uniform(0.5, 2, DIM)
    scale = np.geomspace(0.01, 100, DIM)
    covariance = (np.diag(noise) + loadings @ loadings.T) * np.outer(scale, scale)
    gaussian, guide = from_moments(scale, covariance), LowRank(rank=2)
    params = to_params(params_of(guide), gaussian, SPACE)
    mean, fitted = moments_by_guide(guide, params)
    outer = np.outer(gaussian.sd, gaussian.sd)
    np.testing.assert_allclose(mean, scale, rtol=1e-6)
    np.testing.assert_allclose(fitted / outer, covariance / outer, atol=0.02)
    np.testing.assert_allclose(
        from_params(params, SPACE).covariance / outer, fitted / outer, atol=1e-5
    )


@pytest.mark.parametrize("rank", [1, 3, DIM])
def test_factor_analysis_preserves_variances_and_improves_on_independence(rank):
    gaussian = some_gaussian()
    correlation = gaussian.covariance / np.outer(gaussian.sd, gaussian.sd)
    noise, loadings = factor_analysis(correlation, rank)
    assert (noise > 0).all()
    fitted = np.diag(noise) + loadings @ loadings.T
    np.testing.assert_allclose(np.diag(fitted), 1, atol=1e-9)
    off = ~np.eye(DIM, dtype=bool)
    assert np.sum((fitted - correlation)[off] ** 2) < np.sum(correlation[off] ** 2)


@pytest.mark.parametrize("guide", [FullRank(), Laplace(), LowRank(), MeanField(), Delta()])
def test_relocating_a_guide_changes_only_its_location(guide):
    params = params_of(guide)
    loc = np.arange(DIM, dtype=float)
    moved = relocate(params, loc, SPACE)
    np.testing.assert_array_equal(location(moved, SPACE), loc)
    for one, other in zip(jax.tree.leaves(moved), jax.tree.leaves(params), strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
    for one, other in zip(moved[1:], params[1:], strict=True):
        assert one is other
    assert type(to_params(params, some_gaussian(), SPACE)) is type(params)


@pytest.mark.parametrize("guide", [LowRank(), MeanField(), Delta()])
def test_coordinates_follow_the_order_of_the_sites_not_their_names(guide):
    space = Space((Site("z", (2,), (2,)), Site("b", (), ()), Site("a", (2, 1), (2, 1))))
    loc = np.arange(5.0)
    params = guide.init(jax.random.key(0), space, space.unravel(np.zeros(5, np.float32)))
    params = jax.tree.map(lambda leaf: leaf, params)  # which sorts dicts by name
    moved = relocate(params, loc, space)
    np.testing.assert_array_equal(location(moved, space), loc)
    drawn = guide.draw(moved, space, jax.random.key(0), Batch({})).z
    np.testing.assert_allclose(space.ravel(drawn), loc, atol=1)
    if not isinstance(guide, Delta):
        gaussian = Gaussian(loc, np.diag(np.geomspace(0.1, 10, 5)))
        converted = to_params(params, gaussian, space)
        np.testing.assert_allclose(from_params(converted, space).sd, gaussian.sd, rtol=1e-3)
        np.testing.assert_allclose(guide.mean(converted, space), loc)
        np.testing.assert_allclose(
            np.diag(guide.covariance(converted, space)), gaussian.sd**2, rtol=2e-3
        )


def test_other_parameters_are_rejected():
    for call in (from_params, location):
        with pytest.raises(GuideError, match="got parameters of type dict"):
            call({"w": 1.0}, SPACE)
    with pytest.raises(GuideError, match="got parameters of type DeltaParams"):
        from_params(params_of(Delta()), SPACE)
    with pytest.raises(GuideError, match="got parameters of type tuple"):
        to_params((1.0,), some_gaussian(), SPACE)


def test_representations_of_a_gaussian_agree():
    gaussian = some_gaussian()
    lower = gaussian.cholesky
    np.testing.assert_allclose(lower @ lower.T, gaussian.covariance, rtol=1e-9, atol=1e-12)
    assert (np.diag(lower) > 0).all()
    assert np.sum(np.log(np.diag(lower))) == pytest.approx(gaussian.log_det)
    again = from_moments(gaussian.mean, gaussian.covariance)
    points = gaussian.transform(np.random.default_rng(0).standard_normal((5, DIM)))
    np.testing.assert_allclose(again.log_prob(points), gaussian.log_prob(points), rtol=1e-8)
    expected = multivariate_normal(gaussian.mean, gaussian.covariance).logpdf(points)
    np.testing.assert_allclose(gaussian.log_prob(points), expected, rtol=1e-6)
    assert from_moments(np.zeros(2), np.array([[1.0, 2.0], [2.0, 1.0]])) is None
    assert from_moments(np.zeros(2), np.full((2, 2), np.nan)) is None


def test_default_solvers_by_guide():
    assert default_solver(FullRank(), 10) == VariationalNewton(start=BatchAndMatch(), max_steps=16)
    assert default_solver(Laplace(), 10) == LaplaceSolver()
    assert default_solver(Delta(), 10) == ModeSolver()
    assert default_solver(MeanField(), 10) == FixedDraws()
    assert default_solver(MeanField(), 1000) is None
    assert default_solver(LowRank(), 10) == BatchAndMatch()

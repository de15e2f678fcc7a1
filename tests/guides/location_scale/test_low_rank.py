import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import multivariate_normal

from vijax.contracts import Batch, Site, Space
from vijax.guides.location_scale.low_rank import LowRank, LowRankParams
from vijax.runtime.errors import GuideError

SPACE = Space((Site("a", (4,), (4,)), Site("b", (2, 3), (2, 3))))
BATCH = Batch({})


def params(factor_scale: float, loc_scale: float = 1.0) -> LowRankParams:
    rng = np.random.default_rng(0)
    return LowRankParams(
        jnp.asarray(loc_scale * rng.normal(size=10), jnp.float32),
        jnp.asarray(0.5 * rng.normal(size=10), jnp.float32),
        jnp.asarray(factor_scale * rng.normal(size=(10, 3)), jnp.float32),
    )


def dense(p: LowRankParams) -> multivariate_normal:
    loc, log_scale, factor = (np.asarray(leaf, float) for leaf in p)
    scale = np.exp(log_scale)
    covariance = scale[:, None] * (np.eye(10) + factor @ factor.T) * scale
    return multivariate_normal(loc, covariance)


@pytest.mark.parametrize("factor_scale", [0.01, 1.0, 300.0])
def test_agrees_with_the_dense_gaussian(factor_scale):
    # at 300 the textbook Woodbury difference has an error of about 0.1 in float32
    p, guide = params(factor_scale), LowRank(rank=3)
    exact = dense(p)
    np.testing.assert_allclose(guide.covariance(p, SPACE), exact.cov, rtol=2e-5)
    np.testing.assert_allclose(guide.entropy(p, SPACE), exact.entropy(), rtol=1e-5)
    for vector in exact.rvs(20, random_state=1):
        log_prob = guide.log_prob(p, SPACE, SPACE.unravel(jnp.asarray(vector, "f")), BATCH)
        np.testing.assert_allclose(log_prob, exact.logpdf(vector), atol=5e-3, rtol=1e-4)


def test_log_q_is_accurate_far_from_the_origin():
    # z - loc would lose the precision of the draw
    p, guide = params(1.0, loc_scale=1e6), LowRank(rank=3)
    near = p._replace(loc=jnp.zeros(10))
    far_q = guide.draw(p, SPACE, jax.random.key(0), BATCH).log_q
    near_q = guide.draw(near, SPACE, jax.random.key(0), BATCH).log_q
    np.testing.assert_array_equal(far_q, near_q)


@pytest.mark.parametrize(
    ("dim", "rank", "expected"),
    [(1, None, 1), (3, None, 2), (10, None, 4), (500, None, 10), (10, 7, 7), (3, 7, 3)],
)
def test_the_rank(dim, rank, expected):
    space = Space((Site("a", (dim,), (dim,)),))
    start = LowRank(rank).init(jax.random.key(0), space, {"a": jnp.zeros(dim)})
    assert start.factor.shape == (dim, expected)
    sd = np.sqrt(np.diag(LowRank(rank).covariance(start, space)))
    np.testing.assert_allclose(sd, 0.1, rtol=0.2)


@pytest.mark.parametrize("rank", [0, -2])
def test_a_rank_must_be_positive(rank):
    with pytest.raises(GuideError, match="rank: expected at least 1, or None, got"):
        LowRank(rank)

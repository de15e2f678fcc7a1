import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.laws import case
from vijax.guides import FullRank, Laplace, LowRank, MeanField
from vijax.guides.location_scale.full_rank import cholesky_factor
from vijax.runtime.errors import GuideError


@pytest.mark.parametrize("kind", [MeanField, FullRank, Laplace, LowRank])
@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_must_be_positive(kind, scale):
    with pytest.raises(GuideError, match="init_scale: expected a positive finite number"):
        kind(init_scale=scale)


@pytest.mark.parametrize("kind", [MeanField, FullRank, Laplace])
def test_initial_mean_and_covariance(kind):
    space = case("meanfield").problem.target.space
    location = space.unravel(jnp.arange(3.0))
    params = kind(init_scale=0.25).init(jax.random.key(0), space, location)
    np.testing.assert_allclose(kind().mean(params, space), [0, 1, 2])
    np.testing.assert_allclose(kind().covariance(params, space), 0.0625 * np.eye(3), rtol=1e-6)


def test_entries_above_the_diagonal_are_ignored():
    c = case("fullrank")
    dirty = c.params._replace(lower=c.params.lower + jnp.triu(jnp.full((3, 3), jnp.nan)))
    np.testing.assert_array_equal(cholesky_factor(dirty), cholesky_factor(c.params))


def test_laplace_draws_like_full_rank_but_is_another_guide():
    c = case("fullrank")
    space, batch = c.problem.target.space, c.problem.batch
    dense = FullRank().draw(c.params, space, jax.random.key(0), batch)
    laplace = Laplace().draw(c.params, space, jax.random.key(0), batch)
    jax.tree.map(np.testing.assert_array_equal, dense, laplace)
    assert FullRank() != Laplace()

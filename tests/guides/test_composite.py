import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vijax.contracts import (
    Batch,
    DensityGuide,
    Draw,
    EntropyGuide,
    GaussianGuide,
    Guide,
    Site,
    Space,
)
from vijax.guides import Delta, FullRank, LowRank, MeanField, compose
from vijax.runtime.errors import GuideError

SPACE = Space((Site("alpha", (), ()), Site("beta", (2,), (2,)), Site("gamma", (2,), (2,))))


class Point(DensityGuide):
    """The least that a density guide can be."""

    def init(self, key, space, location):
        return ()

    def draw(self, params, space, key, batch):
        return Draw({site.name: jnp.zeros(site.z_shape) for site in space.sites}, jnp.zeros(()))

    def log_prob(self, params, space, z, batch):
        return jnp.zeros(())


class Flat(Point, EntropyGuide):
    def entropy(self, params, space):
        return jnp.zeros(())


@pytest.mark.parametrize(
    ("guide", "capability", "beyond"),
    [
        (FullRank(), GaussianGuide, None),
        (Flat(), EntropyGuide, GaussianGuide),
        (Point(), DensityGuide, EntropyGuide),
        (Delta(), Guide, DensityGuide),
    ],
)
def test_the_type_says_what_all_parts_can_do(guide, capability, beyond):
    whole = compose({"alpha": guide, ...: MeanField()}, SPACE)
    assert isinstance(whole, capability)
    assert beyond is None or not isinstance(whole, beyond)


def test_covariance_blocks_stand_where_the_space_has_their_coordinates():
    # gamma (3, 4) goes with alpha (0); beta (1, 2) lies between them
    whole = compose({("gamma", "alpha"): FullRank(), "beta": FullRank()}, SPACE)
    location = SPACE.unravel(jnp.arange(5.0))
    first, second = whole.init(jax.random.key(0), SPACE, location)
    first = first._replace(lower=jnp.full((3, 3), 0.5))
    second = second._replace(lower=jnp.full((2, 2), -0.25))
    together = np.asarray(whole.covariance((first, second), SPACE))
    apart = np.ix_([0, 3, 4], [1, 2])
    np.testing.assert_array_equal(together[apart], 0)
    block = FullRank().covariance(first, SPACE)
    np.testing.assert_allclose(together[np.ix_([0, 3, 4], [0, 3, 4])], block)
    assert np.all(together[np.ix_([1, 2], [1, 2])] != 0)
    np.testing.assert_array_equal(whole.mean((first, second), SPACE), np.arange(5.0))
    draw = whole.draw((first, second), SPACE, jax.random.key(0), Batch({}))
    log_prob = whole.log_prob((first, second), SPACE, draw.z, Batch({}))
    np.testing.assert_allclose(log_prob, draw.log_q, rtol=1e-5)


def test_parts_draw_with_keys_of_their_own():
    whole = compose({name: MeanField(1.0) for name in SPACE.names}, SPACE)
    params = whole.init(jax.random.key(0), SPACE, SPACE.unravel(jnp.zeros(5)))
    z = whole.draw(params, SPACE, jax.random.key(0), Batch({})).z
    assert np.all(np.asarray(z["beta"]) != np.asarray(z["gamma"]))


def test_the_order_of_writing_does_not_matter():
    one = compose({"beta": LowRank(), ("gamma", "alpha"): FullRank()}, SPACE)
    two = compose({("alpha", "gamma"): FullRank(), "beta": LowRank()}, SPACE)
    three = compose({"beta": LowRank(), ...: FullRank()}, SPACE)
    assert one == two == three
    assert hash(one) == hash(two) == hash(three)


def test_one_group_is_its_own_guide():
    assert compose({...: LowRank()}, SPACE) == LowRank()
    assert compose({SPACE.names: LowRank(), ...: Delta()}, SPACE) == LowRank()


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"alpha": Delta()}, r"site 'beta': expected a guide for every site.*the key \.\.\."),
        ({"bta": Delta(), ...: Delta()}, r"site 'bta': .*Did you mean 'beta'\?"),
        (
            {("alpha", "beta"): Delta(), "beta": FullRank(), ...: Delta()},
            r"site 'beta': expected one guide, got two, under \('alpha', 'beta'\) and 'beta'",
        ),
        ({("alpha", "alpha"): Delta(), ...: Delta()}, "site 'alpha': expected one guide, got two"),
        ({3: Delta(), ...: Delta()}, "expected site names, tuples of them or ... as keys, got 3"),
        ({"alpha": "map", ...: Delta()}, "guide for 'alpha': expected a vijax Guide, got str"),
    ],
)
def test_what_does_not_fit_is_refused(mapping, message):
    with pytest.raises(GuideError, match=message):
        compose(mapping, SPACE)

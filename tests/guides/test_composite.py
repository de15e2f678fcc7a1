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
    """A minimal density guide."""

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
    ("guide", "contract", "stronger"),
    [
        (FullRank(), GaussianGuide, None),
        (Flat(), EntropyGuide, GaussianGuide),
        (Point(), DensityGuide, EntropyGuide),
        (Delta(), Guide, DensityGuide),
    ],
)
def test_the_type_is_the_strongest_contract_of_all_parts(guide, contract, stronger):
    composite = compose({"alpha": guide, ...: MeanField()}, SPACE)
    assert isinstance(composite, contract)
    assert stronger is None or not isinstance(composite, stronger)


def test_covariance_blocks_follow_the_order_of_the_space():
    # gamma (3, 4) is grouped with alpha (0); beta (1, 2) is between them
    composite = compose({("gamma", "alpha"): FullRank(), "beta": FullRank()}, SPACE)
    location = SPACE.unravel(jnp.arange(5.0))
    first, second = composite.init(jax.random.key(0), SPACE, location)
    first = first._replace(lower=jnp.full((3, 3), 0.5))
    second = second._replace(lower=jnp.full((2, 2), -0.25))
    covariance = np.asarray(composite.covariance((first, second), SPACE))
    between = np.ix_([0, 3, 4], [1, 2])
    np.testing.assert_array_equal(covariance[between], 0)
    block = FullRank().covariance(first, SPACE)
    np.testing.assert_allclose(covariance[np.ix_([0, 3, 4], [0, 3, 4])], block)
    assert np.all(covariance[np.ix_([1, 2], [1, 2])] != 0)
    np.testing.assert_array_equal(composite.mean((first, second), SPACE), np.arange(5.0))
    draw = composite.draw((first, second), SPACE, jax.random.key(0), Batch({}))
    log_prob = composite.log_prob((first, second), SPACE, draw.z, Batch({}))
    np.testing.assert_allclose(log_prob, draw.log_q, rtol=1e-5)


def test_parts_draw_with_different_keys():
    composite = compose({name: MeanField(1.0) for name in SPACE.names}, SPACE)
    params = composite.init(jax.random.key(0), SPACE, SPACE.unravel(jnp.zeros(5)))
    z = composite.draw(params, SPACE, jax.random.key(0), Batch({})).z
    assert np.all(np.asarray(z["beta"]) != np.asarray(z["gamma"]))


def test_the_order_of_the_mapping_does_not_matter():
    one = compose({"beta": LowRank(), ("gamma", "alpha"): FullRank()}, SPACE)
    two = compose({("alpha", "gamma"): FullRank(), "beta": LowRank()}, SPACE)
    three = compose({"beta": LowRank(), ...: FullRank()}, SPACE)
    assert one == two == three
    assert hash(one) == hash(two) == hash(three)


def test_a_single_group_gives_its_guide():
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
def test_invalid_mappings_raise_errors(mapping, message):
    with pytest.raises(GuideError, match=message):
        compose(mapping, SPACE)

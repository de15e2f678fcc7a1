"""Codes: indices, straight-through gradients, and a codebook that follows encodings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from vijax.nn import FiniteScalarQuantizer, VectorQuantizer

Z = np.random.default_rng(0).normal(size=(200, 2)).astype(np.float32)


def quantizer(num_codes=8, **options):
    return VectorQuantizer(num_codes, 2, rngs=nnx.Rngs(0), **options)


call = nnx.jit(lambda codes, z: codes(z))


def nearest(z, codebook):
    return np.argmin(np.sum((z[:, None] - codebook) ** 2, axis=-1), axis=1)


@pytest.mark.parametrize("levels", [(5, 3), (8, 6, 5), (4,)])
def test_every_point_of_the_grid_is_one_code(levels):
    scalars = FiniteScalarQuantizer(levels)
    indices = jnp.arange(scalars.num_codes)
    values = np.asarray(scalars.decode(indices))
    assert len(np.unique(values, axis=0)) == scalars.num_codes == np.prod(levels)
    assert values.min() == -1.0
    for column, number in zip(values.T, levels, strict=True):
        assert len(np.unique(column)) == number
    # encodings in the middle of a level: tanh^-1, as the levels are rounded after a tanh
    number = np.array(levels)
    half, offset = (number - 1) * 1.001 / 2, np.where(number % 2, 0.0, 0.5)
    places = values * (number // 2) + offset
    codes = scalars(jnp.asarray(np.arctanh(places / half) - np.arctanh(offset / half)))
    np.testing.assert_array_equal(codes.indices, indices)
    np.testing.assert_allclose(codes.values, values, atol=1e-6)


def test_all_codes_of_a_grid_are_reached_by_wide_encodings():
    scalars = FiniteScalarQuantizer((5, 4))
    found = scalars(3 * jax.random.normal(jax.random.key(0), (2000, 2))).indices
    assert len(np.unique(found)) == 20


def test_gradients_pass_through_rounding():
    weights = jnp.asarray(np.random.default_rng(1).normal(size=Z.shape))
    slope = jax.grad(lambda z: jnp.sum(weights * quantizer()(z).values))(Z)
    np.testing.assert_array_equal(slope, weights)
    odd = FiniteScalarQuantizer((5, 5))
    slope = jax.grad(lambda z: jnp.sum(weights * odd(z).values))(Z)
    expected = weights * (1 - np.tanh(Z) ** 2) * (4 * 1.001 / 2) / 2  # that of the tanh
    np.testing.assert_allclose(slope, expected, atol=1e-6)


def test_the_loss_draws_encodings_to_their_codes_alone():
    codes = quantizer(commitment=0.5)
    codebook = np.asarray(codes.codebook)
    slope = jax.grad(lambda z: jnp.sum(quantizer(commitment=0.5)(z).loss))(Z)
    np.testing.assert_allclose(slope, Z - codebook[nearest(Z, codebook)], atol=1e-5)


def test_averages_of_fixed_encodings_are_k_means():
    """Without memory a call is a step of Lloyd's algorithm."""
    codes = quantizer(decay=0.0, restart=0.0)
    call(codes, Z)  # places codes on encodings
    for _ in range(3):
        codebook = np.asarray(codes.codebook)
        found = call(codes, Z)
        indices = nearest(Z, codebook)
        np.testing.assert_array_equal(found.indices, indices)
        np.testing.assert_allclose(found.values, codebook[indices], atol=1e-6)
        means = [Z[indices == code].mean(axis=0) for code in range(8)]
        np.testing.assert_allclose(codes.codebook, means, rtol=1e-4, atol=1e-5)


def test_averages_are_those_of_the_last_calls():
    codes = quantizer(decay=0.9, restart=0.0)
    call(codes, Z)
    counts, sums = (np.asarray(one.get_value(), float) for one in (codes.counts, codes.sums))
    for shift in range(3):
        z = Z + 0.1 * shift
        indices = nearest(z, np.asarray(codes.codebook))
        call(codes, z)
        hot = np.eye(8)[indices]
        counts = 0.9 * counts + 0.1 * hot.sum(axis=0)
        sums = 0.9 * sums + 0.1 * hot.T @ z
    np.testing.assert_allclose(codes.counts.get_value(), counts, rtol=1e-5)
    np.testing.assert_allclose(codes.codebook, sums / counts[:, None], rtol=1e-3, atol=1e-4)


def test_unused_codes_are_placed_on_encodings():
    codes = quantizer(64)
    far = np.asarray(codes.codebook) + 100.0
    call(codes, far.astype(np.float32))  # all codes are there now
    for _ in range(400):
        found = call(codes, Z)
    codes.use_running_average = True
    before = np.asarray(codes.codebook)
    assert np.abs(before).max() < 10.0
    found = call(codes, Z)
    assert len(np.unique(found.indices)) > 0.9 * 64
    np.testing.assert_array_equal(codes.codebook, before)  # evaluation changes nothing
    without = quantizer(64, restart=0.0)
    call(without, far.astype(np.float32))
    for _ in range(400):
        found = call(without, Z)
    assert len(np.unique(found.indices)) < 10


def test_wrong_shapes_and_levels_are_refused():
    with pytest.raises(ValueError, match=r"\(\.\.\., 2\), got shape \(200, 3\)"):
        quantizer()(jnp.zeros((200, 3)))
    with pytest.raises(ValueError, match="three or more"):
        FiniteScalarQuantizer((8, 2))

"""Keys computed on the host equal those of JAX, bit for bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.extend.random import threefry_2x32

from vijax.runtime.keys import as_key, fold_in, normals
from vijax.runtime.threefry import threefry


@pytest.mark.parametrize("seed", [0, 1, 42, 2**31 - 1, 2**31, 2**32 - 1])
def test_an_integer_is_a_seed(seed):
    expected = jax.random.key_data(jax.random.key(seed))
    np.testing.assert_array_equal(jax.random.key_data(as_key(seed)), expected)


def test_all_64_bits_of_an_integer_count():
    seeds = [0, 5, 2**32 + 5, 2**40, 2**63 - 1, -(2**63), -1, 2**32 - 1]
    keys = {seed: tuple(jax.random.key_data(as_key(seed)).tolist()) for seed in seeds}
    assert len({*keys.values()}) == len(seeds)
    with jax.enable_x64(True):  # as there
        for seed in seeds:
            assert keys[seed] == tuple(jax.random.key_data(jax.random.key(seed)).tolist())


@pytest.mark.parametrize("seed", [2**63, 2**64, -(2**63) - 1])
def test_an_integer_with_more_bits_is_named(seed):
    with pytest.raises(ValueError, match=f"rng_key: expected an int from .* got {seed}"):
        as_key(seed)


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
@pytest.mark.parametrize("number", [0, 1, 7, 100_000, 2**31])
def test_fold_in_is_that_of_jax(impl, number):
    for seed in (0, 3, 2**31 - 1):
        key = jax.random.key(seed, impl=impl)
        expected = jax.random.key_data(jax.random.fold_in(key, number))
        np.testing.assert_array_equal(jax.random.key_data(fold_in(key, number)), expected)


def test_keys_are_returned_unchanged():
    key = jax.random.key(5)
    legacy = jax.random.PRNGKey(5)
    for given in (key, legacy, np.asarray(legacy)):
        np.testing.assert_array_equal(jax.random.key_data(as_key(given)), jax.random.key_data(key))


@pytest.mark.parametrize("bad", [1.5, "seed", None, np.zeros(3, np.uint32), np.zeros(2)])
def test_anything_else_raises(bad):
    with pytest.raises(TypeError, match="rng_key: expected an int"):
        as_key(bad)


def test_threefry_is_that_of_jax():
    key, counts = jax.random.key(3), jnp.arange(10, dtype=jnp.uint32)
    words = threefry(*jax.random.key_data(key), counts[:5], counts[5:])
    np.testing.assert_array_equal(
        jnp.concatenate(words), threefry_2x32(jax.random.key_data(key), counts)
    )


def test_many_normals_are_independent_of_one_another_and_of_those_of_other_keys():
    keys = jax.random.split(jax.random.key(0), 3)
    z = jax.jit(jax.vmap(lambda key: normals(key, (301, 333), jnp.float32)))(keys)
    z = np.asarray(z, np.float64).reshape(3, -1)
    assert scipy.stats.kstest(z.ravel(), "norm").pvalue > 1e-3
    assert (
        scipy.stats.kstest(z[:, :-1].ravel() + z[:, 1:].ravel(), "norm", (0, 2**0.5)).pvalue > 0.01
    )
    half = z.shape[1] // 2  # the other word of the same block
    pairs = [z[0, :half], z[0, -half:], z[1, :half], z[2, :half]]
    correlations = np.corrcoef(pairs) - np.eye(4)
    assert np.abs(correlations).max() < 4 / np.sqrt(half)

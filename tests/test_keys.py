"""Keys made on the host are JAX's own, bit for bit, and compile nothing."""

import jax
import numpy as np
import pytest

from vijax._keys import as_key, fold_in


def same(a, b):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(jax.random.key_data(a), jax.random.key_data(b))


@pytest.mark.parametrize("seed", [0, 1, 12345, 2**31 - 1, -7])
def test_seeds(seed):
    same(as_key(seed), jax.random.key(seed))
    same(as_key(np.int64(seed)), jax.random.key(seed))


@pytest.mark.parametrize("number", [0, 1, 100, 2**31 - 1, 2**32 - 1])
@pytest.mark.parametrize("impl", ["threefry2x32", "rbg"])
def test_folds(impl, number):
    key = jax.random.split(jax.random.key(42, impl=impl), 3)[1]
    same(fold_in(key, number), jax.random.fold_in(key, number))
    twice = fold_in(fold_in(key, number), 5)
    same(twice, jax.random.fold_in(jax.random.fold_in(key, number), 5))


def test_legacy_keys_become_typed():
    same(as_key(jax.random.PRNGKey(3)), jax.random.key(3))
    same(as_key(np.array([0, 3], np.uint32)), jax.random.key(3))


def test_nothing_is_compiled():
    key = as_key(0)
    jax.clear_caches()
    events = []

    def listen(event, seconds, **_):
        if event == "/jax/core/compile/backend_compile_duration":
            events.append(seconds)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        fold_in(as_key(8), 3)
        fold_in(key, 4)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
    assert events == []


@pytest.mark.parametrize("wrong", ["0", 1.5, np.zeros(3, np.uint32), None])
def test_refuses_what_is_no_key(wrong):
    with pytest.raises(TypeError, match="rng_key: expected an int"):
        as_key(wrong)

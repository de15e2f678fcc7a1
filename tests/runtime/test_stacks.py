"""Parts of a vector are put together without an operation; packed arrays are what they were."""

import gc

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vijax.runtime import stacks
from vijax.runtime.jaxpr import without_dead_code
from vijax.runtime.stacks import cut, join, pack, stack

VECTOR = np.arange(12.0, dtype=np.float32)


def operations(function, *args):
    """The operations that the result of a function needs."""
    jaxpr = jax.make_jaxpr(without_dead_code(function, *args))(*args)
    return [equation.primitive.name for equation in jaxpr.eqns]


def test_a_stack_of_what_was_cut_is_a_piece_of_the_vector():
    def middle(vector):
        parts = cut(vector, [()] * 12)
        return stack(parts[2:7])

    assert operations(middle, VECTOR) == ["slice"]
    np.testing.assert_array_equal(jax.jit(middle)(VECTOR), VECTOR[2:7])


def test_all_parts_are_the_vector_itself():
    assert operations(lambda v: join(cut(v, [(2, 3), (), (5,)])), VECTOR) == []


@pytest.mark.parametrize(
    "order", [[3, 2, 1], [0, 2], [0, 1, 0], [5, 6, 1, 2, 3]], ids=["back", "gap", "again", "runs"]
)
def test_other_orders_are_right(order):
    def chosen(vector):
        parts = cut(vector, [(2,)] * 6) + [10 * vector[:2]]
        return stack([parts[i] for i in order])

    parts = np.concatenate([VECTOR.reshape(6, 2), 10 * VECTOR[None, :2]])
    np.testing.assert_array_equal(jax.jit(chosen)(VECTOR), parts[order])
    np.testing.assert_array_equal(stack(list(parts[order])), parts[order])


def test_parts_of_two_vectors_are_not_mixed_up():
    def both(one, other):
        a, b = cut(one, [()] * 12), cut(other, [()] * 12)
        return stack([*a[:3], *b[3:6]])

    found = jax.jit(both)(VECTOR, -VECTOR)
    np.testing.assert_array_equal(found, [0, 1, 2, -3, -4, -5])


def test_gradients_under_vmap_are_right():
    def squares(vector):
        parts = cut(vector, [()] * 12)
        return jnp.sum(stack(parts[4:]) ** 3) + parts[0] * parts[5]

    at = np.stack([VECTOR, VECTOR + 1])
    expected = 3 * at**2
    expected[:, :4] = 0
    expected[:, 0] = at[:, 5]
    expected[:, 5] += at[:, 0]
    np.testing.assert_allclose(jax.vmap(jax.grad(squares))(at), expected)


def test_nothing_is_remembered_after_a_trace():
    gc.collect()
    before = len(stacks._origins)
    jax.jit(lambda v: stack(cut(v, [()] * 12)))(VECTOR)
    jax.clear_caches()
    gc.collect()
    assert len(stacks._origins) <= before


def test_packed_arrays_are_what_they_were():
    rng = np.random.default_rng(0)
    values = {f"x{i}": rng.normal(size=(3, 2)).astype(np.float32) for i in range(9)}
    values |= {f"n{i}": rng.integers(9, size=(3,)) for i in range(9)}
    values["large"] = rng.normal(size=(3, 100)).astype(np.float32)
    values = dict(sorted(values.items(), reverse=True))
    packed = pack(values, batch_ndim=1)
    assert len(jax.tree.leaves(packed)) == 3  # one for each type, and the large one

    def one(packed):
        return pack({name: 2 * value for name, value in packed.unpack().items()})

    found = jax.device_get(jax.jit(jax.vmap(one))(packed)).unpack()
    assert list(found) == list(values)
    for name, value in values.items():
        np.testing.assert_array_equal(found[name], 2 * value)


def test_few_arrays_are_not_packed():
    packed = pack({"x": VECTOR, "y": VECTOR})
    assert packed.vectors == {}
    assert list(packed.unpack()) == ["x", "y"]

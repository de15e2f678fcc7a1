"""Arguments: traced leaves, static leaves, and their names."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vijax.data.arrays import MappedRows
from vijax.model import fetch, split, unwrap


def model(x, *rest, y=None, **options):
    pass


class Column:  # as in pandas and polars
    dtype = np.dtype(float)

    def __array__(self, *_, **__):
        return np.arange(3.0)


def test_arrays_are_traced_and_named():
    arguments, data = split(
        model,
        ({"a": [np.zeros(2), 3], "b": None}, np.ones(1), jnp.ones(4)),
        {"y": Column(), "flag": True, "how": "fast"},
    )
    assert set(data) == {"x['a'][0]", "args[1]", "args[2]", "y"}
    assert arguments.static() == {"x['a'][1]": 3, "flag": True, "how": "fast"}
    assert all(isinstance(array, jax.Array) for array in data.values())


@pytest.mark.parametrize(
    "value", [3, 2.5, True, "text", b"bytes", len, dict, np.int64(4), np.float32(1.0), 1j, slice(2)]
)
def test_scalars_and_objects_are_static(value):
    arguments, data = split(model, (value,), {})
    assert data == {}
    (leaf,) = arguments.leaves
    assert leaf == value
    assert not isinstance(leaf, np.generic)


@pytest.mark.parametrize(
    "value", [np.array(3), np.zeros((0, 2)), np.array([True]), np.ones(2, np.float16), jnp.ones(())]
)
def test_arrays_of_any_kind_are_traced(value):
    _, data = split(model, (value,), {})
    assert data["x"].shape == value.shape


def test_join_inverts_split():
    args, kwargs = ({"a": np.arange(3), "b": (None, "s")}, 5), {"y": np.ones(2)}
    arguments, data = split(model, args, kwargs)
    (table, five), back = arguments.join(data)
    np.testing.assert_array_equal(table["a"], [0, 1, 2])
    assert table["b"] == (None, "s")
    assert five == 5
    np.testing.assert_array_equal(back["y"], [1, 1])


def test_lookup_depends_on_structure_shapes_types_and_static_values():
    def lookup(*args, **kwargs):
        return split(model, args, kwargs)[0].lookup

    x = np.zeros(3, np.float32)
    assert lookup(x, y=1) == lookup(x + 1, y=1)
    assert hash(lookup(x, y=1)) == hash(lookup(x + 1, y=1))
    different = [
        lookup(x, y=1), lookup(x, y=2), lookup(x, y=1.0), lookup(x, y=True), lookup(x, y=None),
        lookup(x, y="x"), lookup("x", y=x), lookup(x[:2], y=1), lookup(x.astype(int), y=1),
        lookup([x], y=1), lookup((x,), y=1), lookup(x, 1), lookup(x, z=1),
    ]  # fmt: skip
    assert len(set(different)) == len(different)


def test_a_weak_type_does_not_compile_separately():
    assert jnp.asarray(1.0).weak_type
    _, data = split(model, (jnp.asarray(1.0),), {})
    assert not data["x"].weak_type


def test_names_do_not_collide():
    def positional(x, /, **options):
        pass

    _, data = split(positional, (np.zeros(1),), {"x": np.ones(2)})
    assert {name: array.shape for name, array in data.items()} == {"x": (1,), "x'": (2,)}


def test_numbers_in_range_are_unchanged():
    extremes = np.array([np.inf, np.nan, 1e38])
    with jax.enable_x64(False):
        _, data = split(model, (np.array([1, -(2**31), 2**31 - 1]), extremes), {})
    assert data["x"].dtype == jnp.int32
    np.testing.assert_array_equal(data["args[1]"], extremes.astype(np.float32))


def test_double_precision_needs_no_check():
    with jax.enable_x64(True):
        _, data = split(model, (np.array([1e300]), np.array([2**40])), {})
    assert np.asarray(data["x"])[0] == 1e300
    assert np.asarray(data["args[1]"])[0] == 2**40


def test_unwrap_removes_partials():
    import functools

    inner = functools.partial(model, 1, y=2)
    found, args, kwargs = unwrap(functools.partial(inner, 3, y=4), (5,), {"z": 6})
    assert found is model
    assert args == (1, 3, 5)
    assert kwargs == {"y": 4, "z": 6}


@pytest.mark.parametrize("dtype", [">f4", ">f8", ">i4", ">u2", "g", ">c8", "G"])
def test_any_byte_order_and_long_doubles_are_converted(dtype):
    values = np.arange(4).astype(dtype)
    assert np.asarray(split(model, (values, 0), {})[1]["x"]).tolist() == values.tolist()
    static = split(model, (values[1], 0), {})[0].static()["x"]
    assert type(static) in (int, float, complex)
    if values.dtype.kind != "c":  # of a source, too
        rows = MappedRows(np.repeat(values, 2).reshape(4, 2))
        found = fetch({"x": rows}, {"x": (("n", 0),)}, {"n": np.array([2, 1])})["x"]
        assert found.dtype.isnative
        assert found.tolist() == [[2, 2], [1, 1]]
        aval = split(model, (rows, 0), {}, keep_sources=True)[0].avals["x"]
        assert aval == ((4, 2), found.dtype)

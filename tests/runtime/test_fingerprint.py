"""Fingerprints: equal for values of the same behavior, different otherwise."""

import collections
import dataclasses
import datetime
import enum
import functools
import io
import logging
import operator
import re
import threading
import types
import weakref
from array import ArrayType

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vijax.runtime.fingerprint import fingerprint

FACTOR = 2.0


def helper(x):
    return FACTOR * x


def user(x):
    return helper(x) + 1


def make(captured, default=1):
    def function(x, y=default):
        return x + y, captured

    return function


def with_keyword_default(default):
    def function(x, *, y=default):
        return x + y

    return function


def outer(captured):
    def function():
        def inner():
            return captured

        return inner

    return function


@dataclasses.dataclass
class Config:
    scale: float = 1.0

    def __call__(self, x):
        return self.scale * x

    def method(self, x):
        return x


class Slotted:
    __slots__ = ("__hidden", "value")

    def __init__(self, value, hidden=0):
        self.value = value
        self.__hidden = hidden


class Color(enum.Enum):
    RED = 1
    BLUE = 2


SAME = {
    "adam": lambda: optax.adam(1e-2),
    "chain": lambda: optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(optax.cosine_decay_schedule(1e-2, 100))
    ),
    "closure": lambda: make(np.arange(3)),
    "defaults": lambda: make(0, default=[1, "a"]),
    "keyword default": lambda: with_keyword_default(3),
    "nested closure": lambda: outer(3),
    "partial": lambda: functools.partial(make(1), 2, y=3),
    "object": lambda: Config(2.0),
    "bound method": lambda: Config(2.0).method,
    "slots": lambda: Slotted(3, 4),
    "jitted": lambda: jax.jit(make(1)),
    "cached": lambda: functools.lru_cache(make(1)),
    "array": lambda: np.arange(4.0),
    "object array": lambda: np.array([1, "a", None], object),
    "empty array": lambda: np.zeros((0, 2)),
    "number": lambda: 1.5,
    "nan": lambda: float("nan"),
    "set": lambda: {1, 2, "a"},
    "mapping": lambda: types.MappingProxyType({"a": [1, {2}]}),
    "enum": lambda: Color.RED,
    "none": lambda: None,
    "module": lambda: np,
    "ufunc": lambda: jnp.exp,
    "deque": lambda: collections.deque([1, 2]),
    "bytearray": lambda: bytearray(b"x"),
    "typed array": lambda: ArrayType("d", [1.0]),
    "date": lambda: datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC),
    "pattern": lambda: re.compile("a+"),
    "slice": lambda: slice(1, [2]),
    "getter": lambda: operator.itemgetter(1),
    "logger": lambda: logging.getLogger("fingerprint"),
    "range": lambda: range(3),
}


@pytest.mark.parametrize("name", SAME)
def test_equal_values_have_equal_fingerprints(name):
    one, two = fingerprint(SAME[name]()), fingerprint(SAME[name]())
    assert one == two
    assert hash(one) == hash(two)


DIFFERENT = {
    "learning rate": (optax.adam(1e-2), optax.adam(2e-2)),
    "algorithm": (optax.adam(1e-2), optax.sgd(1e-2)),
    "schedule": (
        optax.adam(optax.cosine_decay_schedule(1e-2, 100)),
        optax.adam(optax.cosine_decay_schedule(1e-2, 200)),
    ),
    "captured value": (make(1), make(2)),
    "captured type": (make(1), make(True)),
    "captured array": (make(np.arange(3)), make(np.arange(3) + 1)),
    "dtype": (np.zeros(2, np.float32), np.zeros(2, np.int32)),
    "shape": (np.zeros((2, 1)), np.zeros((1, 2))),
    "default": (make(0, default=1), make(0, default=2)),
    "keyword default": (with_keyword_default(1), with_keyword_default(2)),
    "nested closure": (outer(1), outer(2)),
    "object": (Config(1.0), Config(2.0)),
    "bound method": (Config(1.0).method, Config(2.0).method),
    "slots": (Slotted(1), Slotted(2)),
    "private slots": (Slotted(1, 1), Slotted(1, 2)),
    "partial": (functools.partial(make(1), 2), functools.partial(make(1), 3)),
    "jitted": (jax.jit(make(1)), jax.jit(make(2))),
    "zero": (0.0, -0.0),
    "number type": (1, 1.0),
    "sequence type": ([1], (1,)),
    "order": ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
    "enum": (Color.RED, Color.BLUE),
    "object array": (np.array([1, "a"], object), np.array([1, "b"], object)),
    "module": (np, jnp),
    "nothing and false": (None, False),
    "deque": (collections.deque([1]), collections.deque([2])),
    "bytearray": (bytearray(b"x"), bytearray(b"y")),
    "typed array": (ArrayType("d", [1.0]), ArrayType("f", [1.0])),
    "date": (datetime.date(2026, 1, 1), datetime.date(2026, 1, 2)),
    "pattern": (re.compile("a+"), re.compile("a+", re.IGNORECASE)),
    "getter": (operator.itemgetter(1), operator.itemgetter(2)),
    "mask": (np.ma.array([1.0], mask=[True]), np.ma.array([1.0], mask=[False])),
    "bound builtin": ({"a": 1}.get, {"a": 2}.get),
    "default factory": (collections.defaultdict(int), collections.defaultdict(list)),
    "weak reference": (weakref.ref(Config), weakref.ref(Slotted)),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_different_values_have_different_fingerprints(name):
    one, two = DIFFERENT[name]
    assert fingerprint(one) != fingerprint(two)


def test_a_changed_global_of_a_helper_is_detected(monkeypatch):
    before = fingerprint(user)
    assert fingerprint(user) == before
    monkeypatch.setitem(globals(), "FACTOR", 3.0)
    assert fingerprint(user) != before


def test_a_changed_helper_is_detected(monkeypatch):
    before = fingerprint(user)
    monkeypatch.setitem(globals(), "helper", lambda x: x)
    assert fingerprint(user) != before


def test_a_changed_attribute_of_a_users_module_is_detected():
    settings = types.ModuleType("settings_of_the_user")
    settings.SIGMA, settings.other = 1.0, 1.0
    scope = {"settings": settings, "__name__": "model_of_the_user"}
    exec("def model():\n    return settings.SIGMA", scope)
    before = fingerprint(scope["model"])
    settings.other = 2.0
    assert fingerprint(scope["model"]) == before
    settings.SIGMA = 2.0
    assert fingerprint(scope["model"]) != before


def test_a_changed_class_is_detected(monkeypatch):
    before = fingerprint(Config())
    monkeypatch.setattr(Config, "__call__", lambda self, x: x)
    assert fingerprint(Config()) != before


def test_contents_changed_in_place_are_detected():
    array, items, config = np.zeros(3), [1], Config()
    function = make((array, items, config))
    seen = {fingerprint(function)}
    array[1] = 1.0
    seen.add(fingerprint(function))
    items.append(2)
    seen.add(fingerprint(function))
    config.scale = 5.0
    seen.add(fingerprint(function))
    assert len(seen) == 4


def test_jax_arrays_compare_by_identity():
    array = jnp.arange(3)
    assert fingerprint(make(array)) == fingerprint(make(array))
    assert fingerprint(array) != fingerprint(jnp.arange(3))


def test_cyclic_references_terminate():
    items = [1]
    items.append(items)
    assert fingerprint(items) == fingerprint(items)

    def recursive(n):
        return recursive(n - 1) if n else 0

    assert fingerprint(recursive) == fingerprint(recursive)
    config = Config()
    config.itself = config
    assert fingerprint(config) == fingerprint(config)


def test_an_empty_cell_is_supported():
    def early():
        return later

    found = fingerprint(early)
    later = 1
    assert fingerprint(early) != found
    assert later == 1


def test_unhashable_and_unknown_objects_are_hashable():
    for value in (
        [{}],
        {"a": {1: []}},
        bytearray(b"x"),
        object(),
        iter([]),
        slice(1),
        memoryview(b""),
    ):
        hash(fingerprint(value))
    one, two = object(), object()
    assert fingerprint(one) == fingerprint(one) != fingerprint(two)


def test_an_object_of_unseen_content_equals_nothing():
    stream, generator = io.BytesIO(b"a"), np.random.default_rng(0)
    for value in (stream, generator, iter([1]), threading.local()):
        assert fingerprint(value) != fingerprint(value)
        seen = functools.partial(fingerprint, opaque_by_identity=True)
        assert seen(value) == seen(value)


def test_tables_compare_by_content():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"y": [1.0, 2.0]})
    before = fingerprint(frame)
    assert fingerprint(frame.copy()) == before
    frame.loc[0, "y"] = 3.0
    assert fingerprint(frame) != before


def test_an_identity_is_not_reused():
    # the object is kept alive, so that no new one can have its id
    prints = {fingerprint(object()) for _ in range(100)}
    assert len(prints) == 100

"""Arrays cut into parts, and parts put together again without an operation.

A model with a thousand scalar sites takes its coordinates from one vector, and their log densities
are evaluated together. What lies in between is not computed: a stack of parts that were cut from
one array, in order, is a piece of that array.
"""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

Shape = tuple[int, ...]

MANY = 8  # small arrays that are worth joining
SMALL = 64  # elements of such an array, at most


class _Origin(NamedTuple):
    """Where a part was cut: from `whole`, a vector, at `start`."""

    part: weakref.ref[Any]
    whole: Array
    start: int


_origins: dict[int, _Origin] = {}  # by id of the part, as long as that lives


def cut(vector: Array, shapes: Sequence[Shape]) -> list[Array]:
    """Consecutive parts of a vector, with these shapes."""
    sizes = [math.prod(shape) for shape in shapes]
    starts = [0, *itertools.accumulate(sizes)][:-1]
    # one split, whose gradient is one concatenation; that of slices is a sum of padded vectors
    parts = jnp.split(vector, starts[1:])
    found = [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]
    if isinstance(vector, jax.core.Tracer):  # elsewhere nothing asks where a part is from
        for part, start in zip(found, starts, strict=True):
            _remember(part, vector, start)
    return found


def _remember(part: Array, whole: Array, start: int) -> None:
    lookup = id(part)
    reference = weakref.ref(part, lambda _: _origins.pop(lookup, None))
    _origins[lookup] = _Origin(reference, whole, start)


def stack(parts: Sequence[Any]) -> Any:
    """Arrays of one shape as one, `(len(parts), *shape)`, see `join`."""
    return join(parts).reshape(len(parts), *jnp.shape(parts[0]))


def join(parts: Sequence[Any]) -> Any:
    """Arrays as one vector; those that were cut in order are a piece of the array they are from."""
    if not any(isinstance(part, jax.core.Tracer) for part in parts):
        return np.concatenate([np.ravel(part) for part in parts])
    pieces = [_piece(run) for run in _runs(parts)]
    return pieces[0] if len(pieces) == 1 else jnp.concatenate(pieces)


def _runs(parts: Sequence[Any]) -> list[list[Any]]:
    """Successive parts that were cut from one array, in order, and other parts alone."""
    runs: list[list[Any]] = []
    whole: Any = None
    stop = -1
    for part in parts:
        origin = _origins.get(id(part))
        if origin is not None and origin.whole is whole and origin.start == stop:
            runs[-1].append(part)
        else:
            runs.append([part])
        whole = None if origin is None else origin.whole
        stop = -1 if origin is None else origin.start + np.size(part)
    return runs


def _piece(run: list[Any]) -> Array:
    origin = _origins.get(id(run[0]))
    if origin is None or len(run) == 1:
        return jnp.ravel(run[0])
    size = sum(map(np.size, run))
    if size == np.size(origin.whole):
        return origin.whole
    return origin.whole[origin.start : origin.start + size]


@jax.tree_util.register_pytree_node_class
class Packed:
    """Arrays by name, of which many small ones are kept in one vector for each type.

    Compiling a program takes milliseconds for each of its inputs and outputs.

    Args:
        vectors: small arrays one after the other, `(*batch, total size)`, by type.
        others: other arrays by name, `(*batch, *shape)`.
        layout: `(name, type, shape)` of all, in order; without type for `others`.
    """

    def __init__(
        self,
        vectors: dict[str, Any],
        others: dict[str, Any],
        layout: tuple[tuple[str, str, Shape], ...],
    ) -> None:
        self.vectors, self.others, self.layout = vectors, others, layout

    def tree_flatten(self) -> tuple[tuple[Any, Any], Any]:
        """As JAX expects it of a pytree."""
        return (self.vectors, self.others), self.layout

    @classmethod
    def tree_unflatten(cls, layout: Any, children: tuple[Any, Any]) -> Packed:
        """As JAX expects it of a pytree."""
        return cls(*children, layout)

    def unpack(self) -> dict[str, Any]:
        """The arrays by name."""
        found: dict[str, Any] = {}
        for dtype, vector in self.vectors.items():
            members = [(name, shape) for name, kind, shape in self.layout if kind == dtype]
            shapes = [shape for _, shape in members]
            parts = cut(vector, shapes) if np.ndim(vector) == 1 else _views(vector, shapes)
            found |= {name: part for (name, _), part in zip(members, parts, strict=True)}
        found |= self.others
        return {name: found[name] for name, _, _ in self.layout}


def pack(values: Mapping[str, Any], batch_ndim: int = 0) -> Packed:
    """Arrays by name with many small ones joined; their first `batch_ndim` axes are common."""
    shapes = {name: tuple(jnp.shape(value)[batch_ndim:]) for name, value in values.items()}
    small = [name for name, shape in shapes.items() if math.prod(shape) <= SMALL]
    small = small if len(small) >= MANY else []
    kinds = {name: str(jnp.result_type(values[name])) for name in small}
    vectors = {}
    for kind in dict.fromkeys(kinds.values()):
        parts = [values[name] for name in small if kinds[name] == kind]
        vectors[kind] = join(parts) if batch_ndim == 0 else _joined(parts, batch_ndim)
    layout = tuple((name, kinds.get(name, ""), shape) for name, shape in shapes.items())
    return Packed(vectors, {n: v for n, v in values.items() if n not in kinds}, layout)


def _joined(parts: list[Any], batch_ndim: int) -> np.ndarray:
    parts = [np.asarray(part) for part in parts]
    return np.concatenate([part.reshape(*part.shape[:batch_ndim], -1) for part in parts], axis=-1)


def _views(array: np.ndarray, shapes: Sequence[Shape]) -> list[np.ndarray]:
    """Parts of the last axis of a host array, with these shapes."""
    ends = np.cumsum([math.prod(shape) for shape in shapes])[:-1]
    parts = np.split(np.asarray(array), ends, axis=-1)
    batch = array.shape[:-1]
    return [part.reshape(*batch, *shape) for part, shape in zip(parts, shapes, strict=True)]

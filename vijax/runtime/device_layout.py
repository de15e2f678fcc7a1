"""Which devices of a mesh hold what: rows, particles, restarts, parameters by row.

Nothing but shardings is said here, of arrays that enter a program and of some inside; where
programs then run and what they exchange is XLA's business.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

PARTICLES = "particles"
RESTARTS = "restarts"


@dataclasses.dataclass(frozen=True)
class DeviceLayout:
    """What lies where on a mesh of devices; without a mesh, where it is.

    The axes of the mesh called `"particles"` and `"restarts"` are for these, all others for rows.

    Attributes:
        mesh: the devices.
        plates: the plates whose rows are spread, those of the data and of parameters by row.
    """

    mesh: Mesh | None = None
    plates: frozenset[str] = frozenset()

    @property
    def rows(self) -> tuple[str, ...]:
        """The axes of the mesh that rows are spread over."""
        names = () if self.mesh is None else self.mesh.axis_names
        return tuple(name for name in names if name not in (PARTICLES, RESTARTS))

    def size(self, *axes: str) -> int:
        """Number of devices along some axes of the mesh, 1 along those that it does not have."""
        lengths = {} if self.mesh is None else self.mesh.shape
        return int(np.prod([lengths.get(axis, 1) for axis in axes], dtype=int))

    def particles(self, tree: Any) -> Any:
        """In a program: draws, a leading axis on every leaf, each on a part of the devices.

        If the mesh does not divide their number, some devices have fewer.
        """
        return self._constrained(tree, PARTICLES)

    def batch(self, tree: Any) -> Any:
        """In a program: the rows of a step, a leading axis, if the mesh divides their number."""
        size = self.size(*self.rows)
        return jax.tree.map(
            lambda leaf: leaf if leaf.shape[0] % size else self._constrained(leaf, *self.rows),
            tree,
        )

    def everywhere(self, tree: Any) -> Any:
        """In a program: all of it on every device, as what the host reads has to be."""
        return tree if self.mesh is None else lax.with_sharding_constraint(tree, self._at())

    def kept(self, tree: Any, axes: Any) -> Any:
        """In a program: restarts, a leading axis, and rows where `placed` would put them."""
        if self.mesh is None:
            return tree
        return lax.with_sharding_constraint(tree, self._shardings(tree, axes))

    def placed(self, tree: Any, axes: Any, stacked: bool = True) -> Any:
        """Arrays on the devices that they are for.

        Args:
            tree: on the host or on devices.
            axes: a tree like it of the `Axes` along which one restart's arrays have rows.
            stacked: whether they have a leading axis of restarts.
        """
        at = None if self.mesh is None else self._shardings(tree, axes, stacked)
        return jax.device_put(tree, at)

    def data(self, value: Array, by_row: bool) -> Array:
        """An array of the data on the devices, `by_row` cut along its first axis."""
        return jax.device_put(value, self._at(self.rows) if by_row else self._at())

    def _at(self, *dims: Any) -> NamedSharding:
        assert self.mesh is not None
        return NamedSharding(self.mesh, PartitionSpec(*dims))

    def _constrained(self, tree: Any, *axes: str) -> Any:
        if self.size(*axes) == 1:
            return tree
        return lax.with_sharding_constraint(tree, self._at(axes))

    def _shardings(self, tree: Any, axes: Any, stacked: bool = True) -> Any:
        size = self.size(RESTARTS) if stacked else 1

        def one(leaf: Any, along: Any) -> NamedSharding:
            dims: list[Any] = [None] * leaf.ndim
            if size > 1 and leaf.shape[0] % size == 0:  # a pilot has a single restart
                dims[0] = RESTARTS
            spread = [axis for plate, axis in along.pairs if plate in self.plates]
            if spread:
                dims[stacked + spread[0]] = self.rows
            return self._at(*dims)

        return jax.tree.map(one, tree, axes)


def mesh_layout(mesh: Any, plates: frozenset[str] = frozenset()) -> DeviceLayout:
    """The devices of a mesh.

    Raises:
        TypeError: it is no `jax.sharding.Mesh`.
    """
    if not isinstance(mesh, Mesh):
        raise TypeError(f"mesh: expected a jax.sharding.Mesh, got {type(mesh).__name__}.")
    # axes of `jax.make_mesh` are explicit: operations would have to say where their results go
    automatic = (AxisType.Auto,) * len(mesh.axis_names)
    return DeviceLayout(Mesh(mesh.devices, mesh.axis_names, axis_types=automatic), plates)


def on_host(tree: Any) -> Any:
    """All of a tree on the host, wherever its shards are; every process has to ask for it."""
    return jax.device_get(fetch_remote_shards(tree))


def fetch_remote_shards(tree: Any) -> Any:
    """The tree, what only other processes hold of it fetched to the host."""
    return jax.tree.map(_fetched, tree)


def from_first_process(value: bool) -> bool:
    """What the first of several processes says: clocks differ, and all must do the same."""
    if jax.process_count() == 1:
        return value
    return bool(multihost_utils.broadcast_one_to_all(np.asarray(value)))


def _fetched(leaf: Any) -> Any:
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
        return leaf
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        words = _fetched(jax.random.key_data(leaf))
        return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf))
    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))

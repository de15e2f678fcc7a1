"""Sharding over a mesh of devices: rows, particles, restarts, per-row parameters.

Only shardings are specified here, of the inputs of programs and of some intermediate arrays; XLA
determines the rest of the partitioning and the communication.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import os
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

PARTICLES = "particles"
RESTARTS = "restarts"
_SPREAD = contextvars.ContextVar(
    "rows of the traced program are spread over devices", default=False
)


def rows_are_spread() -> bool:
    """Whether the program that is traced has its rows on several devices.

    A loop over blocks of rows would then move every block to all devices.
    """
    return _SPREAD.get()


def default_platform() -> str:
    """The platform of arrays and programs: that of `jax.default_device`, or JAX's first choice."""
    device = jax.config.jax_default_device  # type: ignore[attr-defined]  # made by JAX
    if device is None:
        return jax.default_backend()
    return device if isinstance(device, str) else str(device.platform)


@dataclasses.dataclass(frozen=True)
class DeviceLayout:
    """Sharding of arrays over a mesh of devices; without a mesh it leaves them unchanged.

    Particles and restarts are sharded over the mesh axes of these names, rows over all others.

    Attributes:
        mesh: the devices.
        plates: the plates along which data and per-row parameters are sharded.
    """

    mesh: Mesh | None = None
    plates: frozenset[str] = frozenset()

    @property
    def row_mesh_axes(self) -> tuple[str, ...]:
        """The mesh axes that rows are sharded over."""
        names = () if self.mesh is None else self.mesh.axis_names
        return tuple(name for name in names if name not in (PARTICLES, RESTARTS))

    @contextlib.contextmanager
    def tracing(self) -> Iterator[None]:
        """While a program for these devices is traced, see `rows_are_spread`."""
        token = _SPREAD.set(self.mesh is not None)
        try:
            yield
        finally:
            _SPREAD.reset(token)

    def size(self, *axes: str) -> int:
        """Number of devices along mesh axes, 1 along an axis that the mesh does not have."""
        lengths = {} if self.mesh is None else self.mesh.shape
        return int(np.prod([lengths.get(axis, 1) for axis in axes], dtype=int))

    def shard_particles(self, tree: Any) -> Any:
        """In a program: shards the leading axis of every leaf, that of particles.

        If their number is not divisible by the number of devices, some devices have fewer.
        """
        return self._constrained(tree, PARTICLES)

    def shard_batch(self, tree: Any) -> Any:
        """In a program: shards the leading axis, that of the rows of a step, where divisible."""
        axes = self.row_mesh_axes
        size = self.size(*axes)
        return jax.tree.map(
            lambda leaf: leaf if leaf.shape[0] % size else self._constrained(leaf, *axes), tree
        )

    def replicate(self, tree: Any) -> Any:
        """In a program: replicates a tree on every device, as outputs read by the host must be."""
        return tree if self.mesh is None else lax.with_sharding_constraint(tree, self._at())

    def constrain(self, tree: Any, axes: Any) -> Any:
        """In a program: constrains a state, its first axis restarts, to the layout of `put`."""
        if self.mesh is None:
            return tree
        return lax.with_sharding_constraint(tree, self._shardings(tree, axes))

    def put(self, tree: Any, axes: Any, stacked: bool = True) -> Any:
        """Transfers a state to its devices: restarts and rows sharded, all else replicated.

        Args:
            tree: arrays on the host or on devices.
            axes: a tree of the same structure, with the `Axes` of one restart's arrays.
            stacked: whether the arrays have a leading axis of restarts.
        """
        at = None if self.mesh is None else self._shardings(tree, axes, stacked)
        return jax.device_put(tree, at)

    def put_data(self, value: Array, by_row: bool) -> Array:
        """Transfers a data array, sharded along its first axis if `by_row`, else replicated."""
        return jax.device_put(value, self._at(self.row_mesh_axes) if by_row else self._at())

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
            if size > 1 and leaf.shape[0] % size == 0:  # a pilot run has a single restart
                dims[0] = RESTARTS
            row_axes = [axis for plate, axis in along.pairs if plate in self.plates]
            if row_axes:
                dims[stacked + row_axes[0]] = self.row_mesh_axes
            return self._at(*dims)

        return jax.tree.map(one, tree, axes)


def mesh_layout(mesh: Any, plates: frozenset[str] = frozenset()) -> DeviceLayout:
    """The device layout on a mesh.

    Raises:
        TypeError: it is not a `jax.sharding.Mesh`.
    """
    if not isinstance(mesh, Mesh):
        raise TypeError(f"mesh: expected a jax.sharding.Mesh, got {type(mesh).__name__}.")
    # axes of `jax.make_mesh` are explicit: operations would need the sharding of their results
    automatic = (AxisType.Auto,) * len(mesh.axis_names)
    return DeviceLayout(Mesh(mesh.devices, mesh.axis_names, axis_types=automatic), plates)


def on_host(tree: Any) -> Any:
    """A tree as arrays on the host, gathered from all processes; every process must call it."""
    if jax.process_count() > 1:
        tree = fetch_remote_shards(tree)
    return jax.device_get(tree)


def fetch_remote_shards(tree: Any) -> Any:
    """A tree with leaves that are not addressable in this process gathered to the host."""
    return jax.tree.map(_fetched, tree)


def from_first_process(value: bool) -> bool:
    """The value in the first of several processes; their clocks differ, but they must agree."""
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


def available_cpus() -> int:
    """Number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

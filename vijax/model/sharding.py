"""Rows of the data spread over devices."""

from __future__ import annotations

from collections.abc import Mapping

import jax
import numpy as np
from jax import Array
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vijax._contracts import Target
from vijax._errors import ModelError, mismatch


def shard(target: Target, data: Mapping[str, Array], mesh: Mesh) -> dict[str, Array]:
    """The data with rows on all devices of a mesh, everything else on each of them.

    An array is cut along its first axis if that is as long as a plate and divides evenly; where
    programs then run and what they exchange is XLA's business. Answers differ from those of one
    device in rounding only. Of several processes each brings all rows, and keeps its share.

    Args:
        target: whose plates say what rows are.
        data: the arrays, by name.
        mesh: all of its axes are used for rows.

    Raises:
        TypeError: `mesh` is no `jax.sharding.Mesh`.
        ModelError: no array can be cut.
    """
    if not isinstance(mesh, Mesh):
        raise TypeError(f"mesh: expected a jax.sharding.Mesh, got {type(mesh).__name__}.")
    # axes of `jax.make_mesh` are explicit: operations would have to say where their results go
    mesh = Mesh(mesh.devices, mesh.axis_names)
    lengths = {plate.size for plate in target.plates.values()}
    by_row = NamedSharding(mesh, PartitionSpec(mesh.axis_names))
    copied = NamedSharding(mesh, PartitionSpec())
    cut = {
        name
        for name, value in data.items()
        if value.ndim and value.shape[0] in lengths and value.shape[0] % mesh.size == 0
    }
    if not cut:
        shapes = {name: tuple(value.shape) for name, value in data.items()}
        expected = f"an array with a row for each of a plate's, a multiple of {mesh.size} in all"
        remedy = "Drop or pad some rows, or use a mesh of fewer devices."
        raise ModelError(mismatch("mesh", expected, f"{shapes}", remedy))
    return {
        name: jax.device_put(value, by_row if name in cut else copied)
        for name, value in data.items()
    }


def gathered(array: Array | np.ndarray) -> np.ndarray:
    """All of an array on the host, wherever its shards are; every process has to ask for it."""
    if isinstance(array, jax.Array) and not array.is_fully_addressable:
        return np.asarray(multihost_utils.process_allgather(array, tiled=True))
    return np.asarray(array)

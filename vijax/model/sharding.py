"""Sharding of a model's data over the devices of a mesh."""

from __future__ import annotations

from collections.abc import Mapping

from jax import Array
from jax.sharding import Mesh

from vijax.contracts import Target
from vijax.model.tracing.arguments import Arguments
from vijax.runtime.device_layout import DeviceLayout, mesh_layout
from vijax.runtime.errors import ModelError, mismatch


def shard_target(target: Target, arguments: Arguments, mesh: Mesh) -> Target:
    """The target on the devices of a mesh.

    The rows of a plate are sharded if the first axis of some array has its length, and the mesh
    axes for rows divide that length.

    Args:
        target: determines the plates.
        arguments: determine the shapes of the arrays.
        mesh: see `DeviceLayout`.

    Raises:
        TypeError: `mesh` is not a `jax.sharding.Mesh`.
        ModelError: it has an axis for rows, but no plate can be sharded over it.
    """
    layout = mesh_layout(mesh)
    shapes = {name: shape for name, (shape, _) in arguments.avals.items()}
    lengths = {shape[0] for shape in shapes.values() if shape}
    size = layout.size(*layout.row_mesh_axes)
    plates = (plate for plate in target.subsampling.plates.values() if plate.size in lengths)
    found = frozenset(
        plate.name for plate in plates if layout.row_mesh_axes and plate.size % size == 0
    )
    if layout.row_mesh_axes and not found:
        expected = f"an array along a plate, with a number of rows that is a multiple of {size}"
        remedy = (
            "Drop or pad some rows, use a mesh of fewer devices, or shard something else: name "
            "the axis of the mesh 'restarts' or 'particles'."
        )
        raise ModelError(mismatch("mesh", expected, f"{shapes}", remedy))
    return target.on_devices(DeviceLayout(layout.mesh, found))


def shard_data(target: Target, data: Mapping[str, Array]) -> dict[str, Array]:
    """The data, with rows sharded over devices and other arrays replicated.

    An array is sharded along its first axis if that has the length of a sharded plate. Results
    differ from those of one device only by rounding. With several processes, each passes all rows
    and keeps its shard.

    Args:
        target: determines the devices.
        data: the arrays, by name.
    """
    lengths = {target.subsampling.plates[name].size for name in target.devices.plates}
    return {
        name: target.devices.put_data(value, value.ndim > 0 and value.shape[0] in lengths)
        for name, value in data.items()
    }

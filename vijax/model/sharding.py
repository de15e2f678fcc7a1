"""The data of a model on the devices of a mesh."""

from __future__ import annotations

from collections.abc import Mapping

from jax import Array
from jax.sharding import Mesh

from vijax.contracts import Target
from vijax.model.tracing.arguments import Arguments
from vijax.runtime.device_layout import DeviceLayout, mesh_layout
from vijax.runtime.errors import ModelError, mismatch


def spread(target: Target, arguments: Arguments, mesh: Mesh) -> Target:
    """The target on the devices of a mesh.

    The rows of a plate are spread if some array is as long as it along its first axis, and the
    mesh's axes for rows divide that length.

    Args:
        target: whose plates say what rows are.
        arguments: the arrays' shapes.
        mesh: see `DeviceLayout`.

    Raises:
        TypeError: `mesh` is no `jax.sharding.Mesh`.
        ModelError: it has an axis for rows, and there are none that could be spread over it.
    """
    whole = mesh_layout(mesh)
    shapes = {name: shape for name, (shape, _) in arguments.avals.items()}
    lengths = {shape[0] for shape in shapes.values() if shape}
    size = whole.size(*whole.row_mesh_axes)
    plates = (plate for plate in target.subsampling.plates.values() if plate.size in lengths)
    found = frozenset(
        plate.name for plate in plates if whole.row_mesh_axes and plate.size % size == 0
    )
    if whole.row_mesh_axes and not found:
        expected = f"an array with a row for each of a plate's, a multiple of {size} in all"
        remedy = (
            "Drop or pad some rows, use a mesh of fewer devices, or spread something else: call "
            "the mesh's axis 'restarts' or 'particles'."
        )
        raise ModelError(mismatch("mesh", expected, f"{shapes}", remedy))
    return target.on_devices(DeviceLayout(whole.mesh, found))


def shard(target: Target, data: Mapping[str, Array]) -> dict[str, Array]:
    """The data with rows spread over devices, everything else on each of them.

    An array is cut along its first axis if that is as long as a plate whose rows are spread.
    Answers differ from those of one device in rounding only. Of several processes each brings all
    rows, and keeps its share.

    Args:
        target: knows the devices.
        data: the arrays, by name.
    """
    lengths = {target.subsampling.plates[name].size for name in target.devices.plates}
    return {
        name: target.devices.put_data(value, value.ndim > 0 and value.shape[0] in lengths)
        for name, value in data.items()
    }

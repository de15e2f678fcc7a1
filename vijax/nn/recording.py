"""Records the calls of linear layers for curvature by layers, see `vijax.runtime.layer_record`."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.tracers import current_jax_trace

from vijax.nn.interception import intercept, number_of_rows
from vijax.nn.structure import path_name
from vijax.runtime.layer_record import LayerRecord, LayerShape

_RECORDED = (nnx.Linear, nnx.Conv)


def record_layers(module: Any, name: str, record: LayerRecord, args: tuple[Any, ...]) -> None:
    """Lets the dense and convolutional layers of a module note their calls.

    Not those with a mask or groups, whose outputs do not all have the same inputs.

    Args:
        module: is changed.
        name: of the network.
        record: of the calls.
        args: of the module's call; the first array's first axis has the rows.
    """
    rows = number_of_rows(args)
    layers: list[tuple[Any, Any]] = list(nnx.iter_modules(module))
    for path, layer in layers:
        if type(layer) not in _RECORDED:
            continue
        if isinstance(layer, nnx.Conv) and (layer.mask is not None or _grouped(layer)):
            continue
        layer.record_place, layer.record = path_name((name, *path)), record
        layer.record_level, layer.record_rows = current_jax_trace(), rows
        intercept(layer, recorded)


def _grouped(layer: nnx.Conv) -> bool:
    return layer.feature_group_count != 1


def recorded(layer: Any, call: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
    """The output of a layer, offset by the record."""
    record, place = layer.record, layer.record_place
    output = call(inputs)
    if layer.record_level != current_jax_trace():
        record.hidden.add(place)
        return output
    offset = record.offset(place)
    output = output if offset is None else output + offset
    if output.ndim < 2 or output.shape[0] != layer.record_rows:
        record.merged.add(place)
    seen = _as_the_kernel_meets_them(layer, inputs)
    record.add(place, LayerShape(seen.shape[-1], output.shape[-1]), seen, output)
    return output


def _as_the_kernel_meets_them(layer: Any, inputs: Any) -> jax.Array:
    """The inputs of each output, `(..., inputs)`, in the order of the kernel's axes.

    Those of a convolution are its output with the identity as its kernel, whatever its padding and
    strides.
    """
    if isinstance(layer, nnx.Linear):
        return inputs
    kernel = layer.kernel.get_value()
    size = math.prod(kernel.shape[:-1])
    twin = nnx.clone(layer)
    twin.__class__ = nnx.Conv
    twin.kernel.set_value(jnp.eye(size, dtype=kernel.dtype).reshape(*kernel.shape[:-1], size))
    if twin.use_bias:
        twin.bias.set_value(jnp.zeros(size, kernel.dtype))
    return twin(inputs)

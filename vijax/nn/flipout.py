"""Flipout: weights that differ between rows by random signs.

A row's weights are `M + (s r') * D`, with the mean `M`, one deviation `D` drawn for all rows, and
signs `s` of inputs and `r` of outputs, drawn for each row. Where `D` is independent and symmetric,
every row's weights have the distribution of `M + D`, and different rows are uncorrelated: the
gradient's variance falls with the number of rows. It costs a second call of the layer:
`x M + ((x * s) D) * r`. Signs are constant over time and positions, so that one row has one set of
weights. Source: Flipout, Wen, Vicol, Ba, Tran and Grosse, 2018.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx


def flipout(
    layer: Any,
    mean: Callable[[Any], Any],
    deviation: Callable[[Any], Any],
    inputs: Any,
    *args: Any,
) -> Any:
    """The output of a layer with the weights of each row.

    Where the rows are not the first axis of the layer's input (they were merged with other axes),
    all rows have the weights `M + D`.

    Args:
        layer: the layer.
        mean: its call with `M`.
        deviation: its call with `D`.
        inputs: of the layer.
        args: other arguments of the call.
    """
    shapes = sign_shapes(layer, inputs, jax.eval_shape(mean, inputs), *args)
    if shapes is None:
        return mean(inputs) + deviation(inputs)
    one, two = jax.random.split(layer.noise_key.get_value())
    s, r = (signs(k, shape, inputs.dtype) for k, shape in zip((one, two), shapes, strict=True))
    return mean(inputs) + deviation(inputs * s) * r


def signs(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Independent signs, 1 and -1, from one random bit each."""
    count = math.prod(shape)
    data = jnp.ravel(jax.random.key_data(key))[:2]  # XLA's own generator compiles faster
    key = jax.random.wrap_key_data(jnp.concatenate([data, data]), impl="unsafe_rbg")
    words = jax.random.bits(key, (-(-count // 32), 1), jnp.uint32)
    bits = (words >> jnp.arange(32, dtype=jnp.uint32)) & 1
    flat = bits.reshape(-1)[:count].astype(dtype)
    return (2 * flat - 1).reshape(shape)


Shapes = tuple[tuple[int, ...], tuple[int, ...]]


def sign_shapes(layer: Any, inputs: Any, output: Any, *args: Any) -> Shapes | None:
    """Shapes of the signs of inputs and outputs, `None` if rows are not the inputs' first axis."""
    if inputs.ndim < 2 or inputs.shape[0] != layer.noise_rows:
        return None
    axes = _feature_axes(layer, inputs.ndim, output.ndim, *args)
    if axes is None or 0 in axes[0] or 0 in axes[1]:
        return None
    shapes = (
        tuple(n if i == 0 or i in own else 1 for i, n in enumerate(shape))
        for own, shape in zip(axes, (inputs.shape, output.shape), strict=True)
    )
    return tuple(shapes)  # type: ignore[return-value]


def _feature_axes(
    layer: Any, ndim_in: int, ndim_out: int, *args: Any
) -> tuple[set[int], set[int]] | None:
    """The axes of inputs and outputs that the weights have, too."""
    if isinstance(layer, nnx.LinearGeneral):
        if layer.batch_axis:
            return None
        out = len(layer.out_features)
        return {a % ndim_in for a in layer.axis}, {ndim_out - 1 - i for i in range(out)}
    if isinstance(layer, nnx.Einsum):
        return _einsum_axes(args[0] if args and args[0] else layer.einsum_str)
    if isinstance(layer, nnx.Conv | nnx.ConvTranspose) and ndim_in != len(layer.kernel_size) + 2:
        return None
    return {ndim_in - 1}, {ndim_out - 1}


def _einsum_axes(equation: str) -> tuple[set[int], set[int]] | None:
    operands, output = equation.replace(" ", "").split("->")
    inputs, kernel = operands.split(",")
    if "." in equation:
        return None
    return (
        {i for i, a in enumerate(inputs) if a in kernel},
        {i for i, a in enumerate(output) if a in kernel},
    )

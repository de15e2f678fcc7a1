"""Curvature of the weights of linear layers, from their inputs and the gradients of their outputs.

A layer `W' a` with the gradient `g` of the outputs has the gradient `a g'`, and with outcomes `k`
and rows `n` the Gauss-Newton matrix `sum_nk (a_n a_n') (x) (g_nk g_nk')`. Its diagonal is exact.
Its Kronecker-factored approximation is `(sum_n a_n a_n' / N) (x) (sum_nk g_nk g_nk')`, exact where
inputs and gradients are independent. Where a row meets the weights several times (positions of a
convolution), they count as rows of their own. Source: A Kronecker-factored Approximate Fisher
Matrix for Convolution Layers, Grosse and Martens, 2016.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vijax.contracts import Target
from vijax.guides.location_scale.kronecker import Layer
from vijax.runtime.layer_record import LayerRecord, recording
from vijax.solvers.curvature.point import Point

_MOST_ELEMENTS = 32  # of a row's outcome, whose gradients are computed one by one
_NUM_SIGNS = 8  # of random sums of more

Calls = dict[str, list[Array]]  # arrays of the calls of each layer, by place


class KroneckerSums(NamedTuple):
    """Sums over rows.

    Attributes:
        inputs: of `a a'`, `(inputs, inputs)`.
        outputs: of `g g'`, `(outputs, outputs)`.
        rows: of ones.
    """

    inputs: Array
    outputs: Array
    rows: Array


def find_layers(
    target: Target,
    names: tuple[str, ...],
    point: Point,
    by_row: bool = False,
) -> tuple[Layer, ...]:
    """The dense and convolutional layers whose kernels are among the latents in `names`.

    Those called inside a loop or another transformation are left out, and `by_row` those that do
    not have the rows along their first axis.
    """
    record = LayerRecord()

    def run(point: Point) -> Any:
        with recording(record):
            return point.fisher_root(target, {})

    jax.eval_shape(run, point)
    found = []
    for place, shape in record.layers.items():
        kernel, bias = f"{place}/kernel", f"{place}/bias"
        left_out = record.hidden | (record.merged if by_row else set())
        if kernel in names and place not in left_out:
            found.append((kernel, bias if bias in names else "", *shape))
    return tuple(found)


def kronecker_sums(
    target: Target,
    layers: tuple[Layer, ...],
    point: Point,
) -> dict[str, KroneckerSums]:
    """The sums of each layer, by its kernel."""
    inputs, outputs = _calls(target, layers, point)
    found = {}
    initial = {layer[0]: jnp.zeros((layer[3], layer[3])) for layer in layers}

    def add(total: dict[str, Array], gradients: Calls) -> dict[str, Array]:
        for kernel, calls in gradients.items():
            for call in calls:
                rows = call.reshape(-1, call.shape[-1])
                total[kernel] += rows.T @ rows
        return total

    total = outputs(add, initial)
    for layer in layers:
        kernel = layer[0]
        rows = jnp.concatenate([a.reshape(-1, a.shape[-1]) for a in inputs[kernel]])
        count = jnp.asarray(len(rows), rows.dtype)
        found[kernel] = KroneckerSums(rows.T @ rows, total[kernel], count)
    return found


def diagonal_sums(
    target: Target,
    layers: tuple[Layer, ...],
    point: Point,
) -> dict[str, Array]:
    """The diagonal of the Gauss-Newton matrix of each layer, `(inputs, outputs)`, by its kernel."""
    inputs, outputs = _calls(target, layers, point)
    rows = _by_row(inputs)
    initial = {kernel: jnp.zeros(()) for kernel in rows}
    shapes = {layer[0]: (layer[2] + bool(layer[1]), layer[3]) for layer in layers}
    for kernel, a in rows.items():
        once = a.shape[1] == 1
        initial[kernel] = jnp.zeros((len(a), shapes[kernel][1]) if once else shapes[kernel])

    def add(total: dict[str, Array], gradients: Calls) -> dict[str, Array]:
        for kernel, g in _by_row(gradients).items():
            if g.shape[1] == 1:
                total[kernel] += g[:, 0] ** 2
            else:
                total[kernel] += _sum_squares(rows[kernel], g)
        return total

    total = outputs(add, initial)
    return {
        kernel: (a[:, 0] ** 2).T @ total[kernel] if a.shape[1] == 1 else total[kernel]
        for kernel, a in rows.items()
    }


def _sum_squares(inputs: Array, gradients: Array) -> Array:
    """Sum over rows of the squared gradients of the weights, which are sums over positions."""

    def add(total: Array, row: tuple[Array, Array]) -> tuple[Array, None]:
        return total + (row[0].T @ row[1]) ** 2, None

    shape = inputs.shape[-1], gradients.shape[-1]
    return jax.lax.scan(add, jnp.zeros(shape), (inputs, gradients))[0]


def _by_row(calls: Calls) -> dict[str, Array]:
    """The calls of each layer as one array `(rows, positions, features)`."""
    return {
        kernel: jnp.concatenate([a.reshape(len(a), -1, a.shape[-1]) for a in arrays], axis=1)
        for kernel, arrays in calls.items()
    }


def _calls(
    target: Target,
    layers: tuple[Layer, ...],
    point: Point,
) -> tuple[Calls, Callable[[Any, Any], Any]]:
    """Inputs of the calls of each layer, by kernel, and a fold over gradients of their outputs.

    The fold adds up a function of the gradients for every outcome, and for every element of it.
    """
    kernels = {layer[0].removesuffix("/kernel"): layer for layer in layers}

    def run(offsets: Any) -> tuple[dict[str, Array], tuple[Calls, Calls]]:
        record = LayerRecord(offsets)
        with recording(record):
            values = point.fisher_root(target, {})
        inputs = {place: record.inputs[place] for place in kernels}
        return values, (inputs, {place: record.outputs[place] for place in kernels})

    _, (_, shapes) = jax.eval_shape(lambda: run(None))
    offsets = jax.tree.map(lambda one: jnp.zeros(one.shape, one.dtype), shapes)
    values, pull, (inputs, _) = jax.vjp(run, offsets, has_aux=True)
    seen = {
        layer[0]: [_with_ones(a) if layer[1] else a for a in inputs[place]]
        for place, layer in kernels.items()
    }
    rows = {one.shape[0] for calls in shapes.values() for one in calls}

    def fold(add: Any, total: Any) -> Any:
        for name in values:
            number, of = _selections(values[name].shape, rows, point.key)

            def step(total: Any, i: Array, name: str = name, of: Any = of) -> tuple[Any, None]:
                zeros = jax.tree.map(jnp.zeros_like, values)
                (gradients,) = pull({**zeros, name: of(i).astype(values[name].dtype)})
                by_kernel = {layer[0]: gradients[place] for place, layer in kernels.items()}
                return add(dict(total), by_kernel), None

            total, _ = jax.lax.scan(step, total, jnp.arange(number))
        return total

    return seen, fold


def _with_ones(inputs: Array) -> Array:
    """The inputs of a layer with a bias, whose input is one."""
    return jnp.concatenate([inputs, jnp.ones((*inputs.shape[:-1], 1), inputs.dtype)], axis=-1)


def _selections(
    shape: tuple[int, ...], rows: set[int], key: Array
) -> tuple[int, Callable[[Array], Array]]:
    """Vectors that select one outcome and one element of every row, and their number.

    Elements of many are summed with random signs, so that products of two of them vanish on
    average.

    Args:
        shape: `(num, *elements)` of the root of the information.
        rows: possible numbers of rows.
        key: randomness.
    """
    num, *elements = shape
    axis = next((i for i, size in enumerate(elements) if size in rows), None)
    others = [1 if i == axis else size for i, size in enumerate(elements)]
    size = math.prod(others)
    each = size if size <= _MOST_ELEMENTS else _NUM_SIGNS
    signs = jax.random.rademacher(key, (each, size), float) / each**0.5
    chosen = jnp.eye(size) if each == size else signs

    def of(i: Array) -> Array:
        outcome = (jnp.arange(num) == i // each).reshape(-1, *[1] * len(elements))
        return jnp.broadcast_to(outcome * chosen[i % each].reshape(1, *others), shape)

    return num * each, of

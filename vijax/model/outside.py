"""Log densities with gradients that are computed outside of JAX: NumPy functions, Stan programs.

JAX calls back to Python for the log density and its gradient, all points of a batch in one call.
Products of the Hessian `H` with vectors `v`, which Newton steps and Laplace approximations need,
are central differences of the gradient `g` in double precision, with Richardson's extrapolation,

    D(h) = (g(x + h v) - g(x - h v)) / (2 h),    H v = (4 D(h / 2) - D(h)) / 3,

whose error is below `|D(h / 2) - D(h)|` if `g` is smooth; `h` is reduced until it is small. Source:
The approximate arithmetical solution by finite differences, Richardson, 1911.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.runtime.errors import mismatch

HostFunction = Callable[[np.ndarray], tuple[float, np.ndarray]]  # (d,) -> log density, gradient

_STEP = 1e-3  # first step, relative to the size of the point
_SHORTEST = 1e-9
_ACCURATE, _USABLE = 1e-6, 0.05  # relative error of a product that is enough; the largest


def outside_log_density(
    fn: Callable[..., Any],
    values: dict[str, Array] | Array,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Array:
    """The log density of `fn(values, *args, **kwargs) -> (log density, gradient)` for JAX.

    Args:
        fn: of NumPy arrays; the gradient has the structure of `values`.
        values: arrays by name, or one array.
        args: its other positional arguments; arrays among them are operands of the callback.
        kwargs: its keyword arguments.
    """
    by_name = isinstance(values, dict)
    named = values if isinstance(values, dict) else {"x": values}
    layout = _Layout({name: jnp.shape(value) for name, value in named.items()}, by_name)
    x = jnp.concatenate([jnp.ravel(value) for value in named.values()])
    leaves, structure = jax.tree.flatten((args, kwargs))
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, (jax.Array, np.ndarray))]
    arrays = [leaves[i] for i in places]
    static = [None if i in places else leaf for i, leaf in enumerate(leaves)]

    def with_data(arrays: Sequence[np.ndarray]) -> HostFunction:
        filled = list(static)
        for i, array in zip(places, arrays, strict=True):
            filled[i] = array
        args, kwargs = jax.tree.unflatten(structure, filled)
        return lambda point: layout.evaluate(fn, point, args, kwargs)

    return _differentiable(with_data, [jnp.ndim(one) for one in arrays])(x, *arrays)


class _Layout:
    """Where each value is in a vector of all.

    Args:
        shapes: by name.
        by_name: whether a function has values by name, or one array.
    """

    def __init__(self, shapes: dict[str, tuple[int, ...]], by_name: bool) -> None:
        self.by_name = by_name
        self.parts, start = [], 0
        for name, shape in shapes.items():
            stop = start + math.prod(shape)
            self.parts.append((name, slice(start, stop), shape))
            start = stop

    def evaluate(
        self, fn: Callable[..., Any], point: np.ndarray, args: Any, kwargs: Any
    ) -> tuple[float, np.ndarray]:
        """Log density and gradient at a vector; `-inf` where they cannot be computed."""
        values: Any = {name: point[part].reshape(shape) for name, part, shape in self.parts}
        try:
            with np.errstate(all="ignore"):
                found = fn(values if self.by_name else values["x"], *args, **kwargs)
        except (ArithmeticError, np.linalg.LinAlgError):
            return -np.inf, np.full(point.shape, np.nan)
        if not (isinstance(found, tuple) and len(found) == 2):
            got = type(found).__name__
            raise ValueError(mismatch("log density", "(log density, gradient)", got))
        gradients = found[1] if self.by_name else {"x": found[1]}
        flat = np.empty(point.shape)
        for name, part, shape in self.parts:
            gradient = np.asarray(gradients[name], float)
            if gradient.shape != shape:
                what = f"gradient of {name!r}"
                raise ValueError(mismatch(what, f"shape {shape}", gradient.shape))
            flat[part] = gradient.ravel()
        return float(found[0]), flat


def _differentiable(
    with_data: Callable[[Sequence[np.ndarray]], HostFunction], ndims: list[int]
) -> Callable[..., Array]:
    """A function of the host as a JAX function with first and second derivatives.

    Args:
        with_data: the function at some data.
        ndims: number of dimensions of each array of the data.
    """

    def call(host: Callable[..., Any], shapes: Any, *operands: Array) -> Any:
        return jax.pure_callback(host, shapes, *operands, vmap_method="expand_dims")

    def shape(x: Array) -> tuple[Any, Any]:
        return jax.ShapeDtypeStruct((), x.dtype), jax.ShapeDtypeStruct(x.shape, x.dtype)

    def host(x: np.ndarray, *arrays: np.ndarray) -> Any:
        batch, points = _points([x], arrays, ndims, with_data)
        found = [function(point) for function, point in points]
        values = np.array([value for value, _ in found]).reshape(batch).astype(x.dtype)
        gradients = np.array([gradient for _, gradient in found]).reshape((*batch, x.shape[-1]))
        return values, gradients.astype(x.dtype)

    def host_product(x: np.ndarray, v: np.ndarray, *arrays: np.ndarray) -> np.ndarray:
        batch, points = _points([x, v], arrays, ndims, with_data)
        found = [_product(function, point, vector) for function, point, vector in points]
        return np.array(found).reshape((*batch, x.shape[-1])).astype(x.dtype)

    @jax.custom_jvp
    def both(x: Array, *arrays: Array) -> tuple[Array, Array]:
        return call(host, shape(x), x, *arrays)

    @both.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        (x, *arrays), v = primals, tangents[0]
        log_density, gradient = both(x, *arrays)
        product = call(host_product, shape(x)[1], x, v, *arrays)
        return (log_density, gradient), (jnp.dot(gradient, v), product)

    @jax.custom_jvp
    def log_density(x: Array, *arrays: Array) -> Array:
        return both(x, *arrays)[0]

    @log_density.defjvp
    def _(primals: Any, tangents: Any) -> Any:
        log_density, gradient = both(*primals)
        return log_density, jnp.dot(gradient, tangents[0])

    return log_density


def _points(
    vectors: list[np.ndarray],
    arrays: Sequence[np.ndarray],
    ndims: list[int],
    with_data: Callable[[Sequence[np.ndarray]], HostFunction],
) -> tuple[tuple[int, ...], list[tuple[Any, ...]]]:
    """The shape of a batch, and the function and vectors of each of its points.

    Dimensions that `vmap` added come first; those along which an operand is constant have size one.
    """
    arrays = [np.asarray(one) for one in arrays]
    leads = [one.shape[: one.ndim - n] for one, n in zip(arrays, ndims, strict=True)]
    shapes = [one.shape[one.ndim - n :] for one, n in zip(arrays, ndims, strict=True)]
    of_data = np.broadcast_shapes((), *leads)
    batch = np.broadcast_shapes(of_data, *(one.shape[:-1] for one in vectors))
    flat = [
        np.broadcast_to(one, (*batch, one.shape[-1])).reshape(-1, one.shape[-1]).astype(float)
        for one in map(np.asarray, vectors)
    ]
    if math.prod(of_data) == 1:
        data = [one.reshape(own) for one, own in zip(arrays, shapes, strict=True)]
        function = with_data(data)
        return batch, [(function, *point) for point in zip(*flat, strict=True)]
    full = [
        np.broadcast_to(one.reshape((*lead, *own)), (*batch, *own))
        for one, lead, own in zip(arrays, _aligned(leads, len(batch)), shapes, strict=True)
    ]
    functions = [with_data([one[index] for one in full]) for index in np.ndindex(batch)]
    return batch, list(zip(functions, *flat, strict=True))


def _aligned(leads: list[tuple[int, ...]], ndim: int) -> list[tuple[int, ...]]:
    """Shapes with dimensions of size one in front, so that broadcasting aligns them."""
    return [(1,) * (ndim - len(lead)) + lead for lead in leads]


def _product(function: HostFunction, x: np.ndarray, v: np.ndarray) -> np.ndarray:
    """The Hessian times `v`; NaN where no step gives the product with a small error."""
    size = np.abs(v).max(initial=0.0)
    if size == 0 or not np.isfinite(size):
        return 0 * v
    best, least = np.full_like(x, np.nan), np.inf
    step = _STEP
    while step > _SHORTEST and not least < _ACCURATE:
        h = step * max(1.0, np.abs(x).max()) / size
        wide, narrow = (
            (function(x + s * v)[1] - function(x - s * v)[1]) / (2 * s) for s in (h, h / 2)
        )
        error = np.abs(narrow - wide).max() / max(np.abs(narrow).max(), 1e-30)
        if error < least:
            best, least = (4 * narrow - wide) / 3, error
        step /= 10
    return best if least < _USABLE else np.full_like(x, np.nan)

"""Operations on numbers that are known while the model is read, in NumPy.

Indices, masks and exponents of a model are mostly of this kind. XLA would compile a program for
each of these operations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from vijax.model.conjugacy.values import is_number

Params = Mapping[str, Any]


def evaluate(equation: Any, arrays: Sequence[Any]) -> Any:
    """The value of an operation with one output, elementwise in its operands.

    NumPy evaluates it if all operands are numbers, and the traced program otherwise.
    """
    function = _FUNCTIONS.get(equation.primitive.name)
    if function is not None and all(map(is_number, arrays)):
        operands = [np.asarray(array) for array in arrays]
        with np.errstate(all="ignore"):
            found = function(equation.params, *operands)
        floats = [x.dtype for x in operands if x.dtype.kind == "f"]
        if floats and found.dtype.kind == "f":
            return found.astype(np.result_type(*floats), copy=False)
        return found
    return equation.primitive.bind(*map(jnp.asarray, arrays), **equation.params)


def _special(name: str) -> Callable[..., Any]:
    def function(params: Params, *arrays: np.ndarray) -> Any:
        from scipy import special

        return np.asarray(getattr(special, name)(*arrays))

    return function


def _ufunc(function: Any) -> Callable[..., Any]:
    return lambda params, *arrays: np.asarray(function(*arrays))


def _divide(params: Params, one: np.ndarray, two: np.ndarray) -> np.ndarray:
    if one.dtype.kind == "f":
        return np.asarray(one / two)
    quotient = np.floor_divide(abs(one), np.maximum(abs(two), 1))  # towards zero
    return np.asarray((np.sign(one) * np.sign(two) * quotient).astype(one.dtype))


def _convert(params: Params, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind == "f" and jnp.issubdtype(params["new_dtype"], jnp.floating):
        return array  # as precise as it is
    return array.astype(params["new_dtype"])


def _select(params: Params, which: np.ndarray, *cases: np.ndarray) -> np.ndarray:
    shape = np.broadcast_shapes(which.shape, *(case.shape for case in cases))
    if which.ndim == 0:
        return np.broadcast_to(cases[int(which)], shape)
    return np.choose(which.astype(int), [np.broadcast_to(case, shape) for case in cases])


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "add": _ufunc(np.add),
    "add_any": _ufunc(np.add),
    "sub": _ufunc(np.subtract),
    "mul": _ufunc(np.multiply),
    "neg": _ufunc(np.negative),
    "div": _divide,
    "rem": _ufunc(np.fmod),
    "max": _ufunc(np.maximum),
    "min": _ufunc(np.minimum),
    "abs": _ufunc(np.abs),
    "sign": _ufunc(np.sign),
    "floor": _ufunc(np.floor),
    "ceil": _ufunc(np.ceil),
    "lt": _ufunc(np.less),
    "le": _ufunc(np.less_equal),
    "gt": _ufunc(np.greater),
    "ge": _ufunc(np.greater_equal),
    "eq": _ufunc(np.equal),
    "ne": _ufunc(np.not_equal),
    "and": _ufunc(np.bitwise_and),
    "or": _ufunc(np.bitwise_or),
    "xor": _ufunc(np.bitwise_xor),
    "not": _ufunc(np.invert),
    "is_finite": _ufunc(np.isfinite),
    "square": _ufunc(np.square),
    "sqrt": _ufunc(np.sqrt),
    "rsqrt": _ufunc(lambda x: 1 / np.sqrt(x)),
    "pow": _ufunc(np.power),
    "integer_pow": lambda params, x: np.asarray(np.power(x, params["y"], dtype=x.dtype)),
    "exp": _ufunc(np.exp),
    "expm1": _ufunc(np.expm1),
    "log": _ufunc(np.log),
    "log1p": _ufunc(np.log1p),
    "tanh": _ufunc(np.tanh),
    "logistic": _special("expit"),
    "erf": _special("erf"),
    "erfc": _special("erfc"),
    "clamp": lambda params, low, x, high: np.asarray(np.clip(x, low, high)),
    "select_n": _select,
    "convert_element_type": _convert,
    "stop_gradient": _ufunc(np.asarray),
    "copy": _ufunc(np.asarray),
}

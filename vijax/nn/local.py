"""Local reparameterization: the output of a linear layer is drawn instead of its weights.

With independent normal weights of means `M` and variances `V`, the outputs of a row `x` are normal
with means `x M` and variances `x^2 V`, independent between rows if every row has weights of its
own. Where a row meets the weights more than once (positions, steps in time, two calls), fresh
noise each time would not be one draw of the weights, and the layer is refused. Source: Variational
Dropout and the Local Reparameterization Trick, Kingma, Salimans and Welling, 2015.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.tracers import current_jax_trace

from vijax.runtime.errors import ModelError


def local(
    layer: Any, mean: Callable[[Any], Any], variance: Callable[[Any], Any], inputs: Any, *_: Any
) -> Any:
    """A draw of the layer's outputs.

    Args:
        layer: the layer.
        mean: its call with the means of its weights.
        variance: its call with their variances.
        inputs: of the layer, `(rows, features)`.

    Raises:
        ModelError: a row meets the weights more than once.
    """
    _check(layer, inputs)
    layer.noise_rows = None  # for a second call
    loc, square = mean(inputs), variance(inputs**2)
    scale = jnp.sqrt(jnp.maximum(square, jnp.finfo(square.dtype).tiny))
    return loc + scale * jax.random.normal(layer.noise_key.get_value(), loc.shape, loc.dtype)


def _check(layer: Any, inputs: Any) -> None:
    why, once = "", issubclass(type(layer), nnx.Linear | nnx.LinearGeneral)
    if not once:
        why = f"{type(layer).__mro__[1].__name__} uses its weights at many positions"
    elif layer.noise_level != current_jax_trace():
        why = "it is called inside a loop or another transformation"
    elif layer.noise_rows is None:
        why = "it is called twice"
    elif inputs.ndim != 2 or inputs.shape[0] != layer.noise_rows:
        why = f"its input has shape {inputs.shape}, not {layer.noise_rows} rows of features"
    if why:
        raise ModelError(
            f"network layer {layer.noise_place!r}: noise='local' needs every row to meet the "
            f"weights once, but {why}. Use guide=MeanField(noise='flipout')."
        )

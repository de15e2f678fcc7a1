"""Weights that are drawn for each row independently: flipout and local reparameterization.

The layers of a module that have such weights get a class of their own, a subclass whose call
computes the output with the row's own weights; everything around them stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx.tracers import current_jax_trace

from vijax.nn.flipout import flipout
from vijax.nn.interception import LINEAR, intercept, number_of_rows
from vijax.nn.local import local
from vijax.nn.structure import Path, path_name


class Perturbation(NamedTuple):
    """A weight with a normal distribution.

    Attributes:
        kind: `"shared"`, `"flipout"` or `"local"`.
        mean: of the distribution.
        sd: of the distribution.
        value: drawn from it.
    """

    kind: str
    mean: Any
    sd: Any
    value: Any


class RowKey(nnx.Variable):
    """The key of a layer's random signs or normals."""


def perturb(
    module: Any,
    name: str,
    perturbations: Mapping[Path, Perturbation],
    key: jax.Array,
    args: tuple[Any, ...],
) -> None:
    """Lets layers compute with weights of each row's own.

    A layer that is linear in its weights is replaced; other weights keep one value for all rows,
    which is valid, too.

    Args:
        module: is changed.
        name: of the network, for errors.
        perturbations: by path of the weight.
        key: randomness.
        args: of the module's call; the first array's first axis has the rows.
    """
    rows = number_of_rows(args)
    layers: list[tuple[Path, Any]] = list(nnx.iter_modules(module))
    for i, (path, layer) in enumerate(layers):
        own = {p[-1]: v for p, v in perturbations.items() if p[:-1] == path}
        if type(layer) not in LINEAR or "kernel" not in own:
            continue
        kind = own["kernel"].kind
        twin = nnx.clone(layer)
        for which in ("kernel", "bias"):
            variable = getattr(layer, which, None)
            if variable is None:
                continue
            mean, second = _mean_and_noise(own.get(which), variable.get_value(), kind)
            variable.set_value(mean)
            getattr(twin, which).set_value(second)
        place = path_name((name, *path))
        layer.noise_twin, layer.noise_key = twin, RowKey(jax.random.fold_in(key, i))
        layer.noise_rows, layer.noise_place = rows, place
        layer.noise_level = current_jax_trace() if kind == "local" else None
        intercept(layer, {"flipout": _flipout, "local": _local}[kind])


def _mean_and_noise(own: Perturbation | None, value: Any, kind: str) -> tuple[Any, Any]:
    """The mean of a weight, and its deviation from it (flipout) or its variance (local)."""
    if own is None or own.kind != kind:
        return value, jnp.zeros_like(value)
    return own.mean, own.value - own.mean if kind == "flipout" else own.sd**2


def _flipout(layer: Any, call: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
    return flipout(layer, call, lambda x: layer.noise_twin(x, *args, **kwargs), inputs, *args)


def _local(layer: Any, call: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
    return local(layer, call, lambda x: layer.noise_twin(x, *args, **kwargs), inputs, *args)

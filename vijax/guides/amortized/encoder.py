"""The encoder of amortized guides: a network applied to the rows of a plate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from vijax.contracts import Batch, PyTree, Space
from vijax.guides.structured.plate_levels import Level, levels
from vijax.runtime import networks as _networks
from vijax.runtime.errors import GuideError, mismatch

Encoder = _networks.ModuleFactory
Inputs = str | tuple[str, ...]

_DROPOUT = 0xD209  # seed of masks


def check_encoder(encoder: Any) -> None:
    """Raises if the encoder is not callable, for example a module instead of its class.

    Raises:
        GuideError: naming the option.
    """
    if not callable(encoder):
        raise GuideError(
            mismatch(
                "encoder", "a function of nnx.Rngs that returns a module", type(encoder).__name__
            )
        )


def init_encoder(encoder: Encoder, key: Array) -> PyTree:
    """Random initial parameters, by the module's initializers.

    Raises:
        GuideError: the module has state other than weights, running statistics and dropout.
    """
    return _networks.init(encoder, key, "encoder", stateful=True)


def encode(
    encoder: Encoder, params: PyTree, inputs: Inputs, level: Level, width: int, batch: Batch
) -> Array:
    """The network's outputs for every row in use, `(rows, width)`.

    In a step of a fit dropout is on, with one mask for all draws, and `nnx.BatchNorm` has the
    statistics of the rows in use; elsewhere its running statistics.

    Raises:
        GuideError: an input is not an array with these rows, or the outputs have another shape.
    """
    rows = input_rows(inputs, level, batch)
    return encode_rows(encoder, params, rows, level, width, training_key(batch))


def encode_rows(
    encoder: Encoder,
    params: PyTree,
    rows: Sequence[PyTree],
    level: Level,
    width: int,
    training: Array | None,
) -> Array:
    """The network's outputs given its arguments, `(rows, width)`.

    Raises:
        GuideError: they have another shape.
    """
    outputs = _networks.apply(encoder, params, *rows, training=training)
    expected = (level.rows, width)
    if jnp.shape(outputs) != expected:
        what = f"encoder's outputs for sites {[site.name for site in level.sites]}"
        raise GuideError(mismatch(what, f"shape {expected}", f"{jnp.shape(outputs)}"))
    return outputs


def has_statistics(encoder: Encoder) -> bool:
    """Whether the network has running statistics of batches."""
    return _networks.has_statistics(encoder)


def updated_statistics(
    encoder: Encoder, params: PyTree, before: PyTree, inputs: Inputs, level: Level, batch: Batch
) -> PyTree:
    """The parameters after a step, running statistics updated by the rows of the step.

    Args:
        encoder: the network.
        params: its parameters after the step.
        before: those before it, with which the rows were encoded.
        inputs: as for `encode`.
        level: the rows.
        batch: the data of the step.
    """
    key = training_key(batch)
    if not isinstance(before, _networks.WithStatistics) or key is None:
        return params
    rows = input_rows(inputs, level, batch)
    return params._replace(
        statistics=_networks.with_statistics(encoder, before, *rows, training=key)
    )


def training_key(batch: Batch) -> Array | None:
    """The key of dropout in a step of a fit; `None` elsewhere."""
    if batch.step is None:
        return None
    return jax.random.fold_in(jax.random.key(_DROPOUT), batch.step)


def single_plate_level(space: Space, guide: str) -> Level:
    """The level of a space whose sites are all in the same single plate.

    Raises:
        GuideError: naming a site that is not.
    """
    found = levels(space)
    if len(found) == 1 and len(found[0].plates) == 1:
        return found[0]
    odd = next((s for s in space.sites if len(s.plates) != 1), space.sites[-1])
    raise GuideError(
        f"guide {guide}: expected sites inside one plate, got {odd.name!r} in plates "
        f"{[plate.name for plate in odd.plates]}. Assign it to the local latents of one plate, and "
        f"another guide to the other sites: guide={{'z': {guide}(...), ...: 'meanfield'}}."
    )


def input_rows(inputs: Inputs, level: Level, batch: Batch) -> list[Array]:
    """The inputs' rows in use: fetched rows as they are, other arrays indexed by the minibatch."""
    plate, found = level.plates[0], []
    arrays = batch.data | batch.fetched
    for name in (inputs,) if isinstance(inputs, str) else inputs:
        if name not in arrays:
            raise GuideError(mismatch("inputs", f"array arguments among {[*arrays]}", repr(name)))
        rows = arrays[name]
        fetched = name in batch.fetched and jnp.shape(rows)[:1] == (level.rows,)
        subsample = plate in batch.index and not fetched
        num = level.sites[0].plates[0].size if subsample else level.rows
        if jnp.shape(rows)[:1] != (num,):
            what = f"input {name!r}"
            expected = f"an array with one row for each of the {num} rows of plate {plate!r}"
            raise GuideError(mismatch(what, expected, f"shape {jnp.shape(rows)}"))
        # mode="clip" skips bounds checks: indices come from permutations
        found.append(jnp.take(rows, batch.index[plate], 0, mode="clip") if subsample else rows)
    return found

"""A network that sees the rows of a plate: its weights, the rows it is given, what it says."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jax import Array

from vijax.contracts import Batch, PyTree, Space
from vijax.guides.structured.levels import Level, levels
from vijax.runtime import networks as _networks
from vijax.runtime.errors import GuideError, mismatch

Encoder = _networks.ModuleFactory
Inputs = str | tuple[str, ...]


def check_encoder(encoder: Any) -> None:
    """Refuses a module in the place of what makes one.

    Raises:
        GuideError: naming the option.
    """
    if not callable(encoder):
        raise GuideError(
            mismatch(
                "encoder", "a function of nnx.Rngs that makes a module", type(encoder).__name__
            )
        )


def start(encoder: Encoder, key: Array) -> PyTree:
    """Weights at random, as the module makes them.

    Raises:
        GuideError: the module has state of other kinds.
    """
    return _networks.init(encoder, key, "encoder")


def encoded(
    encoder: Encoder, weights: PyTree, inputs: Inputs, level: Level, width: int, batch: Batch
) -> Array:
    """What the network says of every row in use, `(rows, width)`.

    Raises:
        GuideError: an input is not an array with these rows, or the outputs have another shape.
    """
    outputs = _networks.apply(encoder, weights, *_rows(inputs, level, batch))
    expected = (level.rows, width)
    if jnp.shape(outputs) != expected:
        what = f"encoder's outputs for sites {[site.name for site in level.sites]}"
        raise GuideError(mismatch(what, f"shape {expected}", f"{jnp.shape(outputs)}"))
    return outputs


def one_level(space: Space, guide: str) -> Level:
    """The rows of the one plate that all sites live in.

    Raises:
        GuideError: naming a site that lives elsewhere.
    """
    found = levels(space)
    if len(found) == 1 and len(found[0].plates) == 1:
        return found[0]
    odd = next((s for s in space.sites if len(s.plates) != 1), space.sites[-1])
    raise GuideError(
        f"guide {guide}: expected sites inside one plate, got {odd.name!r} in plates "
        f"{[plate.name for plate in odd.plates]}. Name those with a latent for every row, and "
        f"another guide for the rest: guide={{'z': {guide}(...), ...: 'meanfield'}}."
    )


def _rows(inputs: Inputs, level: Level, batch: Batch) -> list[Array]:
    """The inputs' rows in use: those that are there already, or cut out of all of them."""
    plate, found = level.plates[0], []
    known = batch.data | batch.fetched
    for name in (inputs,) if isinstance(inputs, str) else inputs:
        if name not in known:
            raise GuideError(mismatch("inputs", f"array arguments among {[*known]}", repr(name)))
        rows = known[name]
        there = name in batch.fetched and jnp.shape(rows)[:1] == (level.rows,)
        cut = plate in batch.index and not there
        num = level.sites[0].plates[0].size if cut else level.rows
        if jnp.shape(rows)[:1] != (num,):
            what = f"input {name!r}"
            expected = f"an array with a row for each of the {num} of plate {plate!r}"
            raise GuideError(mismatch(what, expected, f"shape {jnp.shape(rows)}"))
        # rows come from permutations: no bounds to check
        found.append(jnp.take(rows, batch.index[plate], 0, mode="clip") if cut else rows)
    return found

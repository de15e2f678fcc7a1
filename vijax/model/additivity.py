"""Whether a model may be fitted on batches: no row's likelihood may depend on the other rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax._contracts import Batch, Position, PyTree, RowSource, Target
from vijax._errors import ModelError
from vijax._keys import as_key
from vijax.model.minibatch import fetch

_BLOCKS = 3
_SPREAD = 0.3  # of the unconstrained values at which densities are compared
_ROWS = 32  # of a block; more would find the same mistakes
_TOLERANCE = 1e-3  # relative; rounding is a hundredth of it, and what it misses is as small


def check_batches(
    target: Target,
    batch: Batch,
    model: Mapping[str, PyTree],
    mutable: Mapping[str, PyTree],
    sources: Mapping[str, RowSource] | None = None,
) -> None:
    """Compares the log density of every site on a set of rows with that on parts of the set.

    A model that standardises its arrays, divides by their length, or observes rows outside the
    plate that is cut, has a likelihood on batches whose mean is not that of all rows, and ends in
    a plausible, wrong posterior. A model with randomness of its own cannot be compared.

    Raises:
        ModelError: naming the site whose log density depends on which rows share its batch.
    """
    sources = sources or {}
    sizes = {name: target.plates[name].size for name in target.subsampled}
    used = {name: min(_ROWS, rows) for name, rows in target.subsampled.items()}
    rng = np.random.default_rng(0)
    ordered = {target.cut[name][0][0] for name, source in sources.items() if source.sequential}
    # a stream would have to be read to its end
    within = sizes | {name: min(sizes[name], _BLOCKS * _ROWS) for name in ordered}
    order = {name: rng.permutation(size).astype(np.int32) for name, size in within.items()}
    for name, size in sizes.items():
        length = min(used[name], max(1, size // _BLOCKS))
        count = min(_BLOCKS, size // length)
        rows = used | {name: count * length}
        index: dict[str, Any] = {other: order[other][:number] for other, number in rows.items()}
        z = {
            site.name: (_SPREAD * rng.standard_normal(site.z_shape)).astype(np.float32)
            for site in target.space.cut(rows).sites
        }
        program = target.program(_differences, name, count)
        fetched = fetch(sources, target.cut, index)
        state = (z, batch._replace(index=index, fetched=fetched), model, mutable)
        found = jax.device_get(program(as_key(0), *state))
        worst = [site for site, difference in found.items() if not difference <= _TOLERANCE]
        if worst and not _random(program, state, found):
            raise ModelError(_message(target, name, worst[0]))


def _differences(
    target: Target,
    plate: str,
    count: int,
    key: Array,
    z: Position,
    batch: Batch,
    model: Any,
    mutable: Any,
) -> dict[str, Array]:
    """By site, the largest relative difference between its log density on all rows and on parts."""
    batch = batch._replace(key=key)
    together = target.site_log_probs(z, batch, model, mutable)
    length = len(batch.index[plate]) // count
    worst: dict[str, Array] = {}
    for part in range(count):
        rows = slice(part * length, (part + 1) * length)
        some = {
            site.name: _cut(z[site.name], dict(site.axes([plate]).pairs).get(plate), rows)
            for site in target.space.sites
        }
        apart = target.site_log_probs(some, _part(target, batch, plate, rows), model, mutable)
        for site, values in together.items():
            names = target.dims[site]
            values = _cut(values, names.index(plate) if plate in names else None, rows)
            difference = _difference(values, apart[site])
            worst[site] = jnp.maximum(worst.get(site, 0.0), difference)
    return worst


def _part(target: Target, batch: Batch, plate: str, rows: slice) -> Batch:
    """A batch with some of its rows along one plate."""
    fetched = {
        name: values[rows] if target.cut[name][0][0] == plate else values
        for name, values in batch.fetched.items()
    }
    index = batch.index | {plate: batch.index[plate][rows]}
    return batch._replace(index=index, fetched=fetched)


def _cut(values: Array, axis: int | None, rows: slice) -> Array:
    if axis is None:
        return values
    return jax.lax.slice_in_dim(values, rows.start, rows.stop, axis=axis)


def _difference(one: Array, other: Array) -> Array:
    if one.shape != other.shape:  # as many values as there are rows in the batch
        return jnp.asarray(jnp.inf)
    both = jnp.isfinite(one) & jnp.isfinite(other)
    scale = 1 + jnp.abs(one)
    return jnp.max(jnp.where(both, jnp.abs(one - other) / scale, 0.0), initial=0.0)


def _random(program: Any, state: tuple[Any, ...], found: dict[str, Any]) -> bool:
    """Whether the differences are others for another key: the model draws numbers itself."""
    again = jax.device_get(program(as_key(1), *state))
    return any(again[site] != difference for site, difference in found.items())


def _message(target: Target, plate: str, site: str) -> str:
    if plate not in target.dims[site]:
        where = f"outside plate {plate!r}"
        remedy = f"Put what has a value for every row inside numpyro.plate({plate!r}, ...)"
    else:
        where = f"in plate {plate!r}"
        remedy = (
            "Compute what needs all rows (means, scales, lengths) before the fit and pass it as "
            "an argument"
        )
    return (
        f"site {site!r}: expected the log density of a row not to depend on which other rows are "
        f"in its batch, but {where} it does. {remedy}; or say with batch_axes which arguments run "
        "along the plate; or leave batch_size out."
    )

"""Whether a model may be fitted on batches: no row's likelihood may depend on the other rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.contracts import Batch, Position, PyTree, RowSource, Site, Target
from vijax.model.minibatch.plates import fetch
from vijax.runtime.errors import ModelError
from vijax.runtime.jaxpr import used_inputs
from vijax.runtime.keys import as_key

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
    """Compares the log density of every site on a set of rows with that of some of them elsewhere.

    A model that standardizes its arrays, divides by their length, or observes rows outside the
    plate that is cut, has a likelihood on batches whose mean is not that of all rows, and ends in
    a plausible, wrong posterior. So does one that has `subsample_size=` and does not look its rows
    up. What was cut by `batch_size=` is compared with parts of it; a model's own batches, which may
    have one length only, with batches that have half of their rows, at other places. A model with
    randomness of its own cannot be compared, and data that are one batch are taken at their word.

    Raises:
        ModelError: naming the site whose log density depends on which rows share its batch, or the
            plate whose rows are not looked up.
    """
    sources = sources or {}
    sizes = {name: target.subsampling.plates[name].size for name in target.subsampled}
    cut = target.subsampling.request is not None
    used = {name: min(_ROWS, rows) if cut else rows for name, rows in target.subsampled.items()}
    rng = np.random.default_rng(0)
    ordered = {
        target.subsampling.axes[name][0][0] for name, source in sources.items() if source.sequential
    }
    # a stream would have to be read to its end
    within = sizes | {name: min(sizes[name], _BLOCKS * _ROWS) for name in ordered}
    order = {name: rng.permutation(size).astype(np.int32) for name, size in within.items()}
    for name, size in sizes.items():
        windows: tuple[tuple[int, int], ...]
        if cut:
            length = min(used[name], max(1, size // _BLOCKS))
            count = min(_BLOCKS, size // length)
            windows = ((0, count * length), *((i * length, (i + 1) * length) for i in range(count)))
        else:
            if not _looked_up(target, name, batch, model, mutable):
                continue
            moved = min(max(1, used[name] // 2), size - used[name])
            windows = ((0, used[name]), (moved, moved + used[name]))
        rows = used | {name: windows[-1][1]}
        index: dict[str, Any] = {other: order[other][:number] for other, number in rows.items()}
        z = {site.name: _point(site, rng) for site in target.space.on_rows(rows).sites}
        program = target.program(_differences, name, windows)
        fetched = fetch(sources, target.subsampling.axes, index)
        state = (z, batch._replace(index=index, fetched=fetched), model, mutable)
        found = jax.device_get(program(as_key(0), *state))
        worst = [site for site, difference in found.items() if not difference <= _TOLERANCE]
        if worst and not _random(program, state, found):
            raise ModelError(_message(target, name, worst[0]))


def _point(site: Site, rng: np.random.Generator) -> np.ndarray:
    """A value at which densities are compared; the first of a discrete site."""
    if site.cardinality is not None:
        return np.zeros(site.z_shape, np.int32)
    return (_SPREAD * rng.standard_normal(site.z_shape)).astype(np.float32)


def _looked_up(
    target: Target,
    plate: str,
    batch: Batch,
    model: Mapping[str, PyTree],
    mutable: Mapping[str, PyTree],
) -> bool:
    """Whether a model's own batches are of other rows at every step.

    Raises:
        ModelError: they are not, and there are all rows to be looked up.
    """
    index: dict[str, Any] = {n: np.arange(rows) for n, rows in target.subsampled.items()}
    rng = np.random.default_rng(0)
    z = {site.name: _point(site, rng) for site in target.on_batch.space.sites}

    def values(row: Array, z: Position, data: dict[str, Array]) -> dict[str, Array]:
        here = batch._replace(data=data, index=index | {plate: row})
        return target.site_log_probs(z, here, model, mutable)

    jaxpr = jax.make_jaxpr(values)(index[plate], z, batch.data).jaxpr
    if used_inputs(jaxpr, [True] * len(jaxpr.outvars))[0]:
        return True
    size, rows = target.subsampling.plates[plate].size, target.subsampled[plate]
    whole = [name for name, values in batch.data.items() if size in values.shape]
    if whole and any(plate in target.structure.dims[site] for site in target.structure.observed):
        raise ModelError(
            f"plate {plate!r}: expected its {rows} of {size} rows to be looked up, got the same "
            f"ones at every step, although {whole[0]!r} has all of them. Write "
            f"`with numpyro.plate({plate!r}, ..., subsample_size={rows}) as rows` and "
            f"`{whole[0]}[rows]`, or `numpyro.subsample({whole[0]}, event_dim=...)`; or leave "
            "subsample_size out and use batch_size=."
        )
    return False


def _differences(
    target: Target,
    plate: str,
    windows: tuple[tuple[int, int], ...],
    key: Array,
    z: Position,
    batch: Batch,
    model: Any,
    mutable: Any,
) -> dict[str, Array]:
    """By site, the largest relative difference of its log density in the first window to others."""
    batch = batch._replace(key=key)

    def density(start: int, stop: int) -> dict[str, Array]:
        rows = slice(start, stop)
        some = {
            site.name: _cut(z[site.name], dict(site.axes([plate]).pairs).get(plate), rows)
            for site in target.space.sites
        }
        return target.site_log_probs(some, _part(target, batch, plate, rows), model, mutable)

    worst: dict[str, Array] = {}
    (first, last), *others = windows
    reference = density(first, last)
    for start, stop in others:
        found = density(start, stop)
        common = slice(max(first, start), min(last, stop))
        here = slice(common.start - start, common.stop - start)
        for site, values in reference.items():
            names = target.structure.dims[site]
            axis = names.index(plate) if plate in names else None
            difference = _difference(_cut(values, axis, common), _cut(found[site], axis, here))
            worst[site] = jnp.maximum(worst.get(site, 0.0), difference)
    return worst


def _part(target: Target, batch: Batch, plate: str, rows: slice) -> Batch:
    """A batch with some of its rows along one plate."""
    fetched = {
        name: values[rows] if target.subsampling.axes[name][0][0] == plate else values
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
    if plate not in target.structure.dims[site]:
        where = f"outside plate {plate!r}"
        remedy = f"Put what has a value for every row inside numpyro.plate({plate!r}, ...)"
    else:
        where = f"in plate {plate!r}"
        remedy = (
            "Compute what needs all rows (means, scales, lengths) before the fit and pass it as "
            "an argument"
        )
    if target.subsampling.request is None:
        ways = "look up every array that runs along the plate; or leave subsample_size out."
    else:
        ways = "say with batch_axes which arguments run along the plate; or leave batch_size out."
    return (
        f"site {site!r}: expected the log density of a row not to depend on which other rows are "
        f"in its batch, but {where} it does. {remedy}; or {ways}"
    )

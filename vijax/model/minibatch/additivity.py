"""Checks that the log density is additive over rows, as unbiased minibatch gradients require.

`log p(y | z) = sum_i log p(y_i | z)`: the term of a row must not depend on which other rows are in
the minibatch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.contracts import Batch, Position, PyTree, RowSource, Site, Target
from vijax.model.minibatch.subsampling import fetch
from vijax.runtime.errors import ModelError
from vijax.runtime.jaxpr import used_inputs
from vijax.runtime.keys import as_key

_BLOCKS = 3
_SCALE = 0.3  # sd of the unconstrained values at which densities are compared
_ROWS = 32  # per block; more would find the same errors
TOLERANCE = 1e-3  # relative; a hundred times the rounding error, small enough to ignore


def check_batches(
    target: Target,
    batch: Batch,
    model: Mapping[str, PyTree],
    mutable: Mapping[str, PyTree],
    sources: Mapping[str, RowSource] | None = None,
) -> None:
    """Compares the log density of every site on the same rows in different minibatches.

    If a model standardizes its arrays, divides by their length, observes rows outside the
    subsampled plate, or uses `subsample_size=` without indexing its arrays, the expectation of its
    minibatch likelihood is not that of all rows, and the posterior is plausible but wrong. With
    `batch_size=` a minibatch is compared with parts of it; with `subsample_size=`, where all
    minibatches have the same length, with one that shares half of its rows at other positions. A
    random model cannot be checked, nor stochastic bounds, nor data that consist of a single
    minibatch.

    Args:
        target: the target.
        batch: its data.
        model: the model's `param` sites.
        mutable: the model's mutable state.
        sources: arrays that are read in blocks of rows, by name.

    Raises:
        ModelError: naming the site whose log density depends on the other rows in the minibatch,
            or the plate whose rows are not indexed.
    """
    sources = sources or {}
    sizes = {name: target.subsampling.plates[name].size for name in target.subsampled}
    by_request = target.subsampling.request is not None
    used = {
        name: min(_ROWS, rows) if by_request else rows for name, rows in target.subsampled.items()
    }
    rng = np.random.default_rng(0)
    ordered = {
        target.subsampling.axes[name][0][0] for name, source in sources.items() if source.sequential
    }
    # all rows of a sequential source would have to be read
    within = sizes | {name: min(sizes[name], _BLOCKS * _ROWS) for name in ordered}
    order = {name: rng.permutation(size).astype(np.int32) for name, size in within.items()}
    for name, size in sizes.items():
        windows: tuple[tuple[int, int], ...]
        if by_request:
            length = min(used[name], max(1, size // _BLOCKS))
            count = min(_BLOCKS, size // length)
            windows = ((0, count * length), *((i * length, (i + 1) * length) for i in range(count)))
        else:
            if not _is_indexed(target, name, batch, model, mutable):
                continue
            shift = min(max(1, used[name] // 2), size - used[name])
            windows = ((0, used[name]), (shift, shift + used[name]))
        rows = used | {name: windows[-1][1]}
        index: dict[str, Any] = {other: order[other][:number] for other, number in rows.items()}
        z = {site.name: _point(site, rng) for site in target.space.on_rows(rows).sites}
        quick = bool(target.space.networks.sites)  # four copies of the network, which run once
        program = target.program(_differences, name, windows, quick=quick)
        fetched = fetch(sources, target.subsampling.axes, index)
        state = (z, batch._replace(index=index, fetched=fetched), model, mutable)
        found = jax.device_get(program(as_key(0), *state))
        failed = [site for site, difference in found.items() if not difference <= TOLERANCE]
        if failed and not _is_random(program, state, found):
            raise ModelError(_message(target, name, failed[0]))


def _point(site: Site, rng: np.random.Generator) -> np.ndarray:
    """A value at which densities are compared; the first value of a discrete site."""
    if site.cardinality is not None:
        return np.zeros(site.z_shape, np.int32)
    return (_SCALE * rng.standard_normal(site.z_shape)).astype(np.float32)


def _is_indexed(
    target: Target,
    plate: str,
    batch: Batch,
    model: Mapping[str, PyTree],
    mutable: Mapping[str, PyTree],
) -> bool:
    """Whether a model with `subsample_size=` indexes its arrays by the rows of the plate.

    Raises:
        ModelError: it does not, although an array has all rows.
    """
    index: dict[str, Any] = {n: np.arange(rows) for n, rows in target.subsampled.items()}
    rng = np.random.default_rng(0)
    z = {site.name: _point(site, rng) for site in target.on_batch.space.sites}

    def log_probs(rows: Array, z: Position, data: dict[str, Array]) -> dict[str, Array]:
        subsampled = batch._replace(data=data, index=index | {plate: rows})
        return target.site_log_probs(z, subsampled, model, mutable)

    jaxpr = jax.make_jaxpr(log_probs)(index[plate], z, batch.data).jaxpr
    if used_inputs(jaxpr, [True] * len(jaxpr.outvars))[0]:
        return True
    size, rows = target.subsampling.plates[plate].size, target.subsampled[plate]
    full = [name for name, values in batch.data.items() if size in values.shape]
    if full and any(plate in target.structure.dims[site] for site in target.structure.observed):
        raise ModelError(
            f"plate {plate!r}: expected arrays to be indexed by its {rows} of {size} rows, got the "
            f"same rows at every step, although {full[0]!r} has all of them. Write "
            f"`with numpyro.plate({plate!r}, ..., subsample_size={rows}) as rows` and "
            f"`{full[0]}[rows]`, or `numpyro.subsample({full[0]}, event_dim=...)`; or use "
            "batch_size= instead of subsample_size=."
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
    """Largest relative difference of each site's log density between the first window and others.

    Windows are `(start, stop)` of the rows of the minibatch; common rows are compared.
    """
    batch = batch._replace(key=key)

    def log_probs(start: int, stop: int) -> dict[str, Array]:
        rows = slice(start, stop)
        z_rows = {
            site.name: _slice(z[site.name], dict(site.axes([plate]).pairs).get(plate), rows)
            for site in target.space.sites
        }
        window = _window(target, batch, plate, rows)
        found = target.site_log_probs(z_rows, window, model, mutable)
        return {name: v for name, v in found.items() if name not in target.structure.bounds}

    largest: dict[str, Array] = {}
    (first, last), *others = windows
    reference = log_probs(first, last)
    for start, stop in others:
        found = log_probs(start, stop)
        common = slice(max(first, start), min(last, stop))
        shifted = slice(common.start - start, common.stop - start)
        for site, values in reference.items():
            names = target.structure.dims[site]
            axis = names.index(plate) if plate in names else None
            one, other = _slice(values, axis, common), _slice(found[site], axis, shifted)
            largest[site] = jnp.maximum(largest.get(site, 0.0), relative_difference(one, other))
    return largest


def _window(target: Target, batch: Batch, plate: str, rows: slice) -> Batch:
    """A minibatch with some of its rows along one plate."""
    fetched = {
        name: values[rows] if target.subsampling.axes[name][0][0] == plate else values
        for name, values in batch.fetched.items()
    }
    index = batch.index | {plate: batch.index[plate][rows]}
    return batch._replace(index=index, fetched=fetched)


def _slice(values: Array, axis: int | None, rows: slice) -> Array:
    if axis is None:
        return values
    return jax.lax.slice_in_dim(values, rows.start, rows.stop, axis=axis)


def relative_difference(one: Array, other: Array) -> Array:
    """The largest difference of finite numbers relative to one plus their size."""
    if one.shape != other.shape:  # one value for each row in the minibatch, outside the plate
        return jnp.asarray(jnp.inf)
    both = jnp.isfinite(one) & jnp.isfinite(other)
    scale = 1 + jnp.abs(one)
    return jnp.max(jnp.where(both, jnp.abs(one - other) / scale, 0.0), initial=0.0)


def _is_random(program: Any, state: tuple[Any, ...], found: dict[str, Any]) -> bool:
    """Whether the differences depend on the key, so that the model itself is random."""
    again = jax.device_get(program(as_key(1), *state))
    return any(again[site] != difference for site, difference in found.items())


def _message(target: Target, plate: str, site: str) -> str:
    if plate not in target.structure.dims[site]:
        where = f"outside plate {plate!r}"
        remedy = f"Put sites with a value for every row inside numpyro.plate({plate!r}, ...)"
    else:
        where = f"in plate {plate!r}"
        remedy = (
            "Compute statistics of all rows (means, scales, lengths) before the fit and pass them "
            "as arguments"
        )
    if target.subsampling.request is None:
        ways = "index every array along the plate; or leave subsample_size out."
    else:
        ways = "name the arguments along the plate in batch_axes; or leave batch_size out."
    return (
        f"site {site!r}: expected the log density of a row not to depend on which other rows are "
        f"in its minibatch, but {where} it does. {remedy}; or {ways}"
    )

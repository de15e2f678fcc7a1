"""Posterior draws and transforms of them, in blocks of one compiled size and bounded memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.contracts import Batch, DensityGuide, Guide, Position, PyTree, Target, Variables
from vijax.diagnostics import importance as weights
from vijax.diagnostics.importance import block_size
from vijax.posterior.result import FitResult
from vijax.runtime.blockwise import Arrays, concatenate_blocks, map_blocks
from vijax.runtime.device_layout import on_host
from vijax.runtime.errors import GuideError, mismatch
from vijax.runtime.keys import draw_keys, fold_in, host_rng
from vijax.runtime.stacks import Packed, pack

_POOL = 4  # proposals per importance-resampled draw
_MIN_POOL = 2000
_HOST_ELEMENTS = 2**25  # of draws held in double precision at a time


def from_guide(result: FitResult, key: Array, num_draws: int) -> Arrays:
    """Unconstrained draws from the guide, by site, `(num_draws, *z_shape)`."""
    target, guide, variables = result.target, result.guide, result.variables
    host = _host_draws(target, guide, variables, host_rng(key), num_draws)
    if host is not None:
        return host
    block = block_size(result.batch, target.footprint)
    program = target.program(_draw, guide, block)
    indices = range(math.ceil(num_draws / block))
    parts = (on_host(program(variables, fold_in(key, i), result.batch)) for i in indices)
    return concatenate_blocks(parts, num_draws)


def _host_draws(
    target: Target, guide: Guide, variables: Variables, rng: np.random.Generator, num_draws: int
) -> Arrays | None:
    """Draws by NumPy, in double precision a block at a time; `None` if the guide has no method."""
    size = max(1, _HOST_ELEMENTS // target.space.dim)
    first = guide.host_draws(variables.guide, target.space, rng, min(size, num_draws))
    if first is None:
        return None

    def parts() -> Iterator[Arrays]:
        yield weights.split(target.space, first.points)
        for start in range(size, num_draws, size):
            num = min(size, num_draws - start)
            part = guide.host_draws(variables.guide, target.space, rng, num)
            assert part is not None
            yield weights.split(target.space, part.points)

    return concatenate_blocks(parts(), num_draws)


def pool_size(num_draws: int) -> int:
    """Number of proposals for `num_draws` importance-resampled draws."""
    return max(_MIN_POOL, _POOL * num_draws)


def choose(states: Arrays, key: Array, num_draws: int) -> Arrays:
    """`num_draws` random states of `(num, ...)`; none repeats before all have been used."""
    rng = host_rng(key)
    num = len(next(iter(states.values())))
    permutations = [rng.permutation(num) for _ in range(math.ceil(num_draws / num))]
    rows = np.concatenate(permutations)[:num_draws]
    return {name: value[rows] for name, value in states.items()}


def resample(z: Arrays, log_weights: np.ndarray, key: Array, num_draws: int) -> Arrays:
    """Stratified sampling importance resampling: `num_draws` of the draws `z`, by weight."""
    chosen = resample_rows(log_weights, key, num_draws)
    return {name: value[chosen] for name, value in z.items()}


def resample_rows(log_weights: np.ndarray, key: Array, num_draws: int) -> np.ndarray:
    """Indices of the draws that `resample` selects, `(num_draws,)`."""
    rng = host_rng(key)
    levels = (np.arange(num_draws) + rng.random(num_draws)) / num_draws
    chosen = np.searchsorted(np.cumsum(np.exp(log_weights)), levels)
    return rng.permutation(np.minimum(chosen, log_weights.size - 1))


def constrain(result: FitResult, z: Arrays, without: frozenset[str] = frozenset()) -> Arrays:
    """Sites and deterministics at unconstrained draws, by name, `(num_draws, *shape)`.

    In the model's order, except those in `without`.
    """
    target = result.target
    if target.subsampling.whole:
        values = _constrained(result, z, without, {})
    else:
        values = _constrained_by_rows(result, z, without)
    # compiled programs return them sorted by name
    order = [name for name in target.structure.dims if name in values]
    return {name: values[name] for name in [*order, *(values.keys() - order)]}


def _constrained(
    result: FitResult, z: Arrays, without: frozenset[str], index: dict[str, Array]
) -> Arrays:
    target, model = result.target, result.variables.model
    program = target.program(_constrain, without)
    batch = result.batch._replace(index=result.batch.index | index)
    return map_blocks(
        lambda part, _: program(pack(part, batch_ndim=1), model, batch, result.mutable),
        z,
        block_size(batch, target.footprint),
    )


def _constrained_by_rows(result: FitResult, z: Arrays, without: frozenset[str]) -> Arrays:
    """Constrained values where the model runs on the rows of a minibatch only: in such pieces."""
    target = result.target
    ((plate, used),) = target.subsampled.items()
    size, found = target.subsampling.plates[plate].size, []
    axes = {s.name: axis for s in target.space.sites for _, axis in s.axes([plate]).pairs}
    for start in (*range(0, size - used, used), size - used):
        rows = np.arange(start, start + used)
        part = {n: x.take(rows, axes[n] + 1) if n in axes else x for n, x in z.items()}
        found.append(_constrained(result, part, without, {plate: jnp.asarray(rows)}))
    last = np.arange(used * (len(found) - 1) - (size - used), used)  # rows not in other pieces
    values = {}
    for name, value in found[0].items():
        dims = target.structure.dims.get(name, ())
        values[name] = value
        if plate in dims:
            axis = dims.index(plate) + 1
            parts = [piece[name] for piece in found]
            parts[-1] = parts[-1].take(last, axis)
            values[name] = np.concatenate(parts, axis)
    return values


def with_discrete(result: FitResult, z: Arrays, key: Array) -> Arrays:
    """Draws with the marginalized discrete sites, drawn exactly from their full conditional.

    As indices of values, `(num_draws, *shape)`, for all rows of subsampled plates. Without the
    data they are not added.
    """
    target, batch = result.target, result.batch
    if result.missing or target.marginalized.sizes.keys() <= z.keys():
        return z
    program = target.program(_discrete)
    size = block_size(batch, target.footprint)

    def block(part: Arrays, rows: np.ndarray) -> Any:
        keys = jax.random.split(fold_in(key, int(rows[0])), len(rows))
        return program(keys, part, result.variables.model, batch, result.mutable)

    return {**z, **map_blocks(block, z, size)}


def log_prob(result: FitResult, guide: DensityGuide, values: Arrays) -> np.ndarray:
    """`log q(x) = log q(z) - log |dx/dz|` of constrained values, `(num_draws,)`."""
    target, batch = result.target, result.batch
    program = target.program(_log_prob, guide)
    out = map_blocks(
        lambda part, _: {"": program(part, result.variables, batch, result.mutable)},
        values,
        block_size(batch, target.footprint),
    )
    return out[""]


def stack_values(target: Target, values: dict[str, Any]) -> tuple[dict[str, np.ndarray], bool]:
    """Values of every latent site with a leading axis of draws, and whether they had that axis."""
    names = target.space.names
    if set(values) != set(names):
        expected = f"exactly the sites {list(names)}"
        raise GuideError(mismatch("log_prob values", expected, list(values)))
    arrays = {name: np.asarray(values[name]) for name in names}
    num_extra = {site.name: arrays[site.name].ndim - len(site.shape) for site in target.space.sites}
    for site in target.space.sites:
        shape = arrays[site.name].shape
        if num_extra[site.name] not in (0, 1) or shape[num_extra[site.name] :] != site.shape:
            raise GuideError(
                mismatch(
                    f"log_prob value of site {site.name!r}",
                    f"shape {site.shape} or (num_draws, *{site.shape})",
                    f"shape {shape}",
                )
            )
    stacked = num_extra[names[0]] == 1
    if len({(e, arrays[n].shape[:e]) for n, e in num_extra.items()}) > 1:
        expected = "the same number of draws for every site"
        raise GuideError(mismatch("log_prob values", expected, num_extra))
    return (arrays if stacked else {n: a[None] for n, a in arrays.items()}), stacked


def _draw(
    target: Target, guide: Guide, block: int, variables: Variables, key: Array, batch: Batch
) -> Packed:
    keys = draw_keys(key, block, target.space.dim)
    return jax.vmap(lambda k: pack(guide.draw(variables.guide, target.space, k, batch).z))(keys)


def _constrain(
    target: Target,
    without: frozenset[str],
    z: Packed,
    model: dict[str, PyTree],
    batch: Batch,
    mutable: dict[str, PyTree],
) -> Packed:
    def one(z: Packed) -> Packed:
        values = target.constrain(z.unpack(), batch, model, mutable)
        return pack({name: value for name, value in values.items() if name not in without})

    return jax.vmap(one)(z)


def _discrete(
    target: Target,
    keys: Array,
    z: Position,
    model: dict[str, PyTree],
    batch: Batch,
    mutable: dict[str, PyTree],
) -> Position:
    return jax.vmap(lambda key, one: target.draw_discrete(key, one, batch, model, mutable))(keys, z)


def _log_prob(
    target: Target,
    guide: DensityGuide,
    values: dict[str, Array],
    variables: Variables,
    batch: Batch,
    mutable: dict[str, PyTree],
) -> Array:
    def one(values: dict[str, Array]) -> Array:
        z = target.unconstrain(values, batch, variables.model, mutable)
        log_q = guide.log_prob(variables.guide, target.space, z, batch)
        log_dets = target.log_dets(z, batch, variables.model, mutable)
        return log_q - sum(log_dets.values(), jnp.zeros(()))

    return jax.vmap(one)(jax.tree.map(jnp.asarray, values))

"""Draws in blocks: programs of one compiled size serve any number of draws, in bounded memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax._contracts import Batch, DensityGuide, Guide, Position, PyTree, Target, Variables
from vijax._errors import GuideError, mismatch
from vijax._keys import draw_keys, fold_in, host_rng
from vijax._memory import check_room
from vijax._spread import on_host
from vijax.diagnostics import weights
from vijax.diagnostics.weights import block_size

Arrays = dict[str, np.ndarray]

_POOL = 4  # proposals per importance-resampled draw
_MIN_POOL = 2000
_HOST_NUMBERS = 2**25  # of draws that are in double precision at a time


def from_guide(
    target: Target, guide: Guide, variables: Variables, key: Array, batch: Batch, num_draws: int
) -> Arrays:
    """Unconstrained draws from the guide, by site, `(num_draws, *z_shape)`."""
    made = _by_host(target, guide, variables, host_rng(key), num_draws)
    if made is not None:
        return made
    block = block_size(batch, target.footprint)
    program = target.program(_draw, guide, block)
    numbers = range(math.ceil(num_draws / block))
    parts = (on_host(program(variables, fold_in(key, i), batch)) for i in numbers)
    return together(parts, num_draws)


def _by_host(
    target: Target, guide: Guide, variables: Variables, rng: np.random.Generator, num_draws: int
) -> Arrays | None:
    """The same made by NumPy, in double precision a block at a time; `None` if there is no way."""
    size = max(1, _HOST_NUMBERS // target.space.dim)
    first = guide.host_draws(variables.guide, target.space, rng, min(size, num_draws))
    if first is None:
        return None

    def parts() -> Iterator[Arrays]:
        yield weights.split(target.space, first.points)
        for start in range(size, num_draws, size):
            number = min(size, num_draws - start)
            made = guide.host_draws(variables.guide, target.space, rng, number)
            assert made is not None
            yield weights.split(target.space, made.points)

    return together(parts(), num_draws)


def pool_size(num_draws: int) -> int:
    """How many proposals to make for `num_draws` importance-resampled draws."""
    return max(_MIN_POOL, _POOL * num_draws)


def choose(states: Arrays, key: Array, num_draws: int) -> Arrays:
    """`num_draws` of the states `(num, ...)` at random, each once before any is taken twice."""
    rng = host_rng(key)
    num = len(next(iter(states.values())))
    rounds = [rng.permutation(num) for _ in range(math.ceil(num_draws / num))]
    rows = np.concatenate(rounds)[:num_draws]
    return {name: value[rows] for name, value in states.items()}


def resample(z: Arrays, log_weights: np.ndarray, key: Array, num_draws: int) -> Arrays:
    """Sampling importance resampling, stratified: `num_draws` of the draws `z`, by weight."""
    chosen = resample_rows(log_weights, key, num_draws)
    return {name: value[chosen] for name, value in z.items()}


def resample_rows(log_weights: np.ndarray, key: Array, num_draws: int) -> np.ndarray:
    """The numbers of the draws that `resample` takes, `(num_draws,)`."""
    rng = host_rng(key)
    levels = (np.arange(num_draws) + rng.random(num_draws)) / num_draws
    chosen = np.searchsorted(np.cumsum(np.exp(log_weights)), levels)
    return rng.permutation(np.minimum(chosen, log_weights.size - 1))


def constrain(
    target: Target,
    variables: Variables,
    mutable: dict[str, PyTree],
    batch: Batch,
    z: Arrays,
    without: frozenset[str] = frozenset(),
) -> Arrays:
    """Sites and deterministics of unconstrained draws, by name, `(num_draws, *shape)`.

    In the model's order; those in `without` are left out.
    """
    program = target.program(_constrain, without)
    values = blocks(
        lambda part, _: program(part, variables.model, batch, mutable),
        z,
        block_size(batch, target.footprint),
    )
    order = [name for name in target.dims if name in values]  # compiled programs sort by name
    return {name: values[name] for name in [*order, *(values.keys() - order)]}


def with_discrete(
    target: Target,
    variables: Variables,
    mutable: dict[str, PyTree],
    batch: Batch,
    z: Arrays,
    key: Array,
) -> Arrays:
    """Draws with the discrete sites beside the coordinates, each given its own draw of the rest.

    As numbers of values, `(num_draws, *shape)`; in every row of subsampled plates.
    """
    if target.discrete.keys() <= z.keys():
        return z
    program = target.program(_discrete)
    size = block_size(batch, target.footprint)

    def block(part: Arrays, rows: np.ndarray) -> Any:
        keys = jax.random.split(fold_in(key, int(rows[0])), size)
        return program(keys, part, variables.model, batch, mutable)

    return {**z, **blocks(block, z, size)}


def log_prob(
    target: Target,
    guide: DensityGuide,
    variables: Variables,
    mutable: dict[str, PyTree],
    batch: Batch,
    values: Arrays,
) -> np.ndarray:
    """`log q` of constrained values, `(num_draws,)`: the Jacobian is taken off again."""
    program = target.program(_log_prob, guide)
    out = blocks(
        lambda part, _: {"": program(part, variables, batch, mutable)},
        values,
        block_size(batch, target.footprint),
    )
    return out[""]


def blocks(function: Callable[[Arrays, np.ndarray], Any], values: Arrays, size: int) -> Arrays:
    """`function(block of values, their row numbers)` over all rows, in blocks of one size.

    The last block is filled up with copies of the last row, which are cut off again.
    """
    num_draws = len(next(iter(values.values())))
    starts = range(0, num_draws, size)
    rows = (np.minimum(np.arange(start, start + size), num_draws - 1) for start in starts)
    parts = (
        on_host(function({name: value[some] for name, value in values.items()}, some))
        for some in rows
    )
    return together(parts, num_draws)


def together(parts: Iterable[Any], num_draws: int) -> Any:
    """Blocks of draws, trees of arrays, as one, cut to `num_draws`.

    Blocks are taken as they come, and the whole is asked for with the first of them: what does not
    fit into memory is refused before the work is done.
    """
    out, start = None, 0
    for part in parts:
        if out is None:
            check_room(sum(leaf.nbytes / len(leaf) for leaf in jax.tree.leaves(part)) * num_draws)
            out = jax.tree.map(
                lambda leaf: np.empty((num_draws, *leaf.shape[1:]), leaf.dtype), part
            )
        length = 0
        for whole, leaf in zip(jax.tree.leaves(out), jax.tree.leaves(part), strict=True):
            length = min(len(leaf), num_draws - start)
            whole[start : start + length] = leaf[:length]
        start += length
    return out


def stack_values(target: Target, values: dict[str, Any]) -> tuple[dict[str, np.ndarray], bool]:
    """Values of every latent site with a leading axis of draws, and whether it was there."""
    names = target.space.names
    if set(values) != set(names):
        expected = f"exactly the sites {list(names)}"
        raise GuideError(mismatch("log_prob values", expected, list(values)))
    arrays = {name: np.asarray(values[name]) for name in names}
    extra = {site.name: arrays[site.name].ndim - len(site.shape) for site in target.space.sites}
    for site in target.space.sites:
        shape = arrays[site.name].shape
        if extra[site.name] not in (0, 1) or shape[extra[site.name] :] != site.shape:
            raise GuideError(
                mismatch(
                    f"log_prob value of site {site.name!r}",
                    f"shape {site.shape} or (num_draws, *{site.shape})",
                    f"shape {shape}",
                )
            )
    stacked = extra[names[0]] == 1
    if len({(e, arrays[n].shape[:e]) for n, e in extra.items()}) > 1:
        expected = "the same number of draws for every site"
        raise GuideError(mismatch("log_prob values", expected, extra))
    return (arrays if stacked else {n: a[None] for n, a in arrays.items()}), stacked


def _draw(
    target: Target, guide: Guide, block: int, variables: Variables, key: Array, batch: Batch
) -> Position:
    keys = draw_keys(key, block, target.space.dim)
    return jax.vmap(lambda k: guide.draw(variables.guide, target.space, k, batch).z)(keys)


def _constrain(
    target: Target,
    without: frozenset[str],
    z: Position,
    model: dict[str, PyTree],
    batch: Batch,
    mutable: dict[str, PyTree],
) -> dict[str, Array]:
    values = jax.vmap(lambda one: target.constrain(one, batch, model, mutable))(z)
    return {name: value for name, value in values.items() if name not in without}


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

"""The device side of the training loop: one program that runs any number of steps."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from vijax.contracts import Algorithm, Axes, Batch, Guide, PyTree, Target, Variables
from vijax.engine.row_parameters import (
    Packed,
    has_rows,
    pack,
    packed_axes,
    put_packed,
    shared,
    take_packed,
    unpack,
    variable_axes,
)
from vijax.runtime.errors import GuideError

CAPACITY = 2000  # most steps in one piece
THIN = 10  # every tenth iterate enters the averages: the others are nearly copies of it
_LARGE = 2**18  # coordinates from which on it is every twentieth: averaging cost 2 % of a step
_BEFORE = 2**32 - 1  # the "step" whose randomness is that of start values
_PROBES = 4096  # coordinates whose spread is followed: for all, it would cost a step in twenty


class Loop(NamedTuple):
    """What lives on the device between pieces; a leading axis of restarts on every leaf.

    Attributes:
        state: the algorithm's state, `Packed` where parts of it are by row.
        mean: mean of the thinned iterates since the window began, but for those with a row for
            every row of a plate: averaging them would cost more than the steps.
        square: their sum of squared deviations at the probed coordinates.
        seen: their number.
    """

    state: PyTree
    mean: Variables
    square: Array
    seen: Array


def begin(
    target: Target,
    guide: Guide,
    algorithm: Algorithm,
    variables: Variables,
    mutable: dict[str, PyTree],
    factors: Array,
    key: Array,
    batch: Batch,
) -> Loop:
    def one(variables: Variables, factor: Array, key: Array) -> Loop:
        state = initial(target, guide, algorithm, variables, mutable, key, batch)
        state = algorithm.rescale(state, factor)
        axes = variable_axes(guide, variables, target.space, target.subsampled)
        zeros = jax.tree.map(jnp.zeros_like, shared(variables, axes))
        return Loop(packed(target, guide, algorithm, state), zeros, probe(zeros), jnp.zeros(()))

    loop = jax.vmap(one)(variables, factors, _restart_keys(key, len(factors)))
    return target.devices.constrain(loop, loop_axes(target, guide, algorithm, loop))


def _restart_keys(key: Array, restarts: int) -> Array:
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(restarts))


def initial(
    target: Target,
    guide: Guide,
    algorithm: Algorithm,
    variables: Variables,
    mutable: dict[str, PyTree],
    key: Array,
    batch: Batch,
) -> PyTree:
    """The algorithm's state at the start of one restart."""
    own = jax.random.fold_in(key, _BEFORE)
    return algorithm.init(variables, mutable, own, target.on_batch, guide, batch)


def packed(target: Target, guide: Guide, algorithm: Algorithm, state: PyTree) -> PyTree:
    """A state as the loop keeps it."""
    axes = variable_axes(guide, algorithm.variables(state), target.space, target.subsampled)
    return pack(state, algorithm.row_axes(state, axes)) if has_rows(axes) else state


def all_packed(target: Target, guide: Guide, algorithm: Algorithm, states: PyTree) -> PyTree:
    """The states of all restarts as the loop keeps them."""
    states = jax.vmap(lambda state: packed(target, guide, algorithm, state))(states)
    return target.devices.constrain(states, _spread_axes(target, guide, algorithm, states))


def unpacked(target: Target, guide: Guide, algorithm: Algorithm, states: Packed) -> PyTree:
    """The states of all restarts, packed, as the algorithm knows them."""

    def one(state: Packed) -> PyTree:
        return unpack(state, _state_axes(target, guide, algorithm, state.rest))

    return jax.vmap(one)(states)


def unpacked_variables(
    target: Target, guide: Guide, algorithm: Algorithm, states: Packed
) -> Variables:
    """The variables in the packed states of all restarts."""
    return algorithm.variables(unpacked(target, guide, algorithm, states))


def _state_axes(target: Target, guide: Guide, algorithm: Algorithm, state: PyTree) -> PyTree:
    variables = algorithm.variables(state)
    axes = variable_axes(guide, variables, target.space, target.subsampled)
    return algorithm.row_axes(state, axes)


def start_axes(target: Target, guide: Guide, variables: Variables) -> Variables:
    """The axes of one restart's variables along which they lie on several devices."""
    if not target.devices.plates:
        return jax.tree.map(lambda _: Axes(), variables)
    plates = target.subsampled or target.devices.plates
    try:
        return variable_axes(guide, variables, target.space, plates)
    except GuideError:  # on all rows no guide needs parameters by row
        return jax.tree.map(lambda _: Axes(), variables)


def _spread_axes(target: Target, guide: Guide, algorithm: Algorithm, state: PyTree) -> PyTree:
    """The same of a state, packed or not."""
    if not target.devices.plates:
        return jax.tree.map(lambda _: Axes(), state)
    if isinstance(state, Packed):
        return packed_axes(state, _state_axes(target, guide, algorithm, state.rest))
    axes = start_axes(target, guide, algorithm.variables(state))
    try:
        return algorithm.row_axes(state, axes)
    except TypeError:  # nor does any optimizer
        return jax.tree.map(lambda _: Axes(), state)


def loop_axes(target: Target, guide: Guide, algorithm: Algorithm, loop: Loop) -> Loop:
    """The same of a loop, for `DeviceLayout`: averages lie where the variables do."""
    state = _spread_axes(target, guide, algorithm, loop.state)
    rest: Loop = jax.tree.map(lambda _: Axes(), loop._replace(state=()))
    mean = rest.mean if isinstance(state, Packed) else algorithm.variables(state)
    return rest._replace(state=state, mean=mean)


def advance(
    target: Target,
    guide: Guide,
    algorithm: Algorithm,
    guarded: bool,
    restarts: int,
    loop: Loop,
    key: Array,
    active: Array,
    fresh: Array,
    start: Array,
    stop: Array,
    batch: Batch,
    table: Batch,
) -> tuple[Loop, Array, Array]:
    """Steps `start..stop-1` of every restart; `fresh` empties the averages first.

    The rows of step `t` stand at `t` modulo the length of `table`.

    Of parameters by row, and of what the optimizer keeps for each, a step reads and writes the
    rows of its batch. Such steps are always guarded: that costs as little as they do.

    Returns:
        The loop afterwards, losses `(capacity, restarts)`, and whether all of it is finite.
    """

    def step(key: Array, t: Array, carry: tuple[PyTree, Array]) -> tuple[PyTree, Array]:
        whole, losses = carry
        now = jax.tree.map(lambda values: values[t % len(values)], (table.index, table.fetched))
        index, fetched = target.devices.shard_batch(now)
        some = batch._replace(index=index, fetched=fetched)
        before = take_packed(whole, state_axes, some.index) if by_row else whole
        step_key = jax.random.fold_in(key, t)
        state, info = algorithm.step(before, step_key, target.on_batch, guide, some)
        if guarded or by_row:
            ok = jnp.isfinite(info.loss) & _all_finite(algorithm.variables(state))
            state = jax.tree.map(lambda new, old: jnp.where(ok, new, old), state, before)
            info = info._replace(loss=jnp.where(ok, info.loss, jnp.nan))
        if by_row:
            state = put_packed(whole, state, state_axes, some.index)
        return state, losses.at[t - start].set(info.loss)

    def block(key: Array, t: Array, carry: tuple[Loop, Array]) -> tuple[Array, tuple[Loop, Array]]:
        loop, losses = carry
        end = jnp.minimum(stop, (t // stride + 1) * stride)
        begun = (loop.state, losses)
        state, losses = lax.fori_loop(t, end, lambda i, c: step(key, i, c), begun)
        whole = (end % stride == 0).astype(loop.seen.dtype)
        loop = loop._replace(state=state)
        return end, (_accumulate(loop, averaged(loop.state), whole), losses)

    def restart(loop: Loop, key: Array) -> tuple[Loop, Array]:
        losses = jnp.zeros((CAPACITY,))
        begun = (start, (loop, losses))
        _, ended = lax.while_loop(lambda c: c[0] < stop, lambda c: block(key, *c), begun)
        return ended

    def averaged(state: PyTree) -> Variables:
        return shared(algorithm.variables(state.rest if by_row else state), axes)

    by_row = isinstance(loop.state, Packed)
    variables = algorithm.variables(loop.state.rest if by_row else loop.state)
    axes = variable_axes(guide, variables, target.space, target.subsampled)
    state_axes = _state_axes(target, guide, algorithm, loop.state.rest) if by_row else None
    size = sum(leaf.size for leaf in jax.tree.leaves(loop.mean)) // restarts
    stride = THIN if size < _LARGE else 2 * THIN
    averages = (loop.mean, loop.square, loop.seen)
    mean, square, seen = jax.tree.map(lambda x: jnp.where(fresh, 0, x), averages)
    loop = loop._replace(mean=mean, square=square, seen=seen)
    keys = _restart_keys(key, restarts)
    if restarts == 1:  # a batch dimension of one would only cost
        after, losses = restart(take(loop, 0), keys[0])
        after, losses = jax.tree.map(lambda leaf: leaf[None], (after, losses))
    else:
        after, losses = jax.vmap(restart)(loop, keys)

        def freeze(new: Array, old: Array) -> Array:
            return jnp.where(active.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        after = jax.tree.map(freeze, after, loop)
    finite = _all_finite(averaged(after.state) if by_row else after.state)
    after = target.devices.constrain(after, loop_axes(target, guide, algorithm, after))
    return after, *target.devices.replicate((losses.T, finite))


def _accumulate(loop: Loop, variables: Variables, weight: Array) -> Loop:
    """Welford's update of mean and squared deviations, skipped where `weight` is zero."""
    seen = loop.seen + weight
    share = weight / jnp.maximum(seen, 1)
    mean = jax.tree.map(lambda m, x: m + share.astype(m.dtype) * (x - m), loop.mean, variables)
    now, old = probe(variables), probe(loop.mean)
    new = old + share.astype(now.dtype) * (now - old)  # of `mean`, without reading all of it again
    square = loop.square + weight.astype(now.dtype) * (now - old) * (now - new)
    return loop._replace(mean=mean, square=square, seen=seen)


def probe(tree: PyTree, numpy: Any = jnp) -> Any:
    """Some of the coordinates of a tree, evenly spread, as one vector; `numpy=np` on the host."""
    leaves = [leaf.reshape(-1) for leaf in jax.tree.leaves(tree)]
    if not leaves:  # everything is by row
        return numpy.zeros(0, jnp.result_type(float))
    stride = max(1, sum(leaf.size for leaf in leaves) // _PROBES)
    return numpy.concatenate([leaf[::stride].astype(jnp.result_type(float)) for leaf in leaves])


def _all_finite(tree: PyTree) -> Array:
    finite = [
        jnp.all(jnp.isfinite(leaf))
        for leaf in jax.tree.leaves(tree)
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]
    return jnp.all(jnp.stack(finite)) if finite else jnp.asarray(True)


def take(tree: PyTree, restart: int | Array) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[restart], tree)

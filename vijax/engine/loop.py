"""The device side of the training loop: a compiled program that runs any number of steps."""

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

MAX_SEGMENT = 2000  # maximum number of steps of a segment
THINNING = 10  # every tenth iterate is averaged: consecutive iterates are nearly equal
_LARGE = 2**18  # coordinates above which thinning is doubled: averaging cost 2 % of a step
_INIT_STEP = 2**32 - 1  # the step number from which the key of the initial state is derived
_PROBES = 4096  # coordinates whose variance is tracked: for all it would cost 5 % of a step


class Loop(NamedTuple):
    """The device state between segments; a leading axis of restarts on every leaf.

    Attributes:
        state: the algorithm's state, `Packed` if it has per-row parameters.
        mean: mean of the thinned iterates of the current window, without per-row parameters, whose
            averaging would cost more than the steps.
        sum_squares: sum of squared deviations of the probed coordinates.
        num_averaged: number of iterates averaged.
    """

    state: PyTree
    mean: Variables
    sum_squares: Array
    num_averaged: Array


def init_loop(
    target: Target,
    guide: Guide,
    algorithm: Algorithm,
    variables: Variables,
    mutable: dict[str, PyTree],
    factors: Array,
    key: Array,
    batch: Batch,
) -> Loop:
    """The device state at step 0: variables and learning-rate factors stacked by restart."""

    def one(variables: Variables, factor: Array, key: Array) -> Loop:
        state = init_state(target, guide, algorithm, variables, mutable, key, batch)
        state = algorithm.rescale(state, factor)
        axes = variable_axes(guide, variables, target.space, target.subsampled)
        zeros = jax.tree.map(jnp.zeros_like, shared(variables, axes))
        return Loop(pack_state(target, guide, algorithm, state), zeros, probe(zeros), jnp.zeros(()))

    loop = jax.vmap(one)(variables, factors, _restart_keys(key, len(factors)))
    return target.devices.constrain(loop, loop_axes(target, guide, algorithm, loop))


def _restart_keys(key: Array, restarts: int) -> Array:
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(restarts))


def init_state(
    target: Target,
    guide: Guide,
    algorithm: Algorithm,
    variables: Variables,
    mutable: dict[str, PyTree],
    key: Array,
    batch: Batch,
) -> PyTree:
    """The algorithm's initial state of one restart."""
    init_key = jax.random.fold_in(key, _INIT_STEP)
    return algorithm.init(variables, mutable, init_key, target.on_batch, guide, batch)


def pack_state(target: Target, guide: Guide, algorithm: Algorithm, state: PyTree) -> PyTree:
    """The algorithm's state, `Packed` if it has per-row parameters."""
    axes = variable_axes(guide, algorithm.variables(state), target.space, target.subsampled)
    return pack(state, algorithm.row_axes(state, axes)) if has_rows(axes) else state


def pack_states(target: Target, guide: Guide, algorithm: Algorithm, states: PyTree) -> PyTree:
    """`pack_state` of the states of all restarts."""
    states = jax.vmap(lambda state: pack_state(target, guide, algorithm, state))(states)
    return target.devices.constrain(states, _sharded_state_axes(target, guide, algorithm, states))


def unpack_states(target: Target, guide: Guide, algorithm: Algorithm, states: Packed) -> PyTree:
    """The inverse of `pack_states`."""

    def one(state: Packed) -> PyTree:
        return unpack(state, _state_axes(target, guide, algorithm, state.rest))

    return jax.vmap(one)(states)


def unpack_variables(
    target: Target, guide: Guide, algorithm: Algorithm, states: Packed
) -> Variables:
    """The variables in the packed states of all restarts."""
    return algorithm.variables(unpack_states(target, guide, algorithm, states))


def _state_axes(target: Target, guide: Guide, algorithm: Algorithm, state: PyTree) -> PyTree:
    variables = algorithm.variables(state)
    axes = variable_axes(guide, variables, target.space, target.subsampled)
    return algorithm.row_axes(state, axes)


def sharded_variable_axes(target: Target, guide: Guide, variables: Variables) -> Variables:
    """The axes along which one restart's variables are sharded over devices."""
    if not target.devices.plates:
        return jax.tree.map(lambda _: Axes(), variables)
    plates = target.subsampled or target.devices.plates
    try:
        return variable_axes(guide, variables, target.space, plates)
    except GuideError:  # on full data guides need no per-row parameters
        return jax.tree.map(lambda _: Axes(), variables)


def _sharded_state_axes(
    target: Target, guide: Guide, algorithm: Algorithm, state: PyTree
) -> PyTree:
    """The axes along which a state, packed or not, is sharded over devices."""
    if not target.devices.plates:
        return jax.tree.map(lambda _: Axes(), state)
    if isinstance(state, Packed):
        return packed_axes(state, _state_axes(target, guide, algorithm, state.rest))
    axes = sharded_variable_axes(target, guide, algorithm.variables(state))
    try:
        return algorithm.row_axes(state, axes)
    except TypeError:  # nor does an optimizer need per-row state
        return jax.tree.map(lambda _: Axes(), state)


def loop_axes(target: Target, guide: Guide, algorithm: Algorithm, loop: Loop) -> Loop:
    """The axes along which a loop is sharded over devices; averages are sharded as variables."""
    state = _sharded_state_axes(target, guide, algorithm, loop.state)
    rest: Loop = jax.tree.map(lambda _: Axes(), loop._replace(state=()))
    mean = rest.mean if isinstance(state, Packed) else algorithm.variables(state)
    return rest._replace(state=state, mean=mean)


def run_steps(
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
    """Runs steps `start..stop-1` of every restart; `fresh` resets the averages first.

    The rows of step `t` are at index `t` modulo the length of `table`.

    Of per-row parameters and their optimizer state, a step reads and writes only the rows of its
    batch. Such steps are always guarded, which costs only as much as one batch.

    Returns:
        The updated loop, losses `(MAX_SEGMENT, restarts)`, and whether all values are finite.
    """

    def step(key: Array, t: Array, carry: tuple[PyTree, Array]) -> tuple[PyTree, Array]:
        full, losses = carry
        rows = jax.tree.map(lambda values: values[t % len(values)], (table.index, table.fetched))
        index, fetched = target.devices.shard_batch(rows)
        step_batch = batch._replace(index=index, fetched=fetched, step=t)
        before = take_packed(full, state_axes, step_batch.index) if row_params else full
        step_key = jax.random.fold_in(key, t)
        state, info = algorithm.step(before, step_key, target.on_batch, guide, step_batch)
        if guarded or row_params:
            ok = jnp.isfinite(info.loss) & _all_finite(algorithm.variables(state))
            state = jax.tree.map(lambda new, old: jnp.where(ok, new, old), state, before)
            info = info._replace(loss=jnp.where(ok, info.loss, jnp.nan))
        if row_params:
            state = put_packed(full, state, state_axes, step_batch.index)
        return state, losses.at[t - start].set(info.loss)

    def block(key: Array, t: Array, carry: tuple[Loop, Array]) -> tuple[Array, tuple[Loop, Array]]:
        loop, losses = carry
        end = jnp.minimum(stop, (t // stride + 1) * stride)
        init = (loop.state, losses)
        state, losses = lax.fori_loop(t, end, lambda i, c: step(key, i, c), init)
        complete = (end % stride == 0).astype(loop.num_averaged.dtype)
        loop = loop._replace(state=state)
        return end, (_accumulate(loop, averaged(loop.state), complete), losses)

    def restart(loop: Loop, key: Array) -> tuple[Loop, Array]:
        losses = jnp.zeros((MAX_SEGMENT,))
        init = (start, (loop, losses))
        _, final = lax.while_loop(lambda c: c[0] < stop, lambda c: block(key, *c), init)
        return final

    def averaged(state: PyTree) -> Variables:
        return shared(algorithm.variables(state.rest if row_params else state), axes)

    row_params = isinstance(loop.state, Packed)
    variables = algorithm.variables(loop.state.rest if row_params else loop.state)
    axes = variable_axes(guide, variables, target.space, target.subsampled)
    state_axes = _state_axes(target, guide, algorithm, loop.state.rest) if row_params else None
    size = sum(leaf.size for leaf in jax.tree.leaves(loop.mean)) // restarts
    stride = _stride(algorithm, size)
    averages = (loop.mean, loop.sum_squares, loop.num_averaged)
    mean, sum_squares, num_averaged = jax.tree.map(lambda x: jnp.where(fresh, 0, x), averages)
    loop = loop._replace(mean=mean, sum_squares=sum_squares, num_averaged=num_averaged)
    keys = _restart_keys(key, restarts)
    if restarts == 1:  # avoids the overhead of a batch dimension of one
        after, losses = restart(select_restart(loop, 0), keys[0])
        after, losses = jax.tree.map(lambda leaf: leaf[None], (after, losses))
    else:
        after, losses = jax.vmap(restart)(loop, keys)

        def keep_inactive(new: Array, old: Array) -> Array:
            return jnp.where(active.reshape(-1, *[1] * (new.ndim - 1)), new, old)

        after = jax.tree.map(keep_inactive, after, loop)
    finite = _all_finite(averaged(after.state) if row_params else after.state)
    after = target.devices.constrain(after, loop_axes(target, guide, algorithm, after))
    return after, *target.devices.replicate((losses.T, finite))


def _stride(algorithm: Algorithm, size: int) -> int:
    """Steps between two iterates that are averaged, of `size` parameters."""
    if algorithm.collects:  # which returns none of these averages
        return 10 * THINNING
    return THINNING if size < _LARGE else 2 * THINNING


def _accumulate(loop: Loop, variables: Variables, weight: Array) -> Loop:
    """Welford's update of mean and sum of squared deviations; no-op if `weight` is zero."""
    num_averaged = loop.num_averaged + weight
    share = weight / jnp.maximum(num_averaged, 1)
    mean = jax.tree.map(lambda m, x: m + share.astype(m.dtype) * (x - m), loop.mean, variables)
    now, old = probe(variables), probe(loop.mean)
    new = old + share.astype(now.dtype) * (now - old)  # probe(mean) without reading all of `mean`
    sum_squares = loop.sum_squares + weight.astype(now.dtype) * (now - old) * (now - new)
    return loop._replace(mean=mean, sum_squares=sum_squares, num_averaged=num_averaged)


def probe(tree: PyTree, numpy: Any = jnp) -> Any:
    """An evenly strided subset of a tree's coordinates, `(probes,)`; `numpy=np` on the host."""
    leaves = [leaf.reshape(-1) for leaf in jax.tree.leaves(tree)]
    if not leaves:  # all parameters are per row
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


def select_restart(tree: PyTree, restart: int | Array) -> PyTree:
    """One restart of a tree of stacked restarts."""
    return jax.tree.map(lambda leaf: leaf[restart], tree)

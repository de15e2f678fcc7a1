"""What a loop does to polynomials in latent sites.

The steps of a `scan` are the elements of one more axis, and its body is interpreted once, if the
carry into each step is known: because it depends on data alone, or because it is computed from
the sites of the step before and not from its carry, as the state of a Markov chain.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.extend import core
from jax.interpreters import partial_eval

from vijax.model.conjugacy.interpreter import Interpreter, full_array
from vijax.model.conjugacy.rules.shapes import joined, restrict, substitute
from vijax.model.conjugacy.values import Axis, Known, Opaque, Value, is_number, known
from vijax.runtime.jaxpr import num_consts_and_carry, used_inputs

Rule = Any


class _Loop(NamedTuple):
    """A loop.

    Attributes:
        body: its program, of constants, the carry and the inputs of a step.
        consts: the values of its constants.
        init: of the carry before the first step.
        xs: of the inputs, of all steps.
        length: number of steps.
        reverse: whether the last one comes first.
    """

    body: Any
    consts: tuple[Value, ...]
    init: tuple[Value, ...]
    xs: tuple[Value, ...]
    length: int
    reverse: bool

    def carries_of(self, outputs: Sequence[int]) -> tuple[frozenset[int], bool]:
        """The parts of the carry that outputs of a step need, and whether all else is data."""
        marked = [i in outputs for i in range(len(self.body.jaxpr.outvars))]
        used = used_inputs(self.body.jaxpr, marked)
        start = len(self.consts)
        others = zip((*self.consts, *self.xs), self._others(used), strict=True)
        carries = used[start : start + len(self.init)]
        data = all(isinstance(value, Known) for value, needed in others if needed)
        return frozenset(i for i, needed in enumerate(carries) if needed), data

    def _others(self, flags: Sequence[bool]) -> Sequence[bool]:
        start = len(self.consts)
        return [*flags[:start], *flags[start + len(self.init) :]]


def _scan(interpreter: Interpreter, equation: Any, inputs: Sequence[Any]) -> list[Value]:
    if all(isinstance(value, Known) for value in inputs):
        return interpreter.executed(equation, inputs)
    loop = _loop(equation, inputs)
    count = len(loop.init)
    needs = [loop.carries_of([i]) for i in range(count)]
    carries = _of_data(loop, _data_alone(loop, needs))
    while True:
        outputs = _steps(interpreter, equation, loop, carries)
        new = [i for i in range(count) if i not in carries and needs[i][0] <= carries.keys()]
        if not new:
            break
        for i in new:
            carries[i] = _before(interpreter, loop, loop.init[i], outputs[i])
    last = [_last(interpreter, loop, value) for value in outputs[:count]]
    return [*last, *outputs[count:]]


def _loop(equation: Any, inputs: Sequence[Value]) -> _Loop:
    consts, carry = num_consts_and_carry(equation)
    return _Loop(
        equation.params["jaxpr"],
        tuple(inputs[:consts]),
        tuple(inputs[consts : consts + carry]),
        tuple(inputs[consts + carry :]),
        equation.params["length"],
        equation.params["reverse"],
    )


def _data_alone(loop: _Loop, needs: Sequence[tuple[frozenset[int], bool]]) -> frozenset[int]:
    """The parts of the carry that depend on no latent site."""
    found = {i for i, (_, data) in enumerate(needs) if data and isinstance(loop.init[i], Known)}
    while any(not needs[i][0] <= found for i in found):
        found = {i for i in found if needs[i][0] <= found}
    return frozenset(found)


def _of_data(loop: _Loop, parts: frozenset[int]) -> dict[int, Value]:
    """These parts of the carry into each step, by executing the loop."""
    if not parts:
        return {}
    order = sorted(parts)
    marked = [i in parts for i in range(len(loop.body.jaxpr.outvars))]
    program, used = partial_eval.dce_jaxpr(loop.body.jaxpr, marked)
    step = core.jaxpr_as_fun(core.ClosedJaxpr(program, loop.body.consts))
    first, last = len(loop.consts), len(loop.consts) + len(loop.init)
    consts = _arrays(itertools.compress(loop.consts, used))
    xs = _arrays(itertools.compress(loop.xs, used[last:]))
    init = _arrays(loop.init[i] for i in order)
    needed = [number for number, i in enumerate(order) if used[first + i]]
    concrete = all(map(is_number, [*consts, *xs, *init]))

    def body(carry: list[Array], x: list[Array]) -> tuple[list[Array], list[Array]]:
        return list(step(*consts, *(carry[number] for number in needed), *x)), carry

    # numbers stay numbers, so that what is indexed by a counter is known while the model is read
    with jax.ensure_compile_time_eval() if concrete else contextlib.nullcontext():
        dtypes = [loop.body.jaxpr.invars[first + i].aval.dtype for i in order]
        start = [jnp.asarray(x, dtype) for x, dtype in zip(init, dtypes, strict=True)]
        series = lax.scan(body, start, xs, loop.length, loop.reverse)[1]
    return {i: known(np.asarray(x) if concrete else x) for i, x in zip(order, series, strict=True)}


def _arrays(values: Iterable[Value]) -> list[Any]:
    return [full_array(value) for value in values if isinstance(value, Known)]


def _steps(
    interpreter: Interpreter, equation: Any, loop: _Loop, carries: dict[int, Value]
) -> list[Value]:
    """The outputs of all steps, given some parts of the carry into each."""
    shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in loop.body.jaxpr.invars]
    start = len(loop.consts)
    over = [None] * start + [0] * (len(shapes) - start)
    stacked = [
        shape if axis is None else jax.ShapeDtypeStruct((loop.length, *shape.shape), shape.dtype)
        for shape, axis in zip(shapes, over, strict=True)
    ]
    run = core.jaxpr_as_fun(loop.body)
    closed = jax.make_jaxpr(jax.vmap(run, over))(*stacked)
    everything = (*loop.consts, *loop.init, *loop.xs)
    before = [
        carries[i]
        if i in carries
        else interpreter.opaque("scan", everything, stacked[start + i].shape)
        for i in range(len(loop.init))
    ]
    return interpreter.run(closed.jaxpr, closed.consts, [*loop.consts, *before, *loop.xs])


def _before(interpreter: Interpreter, loop: _Loop, init: Value, after: Value) -> Value:
    """The carry into each step, from the first and those out of each step."""
    shape = tuple(axis.size for axis in after.dims)
    if isinstance(init, Opaque) or isinstance(after, Opaque):
        return interpreter.opaque("scan", [init, after], shape)
    first = substitute(interpreter, init, {}, (Axis(1), *init.dims))
    if loop.length == 1:
        return first
    start, steps = int(loop.reverse), [1] * len(shape)
    starts = [start] + [0] * (len(shape) - 1)
    others = restrict(interpreter, after, starts, steps, (loop.length - 1, *shape[1:]))
    pieces = [(loop.length - 1, first), (0, others)] if loop.reverse else [(0, first), (1, others)]
    found = joined(interpreter, pieces, 0, shape)
    return interpreter.opaque("scan", [init, after], shape) if found is None else found


def _last(interpreter: Interpreter, loop: _Loop, after: Value) -> Value:
    """The carry out of the last step."""
    sizes = [axis.size for axis in after.dims]
    starts = [0 if loop.reverse else loop.length - 1] + [0] * (len(sizes) - 1)
    one = restrict(interpreter, after, starts, [1] * len(sizes), (1, *sizes[1:]))
    return substitute(interpreter, one, {}, one.dims[1:])


LOOPS: dict[str, Rule] = {"scan": _scan}

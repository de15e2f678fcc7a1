"""Sums products of factors over discrete variables, with plates and chains.

Plates are worked off from the innermost outwards. Inside one, factors that share a variable of
that plate are multiplied, the variable is summed out, and what remains is multiplied over the rows
of the plate: the cost is that of one row times their number. A loop is a plate whose variables may
reach into the next step. Sources: Tensor variable elimination for plated factor graphs, Obermeyer,
Bingham, Jankowiak, Chiu, Pradhan, Rush, Goodman, 2019.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vijax.model.discrete import forward_backward as chain
from vijax.model.discrete.factors import (
    Factor,
    Name,
    condition,
    joint_names,
    joint_size,
    multiply_out,
    product,
    spread,
    sum_out,
)
from vijax.model.discrete.forward_backward import Before
from vijax.model.tracing.handler import Loop
from vijax.runtime.errors import ModelError

MAX_COMBINATIONS = 2**16  # of discrete values that are enumerated together, in each row


class Variable(NamedTuple):
    """A discrete site to be summed out.

    Attributes:
        name: of the site.
        size: number of its values.
        dims: the plate or loop along each dimension of its value, `None` where it has length 1.
        loop: the loop it is in, if any.
        start: for one whose state reaches into the next step, the variable that is its state
            before the first step; `""` where that is a constant, `None` for all others.
    """

    name: str
    size: int
    dims: tuple[Name | None, ...] = ()
    loop: Loop | None = None
    start: str | None = None

    @property
    def scope(self) -> frozenset[Name]:
        """The plates and the loop that it is in."""
        return frozenset(dim for dim in self.dims if dim is not None)


class Summed(NamedTuple):
    """A variable that was summed out of `factor`."""

    variable: str
    factor: Factor


class Chained(NamedTuple):
    """The states of a loop that were summed out together, of all factors that they enter."""

    states: tuple[str, ...]
    loop: Loop
    factor: Factor


Tape = list[Summed | Chained]


class Elimination:
    """Sums all variables out, and can draw them afterwards.

    Args:
        variables: by name.
        scales: the power of a plate: full rows over rows in use; 1 for those left out.

    Attributes:
        tape: what was summed out, in order; filled by `total`.
    """

    def __init__(self, variables: Mapping[str, Variable], scales: Mapping[str, float]) -> None:
        self.variables = variables
        self.scales: Mapping[Any, float] = scales
        self.tape: Tape = []

    def total(self, factors: Iterable[Factor]) -> Array:
        """The log of the sum of the product of `factors`, a scalar.

        Raises:
            ModelError: too many combinations, or plates that are not nested.
        """
        waiting = [factor for factor in factors if factor.names]
        done = [factor.log for factor in factors if not factor.names]
        while waiting:
            scope = max((self._scope(factor) for factor in waiting), key=len)
            here = [factor for factor in waiting if self._scope(factor) == scope]
            waiting = [factor for factor in waiting if self._scope(factor) != scope]
            for part in self._connected(here, scope):
                left = self._leave(self._sum_locals(part, scope), scope)
                if left.names:
                    waiting.append(left)
                else:
                    done.append(left.log)
        return sum(done, jnp.zeros(()))

    @property
    def entries(self) -> int:
        """Numbers that `total` has summed over."""
        return sum(math.prod(entry.factor.log.shape) for entry in self.tape)

    def draw(self, key: Array) -> dict[str, Array]:
        """States of all variables, drawn given everything else; call `total` before.

        Returns:
            By name, integers with one dimension for each of the variable's `dims`.
        """
        drawn: dict[Name, Factor] = {}
        for number, entry in enumerate(reversed(self.tape)):
            part = jax.random.fold_in(key, number)
            if isinstance(entry, Summed):
                factor = _given(entry.factor, drawn, keep={entry.variable})
                axis = factor.names.index(entry.variable)
                states = jax.random.categorical(part, factor.log, axis=axis)
                names = tuple(name for name in factor.names if name != entry.variable)
                drawn[entry.variable] = Factor(names, states)
            else:
                drawn |= self._draw_chain(part, entry, drawn)
        out = {}
        for name, variable in self.variables.items():
            states = spread(drawn[name], [dim or object() for dim in variable.dims])
            backwards = variable.loop is not None and variable.loop.reverse
            out[name] = jnp.flip(states, 0) if backwards else states  # from steps to positions
        return out

    def _owner(self, name: Name) -> Variable | None:
        """The variable that a dimension belongs to, `None` for a plate or a loop."""
        key: Any = name.name if isinstance(name, Before) else name
        return self.variables.get(key)

    def _scope(self, factor: Factor) -> frozenset[Name]:
        return frozenset(name for name in factor.names if self._owner(name) is None)

    def _locals(self, factors: Sequence[Factor], scope: frozenset[Name]) -> list[Variable]:
        owners = dict.fromkeys(self._owner(name) for name in joint_names(factors))
        return [owner for owner in owners if owner is not None and owner.scope == scope]

    def _connected(
        self, factors: Sequence[Factor], scope: frozenset[Name]
    ) -> Iterable[list[Factor]]:
        """Groups of factors that share variables of this scope."""
        groups: list[tuple[set[str], list[Factor]]] = []
        for factor in factors:
            names = {variable.name for variable in self._locals([factor], scope)}
            members = [factor]
            apart = []
            for other, group in groups:
                if names & other:
                    names |= other
                    members = [*group, *members]
                else:
                    apart.append((other, group))
            groups = [*apart, (names, members)]
        return [members for _, members in groups]

    def _sum_locals(self, factors: list[Factor], scope: frozenset[Name]) -> Factor:
        found = self._locals(factors, scope)
        plain = {variable.name for variable in found if variable.start is None}
        while plain:
            sharing = {name: [f for f in factors if name in f.names] for name in plain}
            cheapest = min(sorted(plain), key=lambda name: joint_size(sharing[name]))
            plain.remove(cheapest)
            joint = self._product(sharing[cheapest])
            self.tape.append(Summed(cheapest, joint))
            apart = [factor for factor in factors if cheapest not in factor.names]
            factors = [*apart, sum_out(joint, cheapest)]
        carried = [variable for variable in found if variable.start is not None]
        joint = self._product(factors)
        return self._sum_chain(carried, joint) if carried else joint

    def _product(self, factors: Sequence[Factor]) -> Factor:
        names = joint_names(factors)
        check_combinations([v for name in names if (v := self._owner(name)) is not None])
        return product(factors)

    def _sum_chain(self, carried: Sequence[Variable], factor: Factor) -> Factor:
        loop = carried[0].loop
        assert loop is not None
        for name in factor.names:
            other = self._owner(name)
            if other is not None and other not in carried and loop in other.scope:
                raise ModelError(
                    f"site {carried[0].name!r}: expected the discrete sites that a scan carries "
                    f"on together to be in the same plates, got {other.name!r} in others. All rows "
                    "of the plate would have to be summed over together; give each row a state of "
                    "its own."
                )
        states = tuple(variable.name for variable in carried)
        self.tape.append(Chained(states, loop, factor))
        links = chain.links(factor, loop, states)
        first, _ = chain.messages(links)
        first = first.reshape(*links.sizes, *first.shape[1:])
        for variable in reversed(carried):
            if not variable.start:  # a constant start: all entries are the same
                first = jnp.take(first, 0, axis=carried.index(variable))
        starts = tuple(variable.start for variable in carried if variable.start)
        return Factor((*starts, *links.rest), first)

    def _draw_chain(
        self, key: Array, entry: Chained, drawn: dict[Name, Factor]
    ) -> dict[Name, Factor]:
        carried = [self.variables[name] for name in entry.states]
        own: set[Name] = {*entry.states, *(Before(name) for name in entry.states)}
        factor = _given(entry.factor, drawn, keep=own)
        links = chain.links(factor, entry.loop, entry.states)
        nothing = Factor((), jnp.zeros((), int))
        starts = [drawn[v.start] if v.start else nothing for v in carried]
        start = jnp.zeros((), int)
        for size, one in zip(links.sizes, starts, strict=True):
            start = start * size + spread(one, links.rest)
        joint = chain.draw(key, links, start)
        names = (entry.loop, *links.rest)
        out: dict[Name, Factor] = {}
        for i, variable in enumerate(carried):
            states = joint // math.prod(links.sizes[i + 1 :]) % variable.size
            first = jnp.broadcast_to(spread(starts[i], links.rest), states.shape[1:])
            before = jnp.concatenate([first[None], states[:-1]])
            out[variable.name] = Factor(names, states)
            out[Before(variable.name)] = Factor(names, before)
        return out

    def _leave(self, factor: Factor, scope: frozenset[Name]) -> Factor:
        """Multiplies over the plates of a scope that the remaining variables are not in."""
        left = [v for name in factor.names if (v := self._owner(name)) is not None]
        outer = frozenset[Name]().union(*(variable.scope for variable in left))
        if outer & scope == scope and left:
            names = " and ".join(repr(variable.name) for variable in left)
            raise ModelError(
                f"sites {names}: expected the plates of discrete sites that depend on one another "
                f"to be nested, got {sorted(map(str, scope))} crossing. Every row of one would "
                "depend on every row of the other; give one of them a distribution without "
                "discrete values."
            )
        for name in factor.names:  # in their order, so that sums round alike in every process
            if self._owner(name) is None and name not in outer:
                factor = multiply_out(factor, name, self.scales.get(name, 1.0))
        return factor


def check_combinations(variables: Sequence[Variable], site: str = "") -> None:
    """Refuses to enumerate too many values together.

    Raises:
        ModelError: naming the sites and the number of combinations.
    """
    count = math.prod(variable.size for variable in variables)
    if count > MAX_COMBINATIONS:
        sizes = " x ".join(f"{v.name!r} ({v.size} values)" for v in variables)
        raise ModelError(
            f"site {site or variables[0].name!r}: expected at most {MAX_COMBINATIONS} combinations "
            f"of discrete values to be summed over together, got {count}: {sizes}. Let fewer "
            "discrete sites enter one distribution, or give them fewer values."
        )


def _given(factor: Factor, drawn: Mapping[Name, Factor], keep: set[Name]) -> Factor:
    for name in factor.names:
        if name in drawn and name not in keep:
            factor = condition(factor, name, drawn[name])
    return factor

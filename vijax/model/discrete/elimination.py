"""Variable elimination: sums of products of factors over discrete variables, plates and chains.

Plates are eliminated from the innermost outward. In a plate, factors that share a variable of it
are multiplied and summed over the variable; the result is multiplied over the rows of the plate.
The cost is linear in the number of rows. A loop is a plate whose factors may depend on the previous
states of its variables; its first step is outside of it, with variables `FirstStep(name)`. Source:
Tensor variable elimination for plated factor graphs, Obermeyer, Bingham, Jankowiak, Chiu, Pradhan,
Rush, Goodman, 2019.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vijax.model.discrete import forward_backward
from vijax.model.discrete.factors import (
    Factor,
    Name,
    align,
    condition,
    joint_names,
    joint_size,
    product,
    product_over,
    sum_over,
)
from vijax.model.discrete.scaled_messages import first_message
from vijax.model.tracing.handler import Loop, Previous
from vijax.runtime.errors import ModelError

MAX_COMBINATIONS = 2**16  # of discrete values enumerated jointly, in each row


class Variable(NamedTuple):
    """A discrete site to be marginalized.

    Attributes:
        name: of the site, or of it at the first step of a loop.
        size: number of its values.
        dims: the plate or loop along each dimension of its value, `None` where it has length 1.
        loop: the loop it is in, if any.
        initial: for one in a chain, the variable that is its state before the first step; `""`
            where that is a constant, `None` for variables that are not in a chain.
    """

    name: Any
    size: int
    dims: tuple[Name | None, ...] = ()
    loop: Loop | None = None
    initial: str | None = None

    @property
    def scope(self) -> frozenset[Name]:
        """The plates and the loop that it is in."""
        return frozenset(dim for dim in self.dims if dim is not None)


@dataclasses.dataclass(frozen=True)
class FirstStep:
    """The variable, or the factor, of a site in a loop at its first step."""

    name: str


class EliminatedVariable(NamedTuple):
    """A variable that was eliminated from `factor`, the product of the factors it is in."""

    variable: Name
    factor: Factor


class EliminatedChain(NamedTuple):
    """The states of a loop that were jointly eliminated from `factor`, likewise."""

    states: tuple[str, ...]
    loop: Loop
    factor: Factor


Tape = list[EliminatedVariable | EliminatedChain]


class Elimination:
    """Marginalizes all variables, and samples them given everything else.

    Args:
        variables: by name.
        scales: power of the product over each plate, full rows over rows in use; 1 by default.
        sizes: lengths of the plates and loops along which factors may be of length 1, constant.
            Chains are then eliminated on a scale of probabilities in double precision.

    Attributes:
        tape: eliminated variables and chains, in order; set by `log_total`.
    """

    def __init__(
        self,
        variables: Mapping[str, Variable],
        scales: Mapping[str, float],
        sizes: Mapping[Any, int] | None = None,
    ) -> None:
        self.variables = variables
        self.scales: Mapping[Any, float] = scales
        self.sizes = sizes
        self.tape: Tape = []

    def log_total(self, factors: Iterable[Factor]) -> Array:
        """The log of the sum over all variables of the product of `factors`, a scalar.

        Raises:
            ModelError: too many combinations, or plates that are not nested.
        """
        remaining = [factor for factor in factors if factor.names]
        done = [factor.log for factor in factors if not factor.names]
        while remaining:
            scope = max((self._scope(factor) for factor in remaining), key=len)
            innermost = [factor for factor in remaining if self._scope(factor) == scope]
            remaining = [factor for factor in remaining if self._scope(factor) != scope]
            for component in self._components(innermost, scope):
                reduced = self._multiply_rows(self._eliminate(component, scope), scope)
                if reduced.names:
                    remaining.append(reduced)
                else:
                    done.append(reduced.log)
        return sum(done, jnp.zeros(()))

    @property
    def entries(self) -> int:
        """Number of array elements that `log_total` summed over."""
        return sum(math.prod(entry.factor.log.shape) for entry in self.tape)

    def sample(self, key: Array) -> dict[str, Array]:
        """Joint draws of the states of all variables; call `log_total` first.

        Returns:
            By name, integers with one dimension for each of the variable's `dims`.
        """
        samples: dict[Name, Factor] = {}
        for number, entry in enumerate(reversed(self.tape)):
            draw_key = jax.random.fold_in(key, number)
            if isinstance(entry, EliminatedVariable):
                factor = _condition_on(entry.factor, samples, keep={entry.variable})
                axis = factor.names.index(entry.variable)
                states = jax.random.categorical(draw_key, factor.log, axis=axis)
                names = tuple(name for name in factor.names if name != entry.variable)
                samples[entry.variable] = Factor(names, states)
            else:
                samples |= self._sample_chain(draw_key, entry, samples)
        return {name: self._states(variable, samples) for name, variable in self.variables.items()}

    def _states(self, variable: Variable, samples: Mapping[Name, Factor]) -> Array:
        """The states of a variable with one dimension for each of its `dims`."""
        dims = [dim or object() for dim in variable.dims]
        if variable.loop is None:
            return align(samples[variable.name], dims)
        parts = [samples[FirstStep(variable.name)]]
        if variable.name in samples:
            parts.append(samples[variable.name])
        axis = variable.dims.index(variable.loop)
        arrays = [jnp.moveaxis(align(part, dims), axis, 0) for part in parts]
        rows = jnp.broadcast_shapes(*(array.shape[1:] for array in arrays))
        full = [jnp.broadcast_to(array, (len(array), *rows)) for array in arrays]
        states = jnp.moveaxis(jnp.concatenate(full), 0, axis)
        return jnp.flip(states, axis) if variable.loop.reverse else states  # from steps to indices

    def _variable(self, name: Name) -> Variable | None:
        """The variable of a dimension, `None` for a plate or a loop."""
        key: Any = name.name if isinstance(name, (Previous, FirstStep)) else name
        found = self.variables.get(key)
        if found is None or not isinstance(name, FirstStep):
            return found
        dims = tuple(None if isinstance(dim, Loop) else dim for dim in found.dims)
        return found._replace(name=name, dims=dims, loop=None, initial=None)

    def _scope(self, factor: Factor) -> frozenset[Name]:
        return frozenset(name for name in factor.names if self._variable(name) is None)

    def _variables_of(self, factors: Sequence[Factor], scope: frozenset[Name]) -> list[Variable]:
        variables = dict.fromkeys(self._variable(name) for name in joint_names(factors))
        return [v for v in variables if v is not None and v.scope == scope]

    def _components(
        self, factors: Sequence[Factor], scope: frozenset[Name]
    ) -> Iterable[list[Factor]]:
        """Connected components of factors that share variables of this scope."""
        groups: list[tuple[set[str], list[Factor]]] = []
        for factor in factors:
            names = {variable.name for variable in self._variables_of([factor], scope)}
            members = [factor]
            separate = []
            for other, group in groups:
                if names & other:
                    names |= other
                    members = [*group, *members]
                else:
                    separate.append((other, group))
            groups = [*separate, (names, members)]
        return [members for _, members in groups]

    def _eliminate(self, factors: list[Factor], scope: frozenset[Name]) -> Factor:
        found = self._variables_of(factors, scope)
        plain = {variable.name for variable in found if variable.initial is None}
        while plain:
            sharing = {name: [f for f in factors if name in f.names] for name in plain}
            cheapest = min(sorted(plain, key=str), key=lambda name: joint_size(sharing[name]))
            plain.remove(cheapest)
            joint = self._product(sharing[cheapest])
            self.tape.append(EliminatedVariable(cheapest, joint))
            others = [factor for factor in factors if cheapest not in factor.names]
            factors = [*others, sum_over(joint, cheapest)]
        chained = [variable for variable in found if variable.initial is not None]
        joint = self._product(factors)
        return self._eliminate_chain(chained, joint, factors) if chained else joint

    def _product(self, factors: Sequence[Factor]) -> Factor:
        names = joint_names(factors)
        check_combinations([v for name in names if (v := self._variable(name)) is not None])
        return product(factors)

    def _eliminate_chain(
        self, chained: Sequence[Variable], factor: Factor, parts: Sequence[Factor]
    ) -> Factor:
        loop = chained[0].loop
        assert loop is not None
        for name in factor.names:
            other = self._variable(name)
            if other is not None and other not in chained and loop in other.scope:
                raise ModelError(
                    f"site {chained[0].name!r}: expected the discrete sites that a scan jointly "
                    f"carries to be in the same plates, got {other.name!r} in others. All rows of "
                    "the plate would have to be enumerated jointly; use a separate state for each "
                    "row."
                )
        states = tuple(variable.name for variable in chained)
        self.tape.append(EliminatedChain(states, loop, factor))
        initial = tuple(map(FirstStep, states))
        if self.sizes is not None:
            rest, first = self._first_message(states, loop, parts)
        else:
            chain = forward_backward.as_chain(factor, loop, states)
            first, _ = forward_backward.backward_messages(chain)
            first, rest = first.reshape(*chain.sizes, *first.shape[1:]), chain.rest
        return Factor((*initial, *rest), first)

    def _first_message(
        self, states: Sequence[str], loop: Loop, factors: Sequence[Factor]
    ) -> tuple[tuple[Name, ...], Array]:
        """The message before a loop, from factors that may be constant in its steps and rows."""
        assert self.sizes is not None
        previous = [Previous(name) for name in states]
        names = joint_names(factors)
        rest = tuple(name for name in names if name not in {loop, *previous, *states})
        rows = [max(f.sizes.get(name, 1) for f in factors) for name in rest]
        sizes = [self.variables[name].size for name in states]
        count, steps = math.prod(sizes), self.sizes[loop] - 1
        matrices, local = jnp.zeros((1, 1, 1, 1)), jnp.zeros((1, 1, 1))
        for factor in factors:
            is_matrix = any(name in factor.names for name in previous)
            array = align(factor, (loop, *previous, *states, *rest))
            lead = sizes if is_matrix else [1] * len(sizes)
            own = [*rows] if math.prod(array.shape[1 + 2 * len(sizes) :]) > 1 else [1] * len(rows)
            array = jnp.broadcast_to(array, (array.shape[0], *lead, *sizes, *own))
            flat = array.reshape(array.shape[0], math.prod(lead), count, math.prod(own))
            if is_matrix:
                matrices = matrices + flat
            else:
                local = local + flat[:, 0]
        matrices = jnp.broadcast_to(matrices, (len(matrices), count, count, matrices.shape[3]))
        local = jnp.broadcast_to(local, (steps, count, math.prod(rows)))
        if local.dtype == jnp.float64:
            first = first_message(matrices, local)
        else:  # probabilities of very unlikely observations would be zero
            chain = forward_backward.Chain(matrices + local[:, None], (count,), ("rows",))
            first, _ = forward_backward.backward_messages(chain)
        return rest, first.reshape(*sizes, *rows)

    def _sample_chain(
        self, key: Array, entry: EliminatedChain, samples: dict[Name, Factor]
    ) -> dict[Name, Factor]:
        chained = [self.variables[name] for name in entry.states]
        keep: set[Name] = {*entry.states, *(Previous(name) for name in entry.states)}
        factor = _condition_on(entry.factor, samples, keep)
        chain = forward_backward.as_chain(factor, entry.loop, entry.states)
        initial = [samples[FirstStep(name)] for name in entry.states]
        joint_initial = jnp.zeros((), int)
        for size, one in zip(chain.sizes, initial, strict=True):
            joint_initial = joint_initial * size + align(one, chain.rest)
        joint = forward_backward.sample_states(key, chain, joint_initial)
        names = (entry.loop, *chain.rest)
        out: dict[Name, Factor] = {}
        for i, variable in enumerate(chained):
            states = joint // math.prod(chain.sizes[i + 1 :]) % variable.size
            first = jnp.broadcast_to(align(initial[i], chain.rest), states.shape[1:])
            previous = jnp.concatenate([first[None], states[:-1]])
            out[variable.name] = Factor(names, states)
            out[Previous(variable.name)] = Factor(names, previous)
        return out

    def _multiply_rows(self, factor: Factor, scope: frozenset[Name]) -> Factor:
        """Multiplies over the plates of a scope that the remaining variables are not in."""
        variables = [v for name in factor.names if (v := self._variable(name)) is not None]
        outer = frozenset[Name]().union(*(variable.scope for variable in variables))
        if outer & scope == scope and variables:
            names = " and ".join(dict.fromkeys(_site(variable) for variable in variables))
            raise ModelError(
                f"sites {names}: expected the plates of dependent discrete sites to be nested, got "
                f"crossed plates {sorted(map(str, scope))}. Every row of one would depend on every "
                "row of the other; replace one of them by a continuous site."
            )
        for name in factor.names:  # in this order, so that rounding is the same in every process
            if self._variable(name) is None and name not in outer:
                repeats = self._length(name, factor) / factor.sizes[name]
                factor = product_over(factor, name, self.scales.get(name, 1.0) * repeats)
        return factor

    def _length(self, name: Name, factor: Factor) -> int:
        """The length of a plate or loop; a loop is without its first step."""
        if self.sizes is None:
            return factor.sizes[name]
        return self.sizes[name] - isinstance(name, Loop)


def check_combinations(variables: Sequence[Variable], site: str = "") -> None:
    """Refuses to enumerate too many values jointly.

    Raises:
        ModelError: naming the sites and the number of combinations.
    """
    count = math.prod(variable.size for variable in variables)
    if count > MAX_COMBINATIONS:
        sizes = " x ".join(f"{v.name!r} ({v.size} values)" for v in variables)
        raise ModelError(
            f"site {site or variables[0].name!r}: expected at most {MAX_COMBINATIONS} combinations "
            f"of discrete values to be enumerated jointly, got {count}: {sizes}. Let the "
            "distribution depend on fewer discrete sites, or give them fewer values."
        )


def _site(variable: Variable) -> str:
    """The name of a variable's site, in quotes."""
    return repr(variable.name.name if isinstance(variable.name, FirstStep) else variable.name)


def _condition_on(factor: Factor, samples: Mapping[Name, Factor], keep: set[Name]) -> Factor:
    """Conditions on the samples of all variables but those in `keep`."""
    for name in factor.names:
        if name in samples and name not in keep:
            factor = condition(factor, name, samples[name])
    return factor

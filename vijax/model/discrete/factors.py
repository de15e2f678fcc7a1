"""Arrays of log factors whose dimensions have names: discrete sites, plates and loops."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.scipy.special import logsumexp

Name = Hashable


class Factor(NamedTuple):
    """The logarithm of a non-negative function.

    Attributes:
        names: one for each dimension of `log`.
        log: its values.
    """

    names: tuple[Name, ...]
    log: Array

    @property
    def sizes(self) -> dict[Name, int]:
        """Length of each dimension."""
        return dict(zip(self.names, self.log.shape, strict=True))


def spread(factor: Factor, names: Sequence[Name]) -> Array:
    """The values with one dimension for each of `names`, of length 1 where the factor has none."""
    kept = [name for name in names if name in factor.names]
    moved = jnp.transpose(factor.log, [factor.names.index(name) for name in kept])
    missing = [i for i, name in enumerate(names) if name not in factor.names]
    return jnp.expand_dims(moved, missing)


def joint_names(factors: Sequence[Factor]) -> tuple[Name, ...]:
    """The names of all factors, each once, in order of appearance."""
    return tuple(dict.fromkeys(name for factor in factors for name in factor.names))


def joint_size(factors: Sequence[Factor]) -> int:
    """Number of entries of their product."""
    sizes: dict[Name, int] = {}
    for factor in factors:
        sizes |= factor.sizes
    return math.prod(sizes.values())


def product(factors: Sequence[Factor]) -> Factor:
    """The product of factors, over all of their dimensions."""
    names = joint_names(factors)
    log = spread(factors[0], names)
    for factor in factors[1:]:
        log = log + spread(factor, names)
    return Factor(names, log)


def append(first: Factor, then: Factor, name: Name) -> Factor:
    """Two factors one after the other along one dimension that both have."""
    names = joint_names([then, first])
    arrays = [spread(first, names), spread(then, names)]
    axis = names.index(name)
    shape = jnp.broadcast_shapes(*(a.shape[:axis] + (1,) + a.shape[axis + 1 :] for a in arrays))
    full = [jnp.broadcast_to(a, (*shape[:axis], a.shape[axis], *shape[axis + 1 :])) for a in arrays]
    return Factor(names, jnp.concatenate(full, axis))


def sum_out(factor: Factor, name: Name) -> Factor:
    """The sum over the values of one dimension."""
    axis = factor.names.index(name)
    rest = tuple(other for other in factor.names if other != name)
    return Factor(rest, logsumexp(factor.log, axis=axis))


def multiply_out(factor: Factor, name: Name, power: float = 1.0) -> Factor:
    """The product over the entries of one dimension, to a power."""
    axis = factor.names.index(name)
    rest = tuple(other for other in factor.names if other != name)
    return Factor(rest, power * jnp.sum(factor.log, axis=axis))


def condition(factor: Factor, name: Name, states: Factor) -> Factor:
    """The factor at given values of one dimension: integers, by some of the other dimensions."""
    axis = factor.names.index(name)
    rest = tuple(other for other in factor.names if other != name)
    index = jnp.expand_dims(spread(states, rest), axis)
    return Factor(rest, jnp.squeeze(jnp.take_along_axis(factor.log, index, axis), axis))

"""Factors of a factor graph: arrays with named dimensions (discrete sites, plates, loops)."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.scipy.special import logsumexp

Name = Hashable


class Factor(NamedTuple):
    """A non-negative function of discrete variables, by its logarithm.

    Attributes:
        names: of the dimensions of `log`.
        log: its logarithm.
    """

    names: tuple[Name, ...]
    log: Array

    @property
    def sizes(self) -> dict[Name, int]:
        """Length of each dimension."""
        return dict(zip(self.names, self.log.shape, strict=True))


def align(factor: Factor, names: Sequence[Name]) -> Array:
    """`factor.log` with dimensions `names`, of length 1 where the factor has none."""
    kept = [name for name in names if name in factor.names]
    moved = jnp.transpose(factor.log, [factor.names.index(name) for name in kept])
    missing = [i for i, name in enumerate(names) if name not in factor.names]
    return jnp.expand_dims(moved, missing)


def joint_names(factors: Sequence[Factor]) -> tuple[Name, ...]:
    """The distinct dimensions of all factors, in order of appearance."""
    return tuple(dict.fromkeys(name for factor in factors for name in factor.names))


def joint_size(factors: Sequence[Factor]) -> int:
    """Number of entries of the product of factors."""
    sizes: dict[Name, int] = {}
    for factor in factors:
        sizes |= factor.sizes
    return math.prod(sizes.values())


def product(factors: Sequence[Factor]) -> Factor:
    """The product of factors, with all of their dimensions."""
    names = joint_names(factors)
    log = align(factors[0], names)
    for factor in factors[1:]:
        log = log + align(factor, names)
    return Factor(names, log)


def sum_over(factor: Factor, name: Name) -> Factor:
    """The sum over a dimension."""
    axis = factor.names.index(name)
    rest = tuple(other for other in factor.names if other != name)
    return Factor(rest, logsumexp(factor.log, axis=axis))


def product_over(factor: Factor, name: Name, power: float = 1.0) -> Factor:
    """The product over a dimension, to a power."""
    axis = factor.names.index(name)
    rest = tuple(other for other in factor.names if other != name)
    return Factor(rest, power * jnp.sum(factor.log, axis=axis))


def condition(factor: Factor, name: Name, states: Factor) -> Factor:
    """The factor at given indices of a dimension, integers over some of the other dimensions."""
    axis = factor.names.index(name)
    rest = tuple(other for other in factor.names if other != name)
    index = jnp.expand_dims(align(states, rest), axis)
    return Factor(rest, jnp.squeeze(jnp.take_along_axis(factor.log, index, axis), axis))

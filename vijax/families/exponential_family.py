"""What every exponential family can do: the contract of conjugate updates.

A family has the density `p(x) = exp(<eta, t(x)> - A(eta))` with respect to the Lebesgue measure (of
symmetric matrices: of the entries of a triangle), `<,>` the sum over all entries of all statistics.
Constants and Jacobians are part of `eta` and `A`, so that `entropy = A - <eta, E t>` is that of the
value itself and the gradient of an expected log joint density in `E t` is the optimal `eta`.

Three sets of parameters of one distribution are used.

* The fields of the class: those of the literature (a mean and a precision, a concentration, ...).
* `natural` and `mean_parameters`: `eta` and `E t(x)`, by name of the statistic.
* `expectations`: what `mean_parameters` say in central form (mean and variance instead of first and
  second moment), of which expected log densities are functions without cancellation.

`step` is the only update: a gradient of the expected log joint density in `expectations` becomes
natural parameters. With rate 1 it is a step of coordinate ascent, with less a step along the
natural gradient. Sources: Natural Gradient Works Efficiently in Learning, Amari, 1998; Stochastic
Variational Inference, Hoffman, Blei, Wang and Paisley, 2013.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
from typing import Any, Self

import jax.numpy as jnp
from jax import Array


class ExponentialFamily(abc.ABC):
    """Independent variables of one family: a pytree of parameters with leading batch axes `*B`.

    All parameters have the same batch axes. Every function works under `jit` and `vmap`.
    """

    @property
    @abc.abstractmethod
    def natural(self) -> dict[str, Array]:
        """Natural parameters `eta`, by name of the statistic."""

    @classmethod
    @abc.abstractmethod
    def from_natural(cls, natural: Mapping[str, Array]) -> Self:
        """The member of the family with these natural parameters."""

    @property
    @abc.abstractmethod
    def mean_parameters(self) -> dict[str, Array]:
        """`E t(x)`, the gradient of the log normalizer in `natural`; the same names."""

    @property
    @abc.abstractmethod
    def expectations(self) -> dict[str, Array]:
        """The mean parameters in central form: the arguments of expected log densities."""

    @abc.abstractmethod
    def step(self, gradient: Mapping[str, Array], rate: float | Array = 1.0) -> Self:
        """Moves the natural parameters towards the gradient of an expected log density.

        Args:
            gradient: of `L` with respect to `expectations`, with their names and shapes.
            rate: `r` in `eta' = (1 - r) eta + r dL / d(mean parameters)`; a number, or one for
                each member of the batch, `*B`.

        Returns:
            The new member. A result outside the family (a precision that is not positive) gives
            parameters that are negative or not finite; it raises nothing.
        """

    @property
    @abc.abstractmethod
    def log_normalizer(self) -> Array:
        """`A(eta)`, `*B`."""

    @property
    @abc.abstractmethod
    def entropy(self) -> Array:
        """`-E log p(x)` in nats, `*B`."""

    @abc.abstractmethod
    def divergence(self, other: Self) -> Array:
        """Kullback-Leibler divergence `KL(self || other)` in nats, `*B`."""

    @abc.abstractmethod
    def draw(self, key: Array) -> Any:
        """One draw of every member of the batch."""

    @abc.abstractmethod
    def log_prob(self, value: Any) -> Array:
        """Log density of a value of every member, `*B`."""

    @abc.abstractmethod
    def statistics(self, value: Any) -> dict[str, Array]:
        """The sufficient statistics `t(x)` of a value, with the names of `natural`."""


def interpolate(old: Array, new: Array, rate: float | Array) -> Array:
    """`(1 - rate) old + rate new`, for a number or a rate for each member of the batch."""
    rate = over_events(rate, jnp.ndim(old))
    return (1 - rate) * old + rate * new


def over_events(rate: float | Array, ndim: int) -> float | Array:
    """A rate for each member of the batch, with axes of size one up to `ndim`; a number as is."""
    if jnp.ndim(rate) == 0:
        return rate
    return jnp.expand_dims(rate, tuple(range(jnp.ndim(rate), ndim)))

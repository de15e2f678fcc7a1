"""The variational posterior of a mixture: of its weights and of its components' parameters."""

from __future__ import annotations

import abc
import dataclasses
from typing import Self

import jax
import jax.numpy as jnp
from jax import Array

from vijax.families.beta import Beta
from vijax.families.dirichlet import Dirichlet
from vijax.solvers.mixture.components import Components


class Weights(abc.ABC):
    """A prior or posterior of the weights of `K` components: a pytree."""

    @property
    @abc.abstractmethod
    def log(self) -> Array:
        """`E log pi_k`, `(K,)`."""

    @abc.abstractmethod
    def updated(self, counts: Array) -> Self:
        """The posterior given expected numbers of rows, `(K,)`, of which this is the prior."""

    @abc.abstractmethod
    def divergence(self, prior: Self) -> Array:
        """`KL(q || prior)` in nats, a scalar."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class DirichletWeights(Weights):
    """Weights of a finite mixture.

    Attributes:
        law: of all weights, `(K,)`.
    """

    law: Dirichlet

    @property
    def log(self) -> Array:
        return self.law.expectations["log"]

    def updated(self, counts: Array) -> Self:
        return type(self)(Dirichlet(self.law.concentration + counts))

    def divergence(self, prior: Self) -> Array:
        return self.law.divergence(prior.law)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Sticks(Weights):
    """Weights of a Dirichlet process, `pi_k = v_k prod_{j<k} (1 - v_j)`.

    All `K` sticks are free: what they leave is the weight of infinitely many components that have
    no rows and keep their prior. Sources: Variational Inference for Dirichlet Process Mixtures,
    Blei and Jordan, 2006; for the bound, Accelerated Variational Dirichlet Process Mixtures,
    Kurihara, Welling and Vlassis, 2006.

    Attributes:
        law: of `v_k`, `(K,)`.
    """

    law: Beta

    @property
    def log(self) -> Array:
        found = self.law.expectations
        return found["log"] + _before(found["log1m"])

    def updated(self, counts: Array) -> Self:
        after = _before(counts[::-1])[::-1]
        return type(self)(Beta(self.law.a + counts, self.law.b + after))

    def divergence(self, prior: Self) -> Array:
        return jnp.sum(self.law.divergence(prior.law))


def _before(x: Array) -> Array:
    """Sums of all earlier entries, `(K,)`."""
    return jnp.cumsum(x) - x


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Mixture:
    """A prior or posterior of all parameters.

    Attributes:
        weights: of the components.
        components: their parameters.
        ordered: whether the components are sorted by size at every update, which raises the bound
            of a Dirichlet process, whose sticks are not exchangeable.
    """

    weights: Weights
    components: Components
    ordered: bool = dataclasses.field(default=False, metadata={"static": True})

    @property
    def coefficients(self) -> Array:
        """`E log pi_k + E log p(x_n | theta_k) = <coefficients_k, phi(x_n)>`, `(K, p)`."""
        return self.components.coefficients.at[:, 0].add(self.weights.log)

    def arranged(self, statistics: Array) -> Array:
        """The statistics `(K, p)` of the components by size if they are to be sorted."""
        if not self.ordered:
            return statistics
        return statistics[jnp.argsort(-statistics[:, 0])]

    def updated(self, statistics: Array) -> Self:
        """The posterior of which this is the prior, from statistics `(K, p)`."""
        weights = self.weights.updated(statistics[:, 0])
        return type(self)(weights, self.components.updated(statistics), self.ordered)

    def divergence(self, prior: Self) -> Array:
        """`KL(q || prior)`, a scalar."""
        weights = self.weights.divergence(prior.weights)
        return weights + self.components.divergence(prior.components)

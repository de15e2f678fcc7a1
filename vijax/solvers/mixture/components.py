"""What a mixture's components are: distributions of their parameters, and one matrix product.

The density of a component is an exponential family with a conjugate prior, so that the expected
log density of a row is linear in features of the row, `E_q log p(x_n | theta_k) = <c_k, phi(x_n)>`.
For all rows and components it is one matrix product, and the statistics from which the posterior
follows, `sum_n r_nk phi(x_n)`, are another. Features are products of two entries of the augmented
row `a = (1, x)`; the first is `1`.
"""

from __future__ import annotations

import abc
from typing import Self

import jax
import numpy as np
from jax import Array


class Components(abc.ABC):
    """Independent posteriors (or priors) of the parameters of `K` components: a pytree."""

    @staticmethod
    @abc.abstractmethod
    def pairs(num_columns: int) -> tuple[np.ndarray, np.ndarray]:
        """The entries of `a = (1, x)` whose products are the features, two of shape `(p,)`.

        Args:
            num_columns: of the data, `d`.
        """

    @property
    @abc.abstractmethod
    def coefficients(self) -> Array:
        """Of the features in the expected log density of a row, `(K, p)`."""

    @abc.abstractmethod
    def updated(self, statistics: Array) -> Self:
        """The posterior of which this is the prior.

        Args:
            statistics: sums of features, weighted by responsibilities, `(K, p)`.
        """

    @abc.abstractmethod
    def divergence(self, prior: Self) -> Array:
        """`KL(q || prior)` of all parameters together, in nats, a scalar."""


def repeated(tree: Components, num_components: int) -> Components:
    """The same distribution for each of `K` components, from one without a batch axis."""
    return jax.tree.map(lambda leaf: np.broadcast_to(leaf, (num_components, *np.shape(leaf))), tree)

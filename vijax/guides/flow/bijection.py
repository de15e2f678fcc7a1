"""The base class of bijections.

A bijection is written for one point `(dim,)`; the caller applies `vmap`. It is a frozen
configuration, with its parameters in a separate pytree, and at `init` it is the identity or close
to it, so that a flow starts at its base distribution.
"""

from __future__ import annotations

import abc
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from vijax.contracts import PyTree


class Bijection(abc.ABC):
    """A diffeomorphism of `R^dim`. Frozen, hashable, without arrays.

    Attributes:
        cheap_inverse: whether `inverse` costs about as much as `forward`.
    """

    cheap_inverse: ClassVar[bool] = True

    @abc.abstractmethod
    def init(self, key: Array, dim: int) -> PyTree:
        """Parameters at which the map is the identity, to rounding or to about a percent."""

    @abc.abstractmethod
    def forward(self, params: PyTree, x: Array) -> tuple[Array, Array]:
        """The image `y` `(dim,)` of `x` `(dim,)`, and `log |dy/dx|`, a scalar."""

    @abc.abstractmethod
    def inverse(self, params: PyTree, y: Array) -> tuple[Array, Array]:
        """The point `x` with `forward(x) = y`, and `log |dx/dy|`; differentiable."""

    def forward_score(self, params: PyTree, x: Array, score: Array) -> tuple[Array, Array, Array]:
        """`forward`, and the score of the pushforward of a density with `score` at `x`.

        With `q` the density of `y`, `grad log q(y) = J^-T (score - grad_x log |J|)`, which takes
        no inversion of the flow. No gradient passes through it. Source: Fast and Unified Path
        Gradient Estimators for Normalizing Flows, Vaitl, Winkler, Richter, Kessel, 2024.

        Args:
            params: parameters.
            x: `(dim,)`.
            score: gradient of the log density of `x`, `(dim,)`.

        Returns:
            `y`, `log |dy/dx|` and `grad log q(y)` `(dim,)`.
        """
        y, log_det = self.forward(params, x)
        fixed, x, score = lax.stop_gradient((params, x, score))
        if self.cheap_inverse:
            _, vjp = jax.vjp(lambda y: self.inverse(fixed, y), lax.stop_gradient(y))
            (score,) = vjp((score, jnp.ones_like(log_det)))
        else:
            log_det_gradient = jax.grad(lambda x: self.forward(fixed, x)[1])(x)
            jacobian = jax.jacfwd(lambda x: self.forward(fixed, x)[0])(x)
            score = jnp.linalg.solve(jacobian.T, score - log_det_gradient)
        return y, log_det, lax.stop_gradient(score)


def default_float() -> jnp.dtype:
    """float32, or float64 where JAX has it enabled."""
    return jnp.result_type(float)

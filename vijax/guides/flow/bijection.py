"""What a bijection is: the contract of every file in this folder.

Written for one point `(dim,)`; the caller applies `vmap`. A bijection is frozen configuration, its
parameters are a pytree kept apart, and at `init` it is the identity or nearly so, so that a flow
starts as its base.
"""

from __future__ import annotations

import abc
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array, lax

from vijax.contracts import PyTree


class Bijection(abc.ABC):
    """A differentiable one-to-one map of `R^dim` onto itself. Frozen, hashable, holds no arrays.

    Attributes:
        cheap_inverse: whether `inverse` costs about as much as `forward`.
    """

    cheap_inverse: ClassVar[bool] = True

    @abc.abstractmethod
    def init(self, key: Array, dim: int) -> PyTree:
        """Parameters at, or within rounding to a percent of, the identity on `R^dim`."""

    @abc.abstractmethod
    def forward(self, params: PyTree, x: Array) -> tuple[Array, Array]:
        """The image `y` `(dim,)` of `x` `(dim,)`, and `log |dy/dx|`, a scalar."""

    @abc.abstractmethod
    def inverse(self, params: PyTree, y: Array) -> tuple[Array, Array]:
        """The point `x` with `forward(x) = y`, and `log |dx/dy|`; differentiable."""

    def push(self, params: PyTree, x: Array, score: Array) -> tuple[Array, Array, Array]:
        """`forward`, and the score of what it makes of a density with `score` at `x`.

        With `q` the density of `y` where `x` has the given score, `grad log q(y)` is
        `J^-T (score - grad_x log |J|)`: known without ever inverting a flow as a whole. No
        gradient passes through it. Source: Fast and Unified Path Gradient Estimators for
        Normalizing Flows, Vaitl, Winkler, Richter, Kessel, 2024.

        Returns:
            `y`, `log |dy/dx|` and `grad log q(y)` `(dim,)`.
        """
        y, log_det = self.forward(params, x)
        fixed, x, score = lax.stop_gradient((params, x, score))
        if self.cheap_inverse:
            _, pull = jax.vjp(lambda y: self.inverse(fixed, y), lax.stop_gradient(y))
            (score,) = pull((score, jnp.ones_like(log_det)))
        else:
            slope = jax.grad(lambda x: self.forward(fixed, x)[1])(x)
            jacobian = jax.jacfwd(lambda x: self.forward(fixed, x)[0])(x)
            score = jnp.linalg.solve(jacobian.T, score - slope)
        return y, log_det, lax.stop_gradient(score)


def polish(bijection: Bijection, params: PyTree, y: Array, x: Array) -> tuple[Array, Array]:
    """One Newton step from `x`, a root of `forward(x) = y` up to rounding, and `log |dx/dy|`.

    The root is found without gradients; through this step they are those of the implicit function
    theorem, in `y` and in `params`.
    """
    x, fixed = lax.stop_gradient((x, params))
    jacobian = jax.jacfwd(lambda x: bijection.forward(fixed, x)[0])(x)
    x = x + jnp.linalg.solve(jacobian, y - bijection.forward(params, x)[0])
    return x, -bijection.forward(params, x)[1]


def default_float() -> jnp.dtype:
    """float32, or float64 where JAX has it enabled."""
    return jnp.result_type(float)

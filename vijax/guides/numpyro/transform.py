"""Bijections as NumPyro transforms, to be used inside a model."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from numpyro.distributions import constraints
from numpyro.distributions.transforms import Transform

from vijax.contracts import PyTree
from vijax.guides.flow.bijection import Bijection


class BijectionTransform(Transform):
    """A bijection of `R^dim` at given parameters; leading axes of what it is called on are a batch.

    The log determinant comes with the forward pass, and NumPyro hands it on where it can. The
    inverse is as costly as the bijection's own. A pytree: the parameters are its leaves.

    Args:
        bijection: from `vijax.guides.flow`.
        params: its parameters, from `bijection.init(key, dim)` or `numpyro.param`.

    >>> import jax, jax.numpy as jnp, numpyro.distributions as dist
    >>> from vijax.guides.flow import Coupling
    >>> layer = Coupling()
    >>> bend = BijectionTransform(layer, layer.init(jax.random.key(0), 2))
    >>> bent = dist.TransformedDistribution(dist.Normal(0, 1).expand([2]).to_event(1), bend)
    >>> bent.sample(jax.random.key(1), (3,)).shape
    (3, 2)
    """

    domain = constraints.real_vector
    codomain = constraints.real_vector

    def __init__(self, bijection: Bijection, params: PyTree) -> None:
        self.bijection = bijection
        self.params = params

    def __call__(self, x: Array) -> Array:
        """The image `(..., dim)` of `x` `(..., dim)`."""
        return self.call_with_intermediates(x)[0]

    def call_with_intermediates(self, x: Array) -> tuple[Array, Array]:
        """The image, and `log |dy/dx|` `(...)`."""
        return _batched(lambda one: self.bijection.forward(self.params, one))(x)

    def log_abs_det_jacobian(self, x: Array, y: Array, intermediates: Any = None) -> Array:
        """`log |dy/dx|` `(...)`; `y` is not needed."""
        return self.call_with_intermediates(x)[1] if intermediates is None else intermediates

    def tree_flatten(self) -> tuple[tuple[PyTree], tuple[tuple[str], dict[str, Any]]]:
        """The parameters, and what stays as it is."""
        return (self.params,), (("params",), {"bijection": self.bijection})

    def eq(self, other: object, static: bool = False) -> Any:
        """Whether the other is the same bijection at equal parameters."""
        if not isinstance(other, BijectionTransform) or self.bijection != other.bijection:
            return False
        leaves, others = jax.tree.leaves(self.params), jax.tree.leaves(other.params)
        if len(leaves) != len(others):
            return False
        same = [jnp.array_equal(a, b) for a, b in zip(leaves, others, strict=True)]
        return jnp.all(jnp.stack(same)) if same else True

    def _inverse(self, y: Array) -> Array:
        return _batched(lambda one: self.bijection.inverse(self.params, one))(y)[0]


def _batched(function: Any) -> Any:
    return jnp.vectorize(function, signature="(dim)->(dim),()")

"""Bijections as NumPyro transforms, for use in a model."""

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
    """NumPyro transform by a bijection of `R^dim` at given parameters; leading axes are batch axes.

    The log determinant is computed in the forward pass and passed on as intermediates. The inverse
    costs as much as the bijection's. A pytree, with the parameters as leaves.

    Args:
        bijection: from `vijax.guides.flow`.
        params: its parameters, from `bijection.init(key, dim)` or `numpyro.param`.

    >>> import jax, jax.numpy as jnp, numpyro.distributions as dist
    >>> from vijax.guides.flow import Coupling
    >>> layer = Coupling()
    >>> transform = BijectionTransform(layer, layer.init(jax.random.key(0), 2))
    >>> flow = dist.TransformedDistribution(dist.Normal(0, 1).expand([2]).to_event(1), transform)
    >>> flow.sample(jax.random.key(1), (3,)).shape
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
        return _batched(lambda x: self.bijection.forward(self.params, x))(x)

    def log_abs_det_jacobian(self, x: Array, y: Array, intermediates: Any = None) -> Array:
        """`log |dy/dx|` `(...)`; `y` is not used."""
        return self.call_with_intermediates(x)[1] if intermediates is None else intermediates

    def tree_flatten(self) -> tuple[tuple[PyTree], tuple[tuple[str], dict[str, Any]]]:
        """The parameters as leaves, and the static bijection."""
        return (self.params,), (("params",), {"bijection": self.bijection})

    def eq(self, other: object, static: bool = False) -> Any:
        """Whether the other transform has an equal bijection and equal parameters."""
        if not isinstance(other, BijectionTransform) or self.bijection != other.bijection:
            return False
        leaves, others = jax.tree.leaves(self.params), jax.tree.leaves(other.params)
        if len(leaves) != len(others):
            return False
        same = [jnp.array_equal(a, b) for a, b in zip(leaves, others, strict=True)]
        return jnp.all(jnp.stack(same)) if same else True

    def _inverse(self, y: Array) -> Array:
        return _batched(lambda y: self.bijection.inverse(self.params, y))(y)[0]


def _batched(function: Any) -> Any:
    return jnp.vectorize(function, signature="(dim)->(dim),()")

"""Gradient estimators by continuous relaxation of the discrete variables."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from vijax.families.discrete import Categorical, as_one_hot
from vijax.objectives.estimators.discrete.estimator import (
    Estimator,
    EstimatorContext,
    Families,
    Integrand,
    require_finite,
    split_keys,
    with_logit_gradient,
)


@dataclasses.dataclass(frozen=True)
class GumbelSoftmax(Estimator):
    """Gumbel-softmax (concrete) relaxation: **biased** gradients, with the value of `f` at a draw.

    The gradient is that of `f(softmax((log p + Gumbel noise) / temperature))`. Sources: Categorical
    reparameterization with Gumbel-softmax, Jang, Gu, Poole, 2017; The concrete distribution,
    Maddison, Mnih, Teh, 2017.

    Args:
        temperatures: one per phase of the fit, the last one from then on; lower temperatures have
            less bias and more variance.
    """

    unbiased: ClassVar[bool] = False
    temperatures: tuple[float, ...] = (0.5,)

    def __post_init__(self) -> None:
        if not self.temperatures or not all(one > 0 for one in self.temperatures):
            raise ValueError(f"temperatures: expected positive numbers, got {self.temperatures!r}.")

    def estimate(
        self, key: Array, families: Families, f: Integrand, context: EstimatorContext
    ) -> tuple[Array, Any]:
        known = require_finite(families, "gumbel_softmax")
        noise = gumbel(key, known)
        fixed = {name: stop_gradient(family.logits) for name, family in known.items()}
        number = jnp.minimum(jnp.asarray(context.phase), len(self.temperatures) - 1).astype(int)
        temperature = jnp.asarray(self.temperatures)[number]

        def relaxed(logits: dict[str, Array]) -> Array:
            z = perturbed(logits, noise)
            return f({name: jax.nn.softmax(one / temperature) for name, one in z.items()}).value

        gradients = jax.grad(relaxed)(fixed)
        result = f({name: jnp.argmax(z, axis=-1) for name, z in perturbed(fixed, noise).items()})
        return with_logit_gradient(result.value, gradients, known), result.aux


@dataclasses.dataclass(frozen=True)
class StraightThrough(Estimator):
    """Straight-through estimator: the **biased** gradient in a draw, passed to its probabilities.

    Source: Estimating or propagating gradients through stochastic neurons for conditional
    computation, Bengio, Leonard, Courville, 2013.
    """

    unbiased: ClassVar[bool] = False

    def estimate(
        self, key: Array, families: Families, f: Integrand, context: EstimatorContext
    ) -> tuple[Array, Any]:
        known = require_finite(families, "straight_through")
        keys = split_keys(key, known)
        one_hot = {
            name: stop_gradient(as_one_hot(family.draw(keys[name]), family))
            for name, family in known.items()
        }

        def value(one_hot: dict[str, Array]) -> tuple[Array, Any]:
            result = f(one_hot)
            return result.value, result

        by_value, result = jax.grad(value, has_aux=True)(one_hot)
        gradients = {}
        for name, family in known.items():
            p = jnp.exp(family.log_probs)
            mean = jnp.sum(p * by_value[name], axis=-1, keepdims=True)
            gradients[name] = (p * (by_value[name] - mean))[..., 1:]
        return with_logit_gradient(result.value, gradients, known), result.aux


def gumbel(key: Array, families: dict[str, Categorical]) -> dict[str, Array]:
    """Gumbel noise for every value of every entry."""
    keys = split_keys(key, families)
    return {
        name: jax.random.gumbel(keys[name], (*one.logits.shape[:-1], one.size), one.logits.dtype)
        for name, one in families.items()
    }


def perturbed(logits: dict[str, Array], noise: dict[str, Array]) -> dict[str, Array]:
    """Log probabilities plus Gumbel noise; the argmax is a draw (Gumbel-max)."""
    return {name: Categorical(one).log_probs + noise[name] for name, one in logits.items()}

"""Gradients that pass through a relaxation of the variables between their values."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from vijax.families.discrete import Finite, weights
from vijax.objectives.estimators.discrete.estimator import (
    Estimator,
    Families,
    Integrand,
    EstimatorContext,
    finite,
    split_keys,
    with_logit_gradient,
)


@dataclasses.dataclass(frozen=True)
class GumbelSoftmax(Estimator):
    """The gradient, **biased**, of a relaxation between the values; the value is `f`'s at a draw.

    Sources: Categorical reparameterization with Gumbel-softmax, Jang, Gu, Poole, 2017; The concrete
    distribution, Maddison, Mnih, Teh, 2017.

    Args:
        temperatures: the lower, the less bias and the more variance; one a phase of the fit, the
            last of them from then on.
    """

    unbiased: ClassVar[bool] = False
    temperatures: tuple[float, ...] = (0.5,)

    def __post_init__(self) -> None:
        if not self.temperatures or not all(one > 0 for one in self.temperatures):
            raise ValueError(f"temperatures: expected positive numbers, got {self.temperatures!r}.")

    def estimate(
        self, key: Array, families: Families, f: Integrand, stage: EstimatorContext
    ) -> tuple[Array, Any]:
        known = finite(families, "gumbel_softmax")
        noise = gumbel(key, known)
        fixed = {name: stop_gradient(family.logits) for name, family in known.items()}
        number = jnp.minimum(jnp.asarray(stage.phase), len(self.temperatures) - 1).astype(int)
        temperature = jnp.asarray(self.temperatures)[number]

        def relaxed(logits: dict[str, Array]) -> Array:
            z = perturbed(logits, noise)
            return f({name: jax.nn.softmax(one / temperature) for name, one in z.items()}).value

        slopes = jax.grad(relaxed)(fixed)
        seen = f({name: jnp.argmax(z, axis=-1) for name, z in perturbed(fixed, noise).items()})
        return with_logit_gradient(seen.value, slopes, known), seen.aux


@dataclasses.dataclass(frozen=True)
class StraightThrough(Estimator):
    """The gradient, **biased**, as if a draw were its probabilities.

    Source: Estimating or propagating gradients through stochastic neurons for conditional
    computation, Bengio, Leonard, Courville, 2013.
    """

    unbiased: ClassVar[bool] = False

    def estimate(
        self, key: Array, families: Families, f: Integrand, stage: EstimatorContext
    ) -> tuple[Array, Any]:
        known = finite(families, "straight_through")
        keys = split_keys(key, known)
        hot = {
            name: stop_gradient(weights(family.draw(keys[name]), family))
            for name, family in known.items()
        }

        def value(hot: dict[str, Array]) -> tuple[Array, Any]:
            seen = f(hot)
            return seen.value, seen

        by_weight, seen = jax.grad(value, has_aux=True)(hot)
        slopes = {}
        for name, family in known.items():
            p = jnp.exp(family.log_probs)
            mean = jnp.sum(p * by_weight[name], axis=-1, keepdims=True)
            slopes[name] = (p * (by_weight[name] - mean))[..., 1:]
        return with_logit_gradient(seen.value, slopes, known), seen.aux


def gumbel(key: Array, families: dict[str, Finite]) -> dict[str, Array]:
    """Gumbel noise for every value of every entry."""
    keys = split_keys(key, families)
    return {
        name: jax.random.gumbel(keys[name], (*one.logits.shape[:-1], one.size), one.logits.dtype)
        for name, one in families.items()
    }


def perturbed(logits: dict[str, Array], noise: dict[str, Array]) -> dict[str, Array]:
    """Log probabilities plus noise: the largest is at a draw."""
    return {name: Finite(one).log_probs + noise[name] for name, one in logits.items()}

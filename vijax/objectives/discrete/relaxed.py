"""Gradients that pass through a relaxation of the variables between their values."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from vijax._contracts import Position
from vijax._discrete import TINY, Finite, weights
from vijax.objectives.discrete.estimator import (
    Estimator,
    Families,
    Integrand,
    finite,
    split_keys,
    with_slopes,
)


@dataclasses.dataclass(frozen=True)
class Rebar(Estimator):
    """The score function, with a continuous relaxation as control variate, itself reparameterised.

    With a surrogate `c` of the noise `z` and of `z'`, the noise given its `b`:
    `(f(b) - c(z')) dlog p(b) + dc(z) - dc(z')`. Here `z'` is `z` itself, made of other noise, so
    that `f` is evaluated twice, once with a gradient, and the last two terms all but cancel where
    `b` is certain. Sources: REBAR: low-variance, unbiased gradient
    estimates for discrete latent variable models, Tucker, Mnih, Maddison, Lawson, Sohl-Dickstein,
    2017; with `surrogate`, Backpropagation through the void (RELAX), Grathwohl, Choi, Wu, Roeder,
    Duvenaud, 2018.

    Args:
        temperature: of the relaxation, not learned: the default suits networks of 200 units at any
            stage of their training.
        scale: by how much the control variate counts.
        surrogate: `c(z)`, a scalar, with `z` by site the log probabilities of the values, each
            with Gumbel noise, `(*shape, n)`; by default `scale * f(softmax(z / temperature))`.
    """

    temperature: float = 0.1
    scale: float = 1.0
    surrogate: Callable[[dict[str, Array]], Array] | None = None

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature: expected a positive number, got {self.temperature!r}.")

    def estimate(
        self, key: Array, families: Families, f: Integrand, phase: Array | float = 0.0
    ) -> tuple[Array, Any]:
        known = finite(families, "rebar")
        fixed = {name: stop_gradient(family.logits) for name, family in known.items()}
        noise = _gumbel(key, known)
        z = _perturbed(fixed, noise)
        states = {name: jnp.argmax(one, axis=-1) for name, one in z.items()}
        seen = f(states)

        def control(z: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
            if self.surrogate is None:
                at = f({name: jax.nn.softmax(one / self.temperature) for name, one in z.items()})
                return self.scale * at.value, {n: self.scale * s for n, s in at.signals.items()}
            value = self.surrogate(z)
            return value, {name: jnp.broadcast_to(value, s.shape) for name, s in states.items()}

        # both are the same place, reached in two ways: one gradient serves both
        pull, controls = jax.grad(control, has_aux=True)(z)
        (slope,) = jax.vjp(lambda at: _perturbed(at, noise), fixed)[1](pull)
        (slope_given,) = jax.vjp(lambda at: _given(at, fixed, noise, states), fixed)[1](pull)
        slopes = {}
        for name, family in known.items():
            score = (weights(states[name], family) - jnp.exp(family.log_probs))[..., 1:]
            rest = (seen.signals[name] - controls[name])[..., None]
            slopes[name] = rest * score + slope[name] - slope_given[name]
        return with_slopes(seen.value, slopes, known), seen.aux


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
        self, key: Array, families: Families, f: Integrand, phase: Array | float = 0.0
    ) -> tuple[Array, Any]:
        known = finite(families, "gumbel_softmax")
        noise = _gumbel(key, known)
        fixed = {name: stop_gradient(family.logits) for name, family in known.items()}
        number = jnp.minimum(jnp.asarray(phase), len(self.temperatures) - 1).astype(int)
        temperature = jnp.asarray(self.temperatures)[number]

        def relaxed(logits: dict[str, Array]) -> Array:
            z = _perturbed(logits, noise)
            return f({name: jax.nn.softmax(one / temperature) for name, one in z.items()}).value

        slopes = jax.grad(relaxed)(fixed)
        seen = f({name: jnp.argmax(z, axis=-1) for name, z in _perturbed(fixed, noise).items()})
        return with_slopes(seen.value, slopes, known), seen.aux


@dataclasses.dataclass(frozen=True)
class StraightThrough(Estimator):
    """The gradient, **biased**, as if a draw were its probabilities.

    Source: Estimating or propagating gradients through stochastic neurons for conditional
    computation, Bengio, Leonard, Courville, 2013.
    """

    unbiased: ClassVar[bool] = False

    def estimate(
        self, key: Array, families: Families, f: Integrand, phase: Array | float = 0.0
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
        return with_slopes(seen.value, slopes, known), seen.aux


def _gumbel(key: Array, families: dict[str, Finite]) -> dict[str, Array]:
    """Gumbel noise for every value of every entry."""
    keys = split_keys(key, families)
    return {
        name: jax.random.gumbel(keys[name], (*one.logits.shape[:-1], one.size), one.logits.dtype)
        for name, one in families.items()
    }


def _perturbed(logits: dict[str, Array], noise: dict[str, Array]) -> dict[str, Array]:
    """Log probabilities plus noise: the largest is at a draw."""
    return {name: Finite(one).log_probs + noise[name] for name, one in logits.items()}


def _given(
    logits: dict[str, Array],
    drawn: dict[str, Array],
    noise: dict[str, Array],
    states: Position,
) -> dict[str, Array]:
    """The same as a function of noise that is independent of which one is the largest.

    The largest is a Gumbel variable, whichever it is, and the others are cut off there: with
    independent exponential `e`, it is `-log e_k`, and they are `-log(e_i / p_i + e_k)`. The `e` are
    those that lead to where `noise` has led with the logits `drawn`. Source: REBAR, appendix C.
    """
    found = {}
    for name, own in noise.items():
        hot = weights(states[name], Finite(logits[name]))
        log_p = Finite(drawn[name]).log_probs
        least = jnp.sum(hot * jnp.exp(-own - log_p), axis=-1, keepdims=True)
        others = jnp.maximum(jnp.exp(-own) - jnp.exp(log_p) * least, TINY * least)
        cut = -jnp.logaddexp(jnp.log(others) - Finite(logits[name]).log_probs, jnp.log(least))
        found[name] = jnp.where(hot > 0, -jnp.log(least), cut)
    return found

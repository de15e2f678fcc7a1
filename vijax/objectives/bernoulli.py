"""Expectations over many independent Bernoulli variables, with gradients in their logits.

For discrete variables too many to be summed out: `E[f(b)]` with `b_i ~ Bernoulli(sigmoid(l_i))`.
Every estimator is called as `estimator(key, logits, f)` and returns an unbiased estimate of the
value, to be differentiated: its gradient in `logits` is the estimator's, in anything else that `f`
holds the pathwise one of `f(b)`. In order of preference:

| estimator | evaluations of `f` | what it needs |
|---|---|---|
| `LocalExpectation` | `1 + dim` | nothing; least variance |
| `DisARM` | 2 a pair | nothing |
| `LeaveOneOut` | `num_draws` | nothing |
| `Rebar` | 3 and two gradients | `f` smooth between 0 and 1 |
| `GumbelSoftmax`, `StraightThrough` | 1 | the same; their gradients are **biased** |
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from vijax.objectives.particles import with_gradient_of

Function = Callable[[Array], Array]


class BernoulliEstimator(abc.ABC):
    """Estimates `E[f(b)]` and its gradient; frozen configuration.

    Attributes:
        unbiased: whether the gradient is.
    """

    unbiased: ClassVar[bool] = True

    @abc.abstractmethod
    def __call__(self, key: Array, logits: Array, f: Function) -> Array:
        """An estimate of `E[f(b)]`, a scalar, to be differentiated.

        Args:
            key: randomness.
            logits: `(dim,)`.
            f: from `(dim,)` zeros and ones to a scalar.
        """


@dataclasses.dataclass(frozen=True)
class LocalExpectation(BernoulliEstimator):
    """Every variable is summed over given one draw of the others.

    `p_i (1 - p_i) (f(b with b_i = 1) - f(b with b_i = 0))`. Source: Local expectation gradients
    for black box variational inference, Titsias, Lazaro-Gredilla, 2015.
    """

    def __call__(self, key: Array, logits: Array, f: Function) -> Array:
        b = _hard(_logistic(key, logits))
        value = f(b)

        def flipped(i: Array) -> Array:
            return f(b.at[i].set(1 - b[i]))

        others = jax.vmap(flipped)(jnp.arange(logits.size))
        p = jax.nn.sigmoid(logits)
        return _with_slope(value, p * (1 - p) * (2 * b - 1) * (value - others), logits)


@dataclasses.dataclass(frozen=True)
class LeaveOneOut(BernoulliEstimator):
    """The score function, with the mean of all other draws as baseline of each.

    Source: Buy 4 REINFORCE samples, get a baseline for free!, Kool, van Hoof, Welling, 2019.

    Args:
        num_draws: at least 2.
    """

    num_draws: int = 2

    def __post_init__(self) -> None:
        if self.num_draws < 2:
            raise ValueError(f"num_draws: expected at least 2, got {self.num_draws}.")

    def __call__(self, key: Array, logits: Array, f: Function) -> Array:
        keys = jax.random.split(key, self.num_draws)
        b = jax.vmap(lambda key: _hard(_logistic(key, logits)))(keys)
        values = jax.vmap(f)(b)
        deviation = (values - jnp.mean(values)) / (self.num_draws - 1)
        return _with_slope(jnp.mean(values), deviation @ (b - jax.nn.sigmoid(logits)), logits)


@dataclasses.dataclass(frozen=True)
class DisARM(BernoulliEstimator):
    """Antithetic pairs, with what is random beside the values of the pair averaged out.

    `(f(b) - f(b')) / 2  (-1)^b' [b != b'] sigmoid(|l|)`. Source: DisARM: an antithetic gradient
    estimator for binary latent variables, Dong, Mnih, Tucker, 2020.

    Args:
        num_pairs: averaged.
    """

    num_pairs: int = 1

    def __post_init__(self) -> None:
        if self.num_pairs < 1:
            raise ValueError(f"num_pairs: expected at least 1, got {self.num_pairs}.")

    def __call__(self, key: Array, logits: Array, f: Function) -> Array:
        def pair(key: Array) -> tuple[Array, Array]:
            noise = _logistic(key, jnp.zeros_like(logits))
            b, mirrored = _hard(logits + noise), _hard(logits - noise)
            first, second = f(b), f(mirrored)
            sign = (b - mirrored) * jax.nn.sigmoid(jnp.abs(logits))
            return (first + second) / 2, (first - second) / 2 * sign

        values, slopes = jax.vmap(pair)(jax.random.split(key, self.num_pairs))
        return _with_slope(jnp.mean(values), jnp.mean(slopes, axis=0), logits)


@dataclasses.dataclass(frozen=True)
class Rebar(BernoulliEstimator):
    """The score function, with a continuous relaxation as control variate, itself reparameterised.

    With a surrogate `c` of the noise `z` and of `z'`, the noise given its `b`:
    `(f(b) - c(z')) dlog p(b) + dc(z) - dc(z')`. Sources: REBAR: low-variance, unbiased gradient
    estimates for discrete latent variable models, Tucker, Mnih, Maddison, Lawson, Sohl-Dickstein,
    2017; with `surrogate`, Backpropagation through the void (RELAX), Grathwohl, Choi, Wu, Roeder,
    Duvenaud, 2018.

    Args:
        temperature: of the relaxation.
        scale: by how much the control variate counts.
        surrogate: `c(z)` with `z` `(dim,)`; by default `scale * f(sigmoid(z / temperature))`.
    """

    temperature: float = 0.5
    scale: float = 1.0
    surrogate: Function | None = None

    def __call__(self, key: Array, logits: Array, f: Function) -> Array:
        noise_key, conditional_key = jax.random.split(key)
        value = f(b := _hard(_logistic(noise_key, logits)))

        def relaxed(z: Array) -> Array:
            if self.surrogate is not None:
                return self.surrogate(z)
            return self.scale * f(jax.nn.sigmoid(z / self.temperature))

        def again(logits: Array) -> Array:
            return relaxed(_given(conditional_key, logits, b))

        control, slope_again = jax.value_and_grad(again)(stop_gradient(logits))
        slope = jax.grad(lambda at: relaxed(_logistic(noise_key, at)))(stop_gradient(logits))
        score = b - jax.nn.sigmoid(logits)
        return _with_slope(value, (value - control) * score + slope - slope_again, logits)


@dataclasses.dataclass(frozen=True)
class GumbelSoftmax(BernoulliEstimator):
    """The gradient, **biased**, of a relaxation between zero and one; the value is `f(b)`.

    Sources: Categorical reparameterization with Gumbel-softmax, Jang, Gu, Poole, 2017; The concrete
    distribution, Maddison, Mnih, Teh, 2017.

    Args:
        temperature: the lower, the less bias and the more variance.
    """

    unbiased: ClassVar[bool] = False
    temperature: float = 0.5

    def __call__(self, key: Array, logits: Array, f: Function) -> Array:
        def relaxed(logits: Array) -> Array:
            return f(jax.nn.sigmoid(_logistic(key, logits) / self.temperature))

        slope = jax.grad(relaxed)(stop_gradient(logits))
        return _with_slope(f(_hard(_logistic(key, logits))), slope, logits)


@dataclasses.dataclass(frozen=True)
class StraightThrough(BernoulliEstimator):
    """The gradient, **biased**, as if a draw were its probability.

    Source: Estimating or propagating gradients through stochastic neurons for conditional
    computation, Bengio, Leonard, Courville, 2013.
    """

    unbiased: ClassVar[bool] = False

    def __call__(self, key: Array, logits: Array, f: Function) -> Array:
        b = _hard(_logistic(key, logits))
        p = jax.nn.sigmoid(logits)
        return _with_slope(f(b), jax.grad(f)(b) * p * (1 - p), logits)


def _logistic(key: Array, logits: Array) -> Array:
    """`logits` plus logistic noise: positive with probability `sigmoid(logits)`."""
    return logits + jax.random.logistic(key, logits.shape, logits.dtype)


def _hard(z: Array) -> Array:
    return stop_gradient((z > 0).astype(z.dtype))


def _given(key: Array, logits: Array, b: Array) -> Array:
    """Logistic noise around `logits` that is positive exactly where `b` is one."""
    p = jax.nn.sigmoid(-logits)  # the noise's distribution function at zero
    v = jax.random.uniform(key, logits.shape, logits.dtype, 1e-6, 1 - 1e-6)
    u = jnp.where(b > 0, p + v * (1 - p), v * p)
    u = jnp.clip(u, 1e-6, 1 - 1e-6)
    return logits + jnp.log(u) - jnp.log1p(-u)


def _with_slope(value: Array, slope: Array, logits: Array) -> Array:
    """`value`, which goes on to depend on all but `logits` as it does, with this slope in them."""
    linear = jnp.vdot(stop_gradient(slope), logits)
    return value + with_gradient_of(jnp.zeros_like(linear), linear)

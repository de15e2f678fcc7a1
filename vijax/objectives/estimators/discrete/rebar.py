"""The score function, with functions of the noise behind a draw as control variates."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from vijax.contracts import Position, PyTree
from vijax.families.discrete import TINY, Finite, weights
from vijax.objectives.estimators.discrete.estimator import (
    Estimator,
    Families,
    Integrand,
    EstimatorContext,
    finite,
    with_logit_gradient,
)
from vijax.objectives.estimators.discrete.relaxed import gumbel, perturbed


class Control(NamedTuple):
    """A function of the noise, at one place.

    Attributes:
        slopes: by site, its gradient in the noise, `(*shape, n)`.
        signals: by site, of its shape, what of its value each entry has a part in.
    """

    slopes: dict[str, Array]
    signals: dict[str, Array]


class RebarParams(NamedTuple):
    """What REBAR learns, by site."""

    log_temperature: dict[str, Array]
    scale: dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Rebar(Estimator):
    """The score function, with a continuous relaxation as control variate, itself reparameterized.

    Its control variate is `c(z) = scale * f(softmax(z / temperature))`, see `controlled`. Source:
    REBAR: low-variance, unbiased gradient estimates for discrete latent variable models, Tucker,
    Mnih, Maddison, Lawson, Sohl-Dickstein, 2017.

    Args:
        temperature: of the relaxation; the default suits networks of 200 units at any stage of
            their training.
        scale: by how much the control variate counts.
        learned: whether these are start values, of each site's own, which follow the variance of
            the gradient as the fit goes on.
    """

    temperature: float = 0.1
    scale: float = 1.0
    learned: bool = False

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature: expected a positive number, got {self.temperature!r}.")

    def init(self, key: Array, widths: Mapping[str, int]) -> PyTree:
        if not self.learned:
            return ()
        log_temperature = jnp.log(jnp.asarray(self.temperature, float))
        return RebarParams(
            dict.fromkeys(widths, log_temperature),
            dict.fromkeys(widths, jnp.asarray(self.scale, float)),
        )

    def estimate(
        self, key: Array, families: Families, f: Integrand, stage: EstimatorContext
    ) -> tuple[Array, Any]:
        known = finite(families, "rebar")
        return controlled(key, known, f, lambda z: self.control(z, f, stage.control_params))

    def control(self, z: dict[str, Array], f: Integrand, controls: PyTree) -> Control:
        """The control variate at noise `z`, `(*shape, n)` by site."""
        temperature: dict[str, Any] = dict.fromkeys(z, self.temperature)
        scale: dict[str, Any] = dict.fromkeys(z, self.scale)
        if self.learned:
            temperature = {name: jnp.exp(log) for name, log in controls.log_temperature.items()}
            scale = controls.scale

        def relaxed(z: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
            at = f({name: jax.nn.softmax(one / temperature[name]) for name, one in z.items()})
            return at.value, at.signals

        slopes, signals = jax.grad(relaxed, has_aux=True)(z)
        # a product outside of `relaxed`: to learn the scale takes no second derivative of it
        return Control(
            {name: scale[name] * slope for name, slope in slopes.items()},
            {name: scale[name] * signal for name, signal in signals.items()},
        )


def controlled(
    key: Array,
    families: dict[str, Finite],
    f: Integrand,
    control: Callable[[dict[str, Array]], Control],
) -> tuple[Array, Any]:
    """An estimate of `E[f]`, whose gradient is the score function's with a control variate.

    With a function `c` of the noise `z` and of `z'`, the noise given its `b`:
    `(f(b) - c(z')) dlog p(b) + dc(z) - dc(z')`, where `z` by site are the log probabilities of the
    values, each with Gumbel noise. Here `z'` is `z` itself, made of other noise, so that both are
    one place: `c` takes one gradient, and the last two terms all but cancel where `b` is certain.
    Unbiased for any `c`, also one that depends on the probabilities, held fixed. Source: REBAR,
    Tucker et al., 2017; Backpropagation through the void, Grathwohl et al., 2018.

    Args:
        key: randomness.
        families: the distribution of every site.
        f: the function.
        control: `c` at a place.
    """
    fixed = {name: stop_gradient(family.logits) for name, family in families.items()}
    noise = gumbel(key, families)
    z = perturbed(fixed, noise)
    states = {name: jnp.argmax(one, axis=-1) for name, one in z.items()}
    seen, at = f(states), control(z)
    (slope,) = jax.vjp(lambda logits: perturbed(logits, noise), fixed)[1](at.slopes)
    (slope_given,) = jax.vjp(lambda logits: _given(logits, fixed, noise, states), fixed)[1](
        at.slopes
    )
    slopes = {}
    for name, family in families.items():
        score = (weights(states[name], family) - jnp.exp(family.log_probs))[..., 1:]
        rest = (seen.signals[name] - at.signals[name])[..., None]
        slopes[name] = rest * score + slope[name] - slope_given[name]
    return with_logit_gradient(seen.value, slopes, families), seen.aux


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

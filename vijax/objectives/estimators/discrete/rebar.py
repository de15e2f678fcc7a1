"""Score-function estimators with control variates that are functions of the Gumbel noise."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from vijax.contracts import Position, PyTree
from vijax.families.discrete import TINY, Categorical, as_one_hot
from vijax.objectives.estimators.discrete.estimator import (
    Estimator,
    EstimatorContext,
    Families,
    Integrand,
    require_finite,
    with_logit_gradient,
)
from vijax.objectives.estimators.discrete.relaxed import gumbel, perturbed


class ControlVariate(NamedTuple):
    """A control variate `c(z)` evaluated at noise `z`.

    Attributes:
        gradients: by site, `dc/dz`, `(*shape, n)`.
        local_values: by site, of its shape, the part of `c` that depends on each entry.
    """

    gradients: dict[str, Array]
    local_values: dict[str, Array]


class RebarParams(NamedTuple):
    """Learned parameters of REBAR, by site."""

    log_temperature: dict[str, Array]
    scale: dict[str, Array]


@dataclasses.dataclass(frozen=True)
class Rebar(Estimator):
    """REBAR: score-function estimator with a reparameterized relaxation as control variate.

    `c(z) = scale * f(softmax(z / temperature))`, see `estimate_with_control`. Source:
    REBAR: low-variance, unbiased gradient estimates for discrete latent variable models, Tucker,
    Mnih, Maddison, Lawson, Sohl-Dickstein, 2017.

    Args:
        temperature: temperature of the relaxation; the default suits networks of 200 units
            throughout their training.
        scale: coefficient of the control variate.
        learned: whether temperature and scale are initial values, which are learned per site by
            minimizing the variance of the gradient.
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
        self, key: Array, families: Families, f: Integrand, context: EstimatorContext
    ) -> tuple[Array, Any]:
        known = require_finite(families, "rebar")
        return estimate_with_control(
            key, known, f, lambda z: self.control(z, f, context.control_params)
        )

    def control(self, z: dict[str, Array], f: Integrand, params: PyTree) -> ControlVariate:
        """The control variate at noise `z`, `(*shape, n)` by site."""
        temperature: dict[str, Any] = dict.fromkeys(z, self.temperature)
        scale: dict[str, Any] = dict.fromkeys(z, self.scale)
        if self.learned:
            temperature = {name: jnp.exp(log) for name, log in params.log_temperature.items()}
            scale = params.scale

        def relaxed(z: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
            result = f({name: jax.nn.softmax(one / temperature[name]) for name, one in z.items()})
            return result.value, result.local_values

        gradients, local_values = jax.grad(relaxed, has_aux=True)(z)
        # scaled outside of `relaxed`: learning the scale takes no second derivative
        return ControlVariate(
            {name: scale[name] * gradient for name, gradient in gradients.items()},
            {name: scale[name] * value for name, value in local_values.items()},
        )


def estimate_with_control(
    key: Array,
    families: dict[str, Categorical],
    f: Integrand,
    control: Callable[[dict[str, Array]], ControlVariate],
) -> tuple[Array, Any]:
    """An estimate of `E_q[f]` by the score function with a control variate `c`.

    The gradient is `(f(b) - c(z')) dlog p(b) + dc(z) - dc(z')`, with `z` the log probabilities of
    the values plus Gumbel noise, `b = argmax z`, and `z'` a draw of `z` given `b`. Here `z' = z`,
    as a different function of other noise: `c` takes a single gradient, and the last two terms
    nearly cancel where `b` is almost certain. Unbiased for any `c`, which may depend on the
    probabilities through `stop_gradient`. Sources: REBAR, Tucker et al., 2017; Backpropagation
    through the void, Grathwohl et al., 2018.

    Args:
        key: randomness.
        families: the distribution of every site.
        f: the function.
        control: `c` as a function of `z`.
    """
    fixed = {name: stop_gradient(family.logits) for name, family in families.items()}
    noise = gumbel(key, families)
    z = perturbed(fixed, noise)
    states = {name: jnp.argmax(one, axis=-1) for name, one in z.items()}
    result, c = f(states), control(z)
    (free,) = jax.vjp(lambda logits: perturbed(logits, noise), fixed)[1](c.gradients)
    (given,) = jax.vjp(lambda logits: _conditional(logits, fixed, noise, states), fixed)[1](
        c.gradients
    )
    gradients = {}
    for name, family in families.items():
        score = (as_one_hot(states[name], family) - jnp.exp(family.log_probs))[..., 1:]
        rest = (result.local_values[name] - c.local_values[name])[..., None]
        gradients[name] = rest * score + free[name] - given[name]
    return with_logit_gradient(result.value, gradients, families), result.aux


def _conditional(
    logits: dict[str, Array],
    drawn: dict[str, Array],
    noise: dict[str, Array],
    states: Position,
) -> dict[str, Array]:
    """`z` given its argmax `k`, as a function of the logits and of independent noise.

    The largest is Gumbel distributed for any `k`, the others are Gumbel distributed and truncated
    at it: with independent standard exponential `e`, `z_k = -log e_k`, and the others are
    `z_i = -log(e_i / p_i + e_k)`. The `e` are those for which `z` equals `perturbed(drawn, noise)`.
    Source: REBAR, appendix C.
    """
    found = {}
    for name, gumbels in noise.items():
        one_hot = as_one_hot(states[name], Categorical(logits[name]))
        log_p = Categorical(drawn[name]).log_probs
        e_k = jnp.sum(one_hot * jnp.exp(-gumbels - log_p), axis=-1, keepdims=True)
        others = jnp.maximum(jnp.exp(-gumbels) - jnp.exp(log_p) * e_k, TINY * e_k)
        truncated = -jnp.logaddexp(
            jnp.log(others) - Categorical(logits[name]).log_probs, jnp.log(e_k)
        )
        found[name] = jnp.where(one_hot > 0, -jnp.log(e_k), truncated)
    return found

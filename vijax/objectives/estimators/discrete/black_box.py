"""Black-box estimators: unbiased gradients from evaluations of the function only."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from vijax.contracts import Position
from vijax.families.discrete import Categorical, detach
from vijax.objectives.estimators.discrete.estimator import (
    Estimator,
    EstimatorContext,
    Families,
    Integrand,
    require_finite,
    split_keys,
    with_logit_gradient,
)
from vijax.objectives.estimators.particles import with_gradient_of
from vijax.objectives.estimators.rao_blackwell import leave_one_out


@dataclasses.dataclass(frozen=True)
class LeaveOneOut(Estimator):
    """Score-function (REINFORCE) estimator with leave-one-out baseline; for any family.

    `mean_i (f_i - mean_{j != i} f_j) dlog q_i`. Source: Buy 4 REINFORCE samples, get a
    baseline for free!, Kool, van Hoof, Welling, 2019.

    Args:
        num_draws: draws averaged, at least 2.
    """

    num_draws: int = 4

    def __post_init__(self) -> None:
        if self.num_draws < 2:
            raise ValueError(f"num_draws: expected at least 2, got {self.num_draws}.")

    def estimate(
        self, key: Array, families: Families, f: Integrand, context: EstimatorContext
    ) -> tuple[Array, Any]:
        keys = jax.random.split(key, self.num_draws)
        states = jax.vmap(lambda key: draw(key, families))(keys)
        result = jax.vmap(f)(states)
        log_qs = [jax.vmap(family.log_prob)(states[name]) for name, family in families.items()]
        score = leave_one_out(log_qs, [result.local_values[name] for name in families])
        value = jnp.mean(result.value) + with_gradient_of(jnp.zeros_like(score), score)
        return value, first(result.aux)


@dataclasses.dataclass(frozen=True)
class DisARM(Estimator):
    """DisARM: antithetic pairs of binary variables, Rao-Blackwellized given their values.

    `(f(b) - f(b')) / 2  (-1)^b' [b != b'] sigmoid(|l|)` with logits `l`. Source: DisARM: an
    antithetic gradient estimator for binary latent variables, Dong, Mnih, Tucker, 2020.

    Args:
        num_pairs: pairs averaged.
    """

    num_pairs: int = 1

    def __post_init__(self) -> None:
        if self.num_pairs < 1:
            raise ValueError(f"num_pairs: expected at least 1, got {self.num_pairs}.")

    def estimate(
        self, key: Array, families: Families, f: Integrand, context: EstimatorContext
    ) -> tuple[Array, Any]:
        binary = require_finite(families, "disarm", 2)

        def pair(key: Array) -> tuple[Position, Position]:
            both = {}
            for name, site_key in split_keys(key, binary).items():
                logits = stop_gradient(binary[name].logits[..., 0])
                noise = jax.random.logistic(site_key, logits.shape, logits.dtype)
                both[name] = ((logits + noise > 0), (logits - noise > 0))
            return tuple({n: b[i].astype(jnp.int32) for n, b in both.items()} for i in (0, 1))  # type: ignore[return-value]

        pairs = jax.vmap(pair)(jax.random.split(key, self.num_pairs))
        states = jax.tree.map(lambda *two: jnp.concatenate(two), *pairs)
        result = jax.vmap(f)(states)  # one program for both
        gradients = {}
        for name, family in binary.items():
            signs = pairs[0][name] - pairs[1][name]
            one, other = jnp.split(result.local_values[name], 2)
            mean = jnp.mean((one - other) / 2 * signs, axis=0)
            gradients[name] = mean[..., None] * jax.nn.sigmoid(jnp.abs(family.logits))
        return with_logit_gradient(jnp.mean(result.value), gradients, binary), first(result.aux)


@dataclasses.dataclass(frozen=True)
class LocalExpectation(Estimator):
    """Local expectation gradients: each variable is enumerated given one draw of the others.

    With `f_k` the function where the variable has value `k`, the gradient in the logit of `k` is
    `p_k (f_k - sum_j p_j f_j)`. Rows whose local values are independent are changed in the same
    evaluation. Source: Local expectation gradients for black box variational inference, Titsias,
    Lazaro-Gredilla, 2015.
    """

    def estimate(
        self, key: Array, families: Families, f: Integrand, context: EstimatorContext
    ) -> tuple[Array, Any]:
        known = require_finite(families, "local")
        states = draw(key, families)
        result = f(states)
        gradients = {}
        for name, family in known.items():
            by_value = self._by_value(name, family, states, result.local_values[name], f)
            p = jnp.exp(family.log_probs)
            mean = jnp.sum(p * by_value, axis=-1, keepdims=True)
            gradients[name] = (p * (by_value - mean))[..., 1:]
        return with_logit_gradient(result.value, gradients, known), result.aux

    def _by_value(
        self, name: str, family: Categorical, states: Position, local_value: Array, f: Integrand
    ) -> Array:
        """The local value of every entry at each of its values, `(*shape, n)`."""
        shape, n = states[name].shape, family.size
        serial = [d for d in range(len(shape)) if d not in f.independent_axes.get(name, ())]
        count = math.prod(shape[d] for d in serial)
        index = jnp.arange(count).reshape(
            [shape[d] if d in serial else 1 for d in range(len(shape))]
        )

        def changed(which: Array, shift: Array) -> Array:
            selected = index == which
            moved = jnp.where(selected, (states[name] + shift) % n, states[name])
            local_values = f(stop_gradient({**states, name: moved})).local_values[name]
            return jnp.where(selected, stop_gradient(local_values), 0.0)

        every = jax.vmap(jax.vmap(changed, (0, None)), (None, 0))
        others = jnp.sum(every(jnp.arange(count), jnp.arange(1, n)), axis=1)
        by_shift = jnp.concatenate([stop_gradient(local_value)[None], others])
        shift = (jnp.arange(n) - states[name][..., None]) % n
        return jnp.take_along_axis(jnp.moveaxis(by_shift, 0, -1), shift, axis=-1)


def draw(key: Array, families: Families) -> Position:
    """One draw of every site."""
    keys = split_keys(key, families)
    return {name: detach(family).draw(keys[name]) for name, family in families.items()}


def first(tree: Any) -> Any:
    """The first element of every leaf along its leading axis."""
    return jax.tree.map(lambda leaf: leaf[0], tree)

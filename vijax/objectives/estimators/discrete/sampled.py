"""Unbiased gradients from values of the function alone."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from vijax.contracts import Position
from vijax.families.discrete import Finite, held
from vijax.objectives.estimators.discrete.estimator import (
    Estimator,
    Families,
    Integrand,
    EstimatorContext,
    finite,
    split_keys,
    with_logit_gradient,
)
from vijax.objectives.estimators.particles import with_gradient_of
from vijax.objectives.estimators.rao_blackwell import leave_one_out


@dataclasses.dataclass(frozen=True)
class LeaveOneOut(Estimator):
    """The score function, with the mean of all other draws as baseline of each.

    Of any family. Source: Buy 4 REINFORCE samples, get a baseline for free!, Kool, van Hoof,
    Welling, 2019.

    Args:
        num_draws: at least 2.
    """

    num_draws: int = 4

    def __post_init__(self) -> None:
        if self.num_draws < 2:
            raise ValueError(f"num_draws: expected at least 2, got {self.num_draws}.")

    def estimate(
        self, key: Array, families: Families, f: Integrand, stage: EstimatorContext
    ) -> tuple[Array, Any]:
        keys = jax.random.split(key, self.num_draws)
        states = jax.vmap(lambda key: draw(key, families))(keys)
        seen = jax.vmap(f)(states)
        log_qs = [jax.vmap(family.log_prob)(states[name]) for name, family in families.items()]
        score = leave_one_out(log_qs, [seen.signals[name] for name in families])
        value = jnp.mean(seen.value) + with_gradient_of(jnp.zeros_like(score), score)
        return value, first(seen.aux)


@dataclasses.dataclass(frozen=True)
class DisARM(Estimator):
    """Antithetic pairs, with what is random beside the values of the pair averaged out.

    `(f(b) - f(b')) / 2  (-1)^b' [b != b'] sigmoid(|l|)`, of sites with two values. Source: DisARM:
    an antithetic gradient estimator for binary latent variables, Dong, Mnih, Tucker, 2020.

    Args:
        num_pairs: averaged.
    """

    num_pairs: int = 1

    def __post_init__(self) -> None:
        if self.num_pairs < 1:
            raise ValueError(f"num_pairs: expected at least 1, got {self.num_pairs}.")

    def estimate(
        self, key: Array, families: Families, f: Integrand, stage: EstimatorContext
    ) -> tuple[Array, Any]:
        binary = finite(families, "disarm", 2)

        def pair(key: Array) -> tuple[Position, Position]:
            both = {}
            for name, own in split_keys(key, binary).items():
                logits = stop_gradient(binary[name].logits[..., 0])
                noise = jax.random.logistic(own, logits.shape, logits.dtype)
                both[name] = ((logits + noise > 0), (logits - noise > 0))
            return tuple({n: b[i].astype(jnp.int32) for n, b in both.items()} for i in (0, 1))  # type: ignore[return-value]

        pairs = jax.vmap(pair)(jax.random.split(key, self.num_pairs))
        together = jax.tree.map(lambda *two: jnp.concatenate(two), *pairs)
        seen = jax.vmap(f)(together)  # one program for both
        slopes = {}
        for name, family in binary.items():
            signs = pairs[0][name] - pairs[1][name]
            one, other = jnp.split(seen.signals[name], 2)
            slope = jnp.mean((one - other) / 2 * signs, axis=0)
            slopes[name] = slope[..., None] * jax.nn.sigmoid(jnp.abs(family.logits))
        return with_logit_gradient(jnp.mean(seen.value), slopes, binary), first(seen.aux)


@dataclasses.dataclass(frozen=True)
class LocalExpectation(Estimator):
    """Every variable is summed over given one draw of the others.

    With `f_k` the function where the variable has value `k`, the slope in the logit of `k` is
    `p_k (f_k - sum_j p_j f_j)`. Rows that have no part in one another's values are changed
    together. Source: Local expectation gradients for black box variational inference, Titsias,
    Lazaro-Gredilla, 2015.
    """

    def estimate(
        self, key: Array, families: Families, f: Integrand, stage: EstimatorContext
    ) -> tuple[Array, Any]:
        known = finite(families, "local")
        states = draw(key, families)
        seen = f(states)
        slopes = {}
        for name, family in known.items():
            by_value = self._by_value(name, family, states, seen.signals[name], f)
            p = jnp.exp(family.log_probs)
            mean = jnp.sum(p * by_value, axis=-1, keepdims=True)
            slopes[name] = (p * (by_value - mean))[..., 1:]
        return with_logit_gradient(seen.value, slopes, known), seen.aux

    def _by_value(
        self, name: str, family: Finite, states: Position, signal: Array, f: Integrand
    ) -> Array:
        """The signal of every entry at each of its values, `(*shape, n)`."""
        shape, n = states[name].shape, family.size
        serial = [d for d in range(len(shape)) if d not in f.parallel.get(name, ())]
        count = math.prod(shape[d] for d in serial)
        number = jnp.arange(count).reshape(
            [shape[d] if d in serial else 1 for d in range(len(shape))]
        )

        def changed(which: Array, shift: Array) -> Array:
            here = number == which
            moved = jnp.where(here, (states[name] + shift) % n, states[name])
            signals = f(stop_gradient({**states, name: moved})).signals[name]
            return jnp.where(here, stop_gradient(signals), 0.0)

        every = jax.vmap(jax.vmap(changed, (0, None)), (None, 0))
        others = jnp.sum(every(jnp.arange(count), jnp.arange(1, n)), axis=1)
        by_shift = jnp.concatenate([stop_gradient(signal)[None], others])
        shift = (jnp.arange(n) - states[name][..., None]) % n
        return jnp.take_along_axis(jnp.moveaxis(by_shift, 0, -1), shift, axis=-1)


def draw(key: Array, families: Families) -> Position:
    """One draw of every site."""
    keys = split_keys(key, families)
    return {name: held(family).draw(keys[name]) for name, family in families.items()}


def first(tree: Any) -> Any:
    """The first of several."""
    return jax.tree.map(lambda leaf: leaf[0], tree)

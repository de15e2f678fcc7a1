"""Draws of a guide with their weights: what every objective of several particles starts from."""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from vijax._contracts import DensityGuide, PyTree, Setting, Variables
from vijax._errors import GuideError

Way = Literal["plain", "path", "score"]


class Particles(NamedTuple):
    """Independent draws, a leading axis each.

    Attributes:
        log_p: log density of the target, `(num,)`.
        log_q: log density of the guide, `(num,)`.
        mutable: the model's new mutable state, merged.
    """

    log_p: Array
    log_q: Array
    mutable: dict[str, PyTree]

    @property
    def log_weights(self) -> Array:
        """`log p - log q`, `(num,)`."""
        return self.log_p - self.log_q


def particles(way: Way, num: int, variables: Variables, setting: Setting) -> Particles:
    """Draws `num` particles.

    Args:
        way: in which gradients reach the guide's parameters. `"plain"`: every one there is;
            `"path"`: through the draw alone, with the parameters held fixed in `log_q`;
            `"score"`: through `log_q` alone, with the draw held fixed.
        num: how many.
        variables: what the gradient is taken in.
        setting: what an objective is evaluated in.

    Raises:
        GuideError: `"path"` or `"score"` of a guide without a density, or any but `"score"` where
            there are discrete sites among the draws.
    """
    mutable, key, target, guide, batch, _ = setting
    if way != "score" and target.space.drawn.sites:
        raise GuideError(
            f"objective: expected gradients through the draws, but those of site "
            f"{target.space.drawn.names[0]!r} are discrete. Use ELBO, which has estimators for "
            "them, or ScoreELBO, CUBO or ForwardKL."
        )
    if way != "plain" and not isinstance(guide, DensityGuide):
        raise GuideError(
            f"objective: expected a guide with a density, got {guide!r}. Use another guide, or an "
            "objective with estimator='plain'."
        )

    def one(key: Array) -> tuple[Array, Array, dict[str, PyTree]]:
        # the step's key draws from the guide; one derived from it, never computed unless the
        # model draws too, is for the model
        model_batch = batch._replace(key=jax.random.fold_in(key, 1))
        draw = guide.draw(variables.guide, target.space, key, batch)
        z, log_q = draw.z, draw.log_q
        if way == "path":
            assert isinstance(guide, DensityGuide)
            log_q = guide.path_log_q(variables.guide, target.space, key, draw, batch)
        elif way == "score":
            assert isinstance(guide, DensityGuide)
            z = stop_gradient(z)
            log_q = guide.log_prob(variables.guide, target.space, z, batch)
        log_p, after = target.evaluate(z, model_batch, variables.model, mutable)
        return log_p, log_q, after

    log_p, log_q, states = jax.vmap(one)(jax.random.split(key, num))
    return Particles(log_p, log_q, jax.tree.map(merge, states))


def merge(leaf: Array) -> Array:
    """Mutable state over particles: running statistics average, counters and keys agree."""
    return jnp.mean(leaf, axis=0) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf[0]


def with_gradient_of(value: Array, surrogate: Array) -> Array:
    """`value`, with the gradient of `surrogate`."""
    return stop_gradient(value - surrogate) + surrogate


def check_num(num: int, least: int = 1) -> None:
    """Refuses too few particles.

    Raises:
        ValueError: naming the option.
    """
    if num < least:
        raise ValueError(f"num_particles: expected at least {least}, got {num}.")

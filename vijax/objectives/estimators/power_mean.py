"""Power means of importance weights, for the importance-weighted and Renyi bounds."""

from __future__ import annotations

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from vijax.contracts import LossContext, PyTree, Variables
from vijax.objectives.estimators.particles import (
    Particles,
    draw_particles,
    has_independent_rows,
    with_gradient_of,
)

Estimator = Literal["dreg", "plain"]


def power_bound(
    power: float,
    estimator: Estimator,
    num: int,
    variables: Variables,
    context: LossContext,
) -> tuple[Array, dict[str, PyTree]]:
    """`log(mean(w^power)) / power` over `num` particles, and the model's new mutable state.

    If rows are independent under a `RowGuide` and the model, as in a variational autoencoder, it
    is the sum of one such bound per row: the variance of joint weights grows with the number of
    rows.

    With `v_i` the normalized `w_i^power`, the reparameterized gradient is `sum(v_i dlog w_i)`. Its
    score term, reparameterized a second time, combines with the path term to

        sum((1 - power + power v_i) v_i  dlog w_i/dz_i  dz_i/dphi),

    which `"dreg"` estimates: without a score term, whose noise dominates the gradient with many
    particles. Source: Doubly reparameterized gradient estimators for Monte Carlo objectives,
    Tucker, Lawson, Gu, Maddison, 2019, and for other powers Alpha-divergence variational inference
    meets importance weighted auto-encoders, Daudel, Benton, Shi, Doucet, 2023.
    """
    per_row = has_independent_rows(context)

    def mean_of(drawn: Particles) -> Array:
        return drawn.scale * jnp.sum(_log_mean(power * drawn.log_weights)) / power

    if estimator == "plain":
        drawn = draw_particles("plain", num, variables, context, per_row)
        return mean_of(drawn), drawn.mutable
    first = stop_gradient(draw_particles("path", num, variables, context, per_row))
    weight = jax.nn.softmax(power * first.log_weights, axis=0)
    # scaled at z, not at log_p: one backward pass serves `param` sites, too, whose weights are v_i
    gradient_scale = 1 - power + power * weight
    drawn = draw_particles(
        "path", num, variables, context, per_row, gradient_scale
    )  # the same draws
    surrogate = jnp.sum(weight * (drawn.log_p - gradient_scale * drawn.log_q))
    return with_gradient_of(mean_of(first), drawn.scale * surrogate), drawn.mutable


def _log_mean(log_values: Array) -> Array:
    return jax.nn.logsumexp(log_values, axis=0) - jnp.log(len(log_values))


def check_estimator(estimator: str) -> None:
    """Checks the name of an estimator.

    Raises:
        ValueError: it is unknown.
    """
    if estimator not in get_args(Estimator):
        raise ValueError(
            f"estimator: expected one of {list(get_args(Estimator))}, got {estimator!r}."
        )

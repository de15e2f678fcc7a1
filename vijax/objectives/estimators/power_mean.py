"""Power means of importance weights, behind the importance-weighted and Renyi bounds."""

from __future__ import annotations

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from jax import Array
from jax.lax import stop_gradient

from vijax.contracts import PyTree, LossContext, Variables
from vijax.objectives.estimators.particles import Particles, has_independent_rows, particles, with_gradient_of

Estimator = Literal["dreg", "plain"]


def power_bound(
    power: float,
    estimator: Estimator,
    num: int,
    variables: Variables,
    setting: LossContext,
) -> tuple[Array, dict[str, PyTree]]:
    """`log(mean(w^power)) / power` over `num` particles, and the model's new mutable state.

    Where a `RowGuide` and the model keep rows apart it is the sum of one such bound for each row,
    as in an autoencoder: weights of all rows at once would be worth nothing.

    With `v_i` the normalized `w_i^power`, the reparameterized gradient is `sum(v_i dlog w_i)`.
    Its part through `log q` has, reparameterized once more, an expectation that leaves

        sum((1 - power + power v_i) v_i  dlog w_i/dz_i  dz_i/dphi),

    of which `"dreg"` takes one draw: no score term, whose noise hides the gradient where there are
    many particles. Source: Doubly reparameterized gradient estimators for Monte Carlo objectives,
    Tucker, Lawson, Gu, Maddison, 2019, and for other powers Alpha-divergence variational inference
    meets importance weighted auto-encoders, Daudel, Benton, Shi, Doucet, 2023.
    """
    by_row = has_independent_rows(setting)

    def mean_of(drawn: Particles) -> Array:
        return drawn.scale * jnp.sum(_log_mean(power * drawn.log_weights)) / power

    if estimator == "plain":
        drawn = draw_particles("plain", num, variables, setting, by_row)
        return mean_of(drawn), drawn.mutable
    fixed = stop_gradient(draw_particles("path", num, variables, setting, by_row))
    share = jax.nn.softmax(power * fixed.log_weights, axis=0)
    # the model's parameters take the shares as they are; one pass back through it serves both
    stretch = 1 - power + power * share
    drawn = draw_particles("path", num, variables, setting, by_row, stretch)  # the same: compiled once
    surrogate = jnp.sum(share * (drawn.log_p - stretch * drawn.log_q))
    return with_gradient_of(mean_of(fixed), drawn.scale * surrogate), drawn.mutable


def _log_mean(log_values: Array) -> Array:
    return jax.nn.logsumexp(log_values, axis=0) - jnp.log(len(log_values))


def check_estimator(estimator: str) -> None:
    """Refuses unknown names.

    Raises:
        ValueError: naming the option.
    """
    if estimator not in get_args(Estimator):
        raise ValueError(
            f"estimator: expected one of {list(get_args(Estimator))}, got {estimator!r}."
        )

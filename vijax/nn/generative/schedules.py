"""Noise schedules: the negative log signal-to-noise ratio `gamma(t)` for `t` in [0, 1].

A row `x` at time `t` is `z_t = alpha x + sigma eps` with `alpha^2 = sigmoid(-gamma)` and
`sigma^2 = sigmoid(gamma)`. Source: Variational Diffusion Models, Kingma, Salimans, Poole and Ho,
2021.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
import numpyro
from jax import Array

from vijax.runtime.errors import ModelError, mismatch

ScheduleName = Literal["fixed", "linear", "learned"]

_BENDS = 32  # sigmoid functions of a learned shape
_WIDTH = 1 / 16
_STRAIGHT = -4.0  # at the start they are small


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """A schedule.

    Attributes:
        start: `gamma(0)`.
        end: `gamma(1)`.
        constants: the ends that do not change, by which time is scaled for networks.
        shape: increases from 0 to 1 on [0, 1].
        for_variance: whether the shape is learned to reduce the variance of the loss.
    """

    start: Any
    end: Any
    constants: tuple[float, float]
    shape: Callable[[Array], Array] = lambda t: t
    for_variance: bool = False

    def at(self, t: Array, token: Array | None = None) -> tuple[Array, Array, Array]:
        """`gamma(t)`, its derivative, and the token, see `by_variance`, each `(rows,)`."""
        shape = jax.jvp(self.shape, (t,), (jnp.ones_like(t),))
        token = jnp.zeros_like(t) if token is None else token
        if self.for_variance:
            shape, token = by_variance(shape, token)
        span = self.end - self.start
        return self.start + span * shape[0], span * shape[1], token

    def time(self, gamma: Array) -> Array:
        """`gamma` scaled to [0, 1], the time that networks are given."""
        first, last = self.constants
        return (gamma - first) / (last - first)


def alpha(gamma: Any) -> Array:
    """The factor of the row, `sqrt(sigmoid(-gamma))`."""
    return jnp.sqrt(jax.nn.sigmoid(-gamma))


def sigma(gamma: Any) -> Array:
    """The standard deviation of the noise, `sqrt(sigmoid(gamma))`."""
    return jnp.sqrt(jax.nn.sigmoid(gamma))


def declare_schedule(
    name: str, kind: ScheduleName, log_snr: tuple[float, float], num_steps: int | None
) -> Schedule:
    """The schedule of a site, whose parameters are `param` sites.

    Args:
        name: of the site.
        kind: see `vijax.nn.diffusion`.
        log_snr: log signal-to-noise ratio at 0 and 1, where learned ends start.
        num_steps: of the process. In continuous time the bound does not depend on the shape, which
            is learned to reduce the variance of its estimate.

    Raises:
        ModelError: the kind is unknown, or the ratio does not fall.
    """
    if kind not in get_args(ScheduleName):
        expected = f"one of {list(get_args(ScheduleName))}"
        raise ModelError(mismatch(f"diffusion {name!r}, schedule", expected, repr(kind)))
    first, last = map(float, log_snr)
    if not first > last:
        expected = "the log signal-to-noise ratio at 0 and 1, (larger, smaller)"
        raise ModelError(mismatch(f"diffusion {name!r}, log_snr", expected, log_snr))
    constants = (-first, -last)
    if kind == "fixed":
        return Schedule(*constants, constants)
    ends = numpyro.param(f"{name}/log_snr", jnp.array([first, last]))
    start, end = -ends[0], -ends[0] + jnp.abs(ends[0] - ends[1])
    if kind == "linear":
        return Schedule(start, end, constants)
    bends = numpyro.param(f"{name}/schedule", jnp.full(_BENDS, _STRAIGHT))
    return Schedule(start, end, constants, lambda t: _monotone(bends, t), num_steps is None)


def _monotone(bends: Array, t: Array) -> Array:
    """An increasing function from 0 to 1: a line plus sigmoid functions."""
    heights, centers = jax.nn.softplus(bends), jnp.linspace(0.0, 1.0, bends.shape[0])

    def rise(t: Array) -> Array:
        return t + jax.nn.sigmoid((t[..., None] - centers) / _WIDTH) @ heights

    low, high = rise(jnp.zeros(())), rise(jnp.ones(()))
    return (rise(t) - low) / (high - low)


@jax.custom_vjp
def by_variance(shape: tuple[Array, Array], token: Array) -> tuple[tuple[Array, Array], Array]:
    """A schedule's values by row, for a gradient that reduces the variance of the loss.

    `E[L^2]` has the gradient `E[2 L grad L]` in the shape, where the variance is all that it
    changes. The gradient of the token, which is zero, has to be the loss `L` of each row: then that
    of the shape is `2 L grad L` over the mean of the losses, and no second pass is needed.

    Args:
        shape: `gamma` and its derivative, `(rows,)`.
        token: zeros, `(rows,)`.
    """
    return shape, token


def _forward(shape: Any, token: Any) -> Any:
    return (shape, token), None


def _backward(_: None, gradients: Any) -> Any:
    of_shape, losses = gradients
    sizes = jnp.abs(losses)  # the sign is in the other gradients, too
    factor = 2 * sizes / (jnp.mean(sizes) + jnp.finfo(sizes.dtype).tiny)
    return jax.tree.map(lambda g: factor * g, of_shape), jnp.zeros_like(losses)


by_variance.defvjp(_forward, _backward)

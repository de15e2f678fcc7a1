"""Diffusion of real or 8-bit data by Gaussian noise: the bound, draws, the density by an ODE.

`-log p(x) <= KL(q(z_1 | x) || N(0, I)) - E log p(x | z_0)
+ 1/2 E_t gamma'(t) ||eps - net(z_t, t)||^2`, with `z_t` as in `schedules`. With `T` steps the last
term is `T/2 E expm1(gamma_t - gamma_s) ||eps - net(z_t, t)||^2`, `t` in `1/T, ..., 1`, `s = t -
1/T`. Source: Variational Diffusion Models, Kingma, Salimans, Poole and Ho, 2021.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from vijax.nn.generative.schedules import Schedule, alpha, sigma
from vijax.runtime.errors import ModelError, mismatch
from vijax.runtime.row_densities import RowDensity

Weight = Callable[[Array], Array]
Network = Callable[[Array, Array], Array]

DEFAULT_STEPS = 250  # of draws in continuous time
_EXACT_TRACE = 8  # elements of a row up to which the divergence of the ODE is exact


def spaced_times(start: Any, num: int) -> Array:
    """Times in [0, 1), equally spaced from the first: `(start + i / num) mod 1`, `(num,)`."""
    return jnp.mod(start + jnp.arange(num) / num, 1.0)


@dataclasses.dataclass(frozen=True, eq=False)
class GaussianDiffusion(RowDensity):
    """Rows with their diffusion process.

    Attributes:
        network: from noisy rows `(rows, ...)` and times `(rows,)` to the noise in them.
        x: the rows; numbers, or integers below `levels`.
        schedule: of the noise.
        levels: number of values of an element, `None` for real numbers.
        num_steps: of the process, `None` in continuous time.
        weight: of the noise by log signal-to-noise ratio, `None` for the bound.
    """

    network: Network
    x: Array
    schedule: Schedule
    levels: int | None
    num_steps: int | None
    weight: Weight | None = None

    @property
    def scaled(self) -> Array:
        """The rows as real numbers; levels are spaced equally inside of (-1, 1)."""
        if self.levels is None:
            return self.x
        return (2 * self.x.astype(jnp.result_type(float)) + 1) / self.levels - 1

    # ---- the bound

    def loss(self, key: Array) -> Array:
        """What a step minimizes, `(rows,)`: the bound on `-log p(x)`, or its weighted form."""
        time_key, key = jax.random.split(key)
        start = jax.random.uniform(time_key)
        found = self.parts(key, start, self.num_steps, self.weight)
        return sum(found.values(), jnp.zeros(()))

    def parts(
        self, key: Array, start: Any, num_steps: int | None, weight: Weight | None = None
    ) -> dict[str, Array]:
        """See `RowDensity`."""
        noise_key, key = jax.random.split(key)
        x = self.scaled
        noise = jax.random.normal(noise_key, x.shape, x.dtype)
        last = self.schedule.end
        terms = alpha(last) ** 2 * x**2 + sigma(last) ** 2 - jax.nn.log_sigmoid(last) - 1
        times = spaced_times(start, len(x))
        return {
            "prior": 0.5 * _by_row(terms),
            "reconstruction": self._reconstruction(key, x),
            "diffusion": self._diffusion(x, noise, times, num_steps or self.num_steps, weight),
        }

    def _reconstruction(self, key: Array, x: Array) -> Array:
        """`-E log p(x | z_0)`: of real numbers the exact expectation."""
        first = self.schedule.start
        if self.levels is None:
            constant = 0.5 * self.dim * (math.log(2 * math.pi * math.e) + first)
            return jnp.broadcast_to(constant, (len(x),))
        noise = jax.random.normal(key, x.shape, x.dtype)
        scale = jnp.exp(0.5 * first)
        values = (2 * jnp.arange(self.levels) + 1) / self.levels - 1
        # relative to that of the value itself no exponent overflows: it is at most noise^2 / 2
        away = ((x - values[:, *[None] * x.ndim]) / scale + noise) ** 2
        losses = jnp.log(jnp.sum(jnp.exp(0.5 * (noise**2 - away)), axis=0))
        codes = self.x.astype(jnp.int32)
        valid = (codes >= 0) & (codes < self.levels)
        return _by_row(jnp.where(valid, losses, jnp.nan))

    def _diffusion(
        self, x: Array, noise: Array, t: Array, num_steps: int | None, weight: Weight | None
    ) -> Array:
        schedule = self.schedule
        token = jnp.zeros_like(t)
        if num_steps is None:
            gamma, factor, token = schedule.at(t, token)
        else:
            t = jnp.floor(t * num_steps + 1) / num_steps
            fixed = dataclasses.replace(schedule, for_variance=False)
            (gamma, *_), (before, *_) = fixed.at(t), fixed.at(t - 1 / num_steps)
            factor = num_steps * jnp.expm1(gamma - before)
        at = _along(gamma, x)
        z = alpha(at) * x + sigma(at) * noise
        error = _by_row((noise - self.network(z, schedule.time(gamma))) ** 2)
        loss = 0.5 * factor * error
        loss += jax.lax.stop_gradient(loss) * token  # zero
        return loss if weight is None else weight(-gamma) * loss

    # ---- draws

    def generate(
        self,
        key: Array,
        num_rows: int,
        num_steps: int | None,
        method: str,
        keep: Array | None = None,
    ) -> Array:
        """See `RowDensity`; `method` is `"ancestral"` or `"ode"`.

        Raises:
            ModelError: elements are to be kept.
        """
        if keep is not None:  # replacing them at every step does not draw from the model
            expected = "None, or a site of vijax.nn.masked_diffusion"
            raise ModelError(mismatch("keep", expected, "a site of vijax.nn.diffusion"))
        steps = num_steps or self.num_steps or DEFAULT_STEPS
        dtype = self.scaled.dtype
        first, key = jax.random.split(key)
        z = jax.random.normal(first, (num_rows, *self.x.shape[1:]), dtype)
        if method == "ode":
            z, _ = self._solve(z, steps, (self.schedule.end, self.schedule.start), None)
        else:
            z = jax.lax.fori_loop(0, steps, lambda i, z: self._step_back(key, i, steps, z), z)
        return self._observed(jax.random.fold_in(key, steps), z)

    def _step_back(self, key: Array, i: Any, steps: int, z: Array) -> Array:
        """A draw from `p(z_s | z_t)`."""
        t = jnp.full(len(z), 1 - i / steps, z.dtype)
        (gamma, *_), (before, *_) = self.schedule.at(t), self.schedule.at(t - 1 / steps)
        noise = self.network(z, self.schedule.time(gamma))
        gamma, before = _along(gamma, z), _along(before, z)
        share = -jnp.expm1(before - gamma)
        mean = alpha(before) / alpha(gamma) * (z - share * sigma(gamma) * noise)
        fresh = jax.random.normal(jax.random.fold_in(key, i), z.shape, z.dtype)
        return mean + sigma(before) * jnp.sqrt(share) * fresh

    def _observed(self, key: Array, z: Array) -> Array:
        """A draw from `p(x | z_0)`; of levels the most probable."""
        x = z / alpha(self.schedule.start)
        if self.levels is None:
            noise = jax.random.normal(key, x.shape, x.dtype)
            return x + jnp.exp(0.5 * self.schedule.start) * noise
        nearest = jnp.floor(0.5 * (x + 1) * self.levels)
        return jnp.clip(nearest, 0, self.levels - 1).astype(self.x.dtype)

    # ---- the ODE with the same marginal distributions

    def ode_log_density(self, key: Array, num_steps: int) -> Array:
        """See `RowDensity`: that of `z_0 / alpha_0` at the rows.

        `dz/dgamma = sigma (net(z, t) - sigma z) / 2`, the probability flow of Score-Based
        Generative Modeling through Stochastic Differential Equations, Song et al., 2021. The
        divergence of large rows is estimated by one random direction (Hutchinson); 8-bit data are
        made continuous by uniform noise, which makes it a bound.
        """
        noise_key, probe_key = jax.random.split(key)
        x, offset = self.scaled, 0.0
        if self.levels is not None:
            x += (2 * jax.random.uniform(noise_key, x.shape, x.dtype) - 1) / self.levels
            offset = self.dim * math.log(2 / self.levels)
        first, last = self.schedule.start, self.schedule.end
        z, change = self._solve(alpha(first) * x, num_steps, (first, last), self._probes(probe_key))
        log_normal = -0.5 * _by_row(z**2 + math.log(2 * math.pi))
        return log_normal + change + self.dim * jnp.log(alpha(first)) + offset

    def _probes(self, key: Array) -> Array:
        """Directions whose derivatives add up to the divergence, `(num, rows, ...)`."""
        x = self.scaled
        if self.dim <= _EXACT_TRACE:
            basis = jnp.eye(self.dim, dtype=x.dtype).reshape(self.dim, 1, *x.shape[1:])
            return jnp.broadcast_to(basis, (self.dim, *x.shape))
        return jax.random.rademacher(key, (1, *x.shape), x.dtype)

    def _solve(
        self, z: Array, num_steps: int, ends: tuple[Any, Any], probes: Array | None
    ) -> tuple[Array, Array]:
        """The ODE's solution in `gamma` by steps of Runge and Kutta, and the integrated divergence.

        Args:
            z: where it starts.
            num_steps: of equal length.
            ends: of `gamma`.
            probes: for the divergence; `None` if that is not needed.
        """
        width = (ends[1] - ends[0]) / num_steps

        def slope(state: tuple[Array, Array], gamma: Any) -> tuple[Array, Array]:
            z = state[0]
            time = jnp.full(len(z), self.schedule.time(gamma), z.dtype)

            def flow(z: Array) -> Array:
                return 0.5 * sigma(gamma) * (self.network(z, time) - sigma(gamma) * z)

            if probes is None:
                return flow(z), jnp.zeros(len(z), z.dtype)
            along = jax.vmap(lambda v: _by_row(v * jax.jvp(flow, (z,), (v,))[1]))(probes)
            return flow(z), along.sum(axis=0)

        def step(i: Any, state: tuple[Array, Array]) -> tuple[Array, Array]:
            def stage(j: Any, found: Any) -> Any:  # a loop, so that the network is compiled once
                total, last = found
                share, weight = jnp.array([0, 0.5, 0.5, 1])[j], jnp.array([1, 2, 2, 1])[j] / 6
                here = jax.tree.map(lambda one, d: one + share * width * d, state, last)
                now = slope(here, ends[0] + (i + share) * width)
                return jax.tree.map(lambda one, d: one + weight * width * d, total, now), now

            end: tuple[Array, Array] = jax.lax.fori_loop(
                0, 4, stage, (state, jax.tree.map(jnp.zeros_like, state))
            )[0]
            return end

        found: tuple[Array, Array] = jax.lax.fori_loop(
            0, num_steps, step, (z, jnp.zeros(len(z), z.dtype))
        )
        return found


def _by_row(values: Array) -> Array:
    return values.sum(axis=tuple(range(1, values.ndim)))


def _along(gamma: Array, x: Array) -> Array:
    """A number for each row, to be multiplied with rows."""
    return gamma.reshape(-1, *[1] * (x.ndim - 1))

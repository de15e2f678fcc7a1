"""Masked diffusion of discrete data: the bound and draws.

Elements are masked in random order, and the network predicts those that are masked from the others.
The bound is that of an autoregressive model averaged over all orders,
`-log p(x) <= E_m D/m E sum_masked -log p(x_i | x_unmasked)` with the number `m` of masked elements
uniform in `1, ..., D`. In continuous time, with each element masked with probability `t` and the
weight `1/t`, the expectation is the same; numbers that are drawn exactly have less variance.
Sources: Simple and Effective Masked Diffusion Language Models, Sahoo et al., 2024; Simplified and
Generalized Masked Diffusion for Discrete Data, Shi et al., 2024.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from vijax.nn.generative.gaussian import spaced_times
from vijax.runtime.errors import ModelError, mismatch
from vijax.runtime.row_densities import RowDensity


@dataclasses.dataclass(frozen=True, eq=False)
class MaskedDiffusion(RowDensity):
    """Rows with their masking process.

    Attributes:
        name: of the site, for errors.
        network: from rows `(rows, ...)`, in which `num_values` stands for a masked element, to
            logits `(rows, ..., num_values)`.
        x: the rows, integers below `num_values`.
        num_values: of an element.
    """

    name: str
    network: Callable[[Array], Array]
    x: Array
    num_values: int

    def loss(self, key: Array) -> Array:
        """What a step minimizes, `(rows,)`: the bound on `-log p(x)`."""
        time_key, key = jax.random.split(key)
        return self.parts(key, jax.random.uniform(time_key), None)["diffusion"]

    def parts(self, key: Array, start: Any, num_steps: int | None) -> dict[str, Array]:
        """See `RowDensity`; there is one part."""
        # bytes have no value beyond 255, which may stand for a masked element
        x, dim = self.x.reshape(self.num_rows, -1).astype(jnp.int32), self.dim
        times = spaced_times(start, self.num_rows)
        masked_number = jnp.minimum(jnp.floor(times * dim).astype(jnp.int32), dim - 1) + 1
        masked = _random_masks(key, x.shape, masked_number)
        log_probs = self._log_probs(jnp.where(masked, self.num_values, x))
        found = jnp.take_along_axis(log_probs, x[..., None], axis=-1)[..., 0]
        found = jnp.where((x >= 0) & (x < self.num_values), found, jnp.nan)
        losses = -jnp.sum(jnp.where(masked, found, 0.0), axis=1)
        return {"diffusion": losses * dim / masked_number}

    def generate(
        self,
        key: Array,
        num_rows: int,
        num_steps: int | None,
        method: str,
        keep: Array | None = None,
    ) -> Array:
        """See `RowDensity`: elements are drawn in random order, equally many at a time.

        The network predicts masked elements from any others, so that completions are drawn from
        the same model.
        """
        steps, shape = min(num_steps or self.dim, self.dim), (num_rows, self.dim)
        masked, start = jnp.ones(shape, bool), jnp.full(shape, self.num_values, jnp.int32)
        if keep is not None:
            masked = ~keep.reshape(shape)
            start = jnp.where(masked, start, self.x.reshape(shape).astype(jnp.int32))
        order_key, key = jax.random.split(key)
        ranks = _ranks(jnp.where(masked, jax.random.uniform(order_key, shape), 2.0))
        unknown = masked.sum(axis=1, keepdims=True)

        def step(i: Any, x: Array) -> Array:
            drawn = jax.random.categorical(jax.random.fold_in(key, i), self._log_probs(x))
            now = (ranks >= (i * unknown) // steps) & (ranks < ((i + 1) * unknown) // steps)
            return jnp.where(now, drawn.astype(x.dtype), x)

        x = jax.lax.fori_loop(0, steps, step, start)
        return x.reshape(num_rows, *self.x.shape[1:]).astype(self.x.dtype)

    def ode_log_density(self, key: Array, num_steps: int) -> Array:
        """See `RowDensity`.

        Raises:
            ModelError: discrete data have none.
        """
        expected = "a site of vijax.nn.diffusion, whose data are numbers"
        raise ModelError(
            mismatch(
                f"ode_steps, site {self.name!r}", expected, "masked diffusion", "Leave it out."
            )
        )

    def _log_probs(self, tokens: Array) -> Array:
        """`(rows, dim, num_values)`."""
        shape = (len(tokens), *self.x.shape[1:], self.num_values)
        logits = self.network(tokens.reshape(shape[:-1]))
        if logits.shape != shape:
            what, got = f"masked_diffusion {self.name!r}, net(tokens)", f"shape {logits.shape}"
            raise ModelError(mismatch(what, f"logits of shape {shape}", got))
        return jax.nn.log_softmax(logits).reshape(len(tokens), self.dim, self.num_values)


def _random_masks(key: Array, shape: tuple[int, ...], number: Array) -> Array:
    """Masks with so many elements of each row, `(rows, dim)`, all such masks equally probable.

    One sort of numbers takes a tenth of the time of two that return places. Equal ones, of 32 bits,
    are too rare to matter.
    """
    bits = jax.random.bits(key, shape)
    largest = jnp.take_along_axis(jnp.sort(bits, axis=1), number[:, None] - 1, axis=1)
    return bits <= largest


def _ranks(values: Array) -> Array:
    """The place of each element in the order of its row."""
    return jnp.argsort(jnp.argsort(values, axis=1), axis=1)

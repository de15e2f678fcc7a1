"""Coordinate ascent on the evidence lower bound of a mixture, as one compiled program.

With optimal responsibilities, `r_nk` proportional to `exp(<coefficients_k, phi_n>)`, the bound is
 `sum_n log sum_k exp(<coefficients_k, phi_n>) - KL(q || prior)`, all constants included.
One pass over the rows gives it together with the statistics of the next update.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from vijax.solvers.mixture.mixture import Mixture
from vijax.solvers.mixture.rows import Rows

HISTORY = 32  # most sweeps of one call of the compiled loop, which Ctrl-C waits for


class Ascent(NamedTuple):
    """A posterior, and what a pass over the rows found for it.

    Attributes:
        posterior: variational posterior.
        coefficients: of the features in its logits, `(K, p)`.
        statistics: of the update that follows, `(K, p)`.
        elbo: evidence lower bound of `posterior`, in nats.
        gain: of the last update, in nats.
        elbos: of all sweeps of this call, `(HISTORY,)`; nan beyond the last.
        num_sweeps: passes of this call.
    """

    posterior: Mixture
    coefficients: Array
    statistics: Array
    elbo: Array
    gain: Array
    elbos: Array
    num_sweeps: Array


def features(block: Array, rows: Rows) -> Array:
    """`phi` of the rows of a block, `(p, rows)`, for a block of `(d + 1, rows)`."""
    first, second = (block.at[one].get(mode="promise_in_bounds") for one in jnp.asarray(rows.pairs))
    return first * second + rows.offset[:, None] * block[0]


def soft(logits: Array) -> tuple[Array, Array]:
    """Responsibilities `(K, rows)` and the logarithm of what they were normalized by."""
    largest = jnp.max(logits, axis=0)
    weights = jnp.exp(logits - largest)
    total = jnp.sum(weights, axis=0)
    return weights * (1 / total), largest + jnp.log(total)


def accumulate(coefficients: Array, rows: Rows) -> tuple[Array, Array]:
    """One pass: statistics `(K, p)`, and `sum_n log sum_k exp(...)`, a scalar.

    The array of all responsibilities never exists.

    Args:
        coefficients: of the features in the logits, `(K, p)`.
        rows: of data.
    """

    def add(total: tuple[Array, Array], block: Array) -> tuple[tuple[Array, Array], None]:
        phi = features(block, rows)
        responsibilities, normalizers = soft(coefficients @ phi)
        found = responsibilities @ phi.T, jnp.sum(normalizers * block[0])
        return jax.tree.map(jnp.add, total, found), None

    start = jnp.zeros_like(coefficients), jnp.zeros((), coefficients.dtype)
    (statistics, total), _ = lax.scan(add, start, jnp.asarray(rows.blocks))
    return rows.scale * statistics, rows.scale * total


def evaluate(
    rows: Rows, prior: Mixture, posterior: Mixture, coefficients: Array
) -> tuple[Array, Array]:
    """Statistics of the next update, `(K, p)`, and the bound of a posterior."""
    statistics, total = accumulate(coefficients, rows)
    return prior.arranged(statistics), total - posterior.divergence(prior)


def ascend(
    rows: Rows, statistics: Array, prior: Mixture, before: Array, limit: Array, tolerance: Array
) -> Ascent:
    """Sweeps until the bound rises by less than `tolerance`, or `limit` is reached.

    Args:
        rows: of data.
        statistics: from which the first posterior follows, `(K, p)`.
        prior: of the mixture.
        before: the bound of an earlier posterior, `-inf` if there is none.
        limit: number of passes, from 1 to `HISTORY`.
        tolerance: in nats.
    """

    def go_on(state: Ascent) -> Array:
        return (state.num_sweeps < limit) & ~(state.gain < tolerance)

    def sweep(state: Ascent) -> Ascent:
        posterior = prior.updated(state.statistics)
        coefficients = posterior.coefficients
        statistics, elbo = evaluate(rows, prior, posterior, coefficients)
        elbos = state.elbos.at[state.num_sweeps].set(elbo)
        gain, count = elbo - state.elbo, state.num_sweeps + 1
        return Ascent(posterior, coefficients, statistics, elbo, gain, elbos, count)

    infinity, none = jnp.full((), jnp.inf), jnp.full(HISTORY, jnp.nan)
    statistics, count = jnp.asarray(statistics), jnp.zeros((), int)
    start = Ascent(prior, statistics, statistics, jnp.asarray(before), infinity, none, count)
    return lax.while_loop(go_on, sweep, start)


def bound(rows: Rows, prior: Mixture, posterior: Mixture) -> float:
    """The evidence lower bound of any posterior with optimal responsibilities, in nats."""
    with jax.enable_x64(True):
        return float(evaluate(rows, prior, posterior, posterior.coefficients)[1])

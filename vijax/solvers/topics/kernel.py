"""What a visit of documents does: their topics at fixed weights of words, and sums for the topics.

With `t_k = exp(E log theta_dk)` and `b_wk = exp(E log beta_kw)`, a document's update is
`gamma_k <- alpha_k + t_k sum_w c_w b_wk / sum_j t_j b_wj`, and the topics need the sums over
documents of `t_k c_w / sum_j t_j b_wj`, times `b_wk`. Rows of `b` may be scaled: that cancels.

Zeroth-order collapsed updates have the same form, with expected topics for `b` and with
`t_k = alpha_k + N_dk - e_dk`: a token is not to count itself. `e_dk = sum_w c_w p_wk^2 / N_dk` is
what it would count on average, where `p_wk` are the probabilities of topics and
`N_dk = sum_w c_w p_wk`.

Sources: Latent Dirichlet Allocation, Blei, Ng and Jordan, 2003; On Smoothing and Inference for
Topic Models, Asuncion, Welling, Smyth and Teh, 2009; Stochastic Collapsed Variational Bayesian
Inference for Latent Dirichlet Allocation, Foulds, Boyles, DuBois, Smyth and Welling, 2013.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array, lax

from vijax.solvers.topics.corpus import Group

_SMALLEST = 1e-30  # of a word's weights, relative to its largest


class Visit(NamedTuple):
    """What a visit of a group found.

    Attributes:
        gamma: parameters of the documents' topics, `(G, B, K)`.
        sums: for the topics, before the factor `b`, added to those before, `(V, K)`.
        log_probs: `sum_w c_w log sum_k t_k b_wk` at the start of the visit, `(G, B)`; there, the
            collapsed updates have `t = gamma`.
    """

    gamma: Array
    sums: Array
    log_probs: Array


def exp_digamma_parts(x: Array) -> tuple[Array, Array]:
    """`(a, s)` with `exp(digamma(x)) = a exp(-s)` up to a relative error of 1e-5, for `x > 0`.

    `digamma(x) = digamma(x + 3) - s` by three recurrences, and `a` is the start of the series of
    `exp(digamma(u + 1/2))` in `1 / u`: no logarithm and no branch.
    """
    u = x + 2.5
    v = 1 / (u * u)
    series = u * (1 + v * (1 / 24 + v * (-37 / 5760 + v * (10313 / 2903040))))
    return series, (3 * x * x + 6 * x + 2) / (x * (x + 1) * (x + 2))


def exp_digamma(x: Array) -> Array:
    """`exp(digamma(x))` up to a relative error of 1e-5, for `x > 0`."""
    series, shift = exp_digamma_parts(x)
    return series * jnp.exp(-shift)


def word_weights(parameters: Array, *, collapsed: bool) -> tuple[Array, Array]:
    """Rows `b` with a largest value of one, `(V, K)`, and the logarithms of their scales, `(V,)`.

    Args:
        parameters: of the topics' Dirichlet distributions, `(V, K)`.
        collapsed: expected topics, else `exp(E log beta)`.
    """
    totals = jnp.sum(parameters, axis=0)
    if collapsed:
        logs = jnp.log(parameters) - jnp.log(totals)
    else:
        series, shift = exp_digamma_parts(parameters)
        logs = jnp.log(series) - shift - jnp.log(exp_digamma(totals))
    highest = jnp.max(logs, axis=1)
    return jnp.maximum(jnp.exp(logs - highest[:, None]), _SMALLEST), highest


class _Document(NamedTuple):
    """Documents of a block between two updates: `gamma`, `e`, `t`, and `c / sum_j t_j b_wj`."""

    gamma: Array
    own: Array
    t: Array
    ratios: Array


def visit(
    weights: Array,
    sums: Array,
    group: Group,
    gamma: Array,
    alpha: Array,
    num_steps: Array,
    excluded: Array,
    *,
    collapsed: bool,
) -> Visit:
    """A few updates of every document of a group, from where it was left.

    Args:
        weights: rows `b`, `(V, K)`.
        sums: to be added to, `(V, K)`.
        group: `G` blocks of documents.
        gamma: `(G, B, K)`.
        alpha: `(K,)`.
        num_steps: updates of a document, at least 1.
        excluded: the share of `e` that is subtracted; without it, the update is that of expectation
            maximization for a mode, which is unique.
        collapsed: see the module.
    """

    def block(i: Any, found: Visit) -> Visit:
        ids, c, owner = group.words[i], group.counts[i], group.owners[i]
        rows = weights.at[ids].get(mode="promise_in_bounds")

        def spread(t: Array) -> Array:
            return t.at[owner].get(mode="promise_in_bounds", indices_are_sorted=True)

        def total(pieces: Array) -> Array:
            zeros = jnp.zeros((gamma.shape[1], *pieces.shape[1:]), pieces.dtype)
            return zeros.at[owner].add(pieces, mode="promise_in_bounds", indices_are_sorted=True)

        def probabilities(t: Array) -> Array:
            return jnp.einsum("pwk,pk->pw", rows, spread(t))

        def step(_: Any, state: _Document) -> _Document:
            t = state.gamma - excluded * state.own if collapsed else exp_digamma(state.gamma)
            chances = probabilities(t)
            ratios = c / chances
            counts = t * total(jnp.sum(rows * ratios[:, :, None], axis=1))
            own = state.own
            if collapsed:
                squares = jnp.sum(rows * rows * (ratios / chances)[:, :, None], axis=1)
                own = t * t * total(squares) / jnp.maximum(counts, _SMALLEST)
                own = jnp.minimum(own, counts)
            return _Document(alpha + counts, own, t, ratios)

        before = found.gamma[i]
        first = before if collapsed else exp_digamma(before)
        logs = jnp.sum(c * jnp.log(probabilities(first)), axis=1)
        start = _Document(before, jnp.zeros_like(before), first, c)
        done = lax.fori_loop(0, num_steps, step, start)
        added = done.ratios[:, :, None] * spread(done.t)[:, None, :]
        return Visit(
            found.gamma.at[i].set(done.gamma),
            found.sums.at[ids].add(added, mode="promise_in_bounds"),
            found.log_probs.at[i].set(total(logs)),
        )

    start = Visit(gamma, sums, jnp.zeros(gamma.shape[:2], gamma.dtype))
    return lax.fori_loop(0, group.num_blocks, block, start)

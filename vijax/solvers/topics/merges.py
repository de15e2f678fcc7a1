"""Merges of topics that are alike, as long as the evidence lower bound rises.

Coordinate ascent leaves words that belong together in several topics, with different documents: no
document gains from moving alone. Source: Memoized Online Variational Inference for Dirichlet
Process Mixture Models, Hughes and Sudderth, 2013.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from vijax.solvers.topics import programs
from vijax.solvers.topics.priors import divergences
from vijax.solvers.topics.training import Minibatch, State

_ALIKE = 0.75  # cosine of the angle between two topics from which a merge is tried
_UNUSED = 1e-4  # prior of a topic that was merged into another one


def merge(state: State, batches: Sequence[Minibatch]) -> int:
    """Merges pairs of topics, the most similar ones first.

    Args:
        state: is changed.
        batches: all documents, visited before; are changed.

    Returns:
        The number of merges.
    """
    bound, count = _bound(state, batches), 0
    refused = set[tuple[int, int]]()
    while pair := _most_similar(state, refused):
        trial = [dataclasses.replace(batch) for batch in batches]
        merged = _merged(state, trial, *pair)
        value = _bound(merged, trial)
        if value <= bound:
            refused.add(pair)
            continue
        bound, count = value, count + 1
        state.topics, state.alpha = merged.topics, merged.alpha
        for batch, new in zip(batches, trial, strict=True):
            batch.gamma, batch.sums = new.gamma, new.sums
        refused = {one for one in refused if pair[0] not in one and pair[1] not in one}
    return count


def _most_similar(state: State, refused: set[tuple[int, int]]) -> tuple[int, int] | None:
    """The two topics with words that are most alike, the smaller one last."""
    own = np.maximum(state.topics - np.float32(state.eta), 0)
    sizes = own.sum(axis=0)
    own = own / np.maximum(np.linalg.norm(own, axis=0), 1e-30)
    alike = np.triu(own.T @ own, 1)
    for first, second in refused:
        alike[min(first, second), max(first, second)] = 0
    a, b = np.unravel_index(np.argmax(alike), alike.shape)
    if alike[a, b] < _ALIKE:
        return None
    return (int(a), int(b)) if sizes[a] >= sizes[b] else (int(b), int(a))


def _merged(state: State, batches: Sequence[Minibatch], a: int, b: int) -> State:
    """Topic `b` becomes a part of `a`; the minibatches are changed."""
    topics, alpha = state.topics.copy(), state.alpha.copy()
    topics[:, a] += topics[:, b] - np.float32(state.eta)
    topics[:, b] = state.eta
    alpha[a] += alpha[b] - _UNUSED
    alpha[b] = _UNUSED
    for batch in batches:
        assert batch.gamma is not None
        batch.gamma = batch.gamma.copy()
        batch.gamma[:, a] += batch.gamma[:, b] - np.float32(_UNUSED)
        batch.gamma[:, b] = _UNUSED
        if batch.sums is not None:
            batch.sums = batch.sums.copy()
            batch.sums[:, a] += batch.sums[:, b]
            batch.sums[:, b] = 0
    return dataclasses.replace(state, topics=topics, alpha=alpha)


def _bound(state: State, batches: Sequence[Minibatch]) -> float:
    """The evidence lower bound of documents and topics."""
    from scipy.special import digamma

    weights = programs.weights_of(state.topics, False)
    total = -divergences(state.topics.T, np.full(len(state.topics), state.eta)).sum()
    for batch in batches:
        gamma = np.array(batch.gamma)
        exact = np.maximum(gamma.astype(np.float64), state.alpha)
        logs = programs.visit(weights, batch.groups, gamma, state.alpha, 1).log_probs
        logs -= batch.tokens * digamma(exact.sum(axis=1))
        total += np.sum(logs - divergences(exact, state.alpha))
    return float(total)

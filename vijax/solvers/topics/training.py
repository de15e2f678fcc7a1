"""Passes over minibatches of documents, which update the topics after each of them.

With `S_b` the expected counts of words by topics in minibatch `b`, the topics' parameters are
`eta + sum_b S_b`, where a visit replaces what the minibatch contributed before ("memoized"; batch
coordinate ascent has one minibatch), or they move a step towards `eta + (D / |b|) S_b` ("online").

Sources: Online Learning for Latent Dirichlet Allocation, Hoffman, Blei and Bach, 2010; Memoized
Online Variational Inference for Dirichlet Process Mixture Models, Hughes and Sudderth, 2013.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from vijax.solvers.topics import programs
from vijax.solvers.topics.corpus import Counts, Group, Shape, groups_of
from vijax.solvers.topics.priors import (
    dirichlet_prior,
    expected_tables,
    log_expectations,
    symmetric_prior,
)

_FIRST = 10  # updates of a document that starts from equal topics
_MEMORY = 1 << 27  # numbers that the contributions of all minibatches may have together


@dataclasses.dataclass(frozen=True)
class Rule:
    """How topics are updated.

    Attributes:
        collapsed: zeroth-order collapsed updates, else those of the evidence lower bound.
        online: steps of size `(offset + t)^-decay`, else memoized.
        decay: see `online`.
        offset: see `online`.
        num_steps: updates of a document in a visit that continues from the last one.
        restarts: first passes in which documents start from equal topics, again: they would stay
            with topics that they took while all were alike.
    """

    collapsed: bool
    online: bool = False
    decay: float = 0.7
    offset: float = 10.0
    num_steps: int = 5
    restarts: int = 5


@dataclasses.dataclass
class State:
    """Topics and priors, from which a stream of minibatches continues exactly.

    Attributes:
        topics: parameters of the topics' Dirichlet distributions, `(V, K)`, float32.
        alpha: prior of the topics of a document, `(K,)`.
        eta: prior of the words of a topic.
        step: minibatches visited.
        passes: over all documents.
    """

    topics: np.ndarray
    alpha: np.ndarray
    eta: float
    step: int = 0
    passes: int = 0

    @classmethod
    def start(
        cls, num_words: int, alpha: np.ndarray, eta: float, rng: np.random.RandomState
    ) -> State:
        """Almost equal topics, drawn at random.

        Args:
            num_words: `V`.
            alpha: `(K,)`.
            eta: a number.
            rng: source of the draws.
        """
        topics = rng.gamma(100.0, 0.01, (num_words, len(alpha))).astype(np.float32)
        return cls(topics, np.asarray(alpha, np.float64), float(eta))


@dataclasses.dataclass
class Minibatch:
    """Documents, and where the last visit left them.

    Attributes:
        groups: of the documents.
        tokens: of the documents, `(D,)`.
        gamma: parameters of their topics, `(D, K)`; `None` before the first visit.
        sums: what they contribute to the topics, `(V, K)`; `None` if that is not needed.
    """

    groups: Sequence[Group]
    tokens: np.ndarray
    gamma: np.ndarray | None = None
    sums: np.ndarray | None = None

    @classmethod
    def of(cls, corpus: Counts, shape: Shape) -> Minibatch:
        """All documents of a corpus."""
        return cls(list(groups_of(corpus, shape)), corpus.tokens)

    def visit(
        self, weights: programs.Weights, alpha: np.ndarray, num_steps: int
    ) -> tuple[np.ndarray, float]:
        """Updates the documents; from `gamma` with all topics equal, more often.

        Returns:
            Their expected counts of words by topics, `(V, K)`, and the sum over tokens of
            `log sum_k t_k b_wk / sum_k t_k` before the visit, where `t` and `b` are as in `kernel`.
        """
        if self.gamma is None:
            self.gamma = start_of_documents(self.tokens, alpha)
            num_steps = max(num_steps, _FIRST)
        scales = np.log(self.gamma.sum(axis=1, dtype=np.float64))
        found = programs.visit(weights, self.groups, self.gamma, alpha, num_steps)
        return found.sums, float(np.sum(found.log_probs - self.tokens * scales))

    def counts(self, alpha: np.ndarray) -> np.ndarray:
        """Expected numbers of tokens by topics, `(D, K)`."""
        assert self.gamma is not None
        return np.maximum(np.asarray(self.gamma, np.float64) - alpha, 0.0)


def start_of_documents(tokens: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Parameters of the topics of documents, `(D, K)`, that have the same tokens of every topic."""
    return (alpha + tokens[:, None] / len(alpha)).astype(np.float32)


def minibatches(
    corpus: Counts, num_topics: int, num_words: int, size: int, rng: np.random.RandomState
) -> list[Minibatch]:
    """Documents in random order; fewer and larger minibatches if memory would not suffice.

    Args:
        corpus: of `D` documents.
        num_topics: `K`.
        num_words: `V`.
        size: documents of a minibatch.
        rng: source of the order.
    """
    shape = Shape.of(corpus, num_topics)
    most = max(_MEMORY // (num_words * num_topics), 1)
    count = min(-(-corpus.num_documents // size), most)
    parts = np.array_split(rng.permutation(corpus.num_documents), count)
    return [Minibatch.of(corpus.take(part), shape) for part in parts]


def online_step(state: State, batch: Minibatch, rule: Rule, num_documents: float) -> float:
    """Moves the topics towards those that a minibatch suggests.

    The words that a minibatch does not have decay, too: that is less work than the visit unless
    there are far more words than tokens in a minibatch.

    Args:
        state: is changed.
        batch: is changed.
        rule: of the updates.
        num_documents: of the corpus, `D`.

    Returns:
        See `Minibatch.visit`.
    """
    weights = programs.weights_of(state.topics, rule.collapsed)
    sums, log_prob = batch.visit(weights, state.alpha, rule.num_steps)
    state.step += 1
    rate = np.float32((rule.offset + state.step) ** -rule.decay)
    scale = np.float32(num_documents / max(len(batch.tokens), 1))
    state.topics = (1 - rate) * state.topics + rate * (np.float32(state.eta) + scale * sums)
    return log_prob


def sweep(state: State, batches: Sequence[Minibatch], rule: Rule) -> float:
    """One pass over all minibatches.

    Args:
        state: is changed.
        batches: are changed.
        rule: of the updates.

    Returns:
        Sum over all tokens, see `Minibatch.visit`.
    """
    if state.passes < rule.restarts:
        for batch in batches:
            batch.gamma = None
    state.passes += 1
    if rule.online:
        documents = sum(len(batch.tokens) for batch in batches)
        return sum(online_step(state, batch, rule, documents) for batch in batches)
    total = np.zeros_like(state.topics)
    for batch in batches:  # summed anew in every pass, so that rounding errors do not accumulate
        if batch.sums is not None:
            total += batch.sums
    log_prob = 0.0
    for batch in batches:
        weights = programs.weights_of(state.topics, rule.collapsed)
        sums, found = batch.visit(weights, state.alpha, rule.num_steps)
        log_prob += found
        total += sums if batch.sums is None else sums - batch.sums
        batch.sums = sums
        # differences of rounded numbers may be negative
        state.topics = np.maximum(total, 0) + np.float32(state.eta)
        state.step += 1
    return log_prob


def learn_priors(state: State, batches: Sequence[Minibatch]) -> None:
    """Priors that maximize the evidence lower bound at the present posterior.

    The contributions of a prior's old value to the posterior follow in the next pass.

    Args:
        state: is changed.
        batches: all documents.
    """
    means = [log_expectations(np.asarray(batch.gamma)).sum(axis=0) for batch in batches]
    documents = sum(len(batch.tokens) for batch in batches)
    state.alpha = dirichlet_prior(np.sum(means, axis=0) / documents, state.alpha)
    mean = float(np.mean(log_expectations(state.topics.T)))
    state.eta = symmetric_prior(mean, len(state.topics), state.eta)


def learn_sticks(
    state: State, batches: Sequence[Minibatch], concentration: float, gamma: float
) -> None:
    """Sorts the topics of a hierarchical Dirichlet process; `alpha = concentration E[pi]`.

    The weights `pi` of topics over all documents have sticks `v_k ~ Beta(1, gamma)`; given the
    numbers `m_k` of tables they have the posterior `Beta(1 + m_k, gamma + sum_{j > k} m_j)`.
    Source: Collapsed Variational Inference for HDP, Teh, Kurihara and Welling, 2007.

    Args:
        state: is changed.
        batches: all documents; their topics are sorted, too.
        concentration: of a document's topics around `pi`.
        gamma: of the sticks.
    """
    tables = np.sum([expected_tables(b.counts(state.alpha), state.alpha) for b in batches], axis=0)
    order = np.argsort(-tables, kind="stable")
    tables = tables[order]
    later = np.concatenate([np.cumsum(tables[::-1])[::-1][1:], [0.0]])
    sticks = (1 + tables) / (1 + tables + gamma + later)
    sticks[-1] = 1.0
    left = np.concatenate([[1.0], np.cumprod(1 - sticks)[:-1]])
    shift = concentration * sticks * left - state.alpha[order]
    state.alpha = state.alpha[order] + shift
    state.topics = np.ascontiguousarray(state.topics[:, order])
    for batch in batches:
        assert batch.gamma is not None
        batch.gamma = np.maximum(batch.gamma[:, order] + shift, 1e-6).astype(np.float32)
        if batch.sums is not None:
            batch.sums = np.ascontiguousarray(batch.sums[:, order])

"""How well topics explain documents: the evidence lower bound, and held-out perplexities."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from vijax.solvers.topics import programs
from vijax.solvers.topics.corpus import Counts, Shape
from vijax.solvers.topics.priors import divergences
from vijax.solvers.topics.training import Minibatch, start_of_documents

_CHUNK = 8192  # documents that are evaluated at a time
_TINY = 1e-37  # weight of a topic in float32


def document_topics(
    corpus: Counts,
    topics: np.ndarray,
    alpha: np.ndarray,
    num_steps: int,
    *,
    collapsed: bool,
    excluded: float = 1.0,
    expected: bool | None = None,
) -> np.ndarray:
    """Parameters of the topics of documents, `(D, K)`, float32, with the topics fixed.

    Args:
        corpus: of `D` documents.
        topics: parameters of the topics' Dirichlet distributions, `(V, K)`.
        alpha: `(K,)`.
        num_steps: updates of a document.
        collapsed: see `vijax.solvers.topics.kernel`.
        excluded: see `kernel.visit`.
        expected: words have expected topics, else `exp(E log beta)`; by default if collapsed.
    """
    weights = programs.weights_of(topics, collapsed if expected is None else expected)
    weights = weights._replace(collapsed=collapsed)
    found = start_of_documents(corpus.tokens, alpha)
    for rows, part in _parts(corpus, len(alpha)):
        gamma = found[rows]
        programs.visit(weights, part.groups, gamma, alpha, num_steps, excluded)
        found[rows] = gamma
    return found


def document_bounds(
    corpus: Counts,
    topics: np.ndarray,
    gamma: np.ndarray,
    alpha: np.ndarray,
    *,
    expected: bool = False,
) -> np.ndarray:
    """Lower bounds of the log probabilities of documents, in nats, `(D,)`.

    `sum_w c_w log sum_k exp(E log theta_k + log b_wk) - KL(q(theta) || p(theta))`.

    Args:
        corpus: of `D` documents.
        topics: parameters of the topics' Dirichlet distributions, `(V, K)`.
        gamma: parameters of `q(theta)`, `(D, K)`.
        alpha: `(K,)`.
        expected: `b` are the expected topics, else `exp(E log beta)`.
    """
    from scipy.special import digamma

    weights = programs.weights_of(topics, expected)._replace(collapsed=False)
    found = np.zeros(corpus.num_documents)
    for rows, part in _parts(corpus, len(alpha)):
        own = np.array(gamma[rows], np.float32)
        logs = programs.visit(weights, part.groups, own, alpha, 1).log_probs
        exact = np.asarray(gamma[rows], np.float64)
        found[rows] = logs - part.tokens * digamma(exact.sum(axis=1)) - divergences(exact, alpha)
    return found


def lower_bound(
    corpus: Counts, topics: np.ndarray, gamma: np.ndarray, alpha: np.ndarray, eta: float
) -> float:
    """The evidence lower bound of a corpus, all constants included, in nats.

    Assignments of tokens to topics are optimal given the other factors.

    Args:
        corpus: of `D` documents.
        topics: parameters of the topics' Dirichlet distributions, `(V, K)`.
        gamma: parameters of the documents' topics, `(D, K)`.
        alpha: `(K,)`.
        eta: prior of the words of a topic.
    """
    documents = document_bounds(corpus, topics, gamma, alpha).sum()
    return float(documents - divergences(topics.T, np.full(len(topics), eta)).sum())


def document_evidences(
    corpus: Counts,
    topics: np.ndarray,
    gamma: np.ndarray,
    alpha: np.ndarray,
    num_draws: int,
    seed: int = 0,
) -> np.ndarray:
    """Log probabilities of documents at expected topics, by importance sampling, `(D,)`.

    `log p(w) = log E_r[p(w | theta) p(theta) / r(theta)]`, estimated by draws of `theta` from
    `r = (p + q) / 2` in turn, so that no ratio exceeds two.

    Args:
        corpus: of `D` documents.
        topics: parameters of the topics' Dirichlet distributions, `(V, K)`.
        gamma: parameters of `q(theta)`, `(D, K)`.
        alpha: `(K,)`.
        num_draws: for every document.
        seed: of the draws.
    """
    from scipy.special import gammaln

    rng, found = np.random.RandomState(seed), np.full(corpus.num_documents, -np.inf)
    copies = int(np.clip(_CHUNK // max(corpus.num_documents, 1), 1, num_draws))
    for start in range(0, num_draws, copies):
        number = np.arange(start, min(start + copies, num_draws))
        rows = np.tile(np.arange(corpus.num_documents), len(number))
        own = np.asarray(gamma, np.float64)[rows]
        from_posterior = np.repeat(number % 2, corpus.num_documents)[:, None]
        logs = _log_dirichlet(np.where(from_posterior, own, alpha), rng)
        ratios = gammaln(own.sum(axis=1)) - gammaln(own).sum(axis=1)
        ratios += np.sum((own - alpha) * logs, axis=1) - gammaln(alpha.sum()) + gammaln(alpha).sum()
        theta = np.maximum(np.exp(logs), _TINY)
        values = document_log_probs(corpus.take(rows), topics, theta) - np.logaddexp(0, ratios)
        values = np.logaddexp.reduce(values.reshape(len(number), -1), axis=0)
        found = np.logaddexp(found, values)
    return found + np.log(2 / num_draws)


def _log_dirichlet(parameters: np.ndarray, rng: np.random.RandomState) -> np.ndarray:
    """Logarithms of draws; those with small concentrations would underflow otherwise."""
    logs = np.log(rng.gamma(parameters + 1))
    logs += np.log(rng.uniform(size=parameters.shape)) / parameters
    return logs - np.logaddexp.reduce(logs, axis=1, keepdims=True)


def _parts(corpus: Counts, num_topics: int) -> Iterator[tuple[np.ndarray, Minibatch]]:
    """Numbers of some thousand documents at a time, and these documents."""
    shape = Shape.of(corpus, num_topics)
    for start in range(0, corpus.num_documents, _CHUNK):
        rows = np.arange(start, min(start + _CHUNK, corpus.num_documents))
        yield rows, Minibatch.of(corpus.take(rows), shape)


class Completion(NamedTuple):
    """Held-out documents, of which one half of the tokens is predicted from the other.

    Attributes:
        seen: half of the tokens.
        hidden: the other half.
    """

    seen: Counts
    hidden: Counts

    @classmethod
    def of(cls, corpus: Counts, rng: np.random.RandomState) -> Completion:
        """Splits the tokens of every document at random.

        Args:
            corpus: counts are whole numbers; fractions are cut off.
            rng: source of the split.
        """
        whole = np.asarray(corpus.counts).astype(np.int64)
        chosen = rng.binomial(whole, 0.5)
        return cls(corpus.with_counts(chosen), corpus.with_counts(whole - chosen))

    def perplexity(self, topics: np.ndarray, alpha: np.ndarray, num_steps: int = 30) -> float:
        """`exp(-sum_w h_w log sum_k theta_k beta_wk / sum_w h_w)` of the hidden tokens `h`.

        `theta` is proportional to `alpha` and the expected counts of the seen tokens at expected
        topics `beta`, a fixed point of expectation maximization that is unique.

        Args:
            topics: parameters of the topics' Dirichlet distributions, `(V, K)`.
            alpha: `(K,)`.
            num_steps: of expectation maximization.
        """
        theta = document_topics(self.seen, topics, alpha, num_steps, collapsed=True, excluded=0.0)
        theta /= theta.sum(axis=1, keepdims=True)
        logs = document_log_probs(self.hidden, topics, theta)
        return float(np.exp(-logs.sum() / self.hidden.counts.sum()))


def document_log_probs(corpus: Counts, topics: np.ndarray, theta: np.ndarray) -> np.ndarray:
    """Log probabilities of documents at expected topics and given `theta`, `(D,)`.

    Args:
        corpus: of `D` documents.
        topics: parameters of the topics' Dirichlet distributions, `(V, K)`.
        theta: weights of topics, `(D, K)`.
    """
    weights = programs.weights_of(topics, True)
    found, nothing = np.zeros(corpus.num_documents), np.zeros(theta.shape[1])
    for rows, part in _parts(corpus, theta.shape[1]):
        own = np.array(theta[rows], np.float32)
        found[rows] = programs.visit(weights, part.groups, own, nothing, 1).log_probs
    return found

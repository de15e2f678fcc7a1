"""What estimators of topics share: passes over documents, new documents, perplexity, top words."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from vijax.runtime.errors import VijaxError, mismatch
from vijax.solvers.topics import evaluation
from vijax.solvers.topics.corpus import Counts
from vijax.solvers.topics.training import Minibatch, Rule, State, minibatches, sweep

_STEPS = 50  # updates of a new document
# Minibatches into which documents are divided: updates of the bound commit to topics of the first.
_MINIBATCHES = {True: 24, False: 4}
_FEWEST = 128  # documents of these
_VALIDATION = 0.05  # default share of documents that are held out


class Progress(NamedTuple):
    """What a fit continues from with the same documents."""

    state: State
    batches: list[Minibatch]
    checksum: int


def check_validation(fraction: float | None) -> None:
    """Checks that documents are left for the fit.

    Raises:
        VijaxError: none are.
    """
    if fraction is not None and fraction >= 1:
        raise VijaxError(mismatch("validation_fraction", "a number below 1", fraction))


class TopicModel(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """A base class; see `LatentDirichletAllocation`."""

    # parameters of all
    max_iter: int
    tol: float
    validation_fraction: float | None
    evaluate_every: int
    warm_start: bool
    verbose: int
    # of a fit
    components_: np.ndarray
    _state: State
    _rule: Rule

    def transform(self, X: Any) -> np.ndarray:
        """Expected topics of documents, `(D, n_components)`, which sum to one."""
        check_is_fitted(self)
        data = self._checked(X, reset=False)
        gamma = self._document_topics(Counts.of(data), self._rule.collapsed).astype(data.dtype)
        return gamma / gamma.sum(axis=1, keepdims=True)

    def score(self, X: Any, y: Any = None) -> float:
        """A lower bound of the log probability of documents at expected topics, in nats.

        Only the topics of the documents are integrated over, variationally.
        """
        check_is_fitted(self)
        corpus = Counts.of(self._checked(X, reset=False))
        gamma = self._document_topics(corpus, False, expected=True)
        return float(self._bounds(corpus, gamma).sum())

    def perplexity(self, X: Any, num_draws: int = 0) -> float:
        """`exp(-log p(X) / number of tokens)` of documents at expected topics.

        Args:
            X: counts, `(D, V)`.
            num_draws: draws by which the integral over the topics of a document is estimated, by
                importance sampling, so that the value converges to the definition. With 0, `log p`
                is the bound of `score`, and the perplexity an upper bound.

        Raises:
            VijaxError: `num_draws` is negative, or there are no tokens.
        """
        check_is_fitted(self)
        if num_draws < 0:
            raise VijaxError(mismatch("num_draws", "an integer >= 0", num_draws))
        corpus = Counts.of(self._checked(X, reset=False))
        if not len(corpus.counts):
            raise VijaxError(mismatch("X", "documents with tokens", "only zeros"))
        gamma = self._document_topics(corpus, False, expected=True)
        if num_draws == 0:
            total = self._bounds(corpus, gamma)
        else:
            total = evaluation.document_evidences(
                corpus, self._state.topics, gamma, self._state.alpha, num_draws
            )
        return float(np.exp(-total.sum() / corpus.counts.sum()))

    def completion_perplexity(self, X: Any, random_state: int = 0) -> float:
        """Perplexity of half of the tokens of documents, predicted from the other half.

        It needs no integral, so that it compares any kinds of topics.

        Args:
            X: counts, `(D, V)`.
            random_state: seed of the split.

        Raises:
            VijaxError: there are no tokens to predict.
        """
        check_is_fitted(self)
        corpus = Counts.of(self._checked(X, reset=False))
        split = evaluation.Completion.of(corpus, np.random.RandomState(random_state))
        if not len(split.hidden.counts):
            raise VijaxError(mismatch("X", "documents with whole counts", "no such tokens"))
        return split.perplexity(self._state.topics, self._state.alpha)

    def top_words(
        self, feature_names: Sequence[str] | None = None, n_words: int = 10
    ) -> list[list[tuple[str, float]]]:
        """The most probable words of every topic, with their probabilities.

        Args:
            feature_names: the words, by default the names of the columns of the fit.
            n_words: number of words.

        Raises:
            VijaxError: the names are not as many as the columns.
        """
        check_is_fitted(self)
        names: Any = feature_names
        if names is None:
            names = getattr(self, "feature_names_in_", range(self.n_features_in_))
        if len(names) != self.n_features_in_:
            expected = f"{self.n_features_in_} names, one for each column"
            raise VijaxError(mismatch("feature_names", expected, len(names)))
        topics = self.components_ / self.components_.sum(axis=1, keepdims=True)
        order = np.argsort(-topics, axis=1, kind="stable")[:, :n_words]
        return [
            [(str(names[w]), float(topic[w])) for w in words]
            for topic, words in zip(topics, order, strict=True)
        ]

    @property
    def _n_features_out(self) -> int:
        return len(self.components_)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.positive_only = True
        tags.input_tags.sparse = True
        tags.transformer_tags.preserves_dtype = ["float32", "float64"]
        return tags

    def _checked(self, X: Any, reset: bool) -> Any:
        kinds = [np.float64, np.float32]
        return validate_data(
            self, X, accept_sparse="csr", dtype=kinds, ensure_non_negative=True, reset=reset
        )

    def _document_topics(
        self, corpus: Counts, collapsed: bool, expected: bool = False
    ) -> np.ndarray:
        state = self._state
        return evaluation.document_topics(
            corpus,
            state.topics,
            state.alpha,
            _STEPS,
            collapsed=collapsed,
            excluded=0.0,
            expected=expected,
        )

    def _bounds(self, corpus: Counts, gamma: np.ndarray) -> np.ndarray:
        state = self._state
        return evaluation.document_bounds(corpus, state.topics, gamma, state.alpha, expected=True)

    def _train(
        self,
        corpus: Counts,
        start: State,
        rule: Rule,
        rng: np.random.RandomState,
        learn: Callable[[State, list[Minibatch], int], None],
        batch_size: int | None,
        fewest: int = 1,
    ) -> None:
        """Passes until the limit, or until nothing improves, and sets the attributes.

        Args:
            corpus: all documents.
            start: without a fit to continue.
            rule: of the updates.
            rng: source of splits.
            learn: called after every pass with the state, the minibatches and the pass.
            batch_size: documents of a minibatch.
            fewest: passes before which nothing ends a fit but the limit.
        """
        order = rng.permutation(corpus.num_documents)
        fraction = self.validation_fraction
        if fraction is None:
            fraction = _VALIDATION if rule.collapsed else 0.0
        count = int(fraction * len(order))
        held_out = evaluation.Completion.of(corpus.take(order[:count]), rng) if count else None
        share = -(-(len(order) - count) // _MINIBATCHES[rule.collapsed])
        size = batch_size or max(share, _FEWEST)
        if held_out is not None and not len(held_out.hidden.counts):
            held_out = None  # no whole counts
        progress = self._progress_of(corpus, order[count:], start, size, rng)
        state, batches = progress.state, progress.batches
        tokens = sum(float(batch.tokens.sum()) for batch in batches)
        perplexities: list[float] = []
        last = -np.inf
        for number in range(1, self.max_iter + 1):
            log_prob = sweep(state, batches, rule) / max(tokens, 1.0)
            learn(state, batches, number)
            done = held_out is None and log_prob - last < self.tol and state.passes > rule.restarts
            last = log_prob
            if held_out is not None and number % self.evaluate_every == 0:
                perplexities.append(held_out.perplexity(state.topics, state.alpha))
                done = (
                    len(perplexities) > 1 and perplexities[-1] > (1 - self.tol) * perplexities[-2]
                )
            self._report(number, log_prob, perplexities)
            if done and state.passes >= fewest:
                break
        self._progress = progress if self.warm_start else None
        self.n_iter_, self.perplexities_ = number, perplexities
        self._keep(state, rule)

    def _progress_of(
        self,
        corpus: Counts,
        chosen: np.ndarray,
        start: State,
        size: int,
        rng: np.random.RandomState,
    ) -> Progress:
        """A new start, or that of the last fit if the documents are the same."""
        checksum = 0
        for array in (corpus.indptr, corpus.words, corpus.counts):
            checksum = zlib.crc32(np.ascontiguousarray(array).data, checksum)
        before: Progress | None = getattr(self, "_progress", None) if self.warm_start else None
        if before is not None and before.state.topics.shape == start.topics.shape:
            if before.checksum == checksum:
                return before
            start = before.state
        words, topics = start.topics.shape
        batches = minibatches(corpus.take(chosen), topics, words, size, rng)
        return Progress(start, batches, checksum)

    def _keep(self, state: State, rule: Rule) -> None:
        self._state, self._rule = state, rule
        self.components_ = np.asarray(state.topics.T, np.float64)
        self.doc_topic_prior_, self.topic_word_prior_ = state.alpha, state.eta
        self.n_batch_iter_ = state.step

    def _report(self, number: int, log_prob: float, perplexities: list[float]) -> None:
        if self.verbose:
            held_out = f", held-out perplexity {perplexities[-1]:.5g}" if perplexities else ""
            print(f"pass {number}: log probability of a token {log_prob:.5g}{held_out}")

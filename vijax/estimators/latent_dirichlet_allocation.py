"""Latent Dirichlet allocation with the interface of scikit-learn."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from vijax.estimators.options import check_numbers
from vijax.estimators.topic_model import TopicModel, check_validation
from vijax.runtime.errors import VijaxError, mismatch
from vijax.solvers.topics import evaluation
from vijax.solvers.topics.corpus import Counts, Shape
from vijax.solvers.topics.training import Minibatch, Rule, State, learn_priors, online_step

METHODS = ("memoized", "batch", "online")

_RESTARTS = {True: 5, False: 10}  # passes in which documents start anew, by `collapsed`
_NUMBERS = {  # smallest value, whether that is allowed, whether an integer
    "n_components": (1, True, True),
    "doc_topic_prior": (0, False, False),
    "topic_word_prior": (0, False, False),
    "learning_decay": (0.5, False, False),
    "learning_offset": (0, True, False),
    "max_iter": (1, True, True),
    "batch_size": (1, True, True),
    "total_samples": (1, True, False),
    "max_doc_update_iter": (1, True, True),
    "validation_fraction": (0, True, False),
    "evaluate_every": (1, True, True),
    "tol": (0, True, False),
}
_OPTIONAL = ("doc_topic_prior", "topic_word_prior", "batch_size", "validation_fraction")


class LatentDirichletAllocation(TopicModel):
    """Topics of documents, from counts of words: sparse matrices at the scale of a corpus.

    Parameters and attributes are those of `sklearn.decomposition.LatentDirichletAllocation`. What
    differs:

    - `collapsed=True`, the default, are zeroth-order collapsed updates: they predict new words
      better than those of the evidence lower bound, with the same work. Together with
      `learning_method="online"` they are SCVB0.
    - "memoized" visits minibatches as "online" does, but replaces what a minibatch contributed
      before instead of taking steps: there is no rate, and with `collapsed=False` the bound rises
      in every pass after the tenth.
    - After the first passes, a visit makes a few updates of a document from where the last one
      left it.
    - `perplexity` is that of documents at expected topics: its integral over the topics of a
      document is bounded, or estimated by `num_draws`. `completion_perplexity` needs no integral.

    Sources: Latent Dirichlet Allocation, Blei, Ng and Jordan, 2003; Online Learning for Latent
    Dirichlet Allocation, Hoffman, Blei and Bach, 2010; On Smoothing and Inference for Topic Models,
    Asuncion, Welling, Smyth and Teh, 2009; Stochastic Collapsed Variational Bayesian Inference for
    Latent Dirichlet Allocation, Foulds, Boyles, DuBois, Smyth and Welling, 2013.

    Args:
        n_components: number of topics, `K`.
        doc_topic_prior: concentration of the topics of a document, by default `1 / K`.
        topic_word_prior: concentration of the words of a topic, by default `1 / K`.
        collapsed: collapsed updates, else those of the evidence lower bound.
        learning_method: "memoized", "batch" (all documents are one minibatch) or "online".
        learning_decay: steps are `(learning_offset + t)^-learning_decay`; above 0.5.
        learning_offset: see `learning_decay`.
        max_iter: most passes over the documents.
        batch_size: documents of a minibatch, by default a 24th of them, a quarter with
            `collapsed=False`.
        total_samples: documents of the whole stream, for `partial_fit`.
        max_doc_update_iter: updates of a document in a visit; at least ten in the first five passes
            (ten with `collapsed=False`), in which documents start from equal topics.
        learn_priors: fit an asymmetric `doc_topic_prior` and a symmetric `topic_word_prior` to the
            evidence lower bound; with `collapsed=False`.
        validation_fraction: share of the documents that is held out. Their completion perplexity
            is recorded, and the fit ends when it stops falling. By default a twentieth with
            `collapsed=True`, because these updates begin to fit the noise, else none.
        evaluate_every: passes between two such evaluations.
        tol: relative fall of the perplexity that ends a fit; without validation, the rise of the
            log probability of a token in a pass, in nats.
        random_state: seed or generator of starts and orders.
        warm_start: continue from the last fit, exactly if the documents are the same.
        verbose: 1 prints a line every pass.

    Attributes:
        components_: parameters of the topics' Dirichlet distributions, `(K, V)`.
        doc_topic_prior_: of the fit, `(K,)`.
        topic_word_prior_: of the fit.
        perplexities_: of held-out documents, by evaluation.
        n_iter_: passes.
        n_batch_iter_: visits of minibatches.
        n_features_in_: number of words, `V`.
        feature_names_in_: names of the columns, if they are strings.

    Example:
        >>> import numpy as np
        >>> from vijax.estimators import LatentDirichletAllocation
        >>> counts = np.kron(np.eye(2, dtype=int), np.full((10, 4), 3))
        >>> lda = LatentDirichletAllocation(2, random_state=0).fit(counts)
        >>> lda.transform(counts[[0, 19]]).max(axis=1).round(2)
        array([1., 1.])
    """

    def __init__(
        self,
        n_components: int = 10,
        *,
        doc_topic_prior: float | None = None,
        topic_word_prior: float | None = None,
        collapsed: bool = True,
        learning_method: str = "memoized",
        learning_decay: float = 0.7,
        learning_offset: float = 10.0,
        max_iter: int = 20,
        batch_size: int | None = None,
        total_samples: float = 1e6,
        max_doc_update_iter: int = 5,
        learn_priors: bool = False,
        validation_fraction: float | None = None,
        evaluate_every: int = 1,
        tol: float = 1e-4,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
    ) -> None:
        self.n_components = n_components
        self.doc_topic_prior = doc_topic_prior
        self.topic_word_prior = topic_word_prior
        self.collapsed = collapsed
        self.learning_method = learning_method
        self.learning_decay = learning_decay
        self.learning_offset = learning_offset
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.total_samples = total_samples
        self.max_doc_update_iter = max_doc_update_iter
        self.learn_priors = learn_priors
        self.validation_fraction = validation_fraction
        self.evaluate_every = evaluate_every
        self.tol = tol
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fits the topics.

        Args:
            X: counts of words, `(D, V)`, a matrix or a sparse one.
            y: not used.

        Returns:
            The estimator.

        Raises:
            VijaxError: a parameter is out of its range.
            ValueError: the data are not numbers that are finite and not negative.
        """
        self._check()
        corpus = Counts.of(self._checked(X, reset=True))
        rng = check_random_state(self.random_state)
        batch_size = self.batch_size
        if self.learning_method == "batch":
            batch_size = max(corpus.num_documents, 1)

        def learn(state: State, batches: list[Minibatch], number: int) -> None:
            if self.learn_priors and number > 1:
                learn_priors(state, batches)

        self._train(corpus, self._start(rng), self._new_rule(), rng, learn, batch_size)
        return self

    def partial_fit(self, X: Any, y: Any = None) -> Self:
        """One step of "online" for every `batch_size` documents, by default for all of `X`.

        A corpus that does not fit into memory is a loop over its parts. Nothing is kept of a
        document, so that a copy of the estimator, from a file say, continues exactly.

        Args:
            X: counts of words, `(D, V)`.
            y: not used.

        Returns:
            The estimator.

        Raises:
            VijaxError: a parameter is out of its range.
        """
        self._check()
        first = not hasattr(self, "components_")
        corpus = Counts.of(self._checked(X, reset=first))
        state = self._start(check_random_state(self.random_state)) if first else self._state
        rule = self._new_rule()
        shape = Shape.of(corpus, self.n_components)
        size = self.batch_size or max(corpus.num_documents, 1)
        for start in range(0, corpus.num_documents, size):
            rows = np.arange(start, min(start + size, corpus.num_documents))
            online_step(state, Minibatch.of(corpus.take(rows), shape), rule, self.total_samples)
        self.n_iter_ = getattr(self, "n_iter_", 0) + 1
        self._keep(state, rule)
        return self

    def lower_bound(self, X: Any) -> float:
        """The evidence lower bound of documents and topics, all constants included, in nats.

        The topics of the documents are those of fifty updates, from equal topics. It is the bound
        of the data if `X` are those of the fit.
        """
        check_is_fitted(self)
        corpus, state = Counts.of(self._checked(X, reset=False)), self._state
        gamma = self._document_topics(corpus, False)
        return evaluation.lower_bound(corpus, state.topics, gamma, state.alpha, state.eta)

    def _start(self, rng: np.random.RandomState) -> State:
        share = 1 / self.n_components
        alpha = share if self.doc_topic_prior is None else self.doc_topic_prior
        eta = share if self.topic_word_prior is None else self.topic_word_prior
        return State.start(self.n_features_in_, np.full(self.n_components, alpha), eta, rng)

    def _new_rule(self) -> Rule:
        return Rule(
            self.collapsed,
            self.learning_method == "online",
            self.learning_decay,
            self.learning_offset,
            self.max_doc_update_iter,
            _RESTARTS[self.collapsed],
        )

    def _check(self) -> None:
        if self.learning_method not in METHODS:
            expected = f"one of {METHODS}"
            raise VijaxError(mismatch("learning_method", expected, repr(self.learning_method)))
        check_numbers(self.get_params(deep=False), _NUMBERS, _OPTIONAL)
        check_validation(self.validation_fraction)
        if self.learn_priors and self.collapsed:
            remedy = "The collapsed updates have no bound to which priors could be fitted."
            raise VijaxError(mismatch("learn_priors", "False with collapsed=True", "True", remedy))

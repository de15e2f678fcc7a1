"""Topics whose number is inferred: a hierarchical Dirichlet process."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from sklearn.utils import check_random_state

from vijax.estimators.options import check_numbers
from vijax.estimators.topic_model import TopicModel, check_validation
from vijax.solvers.topics.corpus import Counts
from vijax.solvers.topics.merges import merge
from vijax.solvers.topics.training import Minibatch, Rule, State, learn_sticks

_IN_USE = 1e-3  # share of all tokens
_EQUAL = 1  # first passes, in which all topics have the same weight
_MERGE = 8  # the pass after which topics are merged
_NUMBERS = {  # smallest value, whether that is allowed, whether an integer
    "n_components": (1, True, True),
    "concentration": (0, False, False),
    "gamma": (0, False, False),
    "topic_word_prior": (0, False, False),
    "max_iter": (1, True, True),
    "batch_size": (1, True, True),
    "max_doc_update_iter": (1, True, True),
    "validation_fraction": (0, True, False),
    "evaluate_every": (1, True, True),
    "tol": (0, True, False),
}


class HierarchicalDirichletProcess(TopicModel):
    """Topics of documents, of which only as many are used as the documents need.

    The weights `pi` of topics over all documents have a Dirichlet process with sticks
    `v_k ~ Beta(1, gamma)`, and those of a document a Dirichlet process around them, with
    concentration `a`. Tokens are assigned to topics directly: the parameters of a document's topics
    are `a E[pi_k] + N_dk`, as in `LatentDirichletAllocation` with a prior that is learned. The
    updates are collapsed and memoized as there. After the eighth pass, topics that are alike are
    merged as long as the evidence lower bound rises. The topics are sorted by weight.

    Sources: Hierarchical Dirichlet Processes, Teh, Jordan, Beal and Blei, 2006; Collapsed
    Variational Inference for HDP, Teh, Kurihara and Welling, 2007.

    Args:
        n_components: the most topics that may be used, `K`.
        concentration: `a`.
        gamma: concentration of the weights of topics over all documents.
        topic_word_prior: concentration of the words of a topic.
        max_iter: most passes over the documents; a fit ends after the tenth at the earliest.
        batch_size: documents of a minibatch, by default a 24th of them.
        max_doc_update_iter: updates of a document in a visit; at least ten in the first five
            passes, in which documents start from equal topics.
        validation_fraction: see `LatentDirichletAllocation`.
        evaluate_every: see `LatentDirichletAllocation`.
        tol: see `LatentDirichletAllocation`.
        random_state: seed or generator of starts and orders.
        warm_start: continue from the last fit, exactly if the documents are the same.
        verbose: 1 prints a line every pass.

    Attributes:
        components_: parameters of the topics' Dirichlet distributions, `(K, V)`, sorted by weight.
        weights_: shares of all tokens, `(K,)`.
        n_components_in_use_: topics with more than a thousandth of the tokens.
        doc_topic_prior_: `a E[pi]`, `(K,)`.
        topic_word_prior_: `topic_word_prior`.
        n_merges_: pairs of topics that were merged.
        perplexities_: of held-out documents, by evaluation.
        n_iter_: passes.
        n_batch_iter_: visits of minibatches.
        n_features_in_: number of words, `V`.
        feature_names_in_: names of the columns, if they are strings.

    Example:
        >>> import numpy as np
        >>> from vijax.estimators import HierarchicalDirichletProcess
        >>> counts = np.kron(np.eye(3, dtype=int), np.full((30, 5), 3))
        >>> hdp = HierarchicalDirichletProcess(10, random_state=0).fit(counts)
        >>> hdp.n_components_in_use_
        3
    """

    def __init__(
        self,
        n_components: int = 100,
        *,
        concentration: float = 1.0,
        gamma: float = 1.0,
        topic_word_prior: float = 0.01,
        max_iter: int = 30,
        batch_size: int | None = None,
        max_doc_update_iter: int = 5,
        validation_fraction: float = 0.0,
        evaluate_every: int = 1,
        tol: float = 1e-4,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
    ) -> None:
        self.n_components = n_components
        self.concentration = concentration
        self.gamma = gamma
        self.topic_word_prior = topic_word_prior
        self.max_iter = max_iter
        self.batch_size = batch_size
        self.max_doc_update_iter = max_doc_update_iter
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
        check_numbers(self.get_params(deep=False), _NUMBERS, ("batch_size",))
        check_validation(self.validation_fraction)
        corpus = Counts.of(self._checked(X, reset=True))
        rng = check_random_state(self.random_state)
        count = self.n_components
        alpha = np.full(count, self.concentration / count)
        start = State.start(self.n_features_in_, alpha, self.topic_word_prior, rng)

        def learn(state: State, batches: list[Minibatch], number: int) -> None:
            if state.passes > _EQUAL:
                learn_sticks(state, batches, self.concentration, self.gamma)
            if state.passes == _MERGE:
                self.n_merges_ = merge(state, batches)

        self.n_merges_ = 0
        rule = Rule(True, num_steps=self.max_doc_update_iter)
        self._train(corpus, start, rule, rng, learn, self.batch_size, _MERGE + 2)
        sizes = np.maximum(self.components_ - self.topic_word_prior, 0).sum(axis=1)
        self.weights_ = sizes / max(sizes.sum(), 1e-30)
        self.n_components_in_use_ = int(np.sum(self.weights_ > _IN_USE))
        return self

"""Where coordinate ascent on latent Dirichlet allocation starts: passes of the kernel of topics.

A pass is some updates of every document and of the topics, over sparse counts; documents start
from equal topics again in the first ones, without which topics stay that formed while all were
alike.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from vijax.contracts import Batch, Target
from vijax.contracts.conjugate import ConjugatePlan, WordCounts
from vijax.families.dirichlet import Dirichlet
from vijax.families.exponential_family import ExponentialFamily
from vijax.runtime.deadline import time_is_up
from vijax.solvers.topics.corpus import Counts, Shape
from vijax.solvers.topics.training import Minibatch, Rule, State, sweep

_BATCHES = 4
_FINER = 0.1  # a pass takes less than a sweep of coordinate ascent, and does more
_RULE = Rule(collapsed=False, restarts=10)


def word_counts(target: Target, plan: ConjugatePlan, batch: Batch) -> WordCounts | None:
    """The data of latent Dirichlet allocation on one device, `None` of any other model."""
    kinds = [block.kind for block in plan.blocks]
    if kinds != ["dirichlet", "dirichlet"] or not plan.multimodal or batch.index:
        return None
    if target.devices.mesh is not None:
        return None
    found: WordCounts | None = target.functions.word_counts(batch)
    return found


def counts_of(found: WordCounts) -> Counts:
    """Rows of a sparse matrix, equal entries added up."""
    num_documents, num_words, kept = found.num_documents, len(found.eta), found.counts > 0
    rows, words = (np.asarray(x, np.int64)[kept] for x in (found.rows, found.words))
    cells, place = np.unique(rows * num_words + words, return_inverse=True)
    counts = np.bincount(place, found.counts[kept], len(cells))
    lengths = np.bincount(cells // num_words, minlength=num_documents)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    return Counts(indptr, cells % num_words, counts)


def topics_start(
    found: WordCounts, max_passes: int, tolerance: float, rng: np.random.Generator
) -> tuple[dict[str, ExponentialFamily], int]:
    """Families of the topics of documents and the words of topics near a maximum of the ELBO.

    Args:
        found: the data.
        max_passes: largest number of passes.
        tolerance: of the ELBO, in nats.
        rng: source of the random start.

    Returns:
        The families by site, and the number of passes.
    """
    num_topics, num_words = len(found.alpha), len(found.eta)
    corpus = counts_of(found)
    num_documents = corpus.num_documents
    random = np.random.RandomState(rng.integers(2**31))
    state = State.start(num_words, found.alpha, float(found.eta.mean()), random)
    shape, order = Shape.of(corpus, num_topics), random.permutation(num_documents)
    parts = np.array_split(order, min(_BATCHES, num_documents))
    batches = [Minibatch.of(corpus.take(part), shape) for part in parts]
    last = -np.inf
    while state.passes < max_passes and not time_is_up():
        log_prob = sweep(state, batches, _RULE)
        if state.passes > _RULE.restarts and log_prob - last < _FINER * tolerance:
            break
        last = log_prob
    gamma = np.zeros((num_documents, num_topics))
    gamma[order] = np.concatenate([np.asarray(batch.gamma) for batch in batches])
    return {
        found.documents: Dirichlet(jnp.asarray(gamma)),
        found.topics: Dirichlet(jnp.asarray(state.topics.T, gamma.dtype)),
    }, state.passes

"""Topics: blocks, weights, bounds and evidences against sums over all assignments."""

import itertools

import jax
import numpy as np
import pytest
from scipy import sparse
from scipy.special import digamma, gammaln

from vijax.solvers.topics import corpus, evaluation, kernel, priors, programs, training

RNG = np.random.default_rng(0)


def counts_of(num_documents, num_words, num_topics, length, seed=0):
    """Documents drawn from the model with sparse topics, `(D, V)`, and the topics, `(K, V)`."""
    rng = np.random.default_rng(seed)
    topics = rng.dirichlet(np.full(num_words, 0.1), num_topics)
    shares = rng.dirichlet(np.full(num_topics, 0.2), num_documents)
    lengths = rng.poisson(length, num_documents)
    chances = shares @ topics
    return np.stack([rng.multinomial(n, p) for n, p in zip(lengths, chances, strict=True)]), topics


DENSE, TOPICS = counts_of(300, 60, 4, 50)
CORPUS = corpus.Counts.of(sparse.csr_matrix(DENSE))


def state_of(documents, num_words, num_topics, size, seed=0):
    rng = np.random.RandomState(seed)
    state = training.State.start(num_words, np.full(num_topics, 0.3), 0.2, rng)
    return state, training.minibatches(documents, num_topics, num_words, size, rng)


def test_blocks_have_every_count_once():
    lengths = np.concatenate([np.zeros(3, int), RNG.integers(1, 200, 900), [900, 1]])
    dense = np.zeros((len(lengths), 1000), int)
    for row, length in zip(dense, lengths, strict=True):
        row[RNG.choice(1000, length, replace=False)] = RNG.integers(1, 5, length)
    documents = corpus.Counts.of(dense)
    np.testing.assert_array_equal(documents.tokens, dense.sum(axis=1))
    found, words = np.zeros_like(dense), 0
    for group in corpus.groups_of(documents, corpus.Shape.of(documents, 100)):
        row = np.take_along_axis(group.documents, group.owners, axis=1)
        np.add.at(found, (row[:, :, None], group.words), group.counts.astype(int))
        assert np.all(np.diff(group.owners, axis=1) >= 0)
        words += group.num_blocks * group.words[0].size
    np.testing.assert_array_equal(found, dense)
    assert words * 0.85 < len(documents.words)


def test_exponential_of_digamma():
    x = np.geomspace(0.02, 1e4, 500)
    found = np.asarray(kernel.exp_digamma(x.astype(np.float32)), float)
    np.testing.assert_allclose(found, np.exp(digamma(x)), rtol=3e-5)


def test_lower_bound_is_the_sum_over_assignments():
    """With optimal probabilities of assignments written out token by token."""
    state, (batch,) = state_of(CORPUS, 60, 4, 300)
    training.sweep(state, [batch], training.Rule(collapsed=False))
    documents = corpus.Counts.of(DENSE)
    gamma = evaluation.document_topics(documents, state.topics, state.alpha, 5, collapsed=False)
    found = evaluation.lower_bound(documents, state.topics, gamma, state.alpha, state.eta)
    gamma, topics = gamma.astype(float), state.topics.astype(float)
    theta = digamma(gamma) - digamma(gamma.sum(1, keepdims=True))
    beta = digamma(topics) - digamma(topics.sum(0))
    joint = theta[:, None, :] + beta[None]  # document, word, topic
    chances = np.exp(joint - joint.max(-1, keepdims=True))
    chances /= chances.sum(-1, keepdims=True)
    exact = np.sum(DENSE[:, :, None] * chances * (joint - np.log(chances)))
    for q, p, logs in ((gamma, state.alpha, theta), (topics.T, np.full(60, state.eta), beta.T)):
        prior = gammaln(p.sum()) - gammaln(p).sum() + ((p - 1) * logs).sum(1)
        entropy = gammaln(q).sum(1) - gammaln(q.sum(1)) - ((q - 1) * logs).sum(1)
        exact += np.sum(prior + entropy)
    np.testing.assert_allclose(found, exact, rtol=5e-6)


def test_evidence_is_the_sum_over_all_assignments():
    """`p(w) = sum_z p(z) prod_n beta_{z_n w_n}`, with a Dirichlet-multinomial `p(z)`."""
    topics = np.array([[5.0, 1.0], [2.0, 2.0], [1.0, 4.0]])
    alpha, beta = np.array([0.7, 0.4]), topics / topics.sum(0)
    dense = np.array([[2, 1, 1], [0, 3, 0], [1, 0, 2]])
    documents, exact = corpus.Counts.of(dense), []
    for row in dense:
        words = np.repeat(np.arange(3), row)
        total = 0.0
        for z in itertools.product(range(2), repeat=len(words)):
            n = np.bincount(z, minlength=2)
            prior = gammaln(alpha.sum()) - gammaln(alpha.sum() + len(words))
            prior += np.sum(gammaln(alpha + n) - gammaln(alpha))
            total += np.exp(prior) * np.prod(beta[words, list(z)])
        exact.append(np.log(total))
    gamma = evaluation.document_topics(documents, topics, alpha, 30, collapsed=False, expected=True)
    bounds = evaluation.document_bounds(documents, topics, gamma, alpha, expected=True)
    assert np.all(bounds < exact)
    assert np.all(bounds > np.array(exact) - 1.0)
    # no weight exceeds 2 max p(w | theta) / p(w) < 6: a standard error of at most 6 / sqrt(2000)
    found = evaluation.document_evidences(documents, topics, gamma, alpha, 2000)
    np.testing.assert_allclose(found, exact, atol=0.1)


@pytest.mark.parametrize("size", [300, 60], ids=["batch", "memoized"])
def test_the_bound_rises_in_every_pass(size):
    state, batches = state_of(CORPUS, 60, 4, size)
    bounds = []
    for _ in range(8):
        training.sweep(state, batches, training.Rule(collapsed=False, restarts=1))
        bounds.append(sum(evaluation_of(state, batch) for batch in batches) - divergence(state))
    assert np.all(np.diff(bounds) > -1e-6 * abs(bounds[0]))
    assert bounds[-1] > bounds[0] + 100


def evaluation_of(state, batch):
    weights = programs.weights_of(state.topics, False)
    logs = programs.visit(weights, batch.groups, batch.gamma.copy(), state.alpha, 1)
    gamma = batch.gamma.astype(float)
    documents = logs.log_probs - batch.tokens * digamma(gamma.sum(axis=1))
    return float(np.sum(documents - priors.divergences(gamma, state.alpha)))


def divergence(state):
    return priors.divergences(state.topics.T, np.full(len(state.topics), state.eta)).sum()


def test_topics_are_recovered():
    """By collapsed updates from a thousand documents."""
    dense, topics = counts_of(1000, 60, 4, 80, seed=1)
    state, batches = state_of(corpus.Counts.of(dense), 60, 4, 100)
    for _ in range(20):
        training.sweep(state, batches, training.Rule(collapsed=True))
    found = (state.topics / state.topics.sum(0)).T
    distances = np.abs(found[:, None] - topics[None]).sum(-1)
    assert sorted(distances.argmin(axis=1)) == [0, 1, 2, 3]
    assert distances.min(axis=1).max() < 0.15


def test_priors_maximize_the_expected_log_density():
    draws = np.random.default_rng(2).dirichlet([0.2, 1.0, 3.0], 20_000)
    found = priors.dirichlet_prior(np.log(draws).mean(0), np.ones(3))
    np.testing.assert_allclose(found, [0.2, 1.0, 3.0], rtol=0.03)
    slope = digamma(found.sum()) - digamma(found) + np.log(draws).mean(0)
    np.testing.assert_allclose(slope, 0, atol=1e-8)
    draws = np.log(np.random.default_rng(3).dirichlet(np.full(50, 0.3), 2000))
    assert priors.symmetric_prior(draws.mean(), 50, 1.0) == pytest.approx(0.3, rel=0.02)


def test_tables_of_restaurants():
    """Of whole numbers they are `sum_i a / (a + i)`."""
    a = np.array([0.5, 2.0])
    exact = np.array([1 + 0.5 / 1.5 + 0.5 / 2.5, 1.0])
    np.testing.assert_allclose(priors.expected_tables(np.array([[3.0, 1.0]]), a), exact)


@pytest.mark.parametrize("collapsed", [False, True])
def test_a_visit_lowers_for_accelerators(collapsed):
    group = next(corpus.groups_of(CORPUS, corpus.Shape.of(CORPUS, 4)))
    gamma = np.ones((*group.documents.shape, 4), np.float32)
    rows, alpha = np.ones((60, 4), np.float32), np.ones(4, np.float32)
    numbers = np.int32(3), np.float32(1.0)
    arrays = group._replace(documents=None, num_blocks=np.int32(group.num_blocks))
    program = jax.jit(lambda *args: kernel.visit(*args, collapsed=collapsed))
    exported = jax.export.export(program, platforms=("cuda", "tpu"))
    assert exported(rows, rows, arrays, gamma, alpha, *numbers).platforms == ("cuda", "tpu")

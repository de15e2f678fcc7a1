"""Latent Dirichlet allocation as a model function: recognized, and the bound of the kernel."""

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from scipy.special import gammaln

from vijax.contracts import Batch, Variables
from vijax.estimators import LatentDirichletAllocation
from vijax.families.dirichlet import Dirichlet
from vijax.guides import Conjugate
from vijax.model import build, split
from vijax.solvers import CoordinateAscent
from vijax.solvers.block_updates import entropy, expected_log_joint
from vijax.solvers.topics import evaluation
from vijax.solvers.topics.corpus import Counts
from vijax.solvers.topics.start import counts_of, word_counts

ALPHA, ETA, K = 0.3, 0.1, 3
RNG = np.random.default_rng(0)
TRUE = RNG.dirichlet(np.full(20, 0.1), size=K)
COUNTS = np.stack([RNG.multinomial(30, p) for p in RNG.dirichlet(np.full(K, 0.3), 40) @ TRUE])
DOCUMENT, WORD = np.nonzero(COUNTS)
TIMES = COUNTS[DOCUMENT, WORD]


def latents(num_documents, num_words):
    with numpyro.plate("topics", K):
        beta = numpyro.sample("beta", dist.Dirichlet(jnp.full(num_words, ETA)))
    with numpyro.plate("documents", num_documents):
        theta = numpyro.sample("theta", dist.Dirichlet(jnp.full(K, ALPHA)))
    return theta, beta


def table(counts):
    theta, beta = latents(*counts.shape)
    with numpyro.plate("documents", len(counts)):
        chances = dist.Multinomial(counts.sum(-1), probs=theta @ beta)
        numpyro.sample("counts", chances, obs=counts)


def tokens(document, word):
    theta, beta = latents(40, 20)
    with numpyro.plate("tokens", len(word)):
        numpyro.sample("word", dist.Categorical((theta @ beta)[document]), obs=word)


def entries(document, word, times):
    """Equal tokens of a document are one row with a factor."""
    theta, beta = latents(40, 20)
    with numpyro.plate("entries", len(word)), numpyro.handlers.scale(scale=times):
        numpyro.sample("word", dist.Categorical(theta[document] @ beta), obs=word)


def labels(document, word):
    theta, beta = latents(40, 20)
    with numpyro.plate("tokens", len(word)):
        z = numpyro.sample("z", dist.Categorical(theta[document]))
        numpyro.sample("word", dist.Categorical(beta[z]), obs=word)


REPEATED = DOCUMENT.repeat(TIMES), WORD.repeat(TIMES)
FORMS = {
    "table": (table, (COUNTS,)),
    "tokens": (tokens, REPEATED),
    "entries": (entries, (DOCUMENT, WORD, TIMES)),
    "labels": (labels, REPEATED),
}


def bound(model, args):
    """The target, its conjugate guide and the data."""
    arguments, data = split(model, args, {})
    target = build(model, arguments)
    guide = Conjugate().bind(target, target.space)
    return guide.target, guide, Batch(data)


@pytest.mark.parametrize("form", FORMS)
def test_the_model_is_recognized(form):
    target, guide, batch = bound(*FORMS[form])
    found = word_counts(target, guide.plan, batch)
    assert (found.documents, found.topics) == ("theta", "beta")
    np.testing.assert_allclose(found.alpha, np.full(K, ALPHA), rtol=1e-6)
    np.testing.assert_allclose(found.eta, np.full(20, ETA), rtol=1e-6)
    corpus, wanted = counts_of(found), Counts.of(COUNTS)
    for one, two in zip(corpus, wanted, strict=True):
        np.testing.assert_array_equal(one, two)


def powers(counts):
    """Probabilities that are no product of the two."""
    theta, beta = latents(*counts.shape)
    with numpyro.plate("documents", len(counts)):
        mixed = 0.9 * theta @ beta + 0.1 / counts.shape[1]
        numpyro.sample("counts", dist.Multinomial(counts.sum(-1), probs=mixed), obs=counts)


def transposed(counts):
    """The row of topics is that of a word, not of a document."""
    theta, beta = latents(*counts.shape)
    with numpyro.plate("words", counts.shape[1]):
        numpyro.sample("counts", dist.Multinomial(9, probs=(theta @ beta).T), obs=counts.T)


@pytest.mark.parametrize("model", [powers, transposed])
def test_other_models_are_not(model):
    target, guide, batch = bound(model, (COUNTS,))
    assert word_counts(target, guide.plan, batch) is None


@pytest.mark.parametrize(
    "form", [pytest.param("table", marks=pytest.mark.slow), "tokens", "entries", "labels"]
)
def test_the_elbo_is_the_bound_of_the_kernel(form):
    """At the same parameters; counts in a table have multinomial coefficients, too."""
    target, guide, batch = bound(*FORMS[form])
    topics, gamma = RNG.gamma(1.0, 1.0, (20, K)) + 0.1, RNG.gamma(1.0, 5.0, (40, K)) + 0.1
    wanted = evaluation.lower_bound(Counts.of(COUNTS), topics, gamma, np.full(K, ALPHA), ETA)
    if form == "table":
        wanted += np.sum(gammaln(COUNTS.sum(1) + 1)) - np.sum(gammaln(COUNTS + 1))
    with jax.enable_x64(True):
        families = {
            "theta": Dirichlet(jnp.asarray(gamma)),
            "beta": Dirichlet(jnp.asarray(topics.T)),
        }
        found = expected_log_joint(target, guide.plan, families, batch, ())[0]
        found = float(found + entropy(target, guide.plan, families))
    assert found == pytest.approx(wanted, rel=1e-6)


@pytest.mark.slow
def test_coordinate_ascent_ends_no_lower_than_the_estimator():
    target, guide, batch = bound(table, (COUNTS,))
    families = {"theta": Dirichlet(jnp.ones((40, K))), "beta": Dirichlet(jnp.ones((K, 20)))}
    solver = CoordinateAscent()
    found = solver.solve(jax.random.key(0), target, guide, Variables(families, {}), batch)
    lda = LatentDirichletAllocation(
        K, doc_topic_prior=ALPHA, topic_word_prior=ETA, collapsed=False, max_iter=50, random_state=0
    )
    wanted = lda.fit(COUNTS).lower_bound(COUNTS)
    wanted += np.sum(gammaln(COUNTS.sum(1) + 1)) - np.sum(gammaln(COUNTS + 1))
    assert found.converged
    assert "nats a token" in found.reason
    assert found.elbo > wanted - 0.1
    topics = found.variables.guide["beta"].concentration
    topics = topics / topics.sum(axis=1, keepdims=True)
    distances = np.abs(np.asarray(topics)[:, None] - TRUE).sum(-1)
    assert np.all(np.sort(distances.argmin(axis=1)) == np.arange(K))

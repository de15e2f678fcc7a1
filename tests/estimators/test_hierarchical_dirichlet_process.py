"""`HierarchicalDirichletProcess`: scikit-learn's checks, the number of topics, errors."""

import numpy as np
import pytest
from sklearn.utils.estimator_checks import estimator_checks_generator

from tests.solvers.topics.test_topics import counts_of
from vijax.estimators import HierarchicalDirichletProcess
from vijax.runtime.errors import VijaxError


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@pytest.mark.parametrize(
    ("estimator", "check"),
    [
        pytest.param(
            each, check, id=name, marks=() if name == "check_dict_unchanged" else pytest.mark.slow
        )
        for each, check in estimator_checks_generator(HierarchicalDirichletProcess(3, max_iter=4))
        for name in [getattr(check, "func", check).__name__]
    ],
)
def test_checks_of_scikit_learn(estimator, check):
    check(estimator)


def test_copies_of_topics_are_merged():
    """Groups of documents without common words are as many topics, found by merges."""
    rng = np.random.default_rng(0)
    counts = np.kron(np.eye(3, dtype=int), np.full((40, 6), 2)) * rng.integers(1, 4, (120, 1))
    found = HierarchicalDirichletProcess(10, random_state=0).fit(counts)
    assert found.n_components_in_use_ == 3
    assert found.n_merges_ > 0
    np.testing.assert_allclose(found.weights_[:3].sum(), 1.0, atol=1e-3)
    shares = found.transform(counts)  # of 12 tokens or more, with a prior of one token
    assert np.all(shares.max(axis=1) > 12 / 13)
    assert len(set(shares.argmax(axis=1))) == 3
    assert found.doc_topic_prior_[:3].sum() == pytest.approx(1.0, abs=0.05)


@pytest.mark.slow
def test_the_prior_follows_the_use_of_topics():
    """Topics are sorted, and predict no worse than the number that drew the documents."""
    counts, _ = counts_of(1200, 60, 4, 80, seed=1)
    found = HierarchicalDirichletProcess(12, random_state=0).fit(counts[:1000])
    prior = found.doc_topic_prior_
    assert np.all(np.diff(prior) <= 1e-12)
    uniform = 60.0
    assert found.completion_perplexity(counts[1000:]) < 0.5 * uniform


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"concentration": 0.0}, "concentration: expected a number > 0"),
        ({"validation_fraction": 1.5}, "validation_fraction: expected a number below 1"),
    ],
)
def test_errors_name_the_argument(options, message):
    with pytest.raises(VijaxError, match=message):
        HierarchicalDirichletProcess(**options).fit(np.ones((3, 2)))

"""`LatentDirichletAllocation`: scikit-learn's checks, streams, new documents, errors."""

import pickle

import jax
import numpy as np
import pytest
from scipy import sparse
from sklearn.decomposition import LatentDirichletAllocation as Peer
from sklearn.utils.estimator_checks import estimator_checks_generator

from tests.solvers.topics.test_topics import counts_of
from vijax.estimators import LatentDirichletAllocation
from vijax.runtime.errors import VijaxError

DATA = sparse.csr_matrix(counts_of(400, 60, 4, 60)[0])
FEW = ("check_dict_unchanged", "check_fit_idempotent", "check_n_features_in")


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@pytest.mark.parametrize(
    ("estimator", "check"),
    [
        pytest.param(each, check, id=name, marks=() if name in FEW else pytest.mark.slow)
        for each, check in estimator_checks_generator(LatentDirichletAllocation(3, max_iter=4))
        for name in [getattr(check, "func", check).__name__]
    ],
)
def test_checks_of_scikit_learn(estimator, check):
    check(estimator)


@pytest.mark.slow
def test_an_optimum_of_scikit_learn_is_one_here():
    options = {"doc_topic_prior": 0.2, "topic_word_prior": 0.1, "random_state": 0}
    peer = Peer(4, max_iter=30, mean_change_tol=1e-4, max_doc_update_iter=200, **options).fit(DATA)
    found = LatentDirichletAllocation(
        4, collapsed=False, learning_method="batch", max_iter=1, warm_start=True, **options
    ).fit(DATA)
    found._state.topics = peer.components_.T.astype(np.float32)
    before = found.lower_bound(DATA)
    found.set_params(max_iter=20).fit(DATA)
    assert before - 1.0 < found.lower_bound(DATA) < before + 20.0


def test_new_documents():
    found = LatentDirichletAllocation(4, random_state=0, validation_fraction=0.2).fit(DATA)
    shares = found.transform(DATA)
    np.testing.assert_allclose(shares.sum(axis=1), 1.0)
    np.testing.assert_allclose(found.transform(DATA.toarray()), shares)
    assert len(found.perplexities_) == found.n_iter_
    assert np.all(np.diff(found.perplexities_[:-1]) < 0)
    uniform = 60.0
    sharp = found.perplexity(DATA, num_draws=20)
    assert sharp < found.perplexity(DATA) < uniform
    assert found.completion_perplexity(DATA) < uniform
    assert found.perplexity(DATA) == pytest.approx(np.exp(-found.score(DATA) / DATA.sum()))
    names = [f"word{i}" for i in range(60)]
    top = found.top_words(names, 3)
    topic = found.components_[1] / found.components_[1].sum()
    assert top[1][0] == (names[topic.argmax()], pytest.approx(topic.max()))
    assert [len(words) for words in top] == [3, 3, 3, 3]


def test_a_stream_continues_exactly(tmp_path):
    """From rows on disk, and from a file of the estimator."""
    for name in ("data", "indices", "indptr"):
        np.save(tmp_path / f"{name}.npy", getattr(DATA, name))
    parts = [np.load(tmp_path / f"{n}.npy", mmap_mode="r") for n in ("data", "indices", "indptr")]
    on_disk = sparse.csr_matrix(tuple(parts), DATA.shape, copy=False)
    options = {"total_samples": 400, "random_state": 0}
    whole, part = (LatentDirichletAllocation(4, **options) for _ in range(2))
    for start in range(0, 400, 100):
        whole.partial_fit(DATA[start : start + 100])
        part = pickle.loads(pickle.dumps(part.partial_fit(on_disk[start : start + 100])))
    np.testing.assert_array_equal(whole.components_, part.components_)
    assert whole.n_batch_iter_ == 4


@pytest.mark.parametrize("method", ["memoized", "online"])
def test_a_warm_start_continues_exactly(method):
    options = {"learning_method": method, "random_state": 0, "tol": 0, "batch_size": 150}
    options["validation_fraction"] = 0.0
    whole = LatentDirichletAllocation(4, max_iter=6, **options).fit(DATA)
    parts = LatentDirichletAllocation(4, max_iter=3, warm_start=True, **options)
    parts.fit(DATA).fit(DATA)
    np.testing.assert_array_equal(whole.components_, parts.components_)


def test_learned_priors_raise_the_bound():
    options = {"collapsed": False, "random_state": 0, "max_iter": 15, "doc_topic_prior": 1.0}
    found = [LatentDirichletAllocation(4, learn_priors=b, **options).fit(DATA) for b in (0, 1)]
    assert found[1].lower_bound(DATA) > found[0].lower_bound(DATA) + 10
    assert found[1].doc_topic_prior_.std() > 0


def test_a_second_fit_compiles_nothing():
    estimator = LatentDirichletAllocation(4, validation_fraction=0.0, random_state=0)
    estimator.fit(DATA).transform(DATA)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, seconds, **info: compiled.append(info) if "backend_compile" in name else None
    )
    estimator.set_params(doc_topic_prior=0.5, max_doc_update_iter=2).fit(DATA[::-1])
    estimator.transform(DATA[::-1])
    assert compiled == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_components": 0}, "n_components: expected an integer >= 1, got 0"),
        ({"learning_method": "gibbs"}, "learning_method: expected one of"),
        ({"learning_decay": 0.5}, "learning_decay: expected a number > 0.5"),
        ({"validation_fraction": 1.0}, "validation_fraction: expected a number below 1"),
        ({"learn_priors": True}, "learn_priors: expected False with collapsed=True"),
    ],
)
def test_errors_name_the_argument(options, message):
    with pytest.raises(VijaxError, match=message):
        LatentDirichletAllocation(**options).fit(DATA)


def test_negative_counts_and_wrong_names():
    with pytest.raises(ValueError, match="Negative values"):
        LatentDirichletAllocation().fit(-DATA)
    found = LatentDirichletAllocation(4, max_iter=1).fit(DATA)
    with pytest.raises(VijaxError, match="feature_names: expected 60 names"):
        found.top_words(["a"])

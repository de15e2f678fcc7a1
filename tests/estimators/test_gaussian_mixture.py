"""`BayesianGaussianMixture`: scikit-learn's checks, units, new rows, errors."""

import pickle

import jax
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import BayesianGaussianMixture as Peer
from sklearn.utils.estimator_checks import estimator_checks_generator

from vijax.estimators import BayesianGaussianMixture
from vijax.runtime.errors import VijaxError

RNG = np.random.default_rng(1)
CENTERS = np.array([[-4.0, 0.0], [0.0, 3.0], [4.0, 0.0]])
DATA = CENTERS[RNG.integers(3, size=400)] + RNG.normal(size=(400, 2)) * [1.0, 0.5]
FEW = ("check_dict_unchanged", "check_fit_idempotent", "check_n_features_in")
FORMS = ("full", "tied", "diag", "spherical")


def checks(estimator):
    return [
        pytest.param(each, check, id=f"{each.covariance_type}-{name}", marks=marks(name, each))
        for each, check in estimator_checks_generator(estimator)
        for name in [getattr(check, "func", check).__name__]
    ]


def marks(name, estimator):
    few = estimator.covariance_type == "full" and name in FEW
    return () if few else pytest.mark.slow


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@pytest.mark.parametrize(
    ("estimator", "check"),
    [
        each
        for form in FORMS
        for each in checks(BayesianGaussianMixture(n_components=4, covariance_type=form))
    ],
)
def test_checks_of_scikit_learn(estimator, check):
    check(estimator)


SLOW_FORMS = ["full", *(pytest.param(form, marks=pytest.mark.slow) for form in FORMS[1:])]


@pytest.mark.parametrize("form", SLOW_FORMS)
def test_components_are_found(form):
    options = {"n_components": 4, "covariance_type": form, "random_state": 0}
    found = BayesianGaussianMixture(**options).fit(DATA)
    assert found.n_components_in_use_ == 3
    assert found.converged_
    order = np.argsort(found.means_[:3, 0])
    np.testing.assert_allclose(found.means_[order], CENTERS, atol=0.35)
    x, labels = found.sample(4000)
    assert x.shape == (4000, 2)
    np.testing.assert_allclose(x.mean(0), DATA.mean(0), atol=0.3)
    assert np.mean(found.predict(x) == labels) > 0.9
    probabilities = found.predict_proba(x)
    np.testing.assert_allclose(probabilities.sum(1), 1.0)
    again = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(again.score_samples(x), found.score_samples(x))


def test_new_rows_as_in_scikit_learn():
    found = BayesianGaussianMixture(n_components=4, reg_covar=0.0, tol=1e-8, random_state=0).fit(
        DATA
    )
    peer = Peer(n_components=4, reg_covar=0.0, max_iter=1000, tol=1e-10, random_state=0)
    peer.fit(DATA)
    order = np.argsort(-peer.weights_)
    x = RNG.normal(size=(5000, 2)) * 4
    np.testing.assert_allclose(found.means_, peer.means_[order], atol=1e-3)
    np.testing.assert_allclose(found.covariances_, peer.covariances_[order], atol=1e-3)
    np.testing.assert_allclose(found.predict_proba(x), peer.predict_proba(x)[:, order], atol=1e-2)
    np.testing.assert_allclose(found.score(x), peer.score(x), rtol=1e-3)
    precisions = found.precisions_cholesky_ @ found.precisions_cholesky_.swapaxes(1, 2)
    np.testing.assert_allclose(precisions, found.precisions_)


@pytest.mark.slow
def test_units_and_collinear_columns_change_nothing():
    """A change of variables adds its log determinant to the bound."""
    estimator = BayesianGaussianMixture(n_components=4, reg_covar=0.0, tol=1e-6, random_state=0)
    before = clone(estimator).fit(DATA)
    change, shift = np.array([[1.0, 300.0], [1.0, 301.0]]), [1e4, -1e5]
    assert np.linalg.cond(change) > 1e5
    after = clone(estimator).fit(DATA @ change.T + shift)
    log_det = len(DATA) * np.linalg.slogdet(change)[1]
    np.testing.assert_allclose(after.lower_bound_ + log_det, before.lower_bound_, rtol=1e-6)
    np.testing.assert_allclose(after.means_[:3], before.means_[:3] @ change.T + shift, rtol=1e-6)


def test_a_second_fit_compiles_nothing():
    estimator = BayesianGaussianMixture(n_components=4, random_state=0)
    estimator.fit(DATA).predict(DATA)
    compiled = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, seconds, **info: compiled.append(info) if "backend_compile" in name else None
    )
    estimator.set_params(mean_precision_prior=0.5).fit(DATA[::-1] + 1).predict(DATA)
    assert compiled == []


@pytest.mark.slow
def test_a_warm_start_continues():
    estimator = BayesianGaussianMixture(n_components=4, warm_start=True, random_state=0).fit(DATA)
    before = estimator.lower_bound_
    estimator.set_params(n_init=1, max_moves=0).fit(DATA)
    assert abs(estimator.lower_bound_ - before) < 1e-2
    assert estimator.n_iter_ < 5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"covariance_type": "round"}, "covariance_type: expected one of"),
        ({"n_components": 0}, "n_components: expected an integer >= 1, got 0"),
        ({"tol": -1.0}, "tol: expected a number >= 0, got -1.0"),
        ({"mean_prior": [0.0]}, r"mean_prior: expected finite numbers of shape \(2,\)"),
        ({"degrees_of_freedom_prior": 0.5}, "degrees_of_freedom_prior: expected a number > 1"),
        ({"covariance_prior": [[1, 2], [2, 1]]}, "covariance_prior: expected symmetric and pos"),
        ({"n_components": 500}, "n_components: expected at most the number of rows, 400"),
    ],
)
def test_errors_name_the_argument(options, message):
    with pytest.raises(VijaxError, match=message):
        BayesianGaussianMixture(**options).fit(DATA)


def test_a_column_without_variance():
    flat = np.column_stack([DATA[:, 0], np.ones(len(DATA))])
    with pytest.raises(VijaxError, match="reg_covar > 0"):
        BayesianGaussianMixture(reg_covar=0.0).fit(flat)
    found = BayesianGaussianMixture(n_components=4, random_state=0).fit(flat)
    assert found.n_components_in_use_ == 3


def test_a_fit_that_does_not_converge_says_so():
    with pytest.warns(ConvergenceWarning, match="max_iter=1"):
        BayesianGaussianMixture(n_components=4, max_iter=1, n_init=1, max_moves=0).fit(DATA)

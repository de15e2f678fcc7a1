"""`Regressor` and `Classifier`: scikit-learn's checks, closed forms, grid search, errors."""

import functools

import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import estimator_checks_generator

from vijax.estimators import Classifier, Regressor
from vijax.runtime.errors import ArgumentError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(60, 2))
Y = X @ [1.0, -2.0] + 0.5 * RNG.normal(size=60)
FEW = ("check_fit2d_predict1d", "check_dict_unchanged", "check_n_features_in")


def linear(X, y=None, sd=1.0, noise=0.5):
    """Known noise, so that the posterior is Gaussian."""
    slope = numpyro.sample("slope", dist.Normal(0.0, sd).expand([X.shape[1]]).to_event(1))
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(X @ slope, noise), obs=y)


def regression(X, y=None):
    intercept = numpyro.sample("intercept", dist.StudentT(3.0, 0.0, 20.0))
    slope = numpyro.sample("slope", dist.Normal(0.0, 50.0).expand([X.shape[1]]).to_event(1))
    noise = numpyro.sample("noise", dist.HalfCauchy(10.0))
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Normal(intercept + X @ slope, noise), obs=y)


def softmax(X, y=None, num_classes=2):
    slope = numpyro.sample(
        "slope", dist.Normal(0.0, 2.0).expand([X.shape[1], num_classes]).to_event(2)
    )
    intercept = numpyro.sample("intercept", dist.Normal(0.0, 5.0).expand([num_classes]).to_event(1))
    with numpyro.plate("rows", X.shape[0]):
        numpyro.sample("y", dist.Categorical(logits=X @ slope + intercept), obs=y)


def checks():
    for estimator in (
        Regressor(regression, guide="laplace", num_draws=200),
        Classifier(softmax, guide="laplace", num_draws=200),
    ):
        for each, check in estimator_checks_generator(estimator):
            name = getattr(check, "func", check).__name__
            marks = () if name in FEW else pytest.mark.slow
            yield pytest.param(each, check, id=f"{type(each).__name__}-{name}", marks=marks)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@pytest.mark.filterwarnings("ignore::vijax.runtime.errors.VijaxWarning")
@pytest.mark.parametrize(("estimator", "check"), [*checks()])
def test_checks_of_scikit_learn(estimator, check, monkeypatch):
    """Two of them compare to 1e-7, which is less than the rounding of single precision."""
    if "invariance" in getattr(check, "func", check).__name__:
        compare = estimator_checks.assert_allclose_dense_sparse
        loose = functools.partial(compare, rtol=1e-5)
        monkeypatch.setattr(
            estimator_checks,
            "assert_allclose_dense_sparse",
            lambda one, other, atol=0.0, err_msg="": loose(one, other, atol=1e-6, err_msg=err_msg),
        )
    check(estimator)


def test_predictions_are_those_of_the_exact_posterior():
    found = Regressor(linear, num_draws=4000).fit(X, Y)
    precision = np.eye(2) + X.T @ X / 0.25
    covariance = np.linalg.inv(precision)
    new = RNG.normal(size=(7, 2))
    mean, sd = found.predict(new, return_std=True)
    exact = np.sqrt(0.25 + np.einsum("ni,ij,nj->n", new, covariance, new))
    np.testing.assert_allclose(mean, new @ covariance @ (X.T @ Y / 0.25), atol=0.02)
    np.testing.assert_allclose(sd, exact, rtol=0.02)
    np.testing.assert_array_equal(found.predict(new), mean)
    assert found.posterior_.status == "certified"
    assert found.score(X, Y) > 0.9


@pytest.mark.slow
def test_a_grid_search_compiles_once_and_finds_the_prior():
    grid = {"regressor__model_kwargs": [{"sd": np.array(s)} for s in (0.01, 1.0)]}
    pipeline = make_pipeline(StandardScaler(), Regressor(linear))
    pipeline.steps[-1] = ("regressor", pipeline.steps[-1][1])
    search = GridSearchCV(pipeline, grid, cv=2).fit(X, Y)
    assert search.best_params_["regressor__model_kwargs"]["sd"] == 1.0
    again = search.best_estimator_.fit(X, Y)[-1]
    assert again.posterior_.timing.num_compiled == 0


@pytest.mark.slow
def test_classes_keep_their_names():
    names = np.array(["low", "middle", "high"])
    codes = np.digitize(X[:, 0], [-0.5, 0.5])
    found = Classifier(softmax).fit(X, names[codes])
    assert [*found.classes_] == ["high", "low", "middle"]
    probs = found.predict_proba(X)
    np.testing.assert_allclose(probs.sum(1), 1.0, atol=1e-6)
    assert found.score(X, names[codes]) > 0.85
    assert probs[X[:, 0].argmax()].argmax() == 0


def two_sites(X, y=None):
    with numpyro.plate("rows", X.shape[0]):
        level = numpyro.sample("level", dist.Normal(0.0, 1.0))
        numpyro.sample("y", dist.Normal(level, 1.0), obs=y)
        numpyro.sample("z", dist.Normal(level, 1.0), obs=jnp.zeros(X.shape[0]))


def test_errors_name_the_argument():
    with pytest.raises(ArgumentError, match=r"model: expected a NumPyro model function"):
        Regressor("linear").fit(X, Y)
    with pytest.raises(ArgumentError, match=r"model: expected one observed site"):
        Regressor(two_sites).fit(X, Y)
    with pytest.raises(ValueError, match=r"y: expected rows of two classes"):
        Classifier(softmax).fit(X, np.ones(60))

"""A regressor and a classifier from a NumPyro model, with the interface of scikit-learn."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

from vijax.fitting.fit import fit
from vijax.posterior.posterior import Posterior
from vijax.runtime.errors import ArgumentError, mismatch

_OWN = ("model", "model_kwargs", "num_draws", "rng_key")  # parameters that `fit` has not, or others


class _FromModel(BaseEstimator):
    """What both share; the parameters are those of `vijax.fit`."""

    posterior_: Posterior
    _predictors: dict[str, Any]

    def __init__(
        self,
        model: Any,
        *,
        guide: Any = "auto",
        algorithm: Any = "auto",
        num_steps: int | None = None,
        batch_size: int | None = None,
        max_seconds: float | None = None,
        model_kwargs: Mapping[str, Any] | None = None,
        num_draws: int = 1000,
        rng_key: Any = 0,
    ) -> None:
        self.model = model
        self.guide = guide
        self.algorithm = algorithm
        self.num_steps = num_steps
        self.batch_size = batch_size
        self.max_seconds = max_seconds
        self.model_kwargs = model_kwargs
        self.num_draws = num_draws
        self.rng_key = rng_key

    def _fit(self, X: np.ndarray, y: np.ndarray, **keywords: Any) -> Self:
        if not callable(self.model):
            expected = "a NumPyro model function, model(X, y=None)"
            raise ArgumentError(mismatch("model", expected, repr(self.model)))
        options = {n: v for n, v in self.get_params(deep=False).items() if n not in _OWN}
        keywords |= dict(self.model_kwargs or {})
        found = fit(
            self.model,
            X,
            y,
            rng_key=self.rng_key,
            progress_bar=False,
            model_kwargs=keywords,
            **options,
        )
        observed = found._result.target.structure.observed
        if len(observed) != 1:
            shown = f"{len(observed)}: {', '.join(observed)}" if observed else "none"
            raise ArgumentError(mismatch("model", "one observed site, that of y", shown))
        self.posterior_, self._predictors = found, {}
        return self

    def _predict(self, X: Any, returns: Any) -> Any:
        """Of the observed site, by row; averages over the posterior, without noise by row."""
        check_is_fitted(self, "posterior_")
        X = validate_data(self, X, reset=False)
        (site,) = self.posterior_._result.target.structure.observed
        if returns not in self._predictors:
            self._predictors[returns] = self.posterior_.predictor(
                returns=returns, num_draws=self.num_draws, rng_key=self.rng_key
            )
        return self._predictors[returns](X)[site]

    def __getstate__(self) -> Any:
        state = super().__getstate__()
        return state | {"_predictors": {}} if "_predictors" in state else state


class Regressor(RegressorMixin, _FromModel):
    """A regressor from a NumPyro model `model(X, y=None, **kwargs)` with one observed site.

    Rows have to be independent given the other latents: they have no latents of their own, see
    `Posterior.predictor`. A second fit to data of the same shapes compiles nothing, in a grid
    search, too, where what is varied is an array in `model_kwargs`.

    Args:
        model: the model function. `y` is observed in the fit and `None` in predictions.
        guide: see `vijax.fit`, as all up to `max_seconds`.
        algorithm: see `vijax.fit`.
        num_steps: see `vijax.fit`.
        batch_size: see `vijax.fit`.
        max_seconds: see `vijax.fit`.
        model_kwargs: keyword arguments of the model; arrays are data.
        num_draws: number of posterior draws that predictions average over.
        rng_key: an int, a JAX key or a legacy key, of the fit and of predictions.

    Attributes:
        posterior_: the `vijax.Posterior`.
        n_features_in_: number of columns.
        feature_names_in_: names of the columns, if they are strings.

    Example:
        >>> import numpy as np, numpyro, numpyro.distributions as dist
        >>> from vijax.estimators import Regressor
        >>> def line(X, y=None):
        ...     slope = numpyro.sample("slope", dist.Normal(0.0, 1.0))
        ...     with numpyro.plate("rows", X.shape[0]):
        ...         numpyro.sample("y", dist.Normal(slope * X[:, 0], 0.1), obs=y)
        >>> X = np.linspace(-1.0, 1.0, 21)[:, None]
        >>> mean, sd = Regressor(line).fit(X, 2 * X[:, 0]).predict(X[:1], return_std=True)
        >>> mean.round(1), sd.round(1)
        (array([-2.], dtype=float32), array([0.1], dtype=float32))
    """

    def fit(self, X: Any, y: Any) -> Self:
        """Fits the posterior.

        Args:
            X: rows of data, `(N, d)`.
            y: outcomes, `(N,)`.

        Raises:
            ArgumentError: the model is no function, or has not one observed site.
        """
        X, y = validate_data(self, X, y, y_numeric=True, ensure_min_samples=2)
        return self._fit(X, np.asarray(y, float))

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Posterior predictive means, `(N,)`.

        Args:
            X: rows of data, `(N, d)`.
            return_std: whether to return their standard deviations `(N,)`, too, the noise included.
        """
        if not return_std:
            return np.asarray(self._predict(X, "mean"))
        found = self._predict(X, "summary")
        return np.asarray(found["mean"]), np.asarray(found["sd"])


class Classifier(ClassifierMixin, _FromModel):
    """A classifier from a NumPyro model `model(X, y=None, **kwargs)` with one observed site.

    That has the distribution of the classes' numbers, from 0, in the order of `classes_`: Bernoulli
    or categorical. A model with a parameter `num_classes` gets their number. All else is as for
    `Regressor`, the parameters, too.

    Args:
        model: the model function. `y` is observed in the fit and `None` in predictions.
        guide: see `vijax.fit`, as all up to `max_seconds`.
        algorithm: see `vijax.fit`.
        num_steps: see `vijax.fit`.
        batch_size: see `vijax.fit`.
        max_seconds: see `vijax.fit`.
        model_kwargs: keyword arguments of the model; arrays are data.
        num_draws: number of posterior draws that predictions average over.
        rng_key: an int, a JAX key or a legacy key, of the fit and of predictions.

    Attributes:
        posterior_: the `vijax.Posterior`.
        classes_: the classes, sorted.
        n_features_in_: number of columns.
        feature_names_in_: names of the columns, if they are strings.
    """

    classes_: np.ndarray

    def fit(self, X: Any, y: Any) -> Self:
        """Fits the posterior.

        Args:
            X: rows of data, `(N, d)`.
            y: classes, `(N,)`, of any type.

        Raises:
            ArgumentError: the model is no function, or has not one observed site.
            ValueError: there is one class only.
        """
        X, y = validate_data(self, X, y, ensure_min_samples=2)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            expected = "rows of two classes or more"
            raise ValueError(mismatch("y", expected, f"one class, {self.classes_[0]!r}"))
        keywords = {}
        if callable(self.model) and "num_classes" in inspect.signature(self.model).parameters:
            keywords["num_classes"] = len(self.classes_)
        return self._fit(X, codes.reshape(-1).astype(np.int32), **keywords)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Posterior predictive probabilities of the classes, `(N, num_classes)`."""
        probs = np.asarray(self._predict(X, "probs"), float)
        if probs.shape[1:] != self.classes_.shape:
            expected = f"a site of {len(self.classes_)} values, as many as classes"
            raise ArgumentError(mismatch("model", expected, f"{probs.shape[1]} values"))
        return probs / probs.sum(axis=1, keepdims=True)

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class of every row, `(N,)`."""
        check_is_fitted(self, "posterior_")
        return self.classes_[self.predict_proba(X).argmax(axis=1)]

"""A Bayesian Gaussian mixture with the interface of scikit-learn."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple, Self

import jax
import numpy as np
from sklearn.base import BaseEstimator, DensityMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data

from vijax.estimators.coordinates import Coordinates
from vijax.estimators.forms import (
    noise_features,
    parameters,
    prior_components,
)
from vijax.estimators.options import (
    check_options,
    expected_weights,
    prior_weights,
    resolved_prior,
)
from vijax.runtime.errors import VijaxError, mismatch
from vijax.solvers.mixture import programs
from vijax.solvers.mixture.components import Components
from vijax.solvers.mixture.fit import Fit, Problem, first_statistics, fit
from vijax.solvers.mixture.mixture import Mixture
from vijax.solvers.mixture.moves import IN_USE
from vijax.solvers.mixture.rows import rows_of
from vijax.solvers.mixture.start import sums_of_features

_CHUNK = 4096  # rows of one call for predictions


class _Rule(NamedTuple):
    """What predictions for new rows need.

    Attributes:
        components: of the mixture.
        coefficients: of the features in the logits, `(K, p)`.
        offset: of the features, `(p,)`.
        coordinates: of the features.
    """

    components: type[Components]
    coefficients: np.ndarray
    offset: np.ndarray
    coordinates: Coordinates


class BayesianGaussianMixture(DensityMixin, BaseEstimator):
    """A Gaussian mixture whose number of components is inferred, by coordinate ascent and moves.

    Parameters, defaults of priors and attributes are those of
    `sklearn.mixture.BayesianGaussianMixture`. What differs:

    - `lower_bound_` is the evidence lower bound with all constants, so that it can be compared
      between numbers of components, forms of the covariance and priors.
    - After coordinate ascent, components are merged, deleted and split as long as that raises the
      bound: `max_moves`. `n_components` is the most that may be used, `n_components_in_use_` how
      many are.
    - All `n_init` starts make a few steps, and the best one continues; of more than 8,192 rows, a
      subsample is fitted first.
    - "tied", "diag" and "spherical" are exact posteriors; scikit-learn's update of "tied" divides
      the number of rows by that of components, and its expectations for "diag" and "spherical" are
      those of a Wishart distribution.
    - The sticks of a Dirichlet process are sorted by size.
    - `reg_covar` is the variance of errors of measurement, which counts in both steps.

    Source: Variational Inference for Dirichlet Process Mixtures, Blei and Jordan, 2006.

    Args:
        n_components: largest number of components.
        covariance_type: "full", "tied", "diag" or "spherical".
        tol: an ascent ends when the bound rises by less, in nats.
        reg_covar: variance of errors of measurement, in every column.
        max_iter: most passes over the rows of one ascent.
        n_init: number of starts.
        weight_concentration_prior_type: "dirichlet_process" or "dirichlet_distribution".
        weight_concentration_prior: of the process or distribution, by default `1 / n_components`.
        mean_precision_prior: the prior counts as that many rows for a mean, by default 1.
        mean_prior: `(d,)`, by default the mean of the data.
        degrees_of_freedom_prior: the prior counts as that many rows for a covariance, by default
            `d`.
        covariance_prior: `degrees_of_freedom_prior` times a typical covariance, `(d, d)`, `(d,)` or
            a number, by default the covariance of the data.
        max_moves: most merges, deletions and splits; 0 for coordinate ascent alone.
        random_state: seed or generator of starts and moves.
        warm_start: continue from the last fit.
        verbose: 1 prints the bound every `verbose_interval` passes.
        verbose_interval: see `verbose`.

    Attributes:
        weights_: expected weights, `(n_components,)`, normalized.
        means_: `(n_components, d)`.
        covariances_: inverses of the expected precision matrices, of a shape that depends on
            `covariance_type`.
        precisions_: their inverses.
        precisions_cholesky_: upper triangular `U` with `precision = U U'`, or square roots.
        weight_concentration_: parameters of the weights' posterior, a pair for sticks.
        mean_precision_: `(n_components,)`.
        degrees_of_freedom_: `(n_components,)`, a number for "tied".
        n_components_in_use_: components that are expected to have at least half a row.
        lower_bound_: evidence lower bound of the data, in nats.
        lower_bounds_: the bound after each pass that led there.
        n_iter_: passes over all rows, those of refused moves included.
        n_moves_: moves that were accepted.
        converged_: whether the last ascent ended by `tol`.
        n_features_in_: `d`.
        feature_names_in_: names of the columns, if they are strings.

    Example:
        >>> import numpy as np
        >>> from vijax.estimators import BayesianGaussianMixture
        >>> rng = np.random.default_rng(0)
        >>> x = np.concatenate([rng.normal(-4, 1, (60, 2)), rng.normal(4, 1, (40, 2))])
        >>> mixture = BayesianGaussianMixture(n_components=6, random_state=0).fit(x)
        >>> mixture.n_components_in_use_
        2
        >>> mixture.weights_[:2].round(1)
        array([0.6, 0.4])
    """

    def __init__(
        self,
        *,
        n_components: int = 1,
        covariance_type: str = "full",
        tol: float = 1e-3,
        reg_covar: float = 1e-6,
        max_iter: int = 1000,
        n_init: int = 16,
        weight_concentration_prior_type: str = "dirichlet_process",
        weight_concentration_prior: float | None = None,
        mean_precision_prior: float | None = None,
        mean_prior: Any = None,
        degrees_of_freedom_prior: float | None = None,
        covariance_prior: Any = None,
        max_moves: int = 100,
        random_state: Any = None,
        warm_start: bool = False,
        verbose: int = 0,
        verbose_interval: int = 10,
    ) -> None:
        self.n_components = n_components
        self.covariance_type = covariance_type
        self.tol = tol
        self.reg_covar = reg_covar
        self.max_iter = max_iter
        self.n_init = n_init
        self.weight_concentration_prior_type = weight_concentration_prior_type
        self.weight_concentration_prior = weight_concentration_prior
        self.mean_precision_prior = mean_precision_prior
        self.mean_prior = mean_prior
        self.degrees_of_freedom_prior = degrees_of_freedom_prior
        self.covariance_prior = covariance_prior
        self.max_moves = max_moves
        self.random_state = random_state
        self.warm_start = warm_start
        self.verbose = verbose
        self.verbose_interval = verbose_interval

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fits the mixture.

        Args:
            X: rows of data, `(N, d)`.
            y: not used.

        Returns:
            The estimator.

        Raises:
            VijaxError: a parameter is out of its range or does not fit the data.
            ValueError: the data are not finite numbers of two axes.
        """
        options = self.get_params(deep=False)
        check_options(options)
        before: _Rule | None = getattr(self, "_rule", None) if self.warm_start else None
        data = validate_data(self, X, dtype=np.float64, ensure_min_samples=2)
        if len(data) < self.n_components:
            expected = f"at most the number of rows, {len(data)}"
            raise VijaxError(mismatch("n_components", expected, self.n_components))
        form, prior = self.covariance_type, resolved_prior(options, data)
        weights = prior_weights(options)
        coordinates = Coordinates.of(data, whiten=form in ("full", "tied"))
        components = prior_components(form, prior, self.n_components, coordinates)
        ordered = self.weight_concentration_prior_type == "dirichlet_process"
        problem = Problem(
            Mixture(weights, components, ordered),
            self.n_components,
            coordinates.points(data),
            noise_features(form, self.reg_covar, coordinates),
            check_random_state(self.random_state),
        )
        limits: dict[str, Any] = {
            "tolerance": self.tol,
            "max_sweeps": self.max_iter,
            "max_moves": self.max_moves,
        }
        if before is None or before.coefficients.shape != (self.n_components, len(problem.offset)):
            statistics = first_statistics(problem, self.n_init, **limits)
        else:
            statistics = _statistics(problem, data, before)
        found = fit(problem, statistics, **limits, report=self._report)
        self._rule = _Rule(problem.components, found.coefficients, problem.offset, coordinates)
        self._keep(found, coordinates, len(data))
        if not self.converged_:
            warnings.warn(
                f"The bound still rose by more than tol={self.tol} after max_iter={self.max_iter} "
                "passes: increase one of them.",
                ConvergenceWarning,
                stacklevel=2,
            )
        return self

    def fit_predict(self, X: Any, y: Any = None) -> np.ndarray:
        """Fits the mixture, and returns the most probable component of every row, `(N,)`."""
        return self.fit(X, y).predict(X)

    def predict(self, X: Any) -> np.ndarray:
        """The most probable component of every row, `(N,)`."""
        return self.predict_proba(X).argmax(axis=1)

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities of the components for every row, `(N, n_components)`."""
        return np.concatenate([shares for shares, _ in self._chunks(X)])

    def score_samples(self, X: Any) -> np.ndarray:
        """A lower bound of the log predictive density of every row, `(N,)`.

        It is `log sum_k exp(E log pi_k + E log p(x | theta_k))`, as in scikit-learn.
        """
        return np.concatenate([scores for _, scores in self._chunks(X)])

    def score(self, X: Any, y: Any = None) -> float:
        """The mean of `score_samples`."""
        return float(np.mean(self.score_samples(X)))

    def sample(self, n_samples: int = 1) -> tuple[np.ndarray, np.ndarray]:
        """Draws from the mixture at its expected parameters.

        Args:
            n_samples: number of draws, at least 1.

        Returns:
            Rows, `(n_samples, d)`, and their components, `(n_samples,)`, in ascending order.

        Raises:
            VijaxError: `n_samples` is below 1.
        """
        check_is_fitted(self)
        if n_samples < 1:
            raise VijaxError(mismatch("n_samples", "an integer >= 1", n_samples))
        rng = check_random_state(self.random_state)
        labels = np.sort(rng.choice(self.n_components, n_samples, p=self.weights_))
        noise = rng.standard_normal((n_samples, self.n_features_in_))
        covariances = self.covariances_
        if self.covariance_type == "tied":
            spread = noise @ np.linalg.cholesky(covariances).T
        elif self.covariance_type == "full":
            spread = np.einsum("nij,nj->ni", np.linalg.cholesky(covariances)[labels], noise)
        else:
            spread = noise * np.sqrt(covariances.reshape(self.n_components, -1))[labels]
        return self.means_[labels] + spread, labels

    def _chunks(self, X: Any) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        check_is_fitted(self)
        data = validate_data(self, X, dtype=np.float64, reset=False)
        return _predictions(data, self._rule)

    def _keep(self, found: Fit, coordinates: Coordinates, count: int) -> None:
        """Sets the attributes."""
        constant = count * coordinates.log_det
        self.lower_bound_ = found.elbo + constant
        self.lower_bounds_ = [elbo + constant for elbo in found.elbos]
        self.n_iter_, self.n_moves_, self.converged_ = (
            found.num_sweeps,
            found.num_moves,
            found.converged,
        )
        self.n_components_in_use_ = int(np.sum(found.statistics[:, 0] > IN_USE))
        law: Any = jax.tree.leaves(found.posterior.weights)
        self.weight_concentration_ = tuple(law) if len(law) > 1 else law[0]
        self.weights_ = expected_weights(found.posterior.weights)
        gaussian = parameters(found.posterior.components, coordinates)
        self.means_, self.mean_precision_ = gaussian.means, gaussian.mean_precision
        self.degrees_of_freedom_ = gaussian.degrees_of_freedom
        self.covariances_ = gaussian.covariances
        if self.covariance_type in ("full", "tied"):
            self.precisions_ = np.linalg.inv(self.covariances_)
            lower = np.linalg.cholesky(self.covariances_)
            self.precisions_cholesky_ = np.linalg.inv(lower).swapaxes(-1, -2)
        else:
            self.precisions_ = 1 / self.covariances_
            self.precisions_cholesky_ = np.sqrt(self.precisions_)

    def _report(self, sweep: int, elbo: float) -> None:
        if self.verbose and sweep % self.verbose_interval == 0:
            print(f"pass {sweep}: lower bound {elbo:.6g}")


def _predictions(data: np.ndarray, rule: _Rule) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Responsibilities and their log normalizers of a few thousand rows at a time."""
    for start in range(0, len(data), _CHUNK):
        points = rule.coordinates.points(data[start : start + _CHUNK])
        rows = rows_of(points, rule.components, rule.offset, len(rule.coefficients))
        shares, scores = programs.responsibilities(rows, rule.coefficients)
        shares = shares.swapaxes(1, 2).reshape(-1, shares.shape[1])
        scores = scores.ravel() + rule.coordinates.log_det
        yield shares[: len(points)], scores[: len(points)]


def _statistics(problem: Problem, data: np.ndarray, before: _Rule) -> np.ndarray:
    """Statistics of rows by the responsibilities of an earlier fit, `(K, p)`."""
    total = np.zeros((problem.num_components, len(problem.offset)))
    start = 0
    for shares, _ in _predictions(data, before):
        points = problem.data[start : start + len(shares)]
        start += len(shares)
        for k in range(problem.num_components):
            weights = shares[:, k]
            total[k] += sums_of_features(problem.components, points, weights, problem.offset)
    return total

"""Checks of the estimator's arguments, and the defaults that depend on the data."""

from __future__ import annotations

import numbers
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vijax.estimators.forms import FORMS, GaussianPrior
from vijax.families.beta import Beta
from vijax.families.dirichlet import Dirichlet
from vijax.runtime.errors import VijaxError, mismatch
from vijax.solvers.mixture.mixture import DirichletWeights, Sticks, Weights

WEIGHTS = ("dirichlet_process", "dirichlet_distribution")

_NUMBERS = {  # smallest value, whether that is allowed, whether an integer
    "n_components": (1, True, True),
    "tol": (0, True, False),
    "reg_covar": (0, True, False),
    "max_iter": (1, True, True),
    "n_init": (1, True, True),
    "max_moves": (0, True, True),
    "verbose_interval": (1, True, True),
    "weight_concentration_prior": (0, False, False),
    "mean_precision_prior": (0, False, False),
    "degrees_of_freedom_prior": (0, False, False),
}
_CHOICES = {"covariance_type": tuple(FORMS), "weight_concentration_prior_type": WEIGHTS}


def check_options(options: dict[str, Any]) -> None:
    """Checks all that does not depend on the data.

    Raises:
        VijaxError: a number is out of its range, or a choice is not known.
    """
    for name, choices in _CHOICES.items():
        if options[name] not in choices:
            raise VijaxError(mismatch(name, f"one of {choices}", repr(options[name])))
    check_numbers(options, _NUMBERS, optional=[name for name in _NUMBERS if "_prior" in name])


def check_numbers(
    options: dict[str, Any],
    numbers_of: Mapping[str, tuple[float, bool, bool]],
    optional: Sequence[str] = (),
) -> None:
    """Checks the ranges of numbers.

    Args:
        options: values by name.
        numbers_of: by name the smallest value, whether that is allowed, whether an integer.
        optional: names of those that may be `None`.

    Raises:
        VijaxError: a number is out of its range.
    """
    for name, (smallest, closed, integer) in numbers_of.items():
        value = options[name]
        if value is None and name in optional:
            continue
        kind = numbers.Integral if integer else numbers.Real
        valid = isinstance(value, kind) and not isinstance(value, bool)
        if not (valid and (value >= smallest if closed else value > smallest)):
            expected = "an integer" if integer else "a number"
            raise VijaxError(
                mismatch(name, f"{expected} {'>=' if closed else '>'} {smallest}", repr(value))
            )


def resolved_prior(options: dict[str, Any], data: np.ndarray) -> GaussianPrior:
    """The prior of a component; what is `None` follows from the data, as in scikit-learn.

    Raises:
        VijaxError: an array has the wrong shape, or is not positive definite.
    """
    form, size = options["covariance_type"], data.shape[1]
    freedom = (
        size if options["degrees_of_freedom_prior"] is None else options["degrees_of_freedom_prior"]
    )
    if form in ("full", "tied") and freedom <= size - 1:
        expected = f"a number > {size - 1}, the number of columns less one"
        raise VijaxError(mismatch("degrees_of_freedom_prior", expected, repr(freedom)))
    mean = data.mean(axis=0)
    if options["mean_prior"] is not None:
        mean = _array("mean_prior", options["mean_prior"], (size,))
    precision = options["mean_precision_prior"]
    covariance = _covariance(form, options["covariance_prior"], options["reg_covar"], data)
    return GaussianPrior(mean, 1.0 if precision is None else precision, freedom, covariance)


def prior_weights(options: dict[str, Any]) -> Weights:
    """The prior of the weights; its concentration is `1 / n_components` unless given."""
    count, given = options["n_components"], options["weight_concentration_prior"]
    concentration: Any = np.full(count, 1 / count if given is None else given, float)
    ones: Any = np.ones(count)
    if options["weight_concentration_prior_type"] == "dirichlet_process":
        return Sticks(Beta(ones, concentration))
    return DirichletWeights(Dirichlet(concentration))


def _covariance(form: str, given: Any, errors: float, data: np.ndarray) -> np.ndarray:
    size = data.shape[1]
    shape = {"full": (size, size), "tied": (size, size), "diag": (size,), "spherical": ()}[form]
    if given is not None:
        found = _array("covariance_prior", given, shape)
    else:  # of the data, with errors of measurement as in the rows
        whole = np.atleast_2d(np.cov(data.T)) + errors * np.eye(size)
        variances = np.diag(whole)
        found = {"diag": variances, "spherical": variances.mean()}.get(form, whole)
    values = np.linalg.eigvalsh(found) if len(shape) == 2 else np.atleast_1d(found)
    if not (np.all(values > 0) and np.array_equal(found, found.T)):
        expected = "symmetric and positive definite" if len(shape) == 2 else "positive"
        remedy = "A column without variance needs reg_covar > 0." if given is None else ""
        raise VijaxError(mismatch("covariance_prior", expected, found, remedy))
    return found


def _array(name: str, given: Any, shape: tuple[int, ...]) -> np.ndarray:
    found = np.asarray(given, float)
    if found.shape != shape or not np.all(np.isfinite(found)):
        raise VijaxError(mismatch(name, f"finite numbers of shape {shape}", repr(given)))
    return found


def expected_weights(posterior: Any) -> np.ndarray:
    """`E pi_k`, `(K,)`, with those of a Dirichlet process normalized."""
    if isinstance(posterior, Sticks):
        a, b = np.asarray(posterior.law.a), np.asarray(posterior.law.b)
        left = np.concatenate([[1.0], np.cumprod(b / (a + b))[:-1]])
        found = a / (a + b) * left
    else:
        found = np.asarray(posterior.law.concentration)
    return found / found.sum()

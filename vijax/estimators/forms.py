"""Forms of the covariance: priors with scikit-learn's parameters, and parameters of a posterior."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from vijax.estimators.coordinates import Coordinates
from vijax.families.normal_gamma import NormalGamma
from vijax.families.normal_wishart import NormalWishart
from vijax.families.wishart import Wishart
from vijax.solvers.mixture.components import Components, repeated
from vijax.solvers.mixture.gaussian import (
    DiagonalGaussian,
    FullGaussian,
    SphericalGaussian,
    TiedGaussian,
)

FORMS: dict[str, type[Components]] = {
    "full": FullGaussian,
    "tied": TiedGaussian,
    "diag": DiagonalGaussian,
    "spherical": SphericalGaussian,
}


class GaussianPrior(NamedTuple):
    """The prior of a component, in the units of the data and scikit-learn's parameters.

    Attributes:
        mean: `(d,)`.
        mean_precision: the prior counts as much as that many rows for the mean.
        degrees_of_freedom: the prior counts as much as that many rows for the covariance.
        covariance: `degrees_of_freedom` times a typical covariance: `(d, d)` for the forms "full"
            and "tied", `(d,)` for "diag", a number for "spherical".
    """

    mean: np.ndarray
    mean_precision: float
    degrees_of_freedom: float
    covariance: np.ndarray


class GaussianParameters(NamedTuple):
    """A posterior, in the units of the data and scikit-learn's parameters, see `GaussianPrior`.

    Attributes:
        means: `(K, d)`.
        mean_precision: `(K,)`.
        degrees_of_freedom: `(K,)`, a number for the form "tied".
        covariances: inverses of the expected precision matrices.
    """

    means: np.ndarray
    mean_precision: np.ndarray
    degrees_of_freedom: np.ndarray
    covariances: np.ndarray


def prior_components(
    form: str, prior: GaussianPrior, num_components: int, coordinates: Coordinates
) -> Components:
    """`K` components with the same prior, in other coordinates.

    For the form "spherical" a row counts as many observations of the variance as it has columns.
    """
    mean: Any = coordinates.points(prior.mean[None])[0]
    kappa: Any = np.float64(prior.mean_precision)
    freedom: Any = np.float64(prior.degrees_of_freedom)
    scale: Any = np.asarray(prior.covariance, float)
    size = len(mean)
    if form == "full":
        scale = coordinates.covariance(scale)
        return repeated(FullGaussian(NormalWishart(mean, kappa, freedom, scale)), num_components)
    if form == "tied":
        means: Any = np.broadcast_to(mean, (num_components, size))
        kappas: Any = np.full(num_components, kappa)
        scale = coordinates.covariance(scale)
        return TiedGaussian(means, kappas, Wishart(freedom, scale))
    if form == "diag":
        precision: Any = np.full((size, 1, 1), kappa)
        shape: Any = np.full(size, freedom / 2)
        law = NormalGamma(mean[:, None], precision, shape, scale / 2)
        return repeated(DiagonalGaussian(law), num_components)
    law = NormalGamma(mean, kappa * np.eye(size), size * freedom / 2, size * scale / 2)
    return repeated(SphericalGaussian(law), num_components)


def parameters(components: Any, coordinates: Coordinates) -> GaussianParameters:
    """The inverse of `prior_components`, for a posterior."""
    law: Any = getattr(components, "law", None)
    if isinstance(components, FullGaussian):
        scale = coordinates.original_covariance(law.inverse_scale)
        found = law.mean, law.kappa, law.concentration, scale / law.concentration[:, None, None]
    elif isinstance(components, TiedGaussian):
        shared: Any = components.shared
        freedom, scale = shared.concentration, coordinates.original_covariance(shared.inverse_scale)
        found = components.mean, components.kappa, freedom, scale / freedom
    elif isinstance(components, DiagonalGaussian):
        freedom, variances = 2 * law.concentration[:, 0], law.rate / law.concentration
        found = law.mean[..., 0], law.precision[:, 0, 0, 0], freedom, variances
    else:
        freedom, variances = 2 * law.concentration / law.size, law.rate / law.concentration
        found = law.mean, law.precision[:, 0, 0], freedom, variances
    means, *rest = (np.asarray(each) for each in found)
    return GaussianParameters(coordinates.original_points(means), *rest)


def noise_features(form: str, variance: float, coordinates: Coordinates) -> np.ndarray:
    """What errors of measurement add to the features of every row, `(p,)`.

    Args:
        form: of the covariance.
        variance: of the errors, in every column.
        coordinates: of the features.
    """
    size = len(coordinates.shift)
    first, second = FORMS[form].pairs(size)
    errors = np.zeros((size + 1, size + 1))
    errors[1:, 1:] = coordinates.covariance(variance * np.eye(size))
    return errors[first, second]

"""Estimators with the interface of scikit-learn; `pip install "vijax-ppl[estimators]"`."""

from vijax.estimators.gaussian_mixture import BayesianGaussianMixture

__all__ = ["BayesianGaussianMixture"]

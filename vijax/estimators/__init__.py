"""Estimators with the interface of scikit-learn; `pip install "vijax-ppl[estimators]"`."""

from vijax.estimators.from_model import Classifier, Regressor
from vijax.estimators.gaussian_mixture import BayesianGaussianMixture
from vijax.estimators.hierarchical_dirichlet_process import HierarchicalDirichletProcess
from vijax.estimators.latent_dirichlet_allocation import LatentDirichletAllocation

__all__ = [
    "BayesianGaussianMixture",
    "Classifier",
    "HierarchicalDirichletProcess",
    "LatentDirichletAllocation",
    "Regressor",
]

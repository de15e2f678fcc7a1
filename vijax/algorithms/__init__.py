"""Iterative algorithms whose steps run on the device: gradient descent, SVGD, stochastic VI."""

from vijax.algorithms.gradient import Adam, Gradient, Optimizer
from vijax.algorithms.ivon import IVON
from vijax.algorithms.natural import NaturalGradient
from vijax.algorithms.partly_conjugate import PartlyConjugate
from vijax.algorithms.stochastic_natural import StochasticVI
from vijax.algorithms.svgd import SVGD
from vijax.diagnostics.stein import IMQ, RBF

__all__ = [
    "IMQ",
    "IVON",
    "RBF",
    "SVGD",
    "Adam",
    "Gradient",
    "NaturalGradient",
    "Optimizer",
    "PartlyConjugate",
    "StochasticVI",
]

"""Iterative algorithms whose steps run on the device: gradient descent, samplers, and others."""

from vijax.algorithms.gradient import Adam, Gradient, Optimizer
from vijax.algorithms.ivon import IVON
from vijax.algorithms.natural import NaturalGradient
from vijax.algorithms.partly_conjugate import PartlyConjugate
from vijax.algorithms.sghmc import SGHMC
from vijax.algorithms.stochastic_natural import StochasticVI
from vijax.algorithms.svgd import SVGD
from vijax.algorithms.swag import SWAG
from vijax.diagnostics.stein import IMQ, RBF

__all__ = [
    "IMQ",
    "IVON",
    "RBF",
    "SGHMC",
    "SVGD",
    "SWAG",
    "Adam",
    "Gradient",
    "NaturalGradient",
    "Optimizer",
    "PartlyConjugate",
    "StochasticVI",
]

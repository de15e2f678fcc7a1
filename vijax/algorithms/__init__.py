"""Methods that step on the device."""

from vijax.algorithms.gradient import Adam, Gradient, Optimizer
from vijax.algorithms.svgd import SVGD
from vijax.diagnostics.stein import IMQ, RBF

__all__ = ["IMQ", "RBF", "SVGD", "Adam", "Gradient", "Optimizer"]

"""Methods that step on the device."""

from vijax._stein import IMQ, RBF
from vijax.algorithms.gradient import Adam, Gradient, Optimizer
from vijax.algorithms.svgd import SVGD

__all__ = ["IMQ", "RBF", "SVGD", "Adam", "Gradient", "Optimizer"]

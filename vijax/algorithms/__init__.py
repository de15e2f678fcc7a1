"""Methods that step on the device."""

from vijax.algorithms.gradient import Gradient, Optimizer

__all__ = ["Gradient", "Optimizer"]

"""Methods that step on the device."""

from vijax.algorithms.gradient import Adam, Gradient, Optimizer

__all__ = ["Adam", "Gradient", "Optimizer"]

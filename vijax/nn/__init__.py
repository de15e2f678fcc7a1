"""Networks of `flax.nnx` in model functions."""

from vijax.nn.networks import network

__all__ = ["network"]

"""Networks of `flax.nnx` in model functions."""

from vijax.nn.network import network

__all__ = ["network"]

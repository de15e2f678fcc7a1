"""Networks of `flax.nnx` in model functions."""

from vijax.nn.generative.codes import discrete_codes
from vijax.nn.generative.networks import MLP, UNet, fourier_features
from vijax.nn.generative.quantizers import Codes, FiniteScalarQuantizer, VectorQuantizer
from vijax.nn.generative.sites import diffusion, masked_diffusion
from vijax.nn.networks import network

__all__ = [
    "MLP",
    "Codes",
    "FiniteScalarQuantizer",
    "UNet",
    "VectorQuantizer",
    "diffusion",
    "discrete_codes",
    "fourier_features",
    "masked_diffusion",
    "network",
]

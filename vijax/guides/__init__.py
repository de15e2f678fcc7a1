"""Families of distributions on unconstrained space."""

from vijax.guides.amortized.continuous import Amortized
from vijax.guides.amortized.discrete import AmortizedDiscrete
from vijax.guides.composite import Composite, compose
from vijax.guides.delta import Delta
from vijax.guides.discrete import Discrete, Mixed
from vijax.guides.flow import Flow
from vijax.guides.gaussian.laplace import Laplace
from vijax.guides.gaussian.low_rank import LowRank
from vijax.guides.gaussian.normal import FullRank, MeanField
from vijax.guides.mixture import Mixture
from vijax.guides.names import NAMES, named_discrete, resolve
from vijax.guides.numpyro import BijectionTransform, adapt, as_numpyro
from vijax.guides.particles import Particles
from vijax.guides.structured.asvi import ASVI
from vijax.guides.structured.markov import Markov
from vijax.guides.structured.plates import Plates

__all__ = [
    "ASVI",
    "NAMES",
    "Amortized",
    "AmortizedDiscrete",
    "BijectionTransform",
    "Composite",
    "Delta",
    "Discrete",
    "Flow",
    "FullRank",
    "Laplace",
    "LowRank",
    "Markov",
    "MeanField",
    "Mixed",
    "Mixture",
    "Particles",
    "Plates",
    "adapt",
    "as_numpyro",
    "compose",
    "named_discrete",
    "resolve",
]

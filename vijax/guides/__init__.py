"""Families of distributions on unconstrained space."""

from vijax.guides.amortised import Amortised
from vijax.guides.amortised_discrete import AmortisedDiscrete
from vijax.guides.asvi import ASVI
from vijax.guides.composite import Composite, compose
from vijax.guides.delta import Delta
from vijax.guides.discrete import Discrete, Mixed
from vijax.guides.flow import Flow
from vijax.guides.laplace import Laplace
from vijax.guides.low_rank import LowRank
from vijax.guides.markov import Markov
from vijax.guides.mixture import Mixture
from vijax.guides.names import NAMES, named_discrete, resolve
from vijax.guides.normal import FullRank, MeanField
from vijax.guides.numpyro import BijectionTransform, adapt, as_numpyro
from vijax.guides.particles import Particles
from vijax.guides.plates import Plates

__all__ = [
    "ASVI",
    "NAMES",
    "Amortised",
    "AmortisedDiscrete",
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

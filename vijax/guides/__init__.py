"""Guides: variational families over the unconstrained latent sites of a model."""

from vijax.guides.amortized.continuous import Amortized
from vijax.guides.amortized.discrete import AmortizedDiscrete
from vijax.guides.amortized.flow import AmortizedFlow
from vijax.guides.amortized.top_down import TopDown
from vijax.guides.composite import Composite, compose
from vijax.guides.conjugate import Conjugate
from vijax.guides.delta import Delta
from vijax.guides.discrete import Discrete, Mixed
from vijax.guides.ensemble import Ensemble
from vijax.guides.flow import Flow
from vijax.guides.location_scale.full_rank import FullRank
from vijax.guides.location_scale.laplace import Laplace
from vijax.guides.location_scale.low_rank import LowRank
from vijax.guides.location_scale.mean_field import MeanField
from vijax.guides.mixture import Mixture
from vijax.guides.numpyro import BijectionTransform, adapt, as_numpyro
from vijax.guides.particles import Particles
from vijax.guides.resolve import NAMES, discrete_guide_sites, resolve
from vijax.guides.structured.asvi import ASVI
from vijax.guides.structured.markov import Markov
from vijax.guides.structured.plates import Plates

__all__ = [
    "ASVI",
    "NAMES",
    "Amortized",
    "AmortizedDiscrete",
    "AmortizedFlow",
    "BijectionTransform",
    "Composite",
    "Conjugate",
    "Delta",
    "Discrete",
    "Ensemble",
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
    "TopDown",
    "adapt",
    "as_numpyro",
    "compose",
    "discrete_guide_sites",
    "resolve",
]

"""Normalizing flows: bijections, architectures composed of them, and the `Flow` guide."""

from vijax.guides.flow.affine import LU, Diagonal, LowRankAffine, Triangular
from vijax.guides.flow.architectures import ARCHITECTURES
from vijax.guides.flow.autoregressive import Autoregressive
from vijax.guides.flow.bijection import Bijection
from vijax.guides.flow.bnaf import BlockNeural
from vijax.guides.flow.chain import Chain, Invert, Repeat
from vijax.guides.flow.coupling import Coupling
from vijax.guides.flow.elementwise import Affine, Composed, Elementwise, Marginal
from vijax.guides.flow.external import ExternalDensityFlow, ExternalFlow, from_functions
from vijax.guides.flow.guide import Flow, FlowParams
from vijax.guides.flow.permutation import Flip, Shuffle
from vijax.guides.flow.planar import Planar, Radial, Sylvester
from vijax.guides.flow.spline import Spline
from vijax.guides.flow.tail_transforms import LOFT, HeavyTails

__all__ = [
    "ARCHITECTURES",
    "LOFT",
    "LU",
    "Affine",
    "Autoregressive",
    "Bijection",
    "BlockNeural",
    "Chain",
    "Composed",
    "Coupling",
    "Diagonal",
    "Elementwise",
    "ExternalDensityFlow",
    "ExternalFlow",
    "Flip",
    "Flow",
    "FlowParams",
    "HeavyTails",
    "Invert",
    "LowRankAffine",
    "Marginal",
    "Planar",
    "Radial",
    "Repeat",
    "Shuffle",
    "Spline",
    "Sylvester",
    "Triangular",
    "from_functions",
]

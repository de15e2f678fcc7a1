"""Flows: bijections, recipes made of them, and the guide that puts one on a Gaussian."""

from vijax.guides.flow.affine import Diagonal, LowRankAffine, Triangular
from vijax.guides.flow.autoregressive import Autoregressive
from vijax.guides.flow.bijection import Bijection
from vijax.guides.flow.bnaf import BlockNeural
from vijax.guides.flow.chain import Chain, Invert, Repeat
from vijax.guides.flow.coupling import Coupling, Marginal
from vijax.guides.flow.elementwise import Affine, Elementwise
from vijax.guides.flow.guide import Flow, FlowParams
from vijax.guides.flow.lu import LU
from vijax.guides.flow.permutation import Flip, Shuffle
from vijax.guides.flow.planar import Planar
from vijax.guides.flow.plugged import Plugged, PluggedDensity, plug
from vijax.guides.flow.radial import Radial
from vijax.guides.flow.recipes import RECIPES
from vijax.guides.flow.spline import Spline
from vijax.guides.flow.sylvester import Sylvester
from vijax.guides.flow.tails import LOFT, HeavyTails

__all__ = [
    "LOFT",
    "LU",
    "RECIPES",
    "Affine",
    "Autoregressive",
    "Bijection",
    "BlockNeural",
    "Chain",
    "Coupling",
    "Diagonal",
    "Elementwise",
    "Flip",
    "Flow",
    "FlowParams",
    "HeavyTails",
    "Invert",
    "LowRankAffine",
    "Marginal",
    "Planar",
    "Plugged",
    "PluggedDensity",
    "Radial",
    "Repeat",
    "Shuffle",
    "Spline",
    "Sylvester",
    "Triangular",
    "plug",
]

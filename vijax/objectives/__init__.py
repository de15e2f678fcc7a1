"""Objectives: the negative ELBO, other divergences and bounds, as losses to be minimized."""

from vijax.objectives.cubo import CUBO
from vijax.objectives.elbo import ELBO
from vijax.objectives.estimators import discrete
from vijax.objectives.f_divergence import FDivergence
from vijax.objectives.forward_kl import ForwardKL
from vijax.objectives.free_bits import FreeBits
from vijax.objectives.iwae import IWAE
from vijax.objectives.renyi import Renyi
from vijax.objectives.score_function import ScoreELBO
from vijax.objectives.stein import Stein
from vijax.objectives.tempered import Tempered

__all__ = [
    "CUBO",
    "ELBO",
    "IWAE",
    "FDivergence",
    "ForwardKL",
    "FreeBits",
    "Renyi",
    "ScoreELBO",
    "Stein",
    "Tempered",
    "discrete",
]

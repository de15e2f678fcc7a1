"""NumPyro guides as vijax guides, and vijax guides and bijections as NumPyro objects."""

from vijax.guides.numpyro.adapt import adapt
from vijax.guides.numpyro.autoguide import NumPyroAuto
from vijax.guides.numpyro.export import as_numpyro
from vijax.guides.numpyro.guide_function import NumPyroFunction, rebound
from vijax.guides.numpyro.optimizer import as_optax
from vijax.guides.numpyro.transform import BijectionTransform

__all__ = [
    "BijectionTransform",
    "NumPyroAuto",
    "NumPyroFunction",
    "adapt",
    "as_numpyro",
    "as_optax",
    "rebound",
]

"""NumPyro guides as vijax guides, and the other way round."""

from vijax.guides.numpyro.adapt import adapt
from vijax.guides.numpyro.auto import NumPyroAuto
from vijax.guides.numpyro.export import as_numpyro
from vijax.guides.numpyro.function import NumPyroFunction
from vijax.guides.numpyro.transform import BijectionTransform

__all__ = ["BijectionTransform", "NumPyroAuto", "NumPyroFunction", "adapt", "as_numpyro"]

"""NumPyro guides as vijax guides, and the other way round."""

from vijax.guides.numpyro.adapt import adapt
from vijax.guides.numpyro.auto import NumPyroAuto
from vijax.guides.numpyro.export import as_numpyro
from vijax.guides.numpyro.function import NumPyroFunction

__all__ = ["NumPyroAuto", "NumPyroFunction", "adapt", "as_numpyro"]

"""NumPyro model functions become targets over unconstrained space."""

from vijax.model.arguments import Arguments, split, unwrap
from vijax.model.target import build

__all__ = ["Arguments", "build", "split", "unwrap"]

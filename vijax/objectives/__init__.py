"""What is minimised."""

from vijax.objectives.elbo import ELBO

__all__ = ["ELBO"]

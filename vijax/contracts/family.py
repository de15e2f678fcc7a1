"""The distribution of a discrete site in a guide."""

from __future__ import annotations

from typing import Protocol

from jax import Array


class Family(Protocol):
    """Independent discrete variables: a pytree of parameter arrays (see `vijax.families`)."""

    @property
    def size(self) -> int | None:
        """Number of values of each variable, `None` if there are infinitely many."""

    def draw(self, key: Array) -> Array:
        """One draw of the site's shape: indices of values (counts if infinitely many)."""

    def log_prob(self, values: Array) -> Array:
        """Log probability of each variable's value, of the site's shape."""

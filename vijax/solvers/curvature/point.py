"""A point at which curvature is computed, with some rows of the data."""

from __future__ import annotations

from typing import NamedTuple

from jax import Array

from vijax.contracts import Batch, Position, PyTree, Target


class Point(NamedTuple):
    """Arguments of a log density.

    Attributes:
        z: latents by site.
        batch: the rows.
        model: the model's `param` sites.
        mutable: its mutable state.
        key: randomness of estimates.
    """

    z: Position
    batch: Batch
    model: dict[str, PyTree]
    mutable: dict[str, PyTree]
    key: Array

    def fisher_root(self, target: Target, z: Position) -> dict[str, Array]:
        """See `Target.fisher_root`, with some latents replaced by those of `z`."""
        return target.fisher_root({**self.z, **z}, self.batch, self.model, self.mutable, self.key)

    def log_density(self, target: Target, z: Position) -> Array:
        """The log density likewise."""
        return target.log_density({**self.z, **z}, self.batch, self.model, self.mutable)

    def terms(self, target: Target, z: Position) -> dict[str, Array]:
        """The terms of the log density likewise, by name."""
        return target.terms({**self.z, **z}, self.batch, self.model, self.mutable).values

"""The point mass (delta) guide: maximum a posteriori estimation."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from vijax.contracts import Batch, Draw, Guide, Position, Space


class DeltaParams(NamedTuple):
    """`loc`: the point, the value of every site with its `z_shape`."""

    loc: Position


@dataclasses.dataclass(frozen=True)
class Delta(Guide):
    """Point mass at one position in unconstrained space: the MAP estimate.

    `log_q` is zero, so the "ELBO" is the log joint density at the point. The mode is that *in
    unconstrained space*, `log |Jacobian|` included; modes depend on the parameterization, so it
    differs from the mode in constrained space (which may not even exist, for a scale near zero or
    a probability near 0 or 1). A point mass has no density: this is a `Guide`, not a
    `DensityGuide`, and its draws carry no uncertainty.

    >>> Delta()
    Delta()
    """

    def init(
        self, key: Array, space: Space, location: Position, batch: Batch | None = None
    ) -> DeltaParams:
        return DeltaParams({site.name: jnp.asarray(location[site.name]) for site in space.sites})

    def row_axes(self, params: DeltaParams, space: Space, plates: Collection[str]) -> DeltaParams:
        axes: dict[str, Any] = {site.name: site.axes(plates) for site in space.sites}
        return DeltaParams(axes)

    def draw(self, params: DeltaParams, space: Space, key: Array, batch: Batch) -> Draw:
        dtype = jnp.result_type(float, *params.loc.values())  # there may be none
        return Draw(dict(params.loc), jnp.zeros((), dtype))

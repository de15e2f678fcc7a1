"""The point mass: maximum a posteriori estimation."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import Array

from vijax.contracts import Batch, Draw, Guide, Position, Space


class DeltaParams(NamedTuple):
    """`loc`, the point: the value of every site, with its `z_shape`."""

    loc: Position


@dataclasses.dataclass(frozen=True)
class Delta(Guide):
    """All mass on one point of unconstrained space (MAP).

    `log_q` is zero, so the "ELBO" is the log joint density at the point and nothing is subtracted.
    It is the mode *in unconstrained space*, `log |Jacobian|` included; the mode of a density moves
    with the coordinates, so it differs from the mode in the sites' own units (which for a scale
    near zero, or a probability near 0 or 1, may not even exist). A point has no density: this is
    a `Guide`, not a `DensityGuide`, and its draws say nothing about uncertainty.

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
        return Draw(dict(params.loc), jnp.zeros((), jnp.result_type(*params.loc.values())))

"""Automatic structured VI: the model's own conditionals, moved towards what the data say."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vijax.contracts import Batch, Draw, ModelGuide, Position, Space, Target
from vijax.guides.gaussian.normal import MeanField, MeanFieldParams, require_positive
from vijax.runtime.errors import GuideError, mismatch


class ASVIParams(NamedTuple):
    """Of the independent coordinates, and by site the logits of their weights, `z_shape`."""

    own: MeanFieldParams
    logits: Position


@dataclasses.dataclass(frozen=True)
class ASVI(ModelGuide):
    """Each site's prior given the sites before it, with parameters drawn towards free ones.

    Where a site has a prior with location `l` and scale `s`, given what has been sampled before it,
    its unconstrained value is `x ~ Normal((1 - c s^(1-c)) l + s^(1-c) m, s^(1-c) d)` with a learned
    weight `c` in (0, 1), mean `m` and spread `d` for every coordinate: the prior's own conditional,
    shifted and scaled, at `c = 0`, an independent normal at `c = 1`. What the prior couples stays
    coupled, as in a chain or a hierarchy, at the cost of a mean-field guide and a few runs of the
    model. Other sites are independent normals. This is the convex update of the paper for families
    of location and scale, with one weight for both and geometric in the scale: a mean-field guide
    in coordinates whose centering is learned along (`vijax.model.tracing.location_scale`). Source: Automatic
    Structured Variational Inference, Ambrogioni, Lin, Fertig, Vikram, Hinne, Moore, van Gerven,
    2021.

    Args:
        init_scale: standard deviation of every coordinate at the start.
        target: the model; filled in by `vijax.fit`.

    >>> ASVI()
    ASVI(init_scale=0.1)
    """

    init_scale: float = 0.1
    target: Target | None = dataclasses.field(default=None, repr=False)

    def __post_init__(self) -> None:
        require_positive("init_scale", self.init_scale)

    def bind(self, target: Target, space: Space) -> ASVI:
        if space != target.space:
            rest = [name for name in target.space.names if name not in space.names]
            expected = "all sites, which it takes in the model's own order"
            raise GuideError(mismatch("ASVI", expected, f"all but {rest}"))
        return dataclasses.replace(self, target=target)

    def init(
        self, key: Array, space: Space, location: Position, batch: Batch | None = None
    ) -> ASVIParams:
        own = MeanField(self.init_scale).init(key, space, location, batch)
        logits = {
            name: jnp.zeros_like(own.loc[name]) for name in self._bound.structure.location_scale
        }
        return ASVIParams(own, logits)

    def draw(self, params: ASVIParams, space: Space, key: Array, batch: Batch) -> Draw:
        drawn = MeanField().draw(params.own, space, key, batch)
        there = _coordinates(params, batch)
        z = self._moved(drawn.z, there, batch)
        return Draw(z, drawn.log_q - self._log_det(drawn.z, there) + self._log_det(z, batch))

    def log_prob(self, params: ASVIParams, space: Space, z: Position, batch: Batch) -> Array:
        there = _coordinates(params, batch)
        own = self._moved(z, batch, there)
        log_q = MeanField().log_prob(params.own, space, own, batch)
        return log_q - self._log_det(own, there) + self._log_det(z, batch)

    @property
    def _bound(self) -> Target:
        if self.target is None:
            expected = "the model's target"
            raise GuideError(mismatch("ASVI", expected, "none", "Pass it to vijax.fit as guide=."))
        return self.target

    def _moved(self, z: Position, here: Batch, there: Batch) -> Position:
        """A position in other coordinates: the same values of all sites."""
        values = self._bound.constrain(z, here, {}, {})
        latent = {name: values[name] for name in self._bound.space.names}
        return self._bound.unconstrain(latent, there, {}, {})

    def _log_det(self, z: Position, batch: Batch) -> Array:
        return sum(self._bound.log_dets(z, batch, {}, {}).values(), jnp.zeros(()))


def _coordinates(params: ASVIParams, batch: Batch) -> Batch:
    return batch._replace(centering=jax.tree.map(jax.nn.sigmoid, params.logits))

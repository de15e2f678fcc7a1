"""Automatic structured variational inference (ASVI)."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vijax.contracts import Batch, Draw, ModelGuide, Position, Space, Target
from vijax.guides.checks import require_positive
from vijax.guides.location_scale.mean_field import MeanField, MeanFieldParams
from vijax.runtime.errors import GuideError, mismatch


class ASVIParams(NamedTuple):
    """Mean-field parameters, and by site the logits of the prior weights, `z_shape`."""

    mean_field: MeanFieldParams
    logits: Position


@dataclasses.dataclass(frozen=True)
class ASVI(ModelGuide):
    """Prior conditionals with parameters interpolated between the prior's and free ones.

    For a site whose prior given the preceding sites has location `l` and scale `s`, the
    unconstrained value is `x ~ Normal((1 - c s^(1-c)) l + s^(1-c) m, s^(1-c) d)` with a fitted
    weight `c` in (0, 1), mean `m` and standard deviation `d` for every coordinate: at `c = 0` the
    prior conditional, shifted and scaled, at `c = 1` an independent normal. Prior dependence, as
    in a chain or a hierarchy, is preserved at the cost of a mean-field guide and a few evaluations
    of the model. Other sites are independent normals. This is the convex update of the paper for
    location-scale families, with one weight for both parameters and geometric in the scale. It
    equals a mean-field guide in coordinates whose centering is fitted jointly
    (`vijax.model.tracing.location_scale`). Source: Automatic Structured Variational Inference,
    Ambrogioni, Lin, Fertig, Vikram, Hinne, Moore, van Gerven, 2021.

    Args:
        init_scale: standard deviation of every coordinate at the start.
        target: the target; set by `vijax.fit`.

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
            expected = "all sites of the model"
            raise GuideError(mismatch("ASVI", expected, f"all but {rest}"))
        return dataclasses.replace(self, target=target)

    def init(
        self, key: Array, space: Space, location: Position, batch: Batch | None = None
    ) -> ASVIParams:
        mean_field = MeanField(self.init_scale).init(key, space, location, batch)
        logits = {
            name: jnp.zeros_like(mean_field.loc[name])
            for name in self._bound_target.structure.location_scale
        }
        return ASVIParams(mean_field, logits)

    def draw(self, params: ASVIParams, space: Space, key: Array, batch: Batch) -> Draw:
        draw = MeanField().draw(params.mean_field, space, key, batch)
        fitted = _fitted_centering(params, batch)
        z = self._recenter(draw.z, fitted, batch)
        return Draw(z, draw.log_q - self._log_det(draw.z, fitted) + self._log_det(z, batch))

    def log_prob(self, params: ASVIParams, space: Space, z: Position, batch: Batch) -> Array:
        fitted = _fitted_centering(params, batch)
        recentered = self._recenter(z, batch, fitted)
        log_q = MeanField().log_prob(params.mean_field, space, recentered, batch)
        return log_q - self._log_det(recentered, fitted) + self._log_det(z, batch)

    @property
    def _bound_target(self) -> Target:
        if self.target is None:
            expected = "the model's target"
            raise GuideError(mismatch("ASVI", expected, "none", "Pass it to vijax.fit as guide=."))
        return self.target

    def _recenter(self, z: Position, current: Batch, new: Batch) -> Position:
        """The position of the same constrained values under the centering of `new`."""
        values = self._bound_target.constrain(z, current, {}, {})
        latent = {name: values[name] for name in self._bound_target.space.names}
        return self._bound_target.unconstrain(latent, new, {}, {})

    def _log_det(self, z: Position, batch: Batch) -> Array:
        return sum(self._bound_target.log_dets(z, batch, {}, {}).values(), jnp.zeros(()))


def _fitted_centering(params: ASVIParams, batch: Batch) -> Batch:
    """The batch with the fitted centering weights."""
    return batch._replace(centering=jax.tree.map(jax.nn.sigmoid, params.logits))

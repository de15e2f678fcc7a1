"""Ensembles: the same guide, fitted several times from different starts."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from vijax.contracts import Batch, DensityGuide, Draw, EnsembleGuide, Guide, Position, PyTree, Space
from vijax.guides.delta import Delta
from vijax.runtime.checks import check_count
from vijax.runtime.errors import GuideError, mismatch


@dataclasses.dataclass(frozen=True)
class Ensemble(EnsembleGuide):
    """Independent fits of one guide, of which every draw takes one at random.

    Of point estimates that is a deep ensemble, the usual yardstick of Bayesian networks: simple,
    and hard to beat. All members take their steps in one program; each starts at weights of its own
    and meets the same minibatches. Source: Simple and Scalable Predictive Uncertainty Estimation
    using Deep Ensembles, Lakshminarayanan, Pritzel and Blundell, 2017.

    Args:
        num_members: number of fits.
        member: guide of each: point estimates by default, or `MeanField()` for a mixture of
            mean-field Gaussians with equal weights.

    Raises:
        GuideError: `member` is no guide that can be fitted by itself.

    >>> Ensemble(5).member
    Delta()
    """

    num_members: int = 10
    member: Guide = Delta()

    def __post_init__(self) -> None:
        check_count("num_members", self.num_members)
        if not isinstance(self.member, Delta | DensityGuide):
            expected = "point estimates or a guide with a density, such as MeanField()"
            raise GuideError(mismatch("member", expected, repr(self.member)))

    @property
    def num_starts(self) -> int:  # type: ignore[override]
        return self.num_members

    def point_guide(self, space: Space) -> Guide:
        if self.member.point_guide(space) is not self.member:
            expected = "point estimates or a guide that steps fit"
            raise GuideError(mismatch("Ensemble, member", expected, repr(self.member)))
        return self

    def init(
        self, key: Array, space: Space, location: Position, batch: Batch | None = None
    ) -> PyTree:
        keys = jax.random.split(key, self.num_members)
        return jax.vmap(lambda k, at: self.member.init(k, space, at, batch))(keys, location)

    def draw(self, params: PyTree, space: Space, key: Array, batch: Batch) -> Draw:
        of_member, of_draw = jax.random.split(key)
        number = jax.random.randint(of_member, (), 0, self.num_members)
        own = jax.tree.map(lambda leaf: leaf[number], params)
        draw = self.member.draw(own, space, of_draw, batch)
        if not isinstance(self.member, DensityGuide):
            return draw
        return draw._replace(log_q=self._log_prob(self.member, params, space, draw.z, batch))

    def _log_prob(
        self, member: DensityGuide, params: PyTree, space: Space, z: Position, batch: Batch
    ) -> Array:
        """That of the mixture."""

        def log_prob(own: Any) -> Array:
            return member.log_prob(own, space, z, batch)

        return jax.nn.logsumexp(jax.vmap(log_prob)(params)) - jnp.log(self.num_members)

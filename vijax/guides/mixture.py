"""A mixture of guides, for posteriors with several modes."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.contracts import (
    Batch,
    DensityGuide,
    Draw,
    HostDraws,
    MixtureGuide,
    Position,
    PyTree,
    Space,
)
from vijax.runtime.errors import GuideError, mismatch


class MixtureParams(NamedTuple):
    """Unnormalized log weights `(num_components,)`, and the parameters of each component."""

    logits: Array
    components: tuple[PyTree, ...]


@dataclasses.dataclass(frozen=True)
class Mixture(MixtureGuide):
    """`q(z) = sum_k w_k q_k(z)`, with the exact density of the whole mixture.

    The automatic fit makes one where paths end in separate modes, with weights from the evidence
    of each; `vijax.stack` makes one of several fits. Gradient steps of the ELBO draw from every
    component and thus move the weights, too. Other objectives leave these as they are: which
    component a draw is from is a discrete choice, through which no gradient passes.

    Args:
        components: guides with a density, at least one.

    Raises:
        GuideError: there is none, or one has no density.
    """

    components: tuple[DensityGuide, ...]

    def __post_init__(self) -> None:
        if not self.components:
            raise GuideError(mismatch("components", "at least one guide", "none"))
        for guide in self.components:
            if not isinstance(guide, DensityGuide):
                raise GuideError(mismatch("components", "guides with a density", repr(guide)))

    def init(
        self, key: Array, space: Space, location: Position, batch: Batch | None = None
    ) -> MixtureParams:
        keys = jax.random.split(key, len(self.components))
        params = []
        for i, guide in enumerate(self.components):
            # components that start alike would stay alike
            vector = space.ravel(location)
            moved = vector + (
                0.5 * jax.random.normal(keys[i], vector.shape, vector.dtype) if i else 0
            )
            params.append(guide.init(keys[i], space, space.unravel(moved), batch))
        return MixtureParams(jnp.zeros(len(self.components)), tuple(params))

    def draw(self, params: MixtureParams, space: Space, key: Array, batch: Batch) -> Draw:
        choice_key, key = jax.random.split(key)
        choice = jax.random.categorical(choice_key, jax.lax.stop_gradient(params.logits))
        draws = self._parts(params, space, key, batch)
        z = jax.tree.map(lambda *options: jnp.stack(options)[choice], *draws)
        return Draw(z, self.log_prob(params, space, z, batch))

    def component_draws(
        self, params: MixtureParams, space: Space, key: Array, batch: Batch
    ) -> tuple[Array, list[Draw]]:
        points = self._parts(params, space, key, batch)
        draws = [Draw(z, self.log_prob(params, space, z, batch)) for z in points]
        return jax.nn.log_softmax(params.logits), draws

    def log_prob(self, params: MixtureParams, space: Space, z: Position, batch: Batch) -> Array:
        log_weights = jax.nn.log_softmax(jax.lax.stop_gradient(params.logits))
        log_probs = [guide.log_prob(part, space, z, batch) for guide, part in self._pairs(params)]
        return jax.nn.logsumexp(log_weights + jnp.stack(log_probs))

    def host_draws(
        self, params: MixtureParams, space: Space, rng: np.random.Generator, num_draws: int
    ) -> HostDraws | None:
        weights = np.exp(np.asarray(params.logits, np.float64))
        counts = rng.multinomial(num_draws, weights / weights.sum())
        made = [
            guide.host_draws(part, space, rng, int(count))
            for (guide, part), count in zip(self._pairs(params), counts, strict=True)
        ]
        if any(draws is None for draws in made):
            return None
        points = np.concatenate([draws.points for draws in made if draws is not None])
        log_probs = [
            guide.host_log_prob(part, space, points) for guide, part in self._pairs(params)
        ]
        if any(one is None for one in log_probs):
            return None
        stacked = np.stack([one for one in log_probs if one is not None], axis=1)
        log_q = np.logaddexp.reduce(stacked + np.log(weights / weights.sum()), axis=1)
        order = rng.permutation(num_draws)
        labels = np.repeat(np.arange(len(counts)), counts)
        return HostDraws(points[order], log_q[order], labels[order])

    def _parts(
        self, params: MixtureParams, space: Space, key: Array, batch: Batch
    ) -> list[Position]:
        """A draw from every component."""
        return [
            guide.draw(part, space, jax.random.fold_in(key, i), batch).z
            for i, (guide, part) in enumerate(self._pairs(params))
        ]

    def _pairs(self, params: MixtureParams) -> list[tuple[DensityGuide, PyTree]]:
        return list(zip(self.components, params.components, strict=True))

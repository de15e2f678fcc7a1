"""The mixture guide, for multimodal posteriors."""

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
    """Unnormalized log mixture weights `(num_components,)`, and each component's parameters."""

    logits: Array
    components: tuple[PyTree, ...]


@dataclasses.dataclass(frozen=True)
class Mixture(MixtureGuide):
    """Mixture of guides: `q(z) = sum_k w_k q_k(z)`, with its exact density.

    `guide="auto"` constructs one when optimization paths end in separate modes, weighted by the
    evidence of each; `vijax.stack` constructs one from several fits. Gradient steps on the ELBO
    draw from every component and so fit the weights too. Other objectives leave the weights fixed:
    the component of a draw is a discrete variable, through which no gradient passes.

    Args:
        components: guides with a density, at least one.

    Raises:
        GuideError: there are no components, or one has no density.
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
            # components with equal initial parameters would stay equal
            vector = space.ravel(location)
            perturbed = vector + (
                0.5 * jax.random.normal(keys[i], vector.shape, vector.dtype) if i else 0
            )
            params.append(guide.init(keys[i], space, space.unravel(perturbed), batch))
        return MixtureParams(jnp.zeros(len(self.components)), tuple(params))

    def draw(self, params: MixtureParams, space: Space, key: Array, batch: Batch) -> Draw:
        component_key, key = jax.random.split(key)
        component = jax.random.categorical(component_key, jax.lax.stop_gradient(params.logits))
        draws = self._component_draws(params, space, key, batch)
        z = jax.tree.map(lambda *options: jnp.stack(options)[component], *draws)
        return Draw(z, self.log_prob(params, space, z, batch))

    def component_draws(
        self, params: MixtureParams, space: Space, key: Array, batch: Batch
    ) -> tuple[Array, list[Draw]]:
        points = self._component_draws(params, space, key, batch)
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
        parts = [
            guide.host_draws(part, space, rng, int(count))
            for (guide, part), count in zip(self._pairs(params), counts, strict=True)
        ]
        if any(draws is None for draws in parts):
            return None
        points = np.concatenate([draws.points for draws in parts if draws is not None])
        log_q = self.host_log_prob(params, space, points)
        if log_q is None:
            return None
        order = rng.permutation(num_draws)
        labels = np.repeat(np.arange(len(counts)), counts)
        return HostDraws(points[order], log_q[order], labels[order])

    def host_log_prob(
        self, params: MixtureParams, space: Space, points: np.ndarray
    ) -> np.ndarray | None:
        weights = np.exp(np.asarray(params.logits, np.float64))
        log_probs = [
            guide.host_log_prob(part, space, points) for guide, part in self._pairs(params)
        ]
        if any(log_prob is None for log_prob in log_probs):
            return None
        stacked = np.stack([x for x in log_probs if x is not None], axis=1)
        return np.logaddexp.reduce(stacked + np.log(weights / weights.sum()), axis=1)

    def _component_draws(
        self, params: MixtureParams, space: Space, key: Array, batch: Batch
    ) -> list[Position]:
        """One draw from every component."""
        return [
            guide.draw(part, space, jax.random.fold_in(key, i), batch).z
            for i, (guide, part) in enumerate(self._pairs(params))
        ]

    def _pairs(self, params: MixtureParams) -> list[tuple[DensityGuide, PyTree]]:
        return list(zip(self.components, params.components, strict=True))

"""Latents of a row inferred from the row's own data, by one network for all rows."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vijax.contracts import (
    AmortizedGuide,
    Axes,
    Batch,
    Draw,
    MeanFieldGuide,
    NormalNoiseGuide,
    Position,
    PyTree,
    RowGuide,
    Space,
)
from vijax.guides.amortized.encoder import Encoder, Inputs, check_encoder, encoded, one_level, start
from vijax.guides.gaussian.normal import MeanField, MeanFieldParams, require_positive
from vijax.guides.structured.levels import Level, cut, join
from vijax.runtime.keys import normals

_LOG_2PI = math.log(2 * math.pi)


class AmortizedParams(NamedTuple):
    """The encoder's weights, and `gate` `(width,)`, which its log scales are multiplied by.

    The gate starts at zero: weights drawn at random would start some rows with scales that
    overflow, from which the fit takes thousands of steps to recover.
    """

    encoder: PyTree
    gate: Array


@dataclasses.dataclass(frozen=True)
class Amortized(AmortizedGuide, RowGuide, MeanFieldGuide, NormalNoiseGuide):
    """`q(z_i | x_i) = N(loc(x_i), diag(scale(x_i)^2))` with `(loc, log scale) = encoder(x_i)`.

    For the latents of a plate with many rows: a step costs as much as its batch, the number of
    parameters does not depend on that of the rows, and rows that the fit has not seen are inferred
    as well as those it has, `posterior.predict(key, *new_rows)`. What the encoder cannot express
    is lost to every row (the amortization gap); a mean-field fit with `init=posterior` starts
    there and closes it. Source: Auto-Encoding Variational Bayes, Kingma, Welling, 2014; on the gap,
    Inference Suboptimality in Variational Autoencoders, Cremer, Li, Duvenaud, 2018.

    Args:
        encoder: `rngs -> module`, which makes a `flax.nnx` module that takes the inputs, `(rows,
            ...)` each, to `(rows, 2 width)`, where `width` counts the latents' unconstrained
            coordinates in a row, sites in order: all locations, then all log scales. A class, or a
            function defined once: equal ones make equal guides. Only `nnx.Param` is fitted;
            modules with other state, as of dropout or batch normalization, are refused.
        inputs: name or names of the array arguments whose rows it sees, in order. Where values are
            missing let one of them be the mask.
        init_scale: standard deviation of every coordinate at the start.

    Raises:
        GuideError: on use, if the sites are not those of one plate, an input is not an array of
            the model with a row for each of its rows, or the encoder's outputs have another shape.
    """

    factorized: ClassVar[bool] = True
    encoder: Encoder
    inputs: Inputs
    init_scale: float = 0.3

    def __post_init__(self) -> None:
        require_positive("init_scale", self.init_scale)
        check_encoder(self.encoder)

    def init(
        self, key: Array, space: Space, location: Position, batch: Batch | None = None
    ) -> AmortizedParams:
        weights = start(self.encoder, key)
        gate = jnp.zeros(self._level(space).width, jnp.result_type(float))
        return AmortizedParams(weights, gate)

    def row_axes(
        self, params: AmortizedParams, space: Space, plates: Collection[str]
    ) -> AmortizedParams:
        return jax.tree.map(lambda _: Axes(), params)  # one network serves all rows

    def draw(self, params: AmortizedParams, space: Space, key: Array, batch: Batch) -> Draw:
        loc, log_scale = self._encode(params, space, batch)
        noise = normals(key, loc.shape, loc.dtype)
        z = join(space, [loc + jnp.exp(log_scale) * noise])
        log_q = jnp.sum(_log_normals(noise, log_scale))
        return Draw(z, space.sites[0].scale * log_q)

    def log_prob(self, params: AmortizedParams, space: Space, z: Position, batch: Batch) -> Array:
        return space.sites[0].scale * jnp.sum(self.row_log_probs(params, space, z, batch))

    def row_log_probs(
        self, params: AmortizedParams, space: Space, z: Position, batch: Batch
    ) -> Array:
        return jnp.sum(self._log_probs(params, space, z, batch), axis=1)

    def site_log_probs(
        self, params: AmortizedParams, space: Space, z: Position, batch: Batch
    ) -> dict[str, Array]:
        return join(space, [self._log_probs(params, space, z, batch)])

    @property
    def row_guide(self) -> MeanField:
        return MeanField()

    def row_params(self, params: AmortizedParams, space: Space, batch: Batch) -> MeanFieldParams:
        loc, log_scale = (join(space, [one]) for one in self._encode(params, space, batch))
        return MeanFieldParams(loc, log_scale)

    def _log_probs(self, params: AmortizedParams, space: Space, z: Position, batch: Batch) -> Array:
        """Log density of every coordinate of every row in use, `(rows, width)`."""
        loc, log_scale = self._encode(params, space, batch)
        (values,) = cut(space, z)
        return _log_normals((values - loc) * jnp.exp(-log_scale), log_scale)

    def _encode(self, params: AmortizedParams, space: Space, batch: Batch) -> tuple[Array, Array]:
        """Locations and log scales of every row in use, `(rows, width)` each."""
        level = self._level(space)
        width = 2 * level.width
        outputs = encoded(self.encoder, params.encoder, self.inputs, level, width, batch)
        loc, log_scale = jnp.split(outputs, 2, axis=1)
        return loc, params.gate * log_scale + math.log(self.init_scale)

    def _level(self, space: Space) -> Level:
        return one_level(space, "Amortized")


def _log_normals(noise: Array, log_scale: Array) -> Array:
    return -(0.5 * noise**2 + log_scale + 0.5 * _LOG_2PI)

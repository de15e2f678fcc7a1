"""The amortized Gaussian guide: a network from the data of a row to its local latents."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, NamedTuple

import jax.numpy as jnp
from jax import Array

from vijax.contracts import (
    AmortizedGuide,
    Batch,
    Draw,
    MeanFieldGuide,
    NormalNoiseGuide,
    Position,
    PyTree,
    RowGuide,
    Space,
)
from vijax.guides.amortized.encoder import (
    Encoder,
    Inputs,
    check_encoder,
    encode,
    has_statistics,
    init_encoder,
    single_plate_level,
    updated_statistics,
)
from vijax.guides.checks import require_positive
from vijax.guides.location_scale.gaussian_density import LOG_2PI
from vijax.guides.location_scale.mean_field import MeanField, MeanFieldParams
from vijax.guides.structured.plate_levels import Level, join_levels, split_levels
from vijax.runtime.keys import normals


class AmortizedParams(NamedTuple):
    """The encoder's parameters, and `gate` `(width,)`, a factor of its log scales.

    The gate starts at zero: random network weights would give some rows scales that overflow,
    from which a fit takes thousands of steps to recover.
    """

    encoder: PyTree
    gate: Array


@dataclasses.dataclass(frozen=True)
class Amortized(AmortizedGuide, RowGuide, MeanFieldGuide, NormalNoiseGuide):
    """Amortized Gaussian: `q(z_i | x_i) = N(loc(x_i), diag(scale(x_i)^2))`.

    `(loc, log scale) = encoder(x_i)`. For the local latents of a plate with many rows: the cost of
    a step is that of its minibatch, the number of parameters does not depend on the number of
    rows, and the posterior of new rows is available without a new fit,
    `posterior.predict(*new_rows)`. The encoder's limited capacity lowers the ELBO of every
    row (the amortization gap); a mean-field fit with `init=posterior` starts from the encoder's
    output and closes the gap. Sources: Auto-Encoding Variational Bayes, Kingma, Welling, 2014; on
    the gap, Inference Suboptimality in Variational Autoencoders, Cremer, Li, Duvenaud, 2018.

    Args:
        encoder: `rngs -> module`, a function that returns a `flax.nnx` module. The module maps the
            inputs, `(rows, ...)` each, to `(rows, 2 width)`, where `width` is the number of
            unconstrained coordinates in a row, sites in order: all locations, then all log scales.
            A class, or a function defined once: guides with equal functions are equal. Dropout
            (`nnx.Dropout`, with one mask for all draws of a step) is on in gradient steps only, in
            which `nnx.BatchNorm` has the statistics of the batch, and elsewhere running ones.
        inputs: name or names of the array arguments whose rows are the encoder's inputs, in order.
            With missing values, include the mask.
        init_scale: standard deviation of every coordinate at the start.

    Raises:
        GuideError: on use, if the sites are not those of one plate, an input is not an array of
            the model with a row for each of its rows, or the encoder's outputs have another shape.
    """

    factorized: ClassVar[bool] = True
    num_starts: ClassVar[int] = 0
    encoder: Encoder
    inputs: Inputs
    init_scale: float = 0.3

    def __post_init__(self) -> None:
        require_positive("init_scale", self.init_scale)
        check_encoder(self.encoder)

    def init(
        self, key: Array, space: Space, location: Position, batch: Batch | None = None
    ) -> AmortizedParams:
        encoder_params = init_encoder(self.encoder, key)
        gate = jnp.zeros(self._level(space).width, jnp.result_type(float))
        return AmortizedParams(encoder_params, gate)

    def draw(self, params: AmortizedParams, space: Space, key: Array, batch: Batch) -> Draw:
        loc, log_scale = self._encode(params, space, batch)
        noise = normals(key, loc.shape, loc.dtype)
        z = join_levels(space, [loc + jnp.exp(log_scale) * noise])
        log_q = jnp.sum(normal_log_probs(noise, log_scale))
        return Draw(z, space.sites[0].scale * log_q)

    def row_log_probs(
        self, params: AmortizedParams, space: Space, z: Position, batch: Batch
    ) -> Array:
        return jnp.sum(self._log_probs(params, space, z, batch), axis=1)

    def site_log_probs(
        self, params: AmortizedParams, space: Space, z: Position, batch: Batch
    ) -> dict[str, Array]:
        return join_levels(space, [self._log_probs(params, space, z, batch)])

    @property
    def has_statistics(self) -> bool:
        return has_statistics(self.encoder)

    def updated_statistics(
        self, params: AmortizedParams, before: AmortizedParams, space: Space, batch: Batch
    ) -> AmortizedParams:
        state = (params.encoder, before.encoder, self.inputs, self._level(space), batch)
        return params._replace(encoder=updated_statistics(self.encoder, *state))

    @property
    def row_guide(self) -> MeanField:
        return MeanField()

    def row_params(self, params: AmortizedParams, space: Space, batch: Batch) -> MeanFieldParams:
        loc, log_scale = (
            join_levels(space, [values]) for values in self._encode(params, space, batch)
        )
        return MeanFieldParams(loc, log_scale)

    def _log_probs(self, params: AmortizedParams, space: Space, z: Position, batch: Batch) -> Array:
        """Log density of every coordinate of every row in use, `(rows, width)`."""
        loc, log_scale = self._encode(params, space, batch)
        (values,) = split_levels(space, z)
        return normal_log_probs((values - loc) * jnp.exp(-log_scale), log_scale)

    def _encode(self, params: AmortizedParams, space: Space, batch: Batch) -> tuple[Array, Array]:
        """Locations and log scales of every row in use, `(rows, width)` each."""
        level = self._level(space)
        width = 2 * level.width
        outputs = encode(self.encoder, params.encoder, self.inputs, level, width, batch)
        loc, log_scale = jnp.split(outputs, 2, axis=1)
        return loc, params.gate * log_scale + math.log(self.init_scale)

    def _level(self, space: Space) -> Level:
        return single_plate_level(space, "Amortized")


def normal_log_probs(noise: Array, log_scale: Array) -> Array:
    """Elementwise log density at `loc + scale noise`."""
    return -(0.5 * noise**2 + log_scale + 0.5 * LOG_2PI)

"""The hierarchical amortized guide: levels of local latents, the top one first."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.contracts import (
    AmortizedGuide,
    Batch,
    Draw,
    NormalNoiseGuide,
    Position,
    PyTree,
    RowGuide,
    Space,
)
from vijax.guides.amortized.continuous import AmortizedParams, normal_log_probs
from vijax.guides.amortized.encoder import (
    Encoder,
    Inputs,
    check_encoder,
    encode_rows,
    has_statistics,
    init_encoder,
    input_rows,
    single_plate_level,
    training_key,
)
from vijax.guides.checks import require_positive
from vijax.guides.location_scale.mean_field import MeanField, MeanFieldParams
from vijax.guides.structured.plate_levels import join_levels, split_levels
from vijax.runtime import networks
from vijax.runtime.errors import GuideError, mismatch
from vijax.runtime.keys import normals

_Gaussian = tuple[Array, Array]  # locations and log scales, `(rows, width)` each


class TopDownParams(NamedTuple):
    """Parameters of the network that all levels share, `None` without one, and of each level's."""

    features: PyTree
    levels: dict[str, AmortizedParams]


@dataclasses.dataclass(frozen=True)
class TopDown(AmortizedGuide, RowGuide, NormalNoiseGuide):
    """Amortized Gaussians from the top down: `q(z | x) = prod_l q(z_l | x, z_1, ..., z_{l-1})`.

    For autoencoders with several levels of latents, whose prior goes the same way. Each level has
    an encoder, which sees the data of its row and the draws of the levels above, so that their
    dependence in the posterior is represented, which `Amortized` has as independent. Sources:
    Sonderby, Raiko, Maaloe, Sonderby and Winther, 2016; Improved Variational Inference with Inverse
    Autoregressive Flow, Kingma et al., 2016.

    Args:
        encoders: by site, the top one first, `rngs -> module` as for `Amortized`. The module maps
            the inputs of the rows, `(rows, ...)` each, and the unconstrained values of the sites
            above, `(rows, width)` each, in order, to `(rows, 2 width)`: locations, then log scales.
        inputs: name or names of the array arguments whose rows are the encoders' inputs, in order.
        features: `rngs -> module`, what all levels compute of the data (the bottom-up pass): its
            output, any tree of arrays, is the first argument of the encoders in place of the
            inputs.
        init_scale: standard deviation of every coordinate at the start.

    Raises:
        GuideError: on use, if the sites are not those of `encoders`, or not in one plate, an input
            is not an array with its rows, outputs have another shape, or a network has running
            statistics of batches. Dropout is as in `Amortized`.
    """

    num_starts: ClassVar[int] = 0
    encoders: Mapping[str, Encoder] | tuple[tuple[str, Encoder], ...]
    inputs: Inputs
    features: Encoder | None = None
    init_scale: float = 0.3

    def __post_init__(self) -> None:
        require_positive("init_scale", self.init_scale)
        levels = dict(self.encoders)
        if not levels:
            raise GuideError(mismatch("encoders", "an encoder by site", repr(self.encoders)))
        object.__setattr__(self, "encoders", tuple(levels.items()))
        for network in self._networks:
            check_encoder(network)

    def init(
        self, key: Array, space: Space, location: Position, batch: Batch | None = None
    ) -> TopDownParams:
        if any(map(has_statistics, self._networks)):
            raise GuideError(
                "encoders: expected no running statistics, got an nnx.BatchNorm. Use nnx.LayerNorm."
            )
        keys = jax.random.split(key, 1 + len(self.encoders))
        widths = self._widths(space)
        found = {
            name: AmortizedParams(
                init_encoder(encoder, own), jnp.zeros(widths[name], jnp.result_type(float))
            )
            for own, (name, encoder) in zip(keys[1:], self._levels, strict=True)
        }
        shared = None if self.features is None else init_encoder(self.features, keys[0])
        return TopDownParams(shared, found)

    def draw(self, params: TopDownParams, space: Space, key: Array, batch: Batch) -> Draw:
        widths = self._widths(space)
        level = single_plate_level(space, "TopDown")
        noise = self._columns(
            normals(key, (level.rows, sum(widths.values())), jnp.result_type(float)), widths
        )

        def value(name: str, gaussian: _Gaussian) -> Array:
            loc, log_scale = gaussian
            return loc + jnp.exp(log_scale) * noise[name]

        values, gaussians = self._pass(params, space, batch, value)
        log_q = [
            jnp.sum(normal_log_probs(noise[name], log_scale))
            for name, (_, log_scale) in gaussians.items()
        ]
        return Draw(_joined(space, values), space.sites[0].scale * jnp.sum(jnp.stack(log_q)))

    def row_log_probs(
        self, params: TopDownParams, space: Space, z: Position, batch: Batch
    ) -> Array:
        (rows,) = split_levels(space, z)
        widths = self._widths(space)
        order = {name: widths[name] for name in space.names}
        given = self._columns(rows, order)
        _, gaussians = self._pass(params, space, batch, lambda name, _: given[name])
        terms = [
            normal_log_probs((given[name] - loc) * jnp.exp(-log_scale), log_scale).sum(axis=1)
            for name, (loc, log_scale) in gaussians.items()
        ]
        return jnp.sum(jnp.stack(terms), axis=0)

    @property
    def row_guide(self) -> MeanField:
        return MeanField()

    def row_params(self, params: TopDownParams, space: Space, batch: Batch) -> MeanFieldParams:
        """Of each level given the levels above at their locations."""
        _, gaussians = self._pass(params, space, batch, lambda _, gaussian: gaussian[0])
        loc, log_scale = (
            _joined(space, {name: gaussian[i] for name, gaussian in gaussians.items()})
            for i in range(2)
        )
        return MeanFieldParams(loc, log_scale)

    @property
    def _levels(self) -> tuple[tuple[str, Encoder], ...]:
        assert isinstance(self.encoders, tuple)
        return self.encoders

    @property
    def _networks(self) -> tuple[Encoder, ...]:
        shared = () if self.features is None else (self.features,)
        return (*shared, *(encoder for _, encoder in self._levels))

    def _pass(
        self,
        params: TopDownParams,
        space: Space,
        batch: Batch,
        value: Callable[[str, _Gaussian], Array],
    ) -> tuple[dict[str, Array], dict[str, _Gaussian]]:
        """Values and Gaussians by site, given a function from the Gaussian of a site to its value.

        The networks see the values of the sites above.
        """
        level, widths = single_plate_level(space, "TopDown"), self._widths(space)
        rows, training = input_rows(self.inputs, level, batch), training_key(batch)
        if self.features is not None:
            rows = [networks.apply(self.features, params.features, *rows, training=training)]
        values: dict[str, Array] = {}
        gaussians: dict[str, _Gaussian] = {}
        for name, encoder in self._levels:
            own = params.levels[name]
            arguments = [*rows, *values.values()]
            width = 2 * widths[name]
            outputs = encode_rows(encoder, own.encoder, arguments, level, width, training)
            loc, log_scale = jnp.split(outputs, 2, axis=1)
            gaussians[name] = loc, own.gate * log_scale + math.log(self.init_scale)
            values[name] = value(name, gaussians[name])
        return values, gaussians

    def _widths(self, space: Space) -> dict[str, int]:
        """The number of coordinates in a row of each site, the top one first."""
        level = single_plate_level(space, "TopDown")
        names = [name for name, _ in self._levels]
        if set(names) != set(space.names):
            raise GuideError(
                mismatch(
                    "encoders",
                    f"one for each of the sites {list(space.names)}",
                    repr(names),
                    "Assign other sites to another guide.",
                )
            )
        sizes = {site.name: site.size for site in space.sites}
        return {name: sizes[name] // level.rows for name in names}

    @staticmethod
    def _columns(rows: Array, widths: Mapping[str, int]) -> dict[str, Array]:
        """Columns by site, in the order of `widths`."""
        ends = np.cumsum([*widths.values()])[:-1]
        return dict(zip(widths, jnp.split(rows, ends, axis=1), strict=True))


def _joined(space: Space, values: Mapping[str, Array]) -> Position:
    rows = jnp.concatenate([values[name] for name in space.names], axis=1)
    return join_levels(space, [rows])

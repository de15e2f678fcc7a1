"""The amortized flow guide: a normalizing flow that sees what the encoder knows of a row."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

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
    encode,
    has_statistics,
    init_encoder,
    single_plate_level,
    updated_statistics,
)
from vijax.guides.checks import require_positive
from vijax.guides.flow.architectures import as_layers
from vijax.guides.flow.bijection import Bijection
from vijax.guides.flow.conditioner import Dense
from vijax.guides.location_scale.mean_field import MeanField, MeanFieldParams
from vijax.guides.structured.plate_levels import Level, join_levels, split_levels
from vijax.runtime.errors import GuideError, mismatch
from vijax.runtime.keys import draw_keys, normals


class AmortizedFlowParams(NamedTuple):
    """Parameters of the encoder, of the layers, and what features add to the latter.

    Attributes:
        gaussian: as of `Amortized`.
        layers: of the bijection at features of zero.
        links: matrices from features to changes of parameters, as in `_at_features`.
    """

    gaussian: AmortizedParams
    layers: PyTree
    links: PyTree


class _Rows(NamedTuple):
    """What the encoder says of every row in use: `(rows, width)` twice, `(rows, num_features)`."""

    loc: Array
    log_scale: Array
    features: Array


@dataclasses.dataclass(frozen=True)
class AmortizedFlow(AmortizedGuide, RowGuide, NormalNoiseGuide):
    """Amortized normalizing flow: `z_i = loc(x_i) + scale(x_i) f(e_i; h(x_i))`, `e_i ~ N(0, I)`.

    `(loc, log scale, h) = encoder(x_i)`. The bijection `f` depends on the row by its features `h`,
    so that every row has a posterior with its own correlations, skewness and modes, where
    `Amortized` has a Gaussian with independent coordinates. Features change the biases of the
    networks of coupling and autoregressive layers, which is the same as features among the inputs
    of their layers, and all parameters of other layers, such as planar ones; each change is linear
    in the features. The flow starts at the Gaussian. Sources: Variational Inference with
    Normalizing Flows, Rezende and Mohamed, 2015; Improved Variational Inference with Inverse
    Autoregressive Flow, Kingma et al., 2016.

    Args:
        encoder: `rngs -> module`, as for `Amortized`, but for the module's output,
            `(rows, 2 width + num_features)`: all locations, all log scales, then features.
        inputs: name or names of the array arguments whose rows are the encoder's inputs, in order.
        layers: as for `Flow`, a bijection from `vijax.guides.flow` or the name of an architecture.
            Draws take its `forward`, the density of given points its `inverse`: importance weights
            of rows (`IWAE`, `log_evidence_rows`) take both. In `"iaf"` an inverse, and in `"maf"`
            a draw, takes as many passes as a row has coordinates.
        num_features: number of features `h`.
        init_scale: standard deviation of every coordinate at the start.

    Raises:
        GuideError: as for `Amortized`, or if `layers` are no bijection.
    """

    num_starts: ClassVar[int] = 0
    encoder: Encoder
    inputs: Inputs
    layers: Bijection | str = "realnvp"
    num_features: int = 32
    init_scale: float = 0.3

    def __post_init__(self) -> None:
        require_positive("init_scale", self.init_scale)
        check_encoder(self.encoder)
        if self.num_features < 1:
            raise GuideError(mismatch("num_features", "at least 1", self.num_features))
        object.__setattr__(self, "layers", as_layers(self.layers))

    def init(
        self, key: Array, space: Space, location: Position, batch: Batch | None = None
    ) -> AmortizedFlowParams:
        width = self._level(space).width
        gate = jnp.zeros(width, jnp.result_type(float))
        gaussian = AmortizedParams(init_encoder(self.encoder, key), gate)
        layers = self._layers.init(draw_keys(jax.random.fold_in(key, 1), 1, width)[0], width)
        return AmortizedFlowParams(gaussian, layers, _links(layers, self.num_features))

    def draw(self, params: AmortizedFlowParams, space: Space, key: Array, batch: Batch) -> Draw:
        rows = self._encode(params, space, batch)
        noise = normals(key, rows.loc.shape, rows.loc.dtype)

        def forward(noise: Array, features: Array) -> tuple[Array, Array]:
            return self._layers.forward(_at_features(params, features), noise)

        x, log_det = jax.vmap(forward)(noise, rows.features)
        z = join_levels(space, [rows.loc + jnp.exp(rows.log_scale) * x])
        log_q = jnp.sum(normal_log_probs(noise, rows.log_scale)) - jnp.sum(log_det)
        return Draw(z, space.sites[0].scale * log_q)

    def row_log_probs(
        self, params: AmortizedFlowParams, space: Space, z: Position, batch: Batch
    ) -> Array:
        rows = self._encode(params, space, batch)
        (values,) = split_levels(space, z)

        def inverse(x: Array, features: Array) -> tuple[Array, Array]:
            return self._layers.inverse(_at_features(params, features), x)

        whitened = (values - rows.loc) * jnp.exp(-rows.log_scale)
        noise, log_det = jax.vmap(inverse)(whitened, rows.features)
        return jnp.sum(normal_log_probs(noise, rows.log_scale), axis=1) + log_det

    def path_log_q(
        self, params: AmortizedFlowParams, space: Space, key: Array, draw: Draw, batch: Batch
    ) -> Array:
        # the score is pushed forward layer by layer, which takes no inversion of the flow
        fixed = lax.stop_gradient(params)
        rows = self._encode(fixed, space, batch)
        noise = normals(key, rows.loc.shape, rows.loc.dtype)

        def score(noise: Array, features: Array) -> Array:
            return self._layers.forward_score(_at_features(fixed, features), noise, -noise)[2]

        slopes = jax.vmap(score)(noise, rows.features) * jnp.exp(-rows.log_scale)
        (values,) = split_levels(space, draw.z)
        path = jnp.sum(lax.stop_gradient(slopes) * (values - lax.stop_gradient(values)))
        return lax.stop_gradient(draw.log_q) + space.sites[0].scale * path

    @property
    def has_statistics(self) -> bool:
        return has_statistics(self.encoder)

    def updated_statistics(
        self, params: AmortizedFlowParams, before: AmortizedFlowParams, space: Space, batch: Batch
    ) -> AmortizedFlowParams:
        encoders = params.gaussian.encoder, before.gaussian.encoder
        state = (*encoders, self.inputs, self._level(space), batch)
        encoder = updated_statistics(self.encoder, *state)
        return params._replace(gaussian=params.gaussian._replace(encoder=encoder))

    @property
    def row_guide(self) -> MeanField:
        return MeanField()

    def row_params(
        self, params: AmortizedFlowParams, space: Space, batch: Batch
    ) -> MeanFieldParams:
        """At the image of the Gaussian's center, with its scales times the flow's mean stretch."""
        rows = self._encode(params, space, batch)
        center = jnp.zeros(rows.loc.shape[1], rows.loc.dtype)

        def forward(features: Array) -> tuple[Array, Array]:
            return self._layers.forward(_at_features(params, features), center)

        x, log_det = jax.vmap(forward)(rows.features)
        loc = rows.loc + jnp.exp(rows.log_scale) * x
        log_scale = rows.log_scale + log_det[:, None] / center.size
        return MeanFieldParams(join_levels(space, [loc]), join_levels(space, [log_scale]))

    def _encode(self, params: AmortizedFlowParams, space: Space, batch: Batch) -> _Rows:
        level = self._level(space)
        encoder, gate = params.gaussian
        width = 2 * level.width + self.num_features
        outputs = encode(self.encoder, encoder, self.inputs, level, width, batch)
        loc, log_scale, features = jnp.split(outputs, (level.width, 2 * level.width), axis=1)
        return _Rows(loc, gate * log_scale + math.log(self.init_scale), features)

    def _level(self, space: Space) -> Level:
        return single_plate_level(space, "AmortizedFlow")

    @property
    def _layers(self) -> Bijection:
        assert isinstance(self.layers, Bijection)
        return self.layers


def _links(layers: PyTree, num_features: int) -> PyTree:
    """Matrices of zeros from features to changes of the biases, and of all parameters but weights.

    Changes of weights would cost a product of matrices for every row.
    """

    def link(node: Dense | Array) -> Array:
        changed = node.bias if isinstance(node, Dense) else node
        return jnp.zeros((*changed.shape, num_features), changed.dtype)

    return jax.tree.map(link, layers, is_leaf=_is_dense)


def _at_features(params: AmortizedFlowParams, features: Array) -> PyTree:
    """The parameters of the layers for a row with the given features."""

    def changed(node: Dense | Array, link: Array) -> Dense | Array:
        change = link @ features
        return node._replace(bias=node.bias + change) if isinstance(node, Dense) else node + change

    return jax.tree.map(changed, params.layers, params.links, is_leaf=_is_dense)


def _is_dense(node: PyTree) -> bool:
    return isinstance(node, Dense)

"""A Gaussian with Kronecker-factored covariances of layers, and independent other coordinates."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.scipy.linalg import block_diag

from vijax.contracts import Batch, Draw, GaussianGuide, NormalNoiseGuide, Position, Space
from vijax.guides.checks import require_positive
from vijax.guides.location_scale.gaussian_density import gaussian_entropy, gaussian_log_prob
from vijax.runtime.keys import normals

Layer = tuple[str, str, int, int]  # sites of kernel and bias, "" if there is none; inputs, outputs


class KroneckerFactors(NamedTuple):
    """The distribution of a layer's weights `W`, `(inputs, outputs)`, the bias as another input.

    `W = M + diag(unit) A (exp(log_scale) * E) G'` with a matrix `E` of standard normals.

    Attributes:
        unit: standard deviation of the prior of each input, `(inputs,)`.
        inputs: orthogonal `A`, `(inputs, inputs)`.
        outputs: orthogonal `G`, `(outputs, outputs)`.
        log_scale: standard deviations in these coordinates, `(inputs, outputs)`.
    """

    unit: Array
    inputs: Array
    outputs: Array
    log_scale: Array


class KroneckerParams(NamedTuple):
    """`loc` of every site, factors by the kernel of a layer, `log_scale` of all other sites."""

    loc: Position
    layers: dict[str, KroneckerFactors]
    log_scale: Position


@dataclasses.dataclass(frozen=True)
class Kronecker(GaussianGuide, NormalNoiseGuide):
    """Gaussian whose layers have the covariance `(A (x) G + P)^-1` for a diagonal `P` of inputs.

    Layers are independent of one another. Source: A Scalable Laplace Approximation for Neural
    Networks, Ritter, Botev, Barber, 2018.

    Args:
        layers: sites of kernel and bias (`""` for none), and numbers of inputs, without the bias,
            and of outputs, of each layer.
        init_scale: standard deviation of every coordinate at the start.
    """

    layers: tuple[Layer, ...] = ()
    init_scale: float = 0.1

    def __post_init__(self) -> None:
        require_positive("init_scale", self.init_scale)

    def init(
        self, key: Array, space: Space, location: Position, batch: Batch | None = None
    ) -> KroneckerParams:
        loc = {name: jnp.asarray(location[name]) for name in space.names}
        size = jnp.log(self.init_scale)
        layers = {}
        for layer in self.layers:
            kernel, bias, inputs, outputs = layer
            inputs += bool(bias)
            layers[kernel] = KroneckerFactors(
                jnp.ones(inputs),
                jnp.eye(inputs),
                jnp.eye(outputs),
                jnp.full((inputs, outputs), size),
            )
        others = self._others(space)
        return KroneckerParams(loc, layers, {n: jnp.full_like(loc[n], size) for n in others})

    def draw(self, params: KroneckerParams, space: Space, key: Array, batch: Batch) -> Draw:
        first = params.loc[space.names[0]]
        noise = space.unravel(normals(key, (space.dim,), first.dtype))
        z = {n: params.loc[n] + jnp.exp(s) * noise[n] for n, s in params.log_scale.items()}
        for layer in self.layers:
            factors = params.layers[layer[0]]
            matrix = jnp.exp(factors.log_scale) * _joined(layer, noise)
            change = factors.unit[:, None] * (factors.inputs @ matrix @ factors.outputs.T)
            for name, value in _separated(layer, change, space).items():
                z[name] = params.loc[name] + value
        ordered = {name: z[name] for name in space.names}
        return Draw(ordered, self._log_prob(params, space, noise))

    def log_prob(self, params: KroneckerParams, space: Space, z: Position, batch: Batch) -> Array:
        change = {name: z[name] - params.loc[name] for name in space.names}
        noise = {name: change[name] * jnp.exp(-s) for name, s in params.log_scale.items()}
        for layer in self.layers:
            factors = params.layers[layer[0]]
            matrix = _joined(layer, change) / factors.unit[:, None]
            matrix = factors.inputs.T @ matrix @ factors.outputs * jnp.exp(-factors.log_scale)
            noise |= _separated(layer, matrix, space)
        return self._log_prob(params, space, noise)

    def entropy(self, params: KroneckerParams, space: Space) -> Array:
        return gaussian_entropy(self._log_scales(params))

    def mean(self, params: KroneckerParams, space: Space) -> Array:
        return space.ravel(params.loc)

    def covariance(self, params: KroneckerParams, space: Space) -> Array:
        names, blocks = [], []
        for layer in self.layers:
            unit, inputs, outputs, log_scale = params.layers[layer[0]]
            root = jnp.kron(unit[:, None] * inputs, outputs) * jnp.exp(log_scale).ravel()
            names += [name for name in layer[:2] if name]
            blocks.append(root @ root.T)
        for name, log_scale in params.log_scale.items():
            names.append(name)
            blocks.append(jnp.diag(jnp.exp(2 * log_scale.ravel())))
        start, places = 0, {}
        for name in names:
            size = space.subset([name]).dim
            places[name] = jnp.arange(start, start + size)
            start += size
        order = jnp.concatenate([places[name] for name in space.names])
        return block_diag(*blocks)[order[:, None], order[None, :]]

    def _others(self, space: Space) -> list[str]:
        inside = {name for layer in self.layers for name in layer[:2]}
        return [name for name in space.names if name not in inside]

    def _log_scales(self, params: KroneckerParams) -> Array:
        """Logarithms of the standard deviations, whose sum is that of the whole Gaussian."""
        found = [jnp.ravel(value) for value in params.log_scale.values()]
        for factors in params.layers.values():
            found.append(jnp.ravel(factors.log_scale + jnp.log(factors.unit)[:, None]))
        return jnp.concatenate(found)

    def _log_prob(self, params: KroneckerParams, space: Space, noise: Position) -> Array:
        # of a vector, in whatever order: only the sums of both arguments count
        return gaussian_log_prob(space.ravel(noise), self._log_scales(params))


def _joined(layer: Layer, values: Position) -> Array:
    """The weights of a layer as a matrix, its bias as the last row."""
    kernel, bias, inputs, outputs = layer
    matrix = values[kernel].reshape(inputs, outputs)
    return jnp.concatenate([matrix, values[bias].reshape(1, outputs)]) if bias else matrix


def _separated(layer: Layer, matrix: Array, space: Space) -> Position:
    """The inverse of `_joined`."""
    kernel, bias, inputs, _ = layer
    shapes = {site.name: site.z_shape for site in space.subset([kernel, bias]).sites}
    found = {kernel: matrix[:inputs].reshape(shapes[kernel])}
    return found | ({bias: matrix[inputs].reshape(shapes[bias])} if bias else {})

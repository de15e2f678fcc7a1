"""The normalizing flow guide: bijections applied in the whitened space of a Gaussian."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from vijax.contracts import (
    Batch,
    Draw,
    GaussianGuide,
    HostDraws,
    Position,
    PyTree,
    Space,
    TransportGuide,
)
from vijax.guides.flow.architectures import as_layers
from vijax.guides.flow.base import color, whiten
from vijax.guides.flow.bijection import Bijection
from vijax.guides.location_scale.full_rank import FullRank
from vijax.guides.location_scale.gaussian_density import LOG_2PI
from vijax.guides.location_scale.low_rank import LowRank
from vijax.runtime.errors import GuideError, mismatch
from vijax.runtime.keys import draw_keys, normals
from vijax.runtime.precision import float32_products
from vijax.runtime.program import Program

_MAX_DENSE_DIM = 500  # above it the base is low-rank
_MAX_BLOCK_ROWS = 1000  # draws or densities per call from the host
_MAX_BLOCK_ELEMENTS = 2**20


class FlowParams(NamedTuple):
    """Parameters of the base distribution and of the layers."""

    base: PyTree
    layers: PyTree


@dataclasses.dataclass(frozen=True)
class Flow(TransportGuide):
    """Normalizing flow: `z = loc + L f(e)` with `e ~ N(0, I)` and a bijection `f`.

    `f` starts at or close to the identity, so that the flow starts at its Gaussian base, which
    `vijax.fit` fits first, by its direct solver. All parameters, including those of the base, are
    then optimized jointly. The density of a draw, `log q(z) = log N(e) - log |df/de| - log |L|`,
    takes no inversion. The density at other points takes the inverse of `f`, by bisection for some
    layers. Source: Variational Inference with Normalizing Flows, Rezende and Mohamed, 2015.

    Args:
        layers: a bijection, or the name of an architecture: "realnvp", "heavy" (RealNVP with
            heavy tails), "nsf", "iaf", "maf", "planar", "radial", "sylvester", "bnaf".
        base: `FullRank`, `Laplace`, `LowRank` or `MeanField`; by default full-rank up to 500
            dimensions and low-rank above.

    Raises:
        GuideError: an option is not one of these.

    >>> Flow("radial").layers
    Repeat(part=Radial(), count=16)
    """

    num_particles: ClassVar[int] = 64
    layers: Bijection | str = "realnvp"
    base: GaussianGuide | None = None

    def __post_init__(self) -> None:
        layers = as_layers(self.layers)
        if self.base is not None and not isinstance(self.base, GaussianGuide):
            raise GuideError(mismatch("base", "a Gaussian guide, or None", repr(self.base)))
        object.__setattr__(self, "layers", layers)

    def base_for(self, dim: int) -> GaussianGuide:
        """The Gaussian base distribution for a given dimension."""
        if self.base is not None:
            return self.base
        return FullRank() if dim <= _MAX_DENSE_DIM else LowRank()

    def init(
        self, key: Array, space: Space, location: Position, batch: Batch | None = None
    ) -> FlowParams:
        base = self.base_for(space.dim).init(key, space, location, batch)
        # threefry for network weights would dominate compile time
        layers = self._layers.init(draw_keys(key, 1, space.dim)[0], space.dim)
        return FlowParams(base, layers)

    def draw(self, params: FlowParams, space: Space, key: Array, batch: Batch) -> Draw:
        z, log_q = self.transport(params, space, _noise(key, space))
        return Draw(space.unravel(z), log_q)

    def log_prob(self, params: FlowParams, space: Space, z: Position, batch: Batch) -> Array:
        return self._log_prob(params, space, space.ravel(z))

    def path_log_q(
        self, params: FlowParams, space: Space, key: Array, draw: Draw, batch: Batch
    ) -> Array:
        return self.path_transport(params, space, _noise(key, space))[1]

    def transport(self, params: FlowParams, space: Space, noise: Array) -> tuple[Array, Array]:
        x, log_det = self._layers.forward(params.layers, noise)
        z, base_log_det = color(params.base, space, x)
        return z, _standard_log_prob(noise) - log_det - base_log_det

    def path_transport(self, params: FlowParams, space: Space, noise: Array) -> tuple[Array, Array]:
        # the score is pushed forward layer by layer, which takes no inversion of the flow
        x, log_det, score = self._layers.forward_score(params.layers, noise, -noise)
        z, base_log_det = color(params.base, space, x)
        fixed_z, base = lax.stop_gradient((z, params.base))
        _, vjp = jax.vjp(lambda z: whiten(base, space, z)[0], fixed_z)
        (score,) = vjp(score)
        value = lax.stop_gradient(_standard_log_prob(noise) - log_det - base_log_det)
        return z, value + lax.stop_gradient(score) @ (z - fixed_z)

    def host_draws(
        self, params: FlowParams, space: Space, rng: np.random.Generator, num_draws: int
    ) -> HostDraws:
        return self.host_transport(params, space, rng.standard_normal((num_draws, space.dim)))

    def host_transport(self, params: FlowParams, space: Space, noise: np.ndarray) -> HostDraws:
        points, log_q = _in_blocks(_transport_block, self, space, params, noise)
        return HostDraws(points, log_q, noise=noise)

    def host_log_prob(self, params: FlowParams, space: Space, points: np.ndarray) -> np.ndarray:
        return _in_blocks(_density_block, self, space, params, points)[0]

    @property
    def _layers(self) -> Bijection:
        assert isinstance(self.layers, Bijection)
        return self.layers

    def _log_prob(self, params: FlowParams, space: Space, z: Array) -> Array:
        x, base_log_det = whiten(params.base, space, z)
        noise, log_det = self._layers.inverse(params.layers, x)
        return _standard_log_prob(noise) + base_log_det + log_det


def _noise(key: Array, space: Space) -> Array:
    return normals(key, (space.dim,), jnp.result_type(float))


def _standard_log_prob(noise: Array) -> Array:
    """Log density of standard normal noise."""
    return -0.5 * jnp.sum(noise**2) - 0.5 * noise.size * LOG_2PI


# One program for draws and one for densities. They do not depend on the model, so that other
# models with the same sites reuse them.
@functools.partial(Program, static_argnums=(0, 1))
def _transport_block(
    flow: Flow, space: Space, params: FlowParams, noise: Array
) -> tuple[Array, Array]:
    with float32_products():
        return jax.vmap(lambda e: flow.transport(params, space, e))(noise)


@functools.partial(Program, static_argnums=(0, 1))
def _density_block(flow: Flow, space: Space, params: FlowParams, z: Array) -> tuple[Array]:
    with float32_products():
        return (jax.vmap(lambda z: flow._log_prob(params, space, z))(z),)


def _in_blocks(
    program: Callable[..., tuple[Array, ...]],
    flow: Flow,
    space: Space,
    params: FlowParams,
    rows: np.ndarray,
) -> list[np.ndarray]:
    """Results of a program for rows `(num, dim)`, in blocks of equal size, the last one padded."""
    size = max(1, min(_MAX_BLOCK_ROWS, _MAX_BLOCK_ELEMENTS // space.dim))
    dtype = np.dtype(jnp.result_type(float))
    parts = []
    for start in range(0, len(rows), size):
        block = rows[start : start + size].astype(dtype)
        block = np.concatenate([block, np.repeat(block[-1:], size - len(block), axis=0)])
        parts.append([np.asarray(result) for result in program(flow, space, params, block)])
    joined = [np.concatenate(results)[: len(rows)] for results in zip(*parts, strict=True)]
    return [values.astype(np.float64) for values in joined]

"""The guide: a flow in the whitened space of a Gaussian."""

from __future__ import annotations

import dataclasses
import functools
import math
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
from vijax.guides.flow.base import color, whiten
from vijax.guides.flow.bijection import Bijection
from vijax.guides.flow.recipes import recipe
from vijax.guides.gaussian.low_rank import LowRank
from vijax.guides.gaussian.normal import FullRank
from vijax.runtime.errors import GuideError, mismatch
from vijax.runtime.keys import draw_keys, normals

_LOG_2PI = math.log(2 * math.pi)
_DENSE_DIM = 500  # above it the base is low-rank
_BLOCK = 1000  # draws, or densities, that one call on the host's behalf works out
_BLOCK_ELEMENTS = 2**20


class FlowParams(NamedTuple):
    """Parameters of the base, and of the layers."""

    base: PyTree
    layers: PyTree


@dataclasses.dataclass(frozen=True)
class Flow(TransportGuide):
    """`z = loc + L f(e)` with `e ~ N(0, I)`: a Gaussian, bent by a flow `f`.

    `f` starts at the identity, or very near it, so that the flow starts as its base; `vijax.fit`
    fits the base first, by its direct solver. All parameters move from there, those of the base
    included. A draw comes with its density: `log q(z) = log N(e) - log |df/de| - log |L|`, nothing
    is inverted. The density elsewhere takes the inverse of `f`, which for some layers is found by
    bisection. Source: Variational Inference with Normalizing Flows, Rezende and Mohamed, 2015.

    Args:
        layers: a bijection, or the name of a recipe: "realnvp", "heavy" (the same with tails of
            their own), "nsf", "iaf", "maf", "planar", "radial", "sylvester", "bnaf".
        base: `FullRank`, `Laplace`, `LowRank` or `MeanField`; by default full-rank up to 500
            dimensions and low-rank beyond.

    Raises:
        GuideError: an option is none of these.

    >>> Flow("radial").layers
    Repeat(part=Radial(), count=16)
    """

    num_particles: ClassVar[int] = 64
    layers: Bijection | str = "realnvp"
    base: GaussianGuide | None = None

    def __post_init__(self) -> None:
        layers = recipe(self.layers) if isinstance(self.layers, str) else self.layers
        if not isinstance(layers, Bijection):
            raise GuideError(mismatch("layers", "a Bijection or a recipe's name", repr(layers)))
        if self.base is not None and not isinstance(self.base, GaussianGuide):
            raise GuideError(mismatch("base", "a Gaussian guide, or None", repr(self.base)))
        object.__setattr__(self, "layers", layers)

    def base_for(self, dim: int) -> GaussianGuide:
        """The Gaussian that the flow starts from in so many dimensions."""
        if self.base is not None:
            return self.base
        return FullRank() if dim <= _DENSE_DIM else LowRank()

    def init(
        self, key: Array, space: Space, location: Position, batch: Batch | None = None
    ) -> FlowParams:
        base = self.base_for(space.dim).init(key, space, location, batch)
        # threefry for the weights of networks would take longer to compile than all else
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
        z, more = color(params.base, space, x)
        return z, _log_normal(noise) - log_det - more

    def path_transport(self, params: FlowParams, space: Space, noise: Array) -> tuple[Array, Array]:
        # the score is carried along forwards, so that nothing has to be inverted as a whole
        x, log_det, score = self._layers.push(params.layers, noise, -noise)
        z, more = color(params.base, space, x)
        here, base = lax.stop_gradient((z, params.base))
        _, pull = jax.vjp(lambda z: whiten(base, space, z)[0], here)
        (score,) = pull(score)
        value = lax.stop_gradient(_log_normal(noise) - log_det - more)
        return z, value + lax.stop_gradient(score) @ (z - here)

    def host_draws(
        self, params: FlowParams, space: Space, rng: np.random.Generator, num_draws: int
    ) -> HostDraws:
        return self.host_transport(params, space, rng.standard_normal((num_draws, space.dim)))

    def host_transport(self, params: FlowParams, space: Space, noise: np.ndarray) -> HostDraws:
        points, log_q = _in_blocks(_bend_block, self, space, params, noise)
        return HostDraws(points, log_q, noise=noise)

    def host_log_prob(self, params: FlowParams, space: Space, points: np.ndarray) -> np.ndarray:
        return _in_blocks(_density_block, self, space, params, points)[0]

    @property
    def _layers(self) -> Bijection:
        assert isinstance(self.layers, Bijection)
        return self.layers

    def _log_prob(self, params: FlowParams, space: Space, z: Array) -> Array:
        x, log_det = whiten(params.base, space, z)
        noise, more = self._layers.inverse(params.layers, x)
        return _log_normal(noise) + log_det + more


def _noise(key: Array, space: Space) -> Array:
    return normals(key, (space.dim,), jnp.result_type(float))


def _log_normal(noise: Array) -> Array:
    return -0.5 * jnp.sum(noise**2) - 0.5 * noise.size * _LOG_2PI


# One program for all draws, and one for all densities: they know nothing of the model, so that
# the next model with these sites finds them.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _bend_block(flow: Flow, space: Space, params: FlowParams, noise: Array) -> tuple[Array, Array]:
    return jax.vmap(lambda one: flow.transport(params, space, one))(noise)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _density_block(flow: Flow, space: Space, params: FlowParams, z: Array) -> tuple[Array]:
    return (jax.vmap(lambda one: flow._log_prob(params, space, one))(z),)


def _in_blocks(
    program: Callable[..., tuple[Array, ...]],
    flow: Flow,
    space: Space,
    params: FlowParams,
    rows: np.ndarray,
) -> list[np.ndarray]:
    """What a program makes of rows `(num, dim)`, in blocks of one size, the last one filled up."""
    size = max(1, min(_BLOCK, _BLOCK_ELEMENTS // space.dim))
    dtype = np.dtype(jnp.result_type(float))
    parts = []
    for start in range(0, len(rows), size):
        block = rows[start : start + size].astype(dtype)
        block = np.concatenate([block, np.repeat(block[-1:], size - len(block), axis=0)])
        parts.append([np.asarray(result) for result in program(flow, space, params, block)])
    whole = [np.concatenate(results)[: len(rows)] for results in zip(*parts, strict=True)]
    return [one.astype(np.float64) for one in whole]

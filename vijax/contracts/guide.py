"""Guides: families of distributions on unconstrained space, and what they can do."""

from __future__ import annotations

import abc
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import ClassVar, NamedTuple

import jax
import numpy as np

from vijax.contracts.space import Array, Axes, Position, Space
from vijax.contracts.target import Batch, PyTree, Target
from vijax.families.discrete import Family
from vijax.runtime.errors import GuideError


class Draw(NamedTuple):
    """One draw from a guide, with `E[exp(log_density(z) - log_q)]` equal to the evidence."""

    z: Position
    log_q: Array


class HostDraws(NamedTuple):
    """Draws on the host, in float64.

    Attributes:
        points: `(num_draws, dim)`.
        log_q: `(num_draws,)`.
        labels: the mixture component of each, `(num_draws,)`, where there are any.
        noise: what a `TransportGuide` made them of, `(num_draws, dim)`.
    """

    points: np.ndarray
    log_q: np.ndarray
    labels: np.ndarray | None = None
    noise: np.ndarray | None = None


class Guide(abc.ABC):
    """A family of distributions on a space. Frozen configuration: holds no arrays, hashable.

    Attributes:
        factorized: whether coordinates are independent under every member of the family, so
            that it is not exact for a correlated posterior.
        conditional: whether its draws depend on the data of the rows they are for, so that it can
            be used for other rows than it was fitted to.
        num_particles: draws that a gradient step averages where nobody says otherwise.
    """

    factorized: ClassVar[bool] = False
    conditional: ClassVar[bool] = False
    num_particles: ClassVar[int] = 1

    @abc.abstractmethod
    def init(
        self, key: Array, space: Space, location: Position, batch: Batch | None = None
    ) -> PyTree:
        """Parameters of a narrow member of the family at `location`.

        `batch` is for guides whose start values are computed from the data.
        """

    def row_axes(self, params: PyTree, space: Space, plates: Collection[str]) -> PyTree:
        """A tree like `params` with the `Axes` along which each leaf has a row of a plate.

        A step on a batch reads and writes those rows only.

        Raises:
            GuideError: latents live in these plates, and the guide has no parameters by row.
        """
        inside = [site.name for site in space.sites if site.axes(plates).pairs]
        if inside:
            raise GuideError(
                f"guide {self!r}: expected parameters for every row of site {inside[0]!r}, which "
                "lives in a plate that is cut into batches. Use guide='plates', "
                f"guide={{{inside[0]!r}: 'meanfield', ...: 'fullrank'}}, or the full data."
            )
        return jax.tree.map(lambda _: Axes(), params)

    def adopted(self, params: PyTree, space: Space, parts: Sequence[Part]) -> PyTree:
        """`params`, with what parts of another guide have for the same sites in their place."""
        same = (part.params for part in parts if part.guide == self and part.space.alike(space))
        return next(same, params)

    def replaced(self, params: PyTree, space: Space, function: Callable[[Part], PyTree]) -> PyTree:
        """The parameters with those of each part, see `product`, replaced by `function` of it."""
        return function(Part(self, params, space))

    def product(self, params: PyTree, space: Space) -> list[Part]:
        """The parts that are independent of one another; itself, if it is not made of any."""
        found: list[Part] = []
        self.replaced(params, space, found.append)
        return found

    def host_init(self, space: Space, location: Mapping[str, np.ndarray]) -> PyTree | None:
        """What `init` makes, made by NumPy where that saves compiling a program; `None` if not."""
        return None

    @abc.abstractmethod
    def draw(self, params: PyTree, space: Space, key: Array, batch: Batch) -> Draw:
        """One draw; differentiable in `params`."""

    def host_draws(
        self, params: PyTree, space: Space, rng: np.random.Generator, num_draws: int
    ) -> HostDraws | None:
        """Draws made by NumPy in float64, where that saves compiling a program; `None` if not."""
        return None


class DensityGuide(Guide):
    """A guide whose density can be evaluated anywhere."""

    @abc.abstractmethod
    def log_prob(self, params: PyTree, space: Space, z: Position, batch: Batch) -> Array:
        """Normalized log density at `z`, a scalar."""

    def path_log_q(
        self, params: PyTree, space: Space, key: Array, draw: Draw, batch: Batch
    ) -> Array:
        """`log_q` of what `draw` made of `key`, its gradient in `params` the one by way of `z`.

        What sticking the landing asks for: the parameters are held fixed in the density itself.
        """
        return self.log_prob(jax.lax.stop_gradient(params), space, draw.z, batch)

    def host_log_prob(self, params: PyTree, space: Space, points: np.ndarray) -> np.ndarray | None:
        """The same at points `(num, dim)` by NumPy in float64, `None` if there is no such way."""
        return None


class Part(NamedTuple):
    """A guide with its parameters, for the sites of a space."""

    guide: Guide
    params: PyTree
    space: Space


class DiscreteGuide(DensityGuide):
    """A guide over discrete sites, which are independent of one another and of any others.

    No gradient passes through its draws: objectives use the families' own.
    """

    @abc.abstractmethod
    def families(self, params: PyTree, space: Space, batch: Batch) -> dict[str, Family]:
        """The distribution of every discrete site."""

    @abc.abstractmethod
    def continuous(self, params: PyTree, space: Space) -> Part | None:
        """The guide for all other sites, `None` if there are none."""


class SitewiseGuide(DensityGuide):
    """A guide under which all coordinates are independent."""

    @abc.abstractmethod
    def site_log_probs(
        self, params: PyTree, space: Space, z: Position, batch: Batch
    ) -> dict[str, Array]:
        """Log density by site and coordinate, `z_shape` each.

        `log_prob` is their sum, every site's times its `scale`.
        """


class ConditionalGuide(DensityGuide):
    """A guide that infers the latents of a row from the row's data, of whatever rows."""

    conditional: ClassVar[bool] = True

    @property
    @abc.abstractmethod
    def row_guide(self) -> Guide:
        """A guide with parameters for every row, which holds what this one infers."""

    @abc.abstractmethod
    def row_params(self, params: PyTree, space: Space, batch: Batch) -> PyTree:
        """Its parameters for the same distribution of the rows in use."""


class StratifiedGuide(DensityGuide):
    """A guide made of parts with weights, each of which can be drawn from by itself."""

    @abc.abstractmethod
    def strata(
        self, params: PyTree, space: Space, key: Array, batch: Batch
    ) -> tuple[Array, list[Draw]]:
        """Log weights of the parts `(num,)`, and a draw from each with `log_q` of the whole.

        `E_q[f(z)] = sum_k w_k E[f(z_k)]`; differentiable in `params`, weights included.
        """


class RowGuide(DensityGuide):
    """A guide for the rows of one plate, each row's latents independent of all others'."""

    @abc.abstractmethod
    def row_log_probs(self, params: PyTree, space: Space, z: Position, batch: Batch) -> Array:
        """Log density of every row in use, `(rows,)`; `log_prob` is their scaled sum."""


class ParticleGuide(Guide):
    """A guide of points of equal weight. It has no density, hence no ELBO and no weights."""

    @abc.abstractmethod
    def points(self, params: PyTree, space: Space) -> Array:
        """The points `(num, dim)`, sites in the order of the space; linear in `params`."""


class ModelGuide(DensityGuide):
    """A guide made of the model itself; only a bound one can be drawn from."""

    @abc.abstractmethod
    def bind(self, target: Target, space: Space) -> Guide:
        """The guide for the sites in `space` of a target."""


class NormalsGuide(DensityGuide):
    """A guide that makes a draw of one vector of standard normals, by `vijax.runtime.keys.normals`.

    `draw` and `path_log_q` take `Normals` in the place of a key, so that several draws can be made
    of normals that are not independent.
    """

    def num_normals(self, params: PyTree, space: Space) -> int:
        """How many normals a draw is made of."""
        return space.dim


class TransportGuide(NormalsGuide):
    """A guide whose draws are a smooth one-to-one image of as many independent normals.

    Seen from these normals, a target that the guide fits well looks like a standard normal.
    """

    @abc.abstractmethod
    def transport(self, params: PyTree, space: Space, noise: Array) -> tuple[Array, Array]:
        """Where `noise` `(dim,)` goes, `(dim,)`, and `log_q` there."""

    @abc.abstractmethod
    def path_transport(self, params: PyTree, space: Space, noise: Array) -> tuple[Array, Array]:
        """The same, with `log_q` as in `path_log_q`."""

    @abc.abstractmethod
    def host_transport(self, params: PyTree, space: Space, noise: np.ndarray) -> HostDraws:
        """Where each row of `noise` `(num, dim)` goes."""


class EntropyGuide(DensityGuide):
    """A guide with a closed-form entropy."""

    @abc.abstractmethod
    def entropy(self, params: PyTree, space: Space) -> Array:
        """`-E_q[log q]` in nats, a scalar."""


class GaussianGuide(EntropyGuide):
    """A Gaussian on the raveled space."""

    @abc.abstractmethod
    def mean(self, params: PyTree, space: Space) -> Array:
        """Mean `(dim,)`."""

    @abc.abstractmethod
    def covariance(self, params: PyTree, space: Space) -> Array:
        """Covariance `(dim, dim)`."""

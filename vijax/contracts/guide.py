"""Guides: variational families `q(z; params)` on unconstrained space, one contract per capability.

| contract | provides |
|---|---|
| `Guide` | initial parameters, reparameterized draws with their `log q` |
| `DensityGuide` | `log q(z)` at any `z` |
| `EntropyGuide`, `GaussianGuide` | the entropy; the mean and covariance, in closed form |
| `MeanFieldGuide`, `RowGuide` | `log q` by coordinate; by row of a plate |
| `NormalNoiseGuide`, `TransportGuide` | draws as a function of standard normals; a diffeomorphism |
| `MixtureGuide` | a draw from every component |
| `CurvatureGuide` | a Gaussian at a mode, from the curvature there |
| `EnsembleGuide` | members of one family, each fitted by itself |
| `DiscreteGuide` | the distribution of every discrete site |
| `AmortizedGuide` | local latent variables inferred from the data of their row |
| `ParticleGuide`, `ModelGuide` | equally weighted points; a family built from the model |
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vijax.contracts.family import Family
from vijax.contracts.space import Array, Axes, Position, Space
from vijax.contracts.target import Batch, PyTree, Target
from vijax.runtime.errors import GuideError
from vijax.runtime.network_run import Noise


class Draw(NamedTuple):
    """One draw `z ~ q` with `log_q = log q(z)`: `E[exp(log_density(z) - log_q)] = p(x)`."""

    z: Position
    log_q: Array


class HostDraws(NamedTuple):
    """Draws on the host, in float64.

    Attributes:
        points: `(num_draws, dim)`.
        log_q: `(num_draws,)`.
        labels: index of the mixture component of each draw, `(num_draws,)`; `None` if the guide is
            not a mixture.
        noise: the standard normals that a `TransportGuide` transformed, `(num_draws, dim)`.
    """

    points: np.ndarray
    log_q: np.ndarray
    labels: np.ndarray | None = None
    noise: np.ndarray | None = None


class Guide(abc.ABC):
    """A variational family `q(z; params)` on a space. Frozen configuration: no arrays, hashable.

    Attributes:
        factorized: whether coordinates are independent under every member of the family, which
            cannot match a correlated posterior.
        amortized: whether `q` depends on the data of each row, so that it applies to rows it was
            not fitted to.
        num_particles: default number of draws per gradient step.
        without_pathwise_gradient: continuous sites whose draws have no gradient in the parameters,
            so that only objectives with score functions apply.
        num_starts: positions that the initial parameters are computed from: with more than one,
            `init` gets them stacked; with none, they do not depend on the position it gets.
    """

    factorized: ClassVar[bool] = False
    amortized: ClassVar[bool] = False
    num_particles: ClassVar[int] = 1
    without_pathwise_gradient: ClassVar[tuple[str, ...]] = ()
    num_starts: ClassVar[int] = 1

    @abc.abstractmethod
    def init(
        self, key: Array, space: Space, location: Position, batch: Batch | None = None
    ) -> PyTree:
        """Parameters of a narrow member of the family centered at `location`.

        `batch` is for guides whose initial parameters are computed from the data.
        """

    def row_axes(self, params: PyTree, space: Space, plates: Collection[str]) -> PyTree:
        """A tree like `params` with the `Axes` along which each leaf has a row of a plate.

        A step on a minibatch reads and writes only those rows.

        Raises:
            GuideError: the plates contain local latent variables, and the guide has no per-row
                parameters.
        """
        inside = [site.name for site in space.sites if site.axes(plates).pairs]
        if inside:
            raise GuideError(
                f"guide {self!r}: expected per-row parameters for site {inside[0]!r}, which is in "
                "a plate that is subsampled in minibatches. Use guide='plates', "
                f"guide={{{inside[0]!r}: 'meanfield', ...: 'fullrank'}}, or the full data."
            )
        return jax.tree.map(lambda _: Axes(), params)

    def transfer(self, params: PyTree, space: Space, parts: Sequence[Part]) -> PyTree:
        """`params`, or for a warm start those of an equal guide on the same sites in `parts`."""
        same = (
            part.params
            for part in parts
            if part.guide == self and part.space.same_coordinates(space)
        )
        return next(same, params)

    def map_parts(self, params: PyTree, space: Space, function: Callable[[Part], PyTree]) -> PyTree:
        """`params` with those of each of the `independent_parts` replaced by `function(part)`."""
        return function(Part(self, params, space))

    def independent_parts(self, params: PyTree, space: Space) -> list[Part]:
        """The factors `q_k` of `q = prod_k q_k`; the guide itself if it is not such a product."""
        found: list[Part] = []
        self.map_parts(params, space, found.append)
        return found

    @property
    def unbound(self) -> Guide:
        """The guide as it was before `ModelGuide.bind`, which can be saved to a file."""
        return self

    def plan_lines(self) -> tuple[str, ...]:
        """What the model says of the family, in lines of a report; none by default."""
        return ()

    def weight_noise(self, params: PyTree, space: Space) -> Noise:
        """Mean and sd of sites with independent normal distributions, by kind of noise, and site.

        Networks may draw their weights for each row, see `vijax.nn`; none by default.
        """
        return {}

    def point_guide(self, space: Space) -> Guide:
        """The guide that gradient steps fit; another one where parameters are computed after them.

        See `CurvatureGuide`.
        """
        return self

    def linearized_at(self, params: PyTree, space: Space) -> Position:
        """The weights around which networks are linearized in predictions; none by default.

        By site, means in unconstrained space, see `Batch.linearized`.
        """
        return {}

    def named_params(self, params: PyTree, space: Space, batch: Batch) -> dict[str, PyTree]:
        """Parameters with names that users know, in their constraints: `param` sites of NumPyro."""
        return {}

    def host_init(self, space: Space, location: Mapping[str, np.ndarray]) -> PyTree | None:
        """`init` in NumPy, to save a compilation; `None` if not implemented."""
        return None

    @abc.abstractmethod
    def draw(self, params: PyTree, space: Space, key: Array, batch: Batch) -> Draw:
        """One draw; differentiable in `params`."""

    def host_draws(
        self, params: PyTree, space: Space, rng: np.random.Generator, num_draws: int
    ) -> HostDraws | None:
        """Draws by NumPy in float64, to save a compilation; `None` if not implemented."""
        return None


class DensityGuide(Guide):
    """A guide whose log density `log q(z)` can be evaluated at any `z`."""

    @abc.abstractmethod
    def log_prob(self, params: PyTree, space: Space, z: Position, batch: Batch) -> Array:
        """`log q(z; params)`, normalized, a scalar."""

    def path_log_q(
        self, params: PyTree, space: Space, key: Array, draw: Draw, batch: Batch
    ) -> Array:
        """`log q(z(key, params); stop_gradient(params))`: `log q` of a draw with its path gradient.

        For the sticking-the-landing estimator. `draw` is that of `key`.
        """
        return self.log_prob(jax.lax.stop_gradient(params), space, draw.z, batch)

    def host_log_prob(self, params: PyTree, space: Space, points: np.ndarray) -> np.ndarray | None:
        """`log_prob` at points `(num, dim)` by NumPy in float64; `None` if not implemented."""
        return None


class Part(NamedTuple):
    """A guide with its parameters, on a space: a factor of a larger guide."""

    guide: Guide
    params: PyTree
    space: Space


class DiscreteGuide(DensityGuide):
    """A guide with discrete sites, independent of one another and of the continuous sites.

    Its draws have no pathwise gradient; objectives use the families' log probabilities.
    """

    @abc.abstractmethod
    def families(self, params: PyTree, space: Space, batch: Batch) -> dict[str, Family]:
        """The distribution of every discrete site."""

    @abc.abstractmethod
    def continuous(self, params: PyTree, space: Space) -> Part | None:
        """The guide for the continuous sites, `None` if there are none."""


class MeanFieldGuide(DensityGuide):
    """A guide with independent coordinates, `q(z) = prod_i q_i(z_i)`."""

    @abc.abstractmethod
    def site_log_probs(
        self, params: PyTree, space: Space, z: Position, batch: Batch
    ) -> dict[str, Array]:
        """`log q_i(z_i)` by site and coordinate, of shape `z_shape`.

        `log_prob` is the sum over sites of `site.scale` times the sum over coordinates.
        """


class AmortizedGuide(DensityGuide):
    """A guide `q(z_i | x_i; params)` that infers a row's local latent variables from its data."""

    amortized: ClassVar[bool] = True

    def row_axes(self, params: PyTree, space: Space, plates: Collection[str]) -> PyTree:
        """No axes: all rows share the networks."""
        return jax.tree.map(lambda _: Axes(), params)

    @property
    @abc.abstractmethod
    def row_guide(self) -> Guide:
        """A family with free parameters for every row instead of inferred ones.

        The same one if it is a `MeanFieldGuide` or a `DiscreteGuide`; of others, a start for fits.
        """

    @abc.abstractmethod
    def row_params(self, params: PyTree, space: Space, batch: Batch) -> PyTree:
        """The parameters of `row_guide` for the distribution of the rows in use."""

    @property
    def has_statistics(self) -> bool:
        """Whether the network has running statistics of batches, which steps have to update."""
        return False

    def updated_statistics(
        self, params: PyTree, before: PyTree, space: Space, batch: Batch
    ) -> PyTree:
        """The parameters after a step with running statistics updated; `before` are those of it."""
        return params


class MixtureGuide(DensityGuide):
    """A mixture `q = sum_k w_k q_k` that can be drawn from component by component."""

    @abc.abstractmethod
    def component_draws(
        self, params: PyTree, space: Space, key: Array, batch: Batch
    ) -> tuple[Array, list[Draw]]:
        """`log w_k`, `(num_components,)`, and a draw `z_k` of every component with `log q(z_k)`.

        `log q` is that of the mixture. For stratified sampling, `E_q[f(z)] = sum_k w_k E[f(z_k)]`;
        differentiable in `params`, including the weights.
        """


class EnsembleGuide(Guide):
    """Members of one family, each fitted by itself, with equal weights.

    Parameters are those of the members, stacked.

    Attributes:
        num_members: their number.
        member: the guide of each.
    """

    num_members: int
    member: Guide


class RowGuide(DensityGuide):
    """A guide for the local latent variables of one plate, independent across its rows."""

    @abc.abstractmethod
    def row_log_probs(self, params: PyTree, space: Space, z: Position, batch: Batch) -> Array:
        """Log density of every row in use, `(rows,)`."""

    def log_prob(self, params: PyTree, space: Space, z: Position, batch: Batch) -> Array:
        """The sum of `row_log_probs`, scaled to all rows on a minibatch."""
        return space.sites[0].scale * jnp.sum(self.row_log_probs(params, space, z, batch))


class ParticleGuide(Guide):
    """A guide of equally weighted points. It has no density, hence no ELBO and no weights."""

    @abc.abstractmethod
    def points(self, params: PyTree, space: Space) -> Array:
        """The points `(num, dim)`, sites in the order of the space; linear in `params`."""


class ModelGuide(DensityGuide):
    """A family constructed from the model's priors; only a bound one can be drawn from."""

    @abc.abstractmethod
    def bind(self, target: Target, space: Space) -> Guide:
        """The guide for the sites in `space` of a target."""


class NormalNoiseGuide(DensityGuide):
    """A guide whose draw is a function `z(noise; params)` of a vector of standard normals.

    `draw` and `path_log_q` obtain it from `vijax.runtime.keys.normals` and accept `Normals` in
    place of a key, for draws from dependent normals such as quasi-Monte Carlo points.
    """

    def num_normals(self, params: PyTree, space: Space) -> int:
        """Number of standard normals per draw."""
        return space.dim


class TransportGuide(NormalNoiseGuide):
    """A guide whose draw is a diffeomorphism of `dim` independent standard normals.

    In the coordinates of these normals, a well-fitted target is close to a standard normal.
    """

    @abc.abstractmethod
    def transport(self, params: PyTree, space: Space, noise: Array) -> tuple[Array, Array]:
        """The image of `noise` `(dim,)`, `(dim,)`, and `log q` there."""

    @abc.abstractmethod
    def path_transport(self, params: PyTree, space: Space, noise: Array) -> tuple[Array, Array]:
        """`transport` with the path gradient of `log q`, see `path_log_q`."""

    @abc.abstractmethod
    def host_transport(self, params: PyTree, space: Space, noise: np.ndarray) -> HostDraws:
        """The images of the rows of `noise` `(num, dim)`, as arrays on the host."""


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


class CurvatureGuide(GaussianGuide):
    """A Gaussian at a mode, which gradient steps of its `point_guide` find.

    Its covariance is computed after them, by `vijax.solvers.curvature`.
    """

    @abc.abstractmethod
    def structure(self, space: Space) -> str:
        """What is computed: `"hessian"` by a solver, or after the steps the GGN.

        `"ggn"` dense, `"diagonal"`, or `"kronecker"`.
        """

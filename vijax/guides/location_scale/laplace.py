"""The Laplace approximation: a Gaussian centered at the posterior mode."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
from jax import Array

from vijax.contracts import (
    Batch,
    CurvatureGuide,
    Draw,
    Guide,
    HostDraws,
    NormalNoiseGuide,
    Position,
    PyTree,
    Space,
)
from vijax.guides.checks import require_positive
from vijax.guides.delta import Delta
from vijax.guides.location_scale.full_rank import FullRank
from vijax.guides.location_scale.kronecker import Kronecker, Layer
from vijax.guides.location_scale.mean_field import MeanField
from vijax.runtime.errors import GuideError, mismatch

Curvature = Literal["auto", "hessian", "ggn", "diagonal", "kronecker"]

_DENSE_DIM = 1000  # largest dimension of a dense matrix for networks: a second or two


@dataclasses.dataclass(frozen=True)
class Laplace(CurvatureGuide, NormalNoiseGuide):
    """Laplace approximation: `q(z) = N(z; m, H^-1)`.

    `m` is the mode in unconstrained space and `H` the curvature of the negative log density there.
    Exact for Gaussian targets; misleading where the mode is not typical (funnels, skewed or
    bounded posteriors).

    The Hessian of a network is seldom positive definite. The generalized Gauss-Newton matrix (GGN)
    always is: `J'FJ + P`, with the Fisher information `F` of the outcomes' distribution in its
    parameters, the Jacobian `J` of these, and the precision `P` of the prior (its second
    derivative, where that is positive). It is the Hessian of the model whose networks are linear in
    their weights, `f(x, m) + J(x) (w - m)`, and predictions are those of that model: with the same
    weights the network itself predicts far worse. `m` is found by gradient steps, as of
    `guide="map"`, also on minibatches, and `H` by one pass over all rows.

    Sources: Accurate Approximations for Posterior Moments and Marginal Densities, Tierney and
    Kadane, 1986; A Scalable Laplace Approximation for Neural Networks, Ritter, Botev, Barber, 2018;
    Improving Predictions of Bayesian Neural Nets via Local Linearization, Immer, Korzepa, Bauer,
    2021; Laplace Redux, Daxberger et al., 2021.

    Args:
        curvature: `"hessian"`; `"ggn"`, dense; `"diagonal"` of the GGN; `"kronecker"`, its
            Kronecker-factored approximation `A (x) G` by dense and convolutional layer, from the
            inputs and the gradients of the outputs, as if these were independent, with the diagonal
            for all other latents; positions of a convolution count as rows (Optimizing Neural
            Networks with Kronecker-factored Approximate Curvature, Martens and Grosse, 2015;
            Kronecker-Factored Approximate Curvature for Modern Neural Network Architectures,
            Eschenhagen et al., 2023). `"auto"` is the Hessian without networks, and with networks
            the dense GGN up to 1000 latents, the Kronecker-factored one beyond.
        init_scale: standard deviation of every coordinate before the curvature is known.
        layers: those with Kronecker factors; found by the fit.

    >>> Laplace("kronecker")
    Laplace(curvature='kronecker', init_scale=0.1)
    """

    curvature: Curvature = "auto"
    init_scale: float = 0.1
    layers: tuple[Layer, ...] = dataclasses.field(default=(), repr=False)

    def __post_init__(self) -> None:
        require_positive("init_scale", self.init_scale)
        if self.curvature not in get_args(Curvature):
            expected = f"one of {list(get_args(Curvature))}"
            raise GuideError(mismatch("curvature", expected, repr(self.curvature)))

    def structure(self, space: Space) -> str:
        """The curvature in use, not `"auto"`."""
        if self.curvature != "auto":
            return self.curvature
        if not space.networks.sites:
            return "hessian"
        return "ggn" if space.dim <= _DENSE_DIM else "kronecker"

    def point_guide(self, space: Space) -> Guide:
        return self if self.structure(space) == "hessian" else Delta()

    def family(self, space: Space) -> Any:
        """The Gaussian family."""
        structure = self.structure(space)
        if structure == "kronecker":
            return Kronecker(self.layers, self.init_scale)
        return (MeanField if structure == "diagonal" else FullRank)(self.init_scale)

    def linearized_at(self, params: PyTree, space: Space) -> Position:
        if self.structure(space) == "hessian":
            return {}
        loc = params.loc if isinstance(params.loc, Mapping) else space.unravel(params.loc)
        return {name: loc[name] for name in space.networks.names}

    def init(
        self, key: Array, space: Space, location: Position, batch: Batch | None = None
    ) -> PyTree:
        return self.family(space).init(key, space, location, batch)

    def host_init(self, space: Space, location: Mapping[str, np.ndarray]) -> PyTree | None:
        return self.family(space).host_init(space, location)

    def draw(self, params: PyTree, space: Space, key: Array, batch: Batch) -> Draw:
        return self.family(space).draw(params, space, key, batch)

    def host_draws(
        self, params: PyTree, space: Space, rng: np.random.Generator, num_draws: int
    ) -> HostDraws | None:
        return self.family(space).host_draws(params, space, rng, num_draws)

    def log_prob(self, params: PyTree, space: Space, z: Position, batch: Batch) -> Array:
        return self.family(space).log_prob(params, space, z, batch)

    def host_log_prob(self, params: PyTree, space: Space, points: np.ndarray) -> np.ndarray | None:
        return self.family(space).host_log_prob(params, space, points)

    def entropy(self, params: PyTree, space: Space) -> Array:
        return self.family(space).entropy(params, space)

    def mean(self, params: PyTree, space: Space) -> Array:
        return self.family(space).mean(params, space)

    def covariance(self, params: PyTree, space: Space) -> Array:
        return self.family(space).covariance(params, space)

"""The mean-field Gaussian guide: a diagonal covariance."""

from __future__ import annotations

import dataclasses
import functools
import math
import operator
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, get_args

import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.contracts import (
    Batch,
    Draw,
    GaussianGuide,
    MeanFieldGuide,
    NormalNoiseGuide,
    Part,
    Position,
    Space,
)
from vijax.guides.checks import require_positive
from vijax.guides.location_scale.full_rank import FullRankParams, host_factors
from vijax.guides.location_scale.gaussian_density import (
    LOG_2PI,
    gaussian_entropy,
    gaussian_log_prob,
)
from vijax.runtime.errors import GuideError, mismatch
from vijax.runtime.keys import normals
from vijax.runtime.network_run import Noise

WeightNoise = Literal["shared", "flipout", "local"]


class MeanFieldParams(NamedTuple):
    """`loc` and `log_scale` of every site, each with the site's `z_shape`."""

    loc: Position
    log_scale: Position


@dataclasses.dataclass(frozen=True)
class MeanField(GaussianGuide, MeanFieldGuide, NormalNoiseGuide):
    """Mean-field Gaussian: `q(z) = prod_i N(z_i; loc_i, exp(log_scale_i)^2)`.

    Cost is linear in the dimension. Underestimates variances where coordinates are correlated: at
    the optimum for a Gaussian target each variance is the conditional one, `1 / precision_ii`.
    Source: Automatic Differentiation Variational Inference, Kucukelbir et al., 2017.

    Parameters are stored by site. Slicing them from one vector would copy them at every step, and
    their gradients back, a tenth of the step time of a network with half a million weights.

    Args:
        init_scale: standard deviation of every coordinate at the start; networks have their own.
        noise: how the weights of networks (`vijax.nn.network`) are drawn in a step of a fit, for
            the same guide and the same ELBO. `"shared"`: once for all rows. `"flipout"`: for each
            row, by random signs, so that the gradient has less variance, at the cost of a second
            pass. `"local"`: for each row, by drawing outputs of layers; where rows meet weights
            once. The divergence from normal priors is in closed form.
    """

    factorized: ClassVar[bool] = True
    init_scale: float = 0.1
    noise: WeightNoise = "shared"

    def __post_init__(self) -> None:
        require_positive("init_scale", self.init_scale)
        if self.noise not in get_args(WeightNoise):
            expected = f"one of {list(get_args(WeightNoise))}"
            raise GuideError(mismatch("noise", expected, repr(self.noise)))

    def init(
        self, key: Array, space: Space, location: Position, batch: Batch | None = None
    ) -> MeanFieldParams:
        at = {name: jnp.asarray(location[name]) for name in space.names}
        return self._init_at(space, at, jnp)

    def host_init(self, space: Space, location: Mapping[str, np.ndarray]) -> MeanFieldParams:
        return self._init_at(space, {name: location[name] for name in space.names}, np)

    def row_axes(
        self, params: MeanFieldParams, space: Space, plates: Collection[str]
    ) -> MeanFieldParams:
        axes: dict[str, Any] = {site.name: site.axes(plates) for site in space.sites}
        return MeanFieldParams(axes, axes)

    def adopted(
        self, params: MeanFieldParams, space: Space, parts: Sequence[Part]
    ) -> MeanFieldParams:
        """Parameters of mean-field parts, and mean-field approximations of dense Gaussians."""
        found = MeanFieldParams({}, {})
        for part in parts:
            earlier = part.params
            if isinstance(earlier, FullRankParams):
                earlier = _mean_field_approximation(earlier, part.space)
            elif not isinstance(part.guide, MeanField):
                continue
            for site in part.space.sites:
                if space.subset([site.name]).same_coordinates(part.space.subset([site.name])):
                    found.loc[site.name] = earlier.loc[site.name]
                    found.log_scale[site.name] = earlier.log_scale[site.name]
        return MeanFieldParams(params.loc | found.loc, params.log_scale | found.log_scale)

    def _init_at(self, space: Space, loc: dict[str, Any], xp: Any) -> MeanFieldParams:
        scales = {site.name: site.init_scale or self.init_scale for site in space.sites}
        log_scale = {name: xp.full_like(x, math.log(scales[name])) for name, x in loc.items()}
        return MeanFieldParams(loc, log_scale)

    def weight_noise(self, params: MeanFieldParams, space: Space) -> Noise:
        scales = {name: jnp.exp(params.log_scale[name]) for name in space.names}
        return {self.noise: {name: (params.loc[name], scales[name]) for name in space.names}}

    def draw(self, params: MeanFieldParams, space: Space, key: Array, batch: Batch) -> Draw:
        # one vector of noise for all sites: one program per site compiles and runs more slowly
        noise = space.unravel(normals(key, (space.dim,), _dtype(params.loc)))
        z = {
            name: params.loc[name] + jnp.exp(params.log_scale[name]) * noise[name]
            for name in space.names
        }
        return Draw(z, _sum_site_log_probs(noise, params, space))

    def log_prob(self, params: MeanFieldParams, space: Space, z: Position, batch: Batch) -> Array:
        return _sum_site_log_probs(_noise(params, space, z), params, space)

    def site_log_probs(
        self, params: MeanFieldParams, space: Space, z: Position, batch: Batch
    ) -> dict[str, Array]:
        return {
            name: -0.5 * noise**2 - params.log_scale[name] - 0.5 * LOG_2PI
            for name, noise in _noise(params, space, z).items()
        }

    def entropy(self, params: MeanFieldParams, space: Space) -> Array:
        return _sum(s.scale * gaussian_entropy(params.log_scale[s.name]) for s in space.sites)

    def mean(self, params: MeanFieldParams, space: Space) -> Array:
        return space.ravel(params.loc)

    def covariance(self, params: MeanFieldParams, space: Space) -> Array:
        return jnp.diag(jnp.exp(2 * space.ravel(params.log_scale)))


def _mean_field_approximation(params: FullRankParams, space: Space) -> MeanFieldParams:
    """The mean-field Gaussian with the smallest `KL(q || p)` from a dense one.

    Its variances are those of each coordinate conditional on all others.
    """
    loc, _, factor = host_factors(params)
    log_scale = -0.5 * np.log(np.sum(np.linalg.inv(factor) ** 2, axis=0))
    vectors = (vector.astype(params.loc.dtype) for vector in (loc, log_scale))
    by_site: list[Any] = [space.host_unravel(vector) for vector in vectors]
    return MeanFieldParams(*by_site)


def _noise(params: MeanFieldParams, space: Space, z: Position) -> Position:
    """The standardized residuals `(z - loc) / scale`, by site."""
    return {
        name: (z[name] - params.loc[name]) * jnp.exp(-params.log_scale[name])
        for name in space.names
    }


def _sum_site_log_probs(noise: Position, params: MeanFieldParams, space: Space) -> Array:
    """Sum of the sites' log densities, each multiplied by `Site.scale` as in the model."""
    return _sum(
        s.scale * gaussian_log_prob(noise[s.name], params.log_scale[s.name]) for s in space.sites
    )


def _dtype(position: Position) -> Any:
    return jnp.result_type(*position.values())


def _sum(terms: Iterable[Array]) -> Array:
    return functools.reduce(operator.add, terms)

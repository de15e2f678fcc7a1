"""Mean-field guides over discrete sites, alone or combined with a guide for continuous sites."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from vijax.contracts import (
    Batch,
    DensityGuide,
    DiscreteGuide,
    Draw,
    Guide,
    Part,
    Position,
    PyTree,
    Site,
    Space,
)
from vijax.contracts.family import Family
from vijax.families.discrete import Categorical, DiscretizedLogistic
from vijax.guides.checks import require_discrete
from vijax.runtime.errors import GuideError, mismatch

_INIT_LOG_ODDS = 0.5  # initial log odds of the value at the starting point


class IndependentDiscrete(DiscreteGuide):
    """Base class of guides over discrete sites with independent entries."""

    factorized: ClassVar[bool] = True

    def continuous(self, params: PyTree, space: Space) -> None:
        return None

    def draw(self, params: PyTree, space: Space, key: Array, batch: Batch) -> Draw:
        families = self.families(params, space, batch)
        keys = jax.random.split(key, len(families))
        z = {name: q.draw(keys[i]) for i, (name, q) in enumerate(sorted(families.items()))}
        return Draw(z, _log_prob(families, space, z))

    def log_prob(self, params: PyTree, space: Space, z: Position, batch: Batch) -> Array:
        return _log_prob(self.families(params, space, batch), space, z)


@dataclasses.dataclass(frozen=True)
class Discrete(IndependentDiscrete):
    """Mean-field guide over discrete sites: `q(h) = prod_i q_i(h_i)`.

    `q_i` is categorical for an entry with finitely many values and a
    `vijax.families.discrete.DiscretizedLogistic` for a count. For sites that are not marginalized:
    those for which enumeration is not possible, and those assigned to a discrete guide,
    `guide={"h": Discrete(), ...: "fullrank"}`. Parameters are those of the distributions, by site.

    >>> Discrete()
    Discrete()
    """

    def init(
        self, key: Array, space: Space, location: Position, batch: Batch | None = None
    ) -> dict[str, Family]:
        require_discrete(space, "Discrete")
        return {site.name: initial_distribution(site, location[site.name]) for site in space.sites}

    def row_axes(
        self, params: dict[str, Family], space: Space, plates: Collection[str]
    ) -> dict[str, Family]:
        axes = {site.name: site.axes(plates) for site in space.sites}
        return {name: type(q)(*[axes[name]] * len(q)) for name, q in params.items()}  # type: ignore[arg-type]

    def families(self, params: dict[str, Family], space: Space, batch: Batch) -> dict[str, Family]:
        return params

    def transfer(
        self, params: dict[str, Family], space: Space, parts: Sequence[Part]
    ) -> dict[str, Family]:
        found = {
            site.name: part.params[site.name]
            for part in parts
            if isinstance(part.guide, Discrete)
            for site in part.space.sites
            if space.subset([site.name]).same_coordinates(part.space.subset([site.name]))
        }
        return params | found


class MixedParams(NamedTuple):
    """Parameters of the guides for the discrete and for the continuous sites."""

    discrete: PyTree
    continuous: PyTree


@dataclasses.dataclass(frozen=True)
class Mixed(DiscreteGuide):
    """Guide for discrete and continuous sites, independent of each other: `q(h) q(z)`.

    Constructed by `vijax.guides.resolve`.

    Args:
        discrete: guide for the discrete sites `h`.
        others: guide for the continuous sites `z`.
    """

    discrete: DiscreteGuide
    others: DensityGuide

    @property
    def amortized(self) -> bool:  # type: ignore[override]
        return self.discrete.amortized or self.others.amortized

    def init(
        self, key: Array, space: Space, location: Position, batch: Batch | None = None
    ) -> MixedParams:
        keys = jax.random.split(key)
        return MixedParams(
            self.discrete.init(keys[0], space.discrete, location, batch),
            self.others.init(keys[1], space.continuous, location, batch),
        )

    def row_axes(self, params: MixedParams, space: Space, plates: Collection[str]) -> MixedParams:
        return MixedParams(
            self.discrete.row_axes(params.discrete, space.discrete, plates),
            self.others.row_axes(params.continuous, space.continuous, plates),
        )

    def map_parts(
        self, params: MixedParams, space: Space, function: Callable[[Part], PyTree]
    ) -> MixedParams:
        return MixedParams(
            self.discrete.map_parts(params.discrete, space.discrete, function),
            self.others.map_parts(params.continuous, space.continuous, function),
        )

    def point_guide(self, space: Space) -> Guide:
        if self.others.point_guide(space.continuous) is not self.others:
            raise GuideError(
                f"guide {self.others!r}: expected a model without discrete latents in the guide, "
                f"got {list(space.discrete.names)}. Use 'meanfield', or curvature='hessian'."
            )
        return self

    def families(self, params: MixedParams, space: Space, batch: Batch) -> dict[str, Family]:
        return self.discrete.families(params.discrete, space.discrete, batch)

    def continuous(self, params: MixedParams, space: Space) -> Part:
        return Part(self.others, params.continuous, space.continuous)

    def draw(self, params: MixedParams, space: Space, key: Array, batch: Batch) -> Draw:
        keys = jax.random.split(key)
        h = self.discrete.draw(params.discrete, space.discrete, keys[0], batch)
        z = self.others.draw(params.continuous, space.continuous, keys[1], batch)
        return Draw({**h.z, **z.z}, h.log_q + z.log_q)

    def log_prob(self, params: MixedParams, space: Space, z: Position, batch: Batch) -> Array:
        return self.discrete.log_prob(
            params.discrete, space.discrete, z, batch
        ) + self.others.log_prob(params.continuous, space.continuous, z, batch)


def combine(discrete: DiscreteGuide, others: Guide) -> Mixed:
    """The `Mixed` guide of a discrete and a continuous guide.

    Raises:
        GuideError: the continuous guide has no density.
    """
    if not isinstance(others, DensityGuide):
        expected = "a guide with a density for the continuous sites"
        remedy = "Use 'meanfield' or 'fullrank'."
        raise GuideError(mismatch("guide", expected, repr(others), remedy))
    return Mixed(discrete, others)


def _log_prob(families: Mapping[str, Family], space: Space, z: Position) -> Array:
    """Sum of the sites' log probabilities, each multiplied by `Site.scale` as in the model."""
    terms = (
        site.scale * jnp.sum(families[site.name].log_prob(z[site.name])) for site in space.sites
    )
    return functools.reduce(jnp.add, terms)


def initial_distribution(site: Site, location: Array) -> Family:
    """Initial distribution: the value at `location` is the most probable; counts are near it."""
    values = jnp.maximum(jnp.round(jnp.asarray(location)), 0)
    dtype = jnp.result_type(float)
    if not site.cardinality:
        sd = jnp.maximum(jnp.sqrt(values), 1)
        return DiscretizedLogistic(
            jnp.log(values + 0.5).astype(dtype), jnp.log(sd / 2).astype(dtype)
        )
    one_hot = jax.nn.one_hot(values.astype(int), site.cardinality, dtype=dtype)
    return Categorical(_INIT_LOG_ODDS * (one_hot[..., 1:] - one_hot[..., :1]))

"""A mean-field family over discrete sites, alone or beside a guide for the continuous ones."""

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
from vijax.families.discrete import Counts, Family, Finite
from vijax.runtime.errors import GuideError, mismatch

_LEANING = 0.5  # log odds at the start of the value that a site starts at


class Independent(DiscreteGuide):
    """A guide over discrete sites alone, every entry of them independent."""

    factorized: ClassVar[bool] = True

    def continuous(self, params: PyTree, space: Space) -> None:
        return None

    def draw(self, params: PyTree, space: Space, key: Array, batch: Batch) -> Draw:
        families = self.families(params, space, batch)
        keys = jax.random.split(key, len(families))
        z = {name: one.draw(keys[i]) for i, (name, one) in enumerate(sorted(families.items()))}
        return Draw(z, _log_prob(families, space, z))

    def log_prob(self, params: PyTree, space: Space, z: Position, batch: Batch) -> Array:
        return _log_prob(self.families(params, space, batch), space, z)


@dataclasses.dataclass(frozen=True)
class Discrete(Independent):
    """Every entry of every discrete site independent: `q(h) = prod_i q_i(h_i)`.

    Any distribution over the values of an entry with finitely many of them; a discretized logistic
    one over counts, see `vijax.families.discrete.Counts`. For sites that are not summed out: those that
    cannot be, and those that a guide is named for, `guide={"h": Discrete(), ...: "fullrank"}`.
    Parameters are the families', by site.

    >>> Discrete()
    Discrete()
    """

    def init(
        self, key: Array, space: Space, location: Position, batch: Batch | None = None
    ) -> dict[str, Family]:
        require_discrete(space, "Discrete")
        return {site.name: starting(site, location[site.name]) for site in space.sites}

    def row_axes(
        self, params: dict[str, Family], space: Space, plates: Collection[str]
    ) -> dict[str, Family]:
        axes = {site.name: site.axes(plates) for site in space.sites}
        return {name: type(own)(*[axes[name]] * len(own)) for name, own in params.items()}  # type: ignore[arg-type]

    def families(self, params: dict[str, Family], space: Space, batch: Batch) -> dict[str, Family]:
        return params

    def transfer(
        self, params: dict[str, Family], space: Space, parts: Sequence[Part]
    ) -> dict[str, Family]:
        theirs = {
            site.name: part.params[site.name]
            for part in parts
            if isinstance(part.guide, Discrete)
            for site in part.space.sites
            if space.subset([site.name]).same_coordinates(part.space.subset([site.name]))
        }
        return params | theirs


class MixedParams(NamedTuple):
    """Parameters of the guides for discrete and for continuous sites."""

    discrete: PyTree
    smooth: PyTree


@dataclasses.dataclass(frozen=True)
class Mixed(DiscreteGuide):
    """`q(h, z) = q(h) q(z)`: a guide for the discrete sites beside one for all others.

    Made by `vijax.guides.resolve`.

    Args:
        discrete: the one.
        others: the other.
    """

    discrete: DiscreteGuide
    others: DensityGuide

    @property
    def amortized(self) -> bool:  # type: ignore[override]  # that of its parts
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
            self.others.row_axes(params.smooth, space.continuous, plates),
        )

    def map_parts(
        self, params: MixedParams, space: Space, function: Callable[[Part], PyTree]
    ) -> MixedParams:
        return MixedParams(
            self.discrete.map_parts(params.discrete, space.discrete, function),
            self.others.map_parts(params.smooth, space.continuous, function),
        )

    def families(self, params: MixedParams, space: Space, batch: Batch) -> dict[str, Family]:
        return self.discrete.families(params.discrete, space.discrete, batch)

    def continuous(self, params: MixedParams, space: Space) -> Part:
        return Part(self.others, params.smooth, space.continuous)

    def draw(self, params: MixedParams, space: Space, key: Array, batch: Batch) -> Draw:
        keys = jax.random.split(key)
        states = self.discrete.draw(params.discrete, space.discrete, keys[0], batch)
        z = self.others.draw(params.smooth, space.continuous, keys[1], batch)
        return Draw({**states.z, **z.z}, states.log_q + z.log_q)

    def log_prob(self, params: MixedParams, space: Space, z: Position, batch: Batch) -> Array:
        return self.discrete.log_prob(
            params.discrete, space.discrete, z, batch
        ) + self.others.log_prob(params.smooth, space.continuous, z, batch)


def mixed(discrete: DiscreteGuide, others: Guide) -> Mixed:
    """The guide made of two.

    Raises:
        GuideError: the second has no density.
    """
    if not isinstance(others, DensityGuide):
        expected = "one with a density beside that of the discrete sites"
        remedy = "Use 'meanfield' or 'fullrank'."
        raise GuideError(mismatch("guide", expected, repr(others), remedy))
    return Mixed(discrete, others)


def _log_prob(families: Mapping[str, Family], space: Space, z: Position) -> Array:
    """Log probability, each site's scaled as the model's own is."""
    terms = (
        site.scale * jnp.sum(families[site.name].log_prob(z[site.name])) for site in space.sites
    )
    return functools.reduce(jnp.add, terms)


def starting(site: Site, location: Array) -> Family:
    """Probabilities that lean towards the value at `location`; of a count, its neighborhood."""
    states = jnp.maximum(jnp.round(jnp.asarray(location)), 0)
    dtype = jnp.result_type(float)
    if not site.cardinality:
        width = jnp.maximum(jnp.sqrt(states), 1)
        return Counts(jnp.log(states + 0.5).astype(dtype), jnp.log(width / 2).astype(dtype))
    hot = jax.nn.one_hot(states.astype(int), site.cardinality, dtype=dtype)
    return Finite(_LEANING * (hot[..., 1:] - hot[..., :1]))


def require_discrete(space: Space, guide: str) -> None:
    """Refuses continuous sites.

    Raises:
        GuideError: naming one.
    """
    for site in space.continuous.sites:
        raise GuideError(
            f"guide {guide}: expected discrete sites, got {site.name!r}, which is continuous. "
            f"Name the discrete ones: guide={{'h': {guide}(...), ...: 'fullrank'}}."
        )

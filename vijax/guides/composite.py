"""Different guides for different sites, independent of one another.

What a composition can do is what all of its parts can do, and its type says so; `compose` picks
it. The classes mirror the chain of capabilities in `vijax.contracts`, each adding one.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import operator
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from types import EllipsisType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.linalg import block_diag

from vijax.contracts import (
    Batch,
    DensityGuide,
    DiscreteGuide,
    Draw,
    EntropyGuide,
    Family,
    GaussianGuide,
    Guide,
    Part,
    Position,
    PyTree,
    Space,
)
from vijax.runtime.errors import GuideError

Sites = str | tuple[str, ...] | EllipsisType


@dataclasses.dataclass(frozen=True)
class Composite(Guide):
    """`q(z) = prod_k q_k(z_k)`: one guide per group of sites, independent across groups.

    Parameters are a tuple, those of the parts in order. Correlations between groups are not
    represented; keep sites that depend on one another in one group.

    Args:
        parts: `(site names, guide)` pairs that together name every site once; see `compose`.
    """

    parts: tuple[tuple[tuple[str, ...], Any], ...]

    @property
    def amortized(self) -> bool:  # type: ignore[override]  # that of its parts
        return any(guide.amortized for _, guide in self.parts)

    def init(
        self, key: Array, space: Space, location: Position, batch: Batch | None = None
    ) -> tuple[PyTree, ...]:
        return tuple(
            guide.init(jax.random.fold_in(key, i), part, location, batch)
            for i, (guide, part) in enumerate(_parts(self, space))
        )

    def row_axes(
        self, params: tuple[PyTree, ...], space: Space, plates: Collection[str]
    ) -> tuple[PyTree, ...]:
        return tuple(
            guide.row_axes(values, part, plates)
            for values, (guide, part) in zip(params, _parts(self, space), strict=True)
        )

    def map_parts(
        self, params: tuple[PyTree, ...], space: Space, function: Callable[[Part], PyTree]
    ) -> tuple[PyTree, ...]:
        return tuple(
            guide.map_parts(values, part, function)
            for values, (guide, part) in zip(params, _parts(self, space), strict=True)
        )

    def draw(self, params: tuple[PyTree, ...], space: Space, key: Array, batch: Batch) -> Draw:
        draws = [
            guide.draw(params[i], part, jax.random.fold_in(key, i), batch)
            for i, (guide, part) in enumerate(_parts(self, space))
        ]
        z = {name: value for draw in draws for name, value in draw.z.items()}
        return Draw(z, _sum(draw.log_q for draw in draws))


@dataclasses.dataclass(frozen=True)
class DensityComposite(Composite, DensityGuide):
    """A `Composite` of density guides."""

    def log_prob(
        self, params: tuple[PyTree, ...], space: Space, z: Position, batch: Batch
    ) -> Array:
        parts = _parts(self, space)
        return _sum(
            guide.log_prob(values, part, {name: z[name] for name in part.names}, batch)
            for values, (guide, part) in zip(params, parts, strict=True)
        )


@dataclasses.dataclass(frozen=True)
class EntropyComposite(DensityComposite, EntropyGuide):
    """A `Composite` of guides with closed-form entropies; they add up."""

    def entropy(self, params: tuple[PyTree, ...], space: Space) -> Array:
        parts = _parts(self, space)
        return _sum(
            guide.entropy(values, part) for values, (guide, part) in zip(params, parts, strict=True)
        )


@dataclasses.dataclass(frozen=True)
class GaussianComposite(EntropyComposite, GaussianGuide):
    """A `Composite` of Gaussians: a Gaussian whose covariance is zero between the groups."""

    def mean(self, params: tuple[PyTree, ...], space: Space) -> Array:
        parts = _parts(self, space)
        means = [
            guide.mean(values, part) for values, (guide, part) in zip(params, parts, strict=True)
        ]
        return jnp.concatenate(means)[_order(self, space)]

    def covariance(self, params: tuple[PyTree, ...], space: Space) -> Array:
        parts = _parts(self, space)
        blocks = [
            guide.covariance(values, part)
            for values, (guide, part) in zip(params, parts, strict=True)
        ]
        order = _order(self, space)
        return block_diag(*blocks)[order[:, None], order[None, :]]


@dataclasses.dataclass(frozen=True)
class DiscreteComposite(DensityComposite, DiscreteGuide):
    """A `Composite` of guides for discrete sites alone."""

    def families(self, params: tuple[PyTree, ...], space: Space, batch: Batch) -> dict[str, Family]:
        found: dict[str, Family] = {}
        for values, (guide, part) in zip(params, _parts(self, space), strict=True):
            found |= guide.families(values, part, batch)
        return found

    def continuous(self, params: tuple[PyTree, ...], space: Space) -> None:
        return None


def compose(mapping: Mapping[Sites, Guide], space: Space) -> Guide:
    """A guide for `space` from guides for groups of its sites.

    Equal compositions are equal guides, in whatever order the mapping was written. A mapping
    with a single group is that group's guide itself.

    Args:
        mapping: site name, tuple of names, or `...` (all sites not named elsewhere) to guide.
        space: the space to cover.

    Returns:
        A `GaussianGuide`, `EntropyGuide`, `DiscreteGuide`, `DensityGuide` or plain `Guide`: what
        all parts are.

    Raises:
        GuideError: a site is missing, unknown, or named twice, or a value is no guide.
    """
    for key, guide in mapping.items():
        if not isinstance(guide, Guide):
            raise GuideError(
                f"guide for {_label(key)}: expected a vijax Guide, got {type(guide).__name__}."
            )
    groups = assign(list(mapping), space)
    parts = [(names, mapping[key]) for key, names in groups.items()]
    parts.sort(key=lambda part: space.names.index(part[0][0]))
    if len(parts) == 1:
        return parts[0][1]
    for capability, kind in (
        (DiscreteGuide, DiscreteComposite),
        (GaussianGuide, GaussianComposite),
        (EntropyGuide, EntropyComposite),
        (DensityGuide, DensityComposite),
    ):
        if all(isinstance(guide, capability) for _, guide in parts):
            return kind(tuple(parts))
    return Composite(tuple(parts))


def assign(keys: Sequence[Sites], space: Space) -> dict[Sites, tuple[str, ...]]:
    """The sites that each key of a mapping stands for, in the order of the space.

    Raises:
        GuideError: a site is missing, unknown, or named twice.
    """
    owner: dict[str, Sites] = {}
    for key in keys:
        for name in _names(key):
            if name not in space.names:
                raise GuideError(_unknown(name, space))
            if name in owner:
                raise GuideError(
                    f"site {name!r}: expected one guide, got two, under {_label(owner[name])} and "
                    f"{_label(key)}. Remove it from one of them."
                )
            owner[name] = key
    rest = [name for name in space.names if name not in owner]
    if ... in keys:
        owner |= dict.fromkeys(rest, ...)
    elif rest:
        raise GuideError(
            f"site {rest[0]!r}: expected a guide for every site, got none for {rest}. Name it in "
            "the mapping, or give the key ... for all remaining sites."
        )
    groups = {key: tuple(name for name in space.names if owner[name] == key) for key in keys}
    return {key: names for key, names in groups.items() if names}


def _names(key: Any) -> tuple[str, ...]:
    if key is ...:
        return ()
    names = key if isinstance(key, tuple) else (key,)
    for name in names:
        if not isinstance(name, str):
            raise GuideError(
                f"guide mapping: expected site names, tuples of them or ... as keys, got {key!r}."
            )
    return names


def _unknown(name: str, space: Space) -> str:
    close = difflib.get_close_matches(name, space.names, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return (
        f"site {name!r}: expected one of the model's latent sites {list(space.names)}, got a name "
        f"the model does not have.{hint}"
    )


def _label(key: Any) -> str:
    return "..." if key is ... else repr(key)


def _parts(composite: Composite, space: Space) -> list[tuple[Any, Space]]:
    """The parts' guides, each with its own space."""
    return [(guide, space.subset(names)) for names, guide in composite.parts]


def _order(composite: Composite, space: Space) -> np.ndarray:
    """Where each coordinate of `space` stands in the parts laid end to end, `(dim,)`."""
    start, places = 0, {}
    for names, _ in composite.parts:
        for site in space.subset(names).sites:
            places[site.name] = np.arange(start, start + site.size)
            start += site.size
    return np.concatenate([places[name] for name in space.names])


def _sum(terms: Iterable[Array]) -> Array:
    return functools.reduce(operator.add, terms)

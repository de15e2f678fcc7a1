"""Composite guides: a guide for each group of sites, independent across groups.

A composite satisfies the strongest contract in `vijax.contracts` that all of its parts satisfy:
there is one class per contract, and `compose` chooses it.
"""

from __future__ import annotations

import dataclasses
import fnmatch
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
from vijax.guides.delta import Delta
from vijax.runtime.errors import GuideError, mismatch
from vijax.runtime.keywords import did_you_mean
from vijax.runtime.network_run import Noise

Sites = str | tuple[str, ...] | EllipsisType  # a key of a `guide=` mapping


@dataclasses.dataclass(frozen=True)
class Composite(Guide):
    """One guide per group of sites: `q(z) = prod_k q_k(z_k)`.

    Parameters are a tuple with those of each part in order. Correlations between groups are not
    represented; assign sites that depend on one another to the same group.

    Args:
        parts: `(site names, guide)` pairs that together name every site once; see `compose`.
    """

    parts: tuple[tuple[tuple[str, ...], Any], ...]

    @property
    def amortized(self) -> bool:  # type: ignore[override]
        return any(guide.amortized for _, guide in self.parts)

    @property
    def unbound(self) -> Guide:
        parts = tuple((names, guide.unbound) for names, guide in self.parts)
        return dataclasses.replace(self, parts=parts)

    def plan_lines(self) -> tuple[str, ...]:
        return tuple(line for _, guide in self.parts for line in guide.plan_lines())

    def weight_noise(self, params: tuple[PyTree, ...], space: Space) -> Noise:
        found: dict[str, dict[str, Any]] = {}
        for values, (guide, part) in zip(params, _parts(self, space), strict=True):
            for kind, sites in guide.weight_noise(values, part).items():
                found.setdefault(kind, {}).update(sites)
        return found

    def point_guide(self, space: Space) -> Guide:
        found = [guide.point_guide(part) for guide, part in _parts(self, space)]
        if found == [guide for _, guide in self.parts]:
            return self
        for (names, guide), point in zip(self.parts, found, strict=True):
            if not isinstance(point, Delta):
                raise GuideError(
                    f"guide for {_label(names)}: expected 'map' or a Laplace approximation with "
                    f"curvature 'ggn', 'diagonal' or 'kronecker' beside another one, whose mode "
                    f"is found first, got {guide!r}."
                )
        return Delta()

    def linearized_at(self, params: tuple[PyTree, ...], space: Space) -> Position:
        found: Position = {}
        for values, (guide, part) in zip(params, _parts(self, space), strict=True):
            found |= guide.linearized_at(values, part)
        return found

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
    """A `Composite` of guides with closed-form entropies; its entropy is their sum."""

    def entropy(self, params: tuple[PyTree, ...], space: Space) -> Array:
        parts = _parts(self, space)
        return _sum(
            guide.entropy(values, part) for values, (guide, part) in zip(params, parts, strict=True)
        )


@dataclasses.dataclass(frozen=True)
class GaussianComposite(EntropyComposite, GaussianGuide):
    """A `Composite` of Gaussians: a Gaussian with a block-diagonal covariance."""

    def mean(self, params: tuple[PyTree, ...], space: Space) -> Array:
        parts = _parts(self, space)
        means = [
            guide.mean(values, part) for values, (guide, part) in zip(params, parts, strict=True)
        ]
        return jnp.concatenate(means)[_permutation(self, space)]

    def covariance(self, params: tuple[PyTree, ...], space: Space) -> Array:
        parts = _parts(self, space)
        blocks = [
            guide.covariance(values, part)
            for values, (guide, part) in zip(params, parts, strict=True)
        ]
        order = _permutation(self, space)
        return block_diag(*blocks)[order[:, None], order[None, :]]


@dataclasses.dataclass(frozen=True)
class DiscreteComposite(DensityComposite, DiscreteGuide):
    """A `Composite` of guides over discrete sites."""

    def families(self, params: tuple[PyTree, ...], space: Space, batch: Batch) -> dict[str, Family]:
        found: dict[str, Family] = {}
        for values, (guide, part) in zip(params, _parts(self, space), strict=True):
            found |= guide.families(values, part, batch)
        return found

    def continuous(self, params: tuple[PyTree, ...], space: Space) -> None:
        return None


def compose(mapping: Mapping[Sites, Guide], space: Space) -> Guide:
    """A guide for `space` from guides for groups of its sites.

    The result does not depend on the order of the mapping. For a single group it is that group's
    guide itself.

    Args:
        mapping: from site name, tuple of names, or `...` (all other sites) to guide.
        space: the latent sites.

    Returns:
        A `DiscreteGuide`, `GaussianGuide`, `EntropyGuide`, `DensityGuide` or plain `Guide`: the
        first of these that all parts are.

    Raises:
        GuideError: a site is missing, unknown, or named twice, or a value is not a guide.
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
    for contract, kind in (
        (DiscreteGuide, DiscreteComposite),
        (GaussianGuide, GaussianComposite),
        (EntropyGuide, EntropyComposite),
        (DensityGuide, DensityComposite),
    ):
        if all(isinstance(guide, contract) for _, guide in parts):
            return kind(tuple(parts))
    return Composite(tuple(parts))


def assign(keys: Sequence[Sites], space: Space) -> dict[Sites, tuple[str, ...]]:
    """The sites assigned to each key of a mapping, in the order of the space.

    Names come first; a pattern such as `"net/out/*"` has the sites that are left.

    Raises:
        GuideError: a site is missing, unknown, or named twice, or a pattern matches none.
    """
    key_of: dict[str, Sites] = {}
    for key in keys:
        for name in _names(key):
            if _is_pattern(name):
                continue
            if name not in space.names:
                raise GuideError(_unknown(name, space))
            if name in key_of:
                raise GuideError(
                    f"site {name!r}: expected one guide, got two, under {_label(key_of[name])} and "
                    f"{_label(key)}. Remove it from one of them."
                )
            key_of[name] = key
    key_of = _by_pattern(keys, space) | key_of
    rest = [name for name in space.names if name not in key_of]
    if ... in keys:
        key_of |= dict.fromkeys(rest, ...)
    elif rest:
        raise GuideError(
            f"site {rest[0]!r}: expected a guide for every site, got none for {rest}. Add it to "
            "the mapping, or use the key ... for all remaining sites."
        )
    groups = {key: tuple(name for name in space.names if key_of[name] == key) for key in keys}
    return {key: names for key, names in groups.items() if names}


def _by_pattern(keys: Sequence[Sites], space: Space) -> dict[str, Sites]:
    """The key of every site that a pattern matches, of the first one."""
    key_of: dict[str, Sites] = {}
    for key in keys:
        for pattern in filter(_is_pattern, _names(key)):
            matching = fnmatch.filter(space.names, pattern)
            if not matching:
                expected = f"a pattern that matches one of {list(space.names)}"
                raise GuideError(mismatch("guide mapping", expected, repr(pattern)))
            key_of = dict.fromkeys(matching, key) | key_of
    return key_of


def _is_pattern(name: str) -> bool:
    return "*" in name


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
    hint = did_you_mean(name, space.names)
    return (
        f"site {name!r}: expected one of the model's latent sites {list(space.names)}, got a name "
        f"the model does not have.{hint}"
    )


def _label(key: Any) -> str:
    return "..." if key is ... else repr(key)


def _parts(composite: Composite, space: Space) -> list[tuple[Any, Space]]:
    """Each part's guide, with the space of its sites."""
    return [(guide, space.subset(names)) for names, guide in composite.parts]


def _permutation(composite: Composite, space: Space) -> np.ndarray:
    """Index of each coordinate of `space` in the concatenated parts, `(dim,)`."""
    start, indices = 0, {}
    for names, _ in composite.parts:
        for site in space.subset(names).sites:
            indices[site.name] = np.arange(start, start + site.size)
            start += site.size
    return np.concatenate([indices[name] for name in space.names])


def _sum(terms: Iterable[Array]) -> Array:
    return functools.reduce(operator.add, terms)

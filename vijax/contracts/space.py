"""The unconstrained space of a model: latent sites, their coordinates and plates."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Iterable, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from vijax.runtime.stacks import cut, join

Array = jax.Array
Position = dict[str, Array]  # z: unconstrained value by site


@dataclasses.dataclass(frozen=True)
class Plate:
    """One plate around a site.

    Attributes:
        name: its name.
        dim: its batch dimension, negative, counted from the right.
        size: number of rows.
        subsample_size: number of rows in use.
    """

    name: str
    dim: int
    size: int
    subsample_size: int


@dataclasses.dataclass(frozen=True)
class Axes:
    """The axes of an array that run along plates, as `(plate, axis)` pairs."""

    pairs: tuple[tuple[str, int], ...] = ()


@dataclasses.dataclass(frozen=True)
class Site:
    """A latent site.

    Attributes:
        name: its name.
        shape: shape of its value, constrained.
        z_shape: shape of its value, unconstrained.
        event_dim: number of event dimensions of `shape`.
        plates: the plates it is in.
        cardinality: number of values of a discrete site, 0 if countably infinite (see
            `vijax.families.discrete`); `None` for a continuous one.
        init_scale: standard deviation at the start of a fit, of a site with an initial value of its
            own (weights of networks); `None` for others.
    """

    name: str
    shape: tuple[int, ...]
    z_shape: tuple[int, ...]
    event_dim: int = 0
    plates: tuple[Plate, ...] = ()
    cardinality: int | None = None
    init_scale: float | None = None

    @property
    def size(self) -> int:
        """Number of unconstrained coordinates."""
        return math.prod(self.z_shape)

    @property
    def scale(self) -> float:
        """Factor of its log density, `prod(size / subsample_size)` over its plates."""
        return math.prod(plate.size / plate.subsample_size for plate in self.plates)

    def axes(self, plates: Collection[str]) -> Axes:
        """The axes of its value and of `z` along those of `plates` that it is in."""
        ndim = len(self.shape) - self.event_dim
        return Axes(tuple((p.name, ndim + p.dim) for p in self.plates if p.name in plates))

    def on_rows(self, rows: Mapping[str, int]) -> Site:
        """The site with `rows` (number by plate) of its plates in use."""
        shape, z_shape = list(self.shape), list(self.z_shape)
        for plate, axis in self.axes(rows).pairs:
            shape[axis] = z_shape[axis] = rows[plate]
        plates = tuple(
            dataclasses.replace(p, subsample_size=rows.get(p.name, p.subsample_size))
            for p in self.plates
        )
        return dataclasses.replace(self, shape=tuple(shape), z_shape=tuple(z_shape), plates=plates)


@dataclasses.dataclass(frozen=True)
class Space:
    """`R^dim`, the unconstrained space of a model: its latent sites in order; hashable."""

    sites: tuple[Site, ...]

    @property
    def dim(self) -> int:
        """Total number of unconstrained coordinates."""
        return sum(site.size for site in self.sites)

    @property
    def names(self) -> tuple[str, ...]:
        """Site names, in order."""
        return tuple(site.name for site in self.sites)

    def ravel(self, z: Mapping[str, Array]) -> Array:
        """A position as a vector `(dim,)`, sites in order."""
        parts = [jnp.asarray(z[name]) for name in self.names]
        if any(isinstance(part, jax.core.Tracer) for part in parts):
            return join(parts)
        return jnp.concatenate([jnp.ravel(part) for part in parts])  # may be on several devices

    def host_ravel(self, z: Mapping[str, np.ndarray]) -> np.ndarray:
        """`ravel` in NumPy, which compiles nothing."""
        return np.concatenate([np.ravel(z[name]) for name in self.names])

    def unravel(self, vector: Array) -> Position:
        """Cuts a vector `(dim,)` into a position; the inverse of `ravel`."""
        parts = cut(vector, [site.z_shape for site in self.sites])
        return dict(zip(self.names, parts, strict=True))

    def host_unravel(self, vector: np.ndarray) -> dict[str, np.ndarray]:
        """`unravel` in NumPy."""
        parts = np.split(vector, np.cumsum([site.size for site in self.sites])[:-1])
        return {
            site.name: part.reshape(site.z_shape)
            for site, part in zip(self.sites, parts, strict=True)
        }

    @property
    def discrete(self) -> Space:
        """The discrete sites."""
        return Space(tuple(site for site in self.sites if site.cardinality is not None))

    @property
    def networks(self) -> Space:
        """The sites with an initial value of their own, which are the weights of networks."""
        return Space(tuple(site for site in self.sites if site.init_scale is not None))

    @property
    def continuous(self) -> Space:
        """The continuous sites."""
        return Space(tuple(site for site in self.sites if site.cardinality is None))

    def on_rows(self, rows: Mapping[str, int]) -> Space:
        """The space of a minibatch with `rows` (number by plate) of some plates in use."""
        return Space(tuple(site.on_rows(rows) for site in self.sites))

    def subset(self, names: Iterable[str]) -> Space:
        """The space of some of the sites, in this space's order."""
        wanted = set(names)
        return Space(tuple(site for site in self.sites if site.name in wanted))

    def same_coordinates(self, other: Space) -> bool:
        """Whether `other` has the same sites with the same shapes."""
        one, two = ([(site.name, site.z_shape) for site in space.sites] for space in (self, other))
        return one == two

    def coordinates(self) -> list[str]:
        """A label for every coordinate: `mu`, `theta[3]`, `L[2,0]`."""
        labels = []
        for site in self.sites:
            for flat in range(site.size):
                index = []
                for length in reversed(site.z_shape):
                    flat, i = divmod(flat, length)
                    index.append(str(i))
                labels.append(f"{site.name}[{','.join(reversed(index))}]" if index else site.name)
        return labels

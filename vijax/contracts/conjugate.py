"""Blocks of a conjugate guide: which latent sites have a joint family, and of which kind."""

from __future__ import annotations

import dataclasses
import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax.contracts.space import Space

GAUSSIAN = (
    "normal",
    "normal_chain",
    "log_normal",
    "normal_gamma",
    "normal_wishart",
)  # with a mean per element


_GAMMA_NAMES: dict[float, str] = {1: "gamma", -1: "inverse gamma"}


@dataclasses.dataclass(frozen=True)
class BlockSite:
    """A site of a block.

    Attributes:
        name: its name.
        shape: of its value.
        batch_axes: the axes along which its elements are independent, in the block's order.
        step_axis: in a chain, the axis of its steps; `None` of a site that is the first step.
    """

    name: str
    shape: tuple[int, ...]
    batch_axes: tuple[int, ...]
    step_axis: int | None = None

    @property
    def event_axes(self) -> tuple[int, ...]:
        """The other axes: elements along them are dependent."""
        own = (*self.batch_axes, self.step_axis)
        return tuple(i for i in range(len(self.shape)) if i not in own)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Their lengths."""
        return tuple(self.shape[i] for i in self.event_axes)

    @property
    def event_size(self) -> int:
        """Number of dependent elements."""
        return math.prod(self.event_shape)

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Lengths of the batch axes."""
        return tuple(self.shape[i] for i in self.batch_axes)

    @property
    def _order(self) -> tuple[int, ...]:
        steps = () if self.step_axis is None else (self.step_axis,)
        return (*self.batch_axes, *steps, *self.event_axes)

    def placed(self, array: Array) -> Array:
        """An array with axes batch, steps, then event, as one with the axes of the site."""
        order = self._order
        return jnp.transpose(array, [order.index(i) for i in range(len(order))])

    def flattened(self, value: Array) -> Array:
        """A value of the site, of any number of rows, as `(*batch, [steps,] event_size)`."""
        moved = jnp.transpose(value, self._order)
        return moved.reshape((*moved.shape[: moved.ndim - len(self.event_axes)], self.event_size))


@dataclasses.dataclass(frozen=True)
class ConjugateBlock:
    """Latent sites with a joint distribution of one exponential family, independent of all others.

    Attributes:
        kind: `"normal"` (of several sites jointly), `"normal_chain"` (likewise, of steps each of
            which depends on the ones before and after it alone), `"log_normal"`, `"gamma"`,
            `"beta"`, `"dirichlet"`, `"wishart"`, or a normal and its precision jointly:
            `"normal_gamma"`, `"normal_wishart"`.
        sites: its sites; of the joint kinds the precision last.
        power: of the positive site: `x^power` is gamma- (Wishart-) distributed.
        color: blocks of one color share no term and are updated together.
    """

    kind: str
    sites: tuple[BlockSite, ...]
    power: float = 1
    color: int = 0

    @property
    def name(self) -> str:
        """The names of its sites."""
        return ", ".join(site.name for site in self.sites)

    @property
    def gaussian_sites(self) -> tuple[BlockSite, ...]:
        """Its sites with a normal distribution."""
        if self.kind in ("normal_gamma", "normal_wishart"):
            return self.sites[:-1]
        return self.sites if self.kind in GAUSSIAN else ()

    @property
    def batch_shape(self) -> tuple[int, ...]:
        """Of its independent members."""
        return self.sites[0].batch_shape

    @property
    def event_size(self) -> int:
        """Dimension of its normal distribution, of a chain that of a step."""
        steps = [site for site in self.sites if site.step_axis is not None]
        return sum(site.event_size for site in (steps or self.gaussian_sites))

    def _alike(self, site: BlockSite) -> tuple[BlockSite, ...]:
        """The normal sites of which the vectors consist that have the elements of a site."""
        if self.kind != "normal_chain":
            return self.gaussian_sites
        first = site.step_axis is None
        return tuple(other for other in self.sites if (other.step_axis is None) == first)

    @property
    def first_step(self) -> int:
        """Of a chain, the first step of sites that have several: 1 after sites that are a step."""
        return int(any(site.step_axis is None for site in self.sites))

    @property
    def num_steps(self) -> int:
        """Of a chain."""
        (length, *_) = (s.shape[s.step_axis] for s in self.sites if s.step_axis is not None)
        return length + self.first_step

    def place(self, site: BlockSite) -> slice:
        """Where the elements of a site are in the vector of its normal distribution, or step."""
        alike = self._alike(site)
        start = sum(other.event_size for other in alike[: alike.index(site)])
        return slice(start, start + site.event_size)

    def part(self, site: BlockSite, vectors: Array) -> Array:
        """The part of a site of vectors `(*batch, [steps,] event_size)`, with the site's axes.

        Vectors of one element may lack their axis.
        """
        if self.kind == "normal_chain":
            steps = 0 if site.step_axis is None else slice(self.first_step, None)
            part = vectors[..., steps, self.place(site)]
            return site.placed(part.reshape((*part.shape[:-1], *site.event_shape)))
        if vectors.ndim == len(site.batch_axes):
            vectors = vectors[..., None]
        part = vectors[..., self.place(site)]
        return site.placed(part.reshape((*part.shape[:-1], *site.event_shape)))

    @property
    def _steps(self) -> str:
        if self.kind != "normal_chain":
            return ""
        dimensions = f" of {self.event_size} dimensions" if self.event_size > 1 else ""
        return f"{self.num_steps:,} steps{dimensions}"

    @property
    def words(self) -> str:
        """The family in words."""
        dense = f" of {self.event_size} dimensions" if self.event_size > 1 else ""
        names = {
            "normal": f"normal{dense}",
            "normal_chain": f"normal chain of {self._steps}",
            "log_normal": f"log-normal{dense}",
            "gamma": _GAMMA_NAMES.get(self.power, f"gamma of x**{self.power:g}"),
            "beta": "beta",
            "dirichlet": "Dirichlet",
            "wishart": "Wishart" if self.power == 1 else "inverse Wishart",
            "normal_gamma": f"normal{dense} and gamma precision",
            "normal_wishart": f"normal{dense} and Wishart precision",
        }
        return names[self.kind]


@dataclasses.dataclass(frozen=True)
class ConjugatePlan:
    """The blocks of a model.

    Attributes:
        blocks: in the order of their updates.
        discrete: discrete sites, which are eliminated.
        products: pairs of normal blocks of equal dimension that are multiplied, see
            `vijax.solvers.rotation`.
        rows_per_value: rows of the plates of discrete sites over the numbers of their values.
        multimodal: whether the ELBO may have several optima: discrete sites, products of
            sites, or logarithms of sums of products.
        augmented: sites with further variables that make them conjugate, as in
            `"y: Polya-Gamma variables"`; these have their optimal distribution.
        quadrature: sites whose expected log density is computed by quadrature; it is not convex in
            the expectations, so that a full step may overshoot.
    """

    blocks: tuple[ConjugateBlock, ...]
    discrete: tuple[str, ...] = ()
    products: tuple[tuple[str, str], ...] = ()
    rows_per_value: float = 1.0
    multimodal: bool = False
    augmented: tuple[str, ...] = ()
    quadrature: tuple[str, ...] = ()

    def scales(self, space: Space) -> dict[str, float]:
        """By block, the scale of its terms: rows of its plates over rows in use."""
        of_site = {site.name: site.scale for site in space.sites}
        return {block.name: of_site[block.sites[0].name] for block in self.blocks}

    @property
    def num_colors(self) -> int:
        """Number of groups of blocks that are updated one after the other."""
        return 1 + max(block.color for block in self.blocks)


class Comparison(NamedTuple):
    """A model as it computes its log density, and as it was read, at one position.

    Attributes:
        log_densities: by site, its log density according to the model and as it was read; sites
            that depend on discrete ones are one entry, by all their names.
        probability_sums: by site, the sum of its probabilities of categories that is farthest
            from one.
    """

    log_densities: dict[str, tuple[Array, Array]]
    probability_sums: dict[str, Array]


class WordCounts(NamedTuple):
    """The data of a model that is latent Dirichlet allocation.

    Attributes:
        documents: the site with the topics of every document, `(D, K)`.
        topics: the site with the words of every topic, `(K, V)`.
        num_documents: `D`.
        rows: the document of each entry, `(N,)`.
        words: its word, alike.
        counts: how often it occurs, alike; an entry may be in several parts.
        alpha: prior of the topics of a document, `(K,)`.
        eta: prior of the words of a topic, `(V,)`.
    """

    documents: str
    topics: str
    num_documents: int
    rows: np.ndarray
    words: np.ndarray
    counts: np.ndarray
    alpha: np.ndarray
    eta: np.ndarray

"""Priors of a model replaced by members of their conjugate families: the posterior of a fit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpyro.distributions as dist
from jax import Array
from jax.scipy.linalg import solve_triangular
from numpyro.distributions import Distribution
from numpyro.distributions.constraints import Constraint
from numpyro.primitives import Messenger

from vijax.contracts.conjugate import BlockSite, ConjugateBlock
from vijax.families.exponential_family import ExponentialFamily
from vijax.families.linear_algebra import inverse_factor

Families = Mapping[str, ExponentialFamily]  # by block

_KINDS = ("normal", "gamma", "beta", "dirichlet", "wishart", "normal_gamma")


def are_priors(blocks: tuple[ConjugateBlock, ...], supports: Mapping[str, Constraint]) -> bool:
    """Whether the distributions of blocks can be written as priors of their sites, in order.

    Args:
        blocks: of a conjugate guide.
        supports: of the model's latent sites, in the order in which it samples them.
    """
    order = [*supports]
    for block in blocks:
        precision = block.sites[len(block.gaussian_sites) :] if block.gaussian_sites else ()
        names = [site.name for site in (*precision, *(block.gaussian_sites or block.sites))]
        if block.kind not in _KINDS or not {*names} <= {*order} or not _has_name(block):
            return False
        if [order.index(name) for name in names] != sorted(map(order.index, names)):
            return False
        for site in block.sites:
            along_first = site.batch_axes == tuple(range(len(site.batch_axes)))
            events = len(site.event_axes)
            if not along_first or supports[site.name].event_dim < events:
                return False
            if events > 1 and block.kind != "wishart":
                return False
    return True


def _has_name(block: ConjugateBlock) -> bool:
    """Whether NumPyro has the distribution of the block's positive site."""
    if block.kind == "wishart":
        return block.power == 1
    return block.power in (1, -1)


def conjugate_priors(blocks: tuple[ConjugateBlock, ...], families: Families) -> Messenger:
    """A handler that replaces the distributions of the sites of blocks by those of `families`."""
    return _ConjugatePriors(blocks, families)


class _ConjugatePriors(Messenger):
    def __init__(self, blocks: tuple[ConjugateBlock, ...], families: Families) -> None:
        super().__init__(None)
        self.blocks = {site.name: (block, site) for block in blocks for site in block.sites}
        self.families = families
        self.values: dict[str, Array] = {}

    def process_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and msg["name"] in self.blocks:
            block, site = self.blocks[msg["name"]]
            fn = self._distribution(block, site)
            extra = msg["fn"].event_dim - fn.event_dim
            msg["fn"] = fn.to_event(extra) if extra else fn

    def postprocess_message(self, msg: dict[str, Any]) -> None:
        if msg["type"] == "sample" and msg["name"] in self.blocks:
            self.values[msg["name"]] = msg["value"]

    def _distribution(self, block: ConjugateBlock, site: BlockSite) -> Distribution:
        family: Any = self.families[block.name]
        if site in block.gaussian_sites:
            noise = jnp.ones(())
            if block.kind == "normal_gamma":
                noise = self.values[block.sites[-1].name] ** block.power
            return self._conditional(block, site, noise)
        if block.kind in ("gamma", "normal_gamma"):
            made = dist.Gamma if block.power == 1 else dist.InverseGamma
            return made(family.concentration, family.rate)
        if block.kind == "beta":
            return dist.Beta(family.a, family.b)
        if block.kind == "dirichlet":
            return dist.Dirichlet(family.concentration)
        return dist.Wishart(family.concentration, rate_matrix=family.inverse_scale)

    def _conditional(self, block: ConjugateBlock, site: BlockSite, noise: Array) -> Distribution:
        """The normal distribution of a site given the block's sites before it.

        With `v = m + L e`, the rows `j` of a site given those `i` before it have the mean
        `m_j + L_ji L_ii^-1 (v_i - m_i)` and the factor `L_jj`; all precisions are times `noise`.
        """
        family: Any = self.families[block.name]
        size, rows = block.event_size, block.place(site)
        mean = family.mean if family.mean.ndim > len(site.batch_axes) else family.mean[..., None]
        precision = family.precision.reshape((*mean.shape, size))
        # of the matrix with rows and columns reversed, so that it is lower triangular
        factor = jnp.swapaxes(inverse_factor(precision[..., ::-1, ::-1]), -1, -2)[..., ::-1, ::-1]
        found = mean[..., rows]
        if rows.start:
            before = block.gaussian_sites[: block.gaussian_sites.index(site)]
            known = jnp.concatenate([one.flattened(self.values[one.name]) for one in before], -1)
            first, below = factor[..., : rows.start, : rows.start], factor[..., rows, : rows.start]
            transposed = jnp.swapaxes(below, -1, -2)
            gain = jnp.swapaxes(solve_triangular(first, transposed, lower=True, trans=1), -1, -2)
            found = found + (gain @ (known - mean[..., : rows.start])[..., None])[..., 0]
        own = factor[..., rows, rows]
        if site.event_shape == ():
            return dist.Normal(found[..., 0], own[..., 0, 0] / jnp.sqrt(noise))
        if rows.stop - rows.start < size:
            inverse = inverse_factor(own @ jnp.swapaxes(own, -1, -2))
            precision = jnp.swapaxes(inverse, -1, -2) @ inverse
        # conjugate guides read a precision matrix
        return dist.MultivariateNormal(found, precision_matrix=noise[..., None, None] * precision)

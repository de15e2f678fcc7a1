"""From a Gaussian with structure to the parameters of a guide, and back: as `conversion`."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np

from vijax.contracts import Space
from vijax.contracts.kernel import Floats
from vijax.guides.structured.markov import MarkovParams, block_indices
from vijax.guides.structured.plates import LevelParams, PlatesParams, gain_units
from vijax.runtime.errors import GuideError, mismatch
from vijax.solvers.gaussians.chain import Chain, Conditionals
from vijax.solvers.gaussians.conversion import from_params, to_params
from vijax.solvers.gaussians.dense import Gaussian
from vijax.solvers.gaussians.low_rank import Factored
from vijax.solvers.gaussians.structure import StructuredGaussian
from vijax.solvers.gaussians.tree import LevelConditionals, Link, Tree


@functools.singledispatch
def structured(params: Any, space: Space) -> StructuredGaussian:
    """The Gaussian with structure that a guide's parameters stand for.

    Raises:
        GuideError: they hold none.
    """
    expected = "a guide with structure (Markov, Plates)"
    raise GuideError(mismatch("guide", expected, f"parameters of type {type(params).__name__}"))


@functools.singledispatch
def fill(params: Any, gaussian: StructuredGaussian, space: Space) -> Any:
    """Parameters of the same type as `params` for the same Gaussian."""
    raise NotImplementedError(type(params).__name__)  # `structured` has refused them before


def normal(params: Any, space: Space) -> Gaussian | Factored | StructuredGaussian:
    """The Gaussian of any guide that is one, in the form that suits it.

    Raises:
        GuideError: the guide holds none.
    """
    if isinstance(params, (MarkovParams, PlatesParams)):
        return structured(params, space)
    return from_params(params, space)


def from_normal(
    params: Any, gaussian: Gaussian | Factored | StructuredGaussian, space: Space
) -> Any:
    """The inverse of `normal`."""
    if isinstance(gaussian, StructuredGaussian):
        return fill(params, gaussian, space)
    return to_params(params, gaussian, space)


@structured.register
def _(params: MarkovParams, space: Space) -> StructuredGaussian:
    where = block_indices(space)
    loc, log_scale, lower, gain = (np.asarray(leaf, np.float64) for leaf in params)
    mean = np.empty(where.size)
    mean[where] = loc
    gain = gain.copy()
    gain[0] = 0
    root = _root(log_scale, lower)
    covariance = root @ np.swapaxes(root, 1, 2)
    return StructuredGaussian(Chain(where), mean, Conditionals(covariance, gain))


@fill.register
def _(params: MarkovParams, gaussian: StructuredGaussian, space: Space) -> MarkovParams:
    covariance, gain = gaussian.conditionals
    root = np.linalg.cholesky(covariance)
    return MarkovParams(*_leaves(params, gaussian.mean[block_indices(space)], root, gain))


@structured.register
def _(params: PlatesParams, space: Space) -> StructuredGaussian:
    tree, mean, found = Tree(space), np.empty(space.dim), []
    paths: list[Floats] = []
    for link, own, unit in zip(tree.links, params.levels, gain_units(space), strict=True):
        loc, log_scale, lower, gain = _by_row(own, len(link.where))
        mean[link.where] = loc
        root, cross = _root(log_scale, lower), np.exp(log_scale)[:, :, None] * (gain * unit)
        above = None if link.parent is None else paths[link.parent]
        if above is not None:
            gain = cross @ link.down(np.linalg.inv(above))
        found.append(LevelConditionals(root @ np.swapaxes(root, 1, 2), gain))
        paths.append(_path(link, above, cross, root))
    return StructuredGaussian(tree, mean, found)


@fill.register
def _(params: PlatesParams, gaussian: StructuredGaussian, space: Space) -> PlatesParams:
    paths: list[Floats] = []
    levels = []
    units = gain_units(space)
    parts = zip(params.levels, Tree(space).links, units, gaussian.conditionals, strict=True)
    for own, link, unit, (covariance, gain) in parts:
        above = None if link.parent is None else paths[link.parent]
        cross = gain if above is None else gain @ link.down(above)
        root = np.linalg.cholesky(covariance)
        scale = np.einsum("tii->ti", root)[:, :, None]
        mean = gaussian.mean[link.where]
        levels.append(LevelParams(*_leaves(own, mean, root, cross / scale / unit)))
        paths.append(_path(link, above, cross, root))
    return PlatesParams(tuple(levels))


def _path(link: Link, above: Floats | None, cross: Floats, root: Floats) -> Floats:
    """What takes the noise of each row and of those above it to their coordinates.

    `[[above, 0], [cross, root]]`, `(rows, size, size)`; empty if nobody asks.
    """
    if not link.below:
        return root[:0]
    if above is None:
        return root
    upper = np.broadcast_to(link.down(above), (len(root), link.above, link.above))
    zeros = np.zeros((*upper.shape[:2], root.shape[1]))
    rows = [np.concatenate([upper, zeros], 2), np.concatenate([cross, root], 2)]
    return np.concatenate(rows, axis=1)


def _by_row(own: LevelParams, rows: int) -> list[Floats]:
    """The leaves in float64 with one axis of rows."""
    plates = np.ndim(own.loc) - 1
    leaves = (np.asarray(leaf, np.float64) for leaf in own)
    return [leaf.reshape(rows, *leaf.shape[plates:]) for leaf in leaves]


def _root(log_scale: Floats, lower: Floats) -> Floats:
    """`L = diag(exp(log_scale)) (I + strict lower)`, `(num, width, width)`."""
    return np.exp(log_scale)[:, :, None] * (np.tril(lower, -1) + np.eye(lower.shape[-1]))


def _leaves(like: Any, loc: Floats, root: Floats, gain: Floats) -> Any:
    """`loc`, `log_scale`, `lower` and `gain` on the device; the inverse of `_root`."""
    scale = np.einsum("tii->ti", root)
    leaves = (loc, np.log(scale), np.tril(root / scale[:, :, None], -1), gain)
    # not jnp.asarray, which compiles a copy for every new shape
    pairs = zip(leaves, like, strict=True)
    return [jax.device_put(np.asarray(a, b.dtype).reshape(b.shape)) for a, b in pairs]

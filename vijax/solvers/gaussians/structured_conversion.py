"""Conversion between structured Gaussians on the host and guide parameters; cf. `conversion`."""

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
from vijax.solvers.gaussians.low_rank import LowRankGaussian
from vijax.solvers.gaussians.structure import StructuredGaussian
from vijax.solvers.gaussians.tree import LevelConditionals, LevelNode, Tree


@functools.singledispatch
def structured_from_params(params: Any, space: Space) -> StructuredGaussian:
    """The structured Gaussian represented by a guide's parameters.

    Raises:
        GuideError: they represent none.
    """
    expected = "a structured Gaussian guide (Markov, Plates)"
    raise GuideError(mismatch("guide", expected, f"parameters of type {type(params).__name__}"))


@functools.singledispatch
def structured_to_params(params: Any, gaussian: StructuredGaussian, space: Space) -> Any:
    """Parameters of the same type as `params` that represent the Gaussian."""
    raise NotImplementedError(type(params).__name__)  # rejected earlier by `structured_from_params`


def gaussian_from_params(
    params: Any, space: Space
) -> Gaussian | LowRankGaussian | StructuredGaussian:
    """The Gaussian of any Gaussian guide, dense, low-rank or structured.

    Raises:
        GuideError: the guide is not Gaussian.
    """
    if isinstance(params, (MarkovParams, PlatesParams)):
        return structured_from_params(params, space)
    return from_params(params, space)


def gaussian_to_params(
    params: Any, gaussian: Gaussian | LowRankGaussian | StructuredGaussian, space: Space
) -> Any:
    """The inverse of `gaussian_from_params`."""
    if isinstance(gaussian, StructuredGaussian):
        return structured_to_params(params, gaussian, space)
    return to_params(params, gaussian, space)


@structured_from_params.register
def _(params: MarkovParams, space: Space) -> StructuredGaussian:
    coords = block_indices(space)
    loc, log_scale, lower, gain = (np.asarray(leaf, np.float64) for leaf in params)
    mean = np.empty(coords.size)
    mean[coords] = loc
    gain = gain.copy()
    gain[0] = 0
    root = _root(log_scale, lower)
    covariance = root @ np.swapaxes(root, 1, 2)
    return StructuredGaussian(Chain(coords), mean, Conditionals(covariance, gain))


@structured_to_params.register
def _(params: MarkovParams, gaussian: StructuredGaussian, space: Space) -> MarkovParams:
    covariance, gain = gaussian.conditionals
    root = np.linalg.cholesky(covariance)
    return MarkovParams(*_leaves(params, gaussian.mean[block_indices(space)], root, gain))


@structured_from_params.register
def _(params: PlatesParams, space: Space) -> StructuredGaussian:
    tree, mean, found = Tree(space), np.empty(space.dim), []
    paths: list[Floats] = []
    for node, level, unit in zip(tree.nodes, params.levels, gain_units(space), strict=True):
        loc, log_scale, lower, gain = _row_leaves(level, len(node.coords))
        mean[node.coords] = loc
        root, cross = _root(log_scale, lower), np.exp(log_scale)[:, :, None] * (gain * unit)
        ancestors = None if node.parent is None else paths[node.parent]
        if ancestors is not None:
            gain = cross @ node.take_parent(np.linalg.inv(ancestors))
        found.append(LevelConditionals(root @ np.swapaxes(root, 1, 2), gain))
        paths.append(_path(node, ancestors, cross, root))
    return StructuredGaussian(tree, mean, found)


@structured_to_params.register
def _(params: PlatesParams, gaussian: StructuredGaussian, space: Space) -> PlatesParams:
    paths: list[Floats] = []
    levels = []
    units = gain_units(space)
    parts = zip(params.levels, Tree(space).nodes, units, gaussian.conditionals, strict=True)
    for level, node, unit, (covariance, gain) in parts:
        ancestors = None if node.parent is None else paths[node.parent]
        cross = gain if ancestors is None else gain @ node.take_parent(ancestors)
        root = np.linalg.cholesky(covariance)
        scale = np.einsum("tii->ti", root)[:, :, None]
        mean = gaussian.mean[node.coords]
        levels.append(LevelParams(*_leaves(level, mean, root, cross / scale / unit)))
        paths.append(_path(node, ancestors, cross, root))
    return PlatesParams(tuple(levels))


def _path(node: LevelNode, ancestors: Floats | None, cross: Floats, root: Floats) -> Floats:
    """The linear map from the noise of each row and its ancestors to their coordinates.

    `[[ancestors, 0], [cross, root]]`, `(rows, size, size)`; empty if the level has no descendants.
    """
    if not node.descendants:
        return root[:0]
    if ancestors is None:
        return root
    upper = np.broadcast_to(
        node.take_parent(ancestors), (len(root), node.ancestor_dim, node.ancestor_dim)
    )
    zeros = np.zeros((*upper.shape[:2], root.shape[1]))
    rows = [np.concatenate([upper, zeros], 2), np.concatenate([cross, root], 2)]
    return np.concatenate(rows, axis=1)


def _row_leaves(level: LevelParams, rows: int) -> list[Floats]:
    """The leaves in float64 with a single axis of rows."""
    plates = np.ndim(level.loc) - 1
    leaves = (np.asarray(leaf, np.float64) for leaf in level)
    return [leaf.reshape(rows, *leaf.shape[plates:]) for leaf in leaves]


def _root(log_scale: Floats, lower: Floats) -> Floats:
    """`L = diag(exp(log_scale)) (I + strict lower)`, `(num, width, width)`."""
    return np.exp(log_scale)[:, :, None] * (np.tril(lower, -1) + np.eye(lower.shape[-1]))


def _leaves(template: Any, loc: Floats, root: Floats, gain: Floats) -> Any:
    """`loc`, `log_scale`, `lower` and `gain` on the device; the inverse of `_root`."""
    scale = np.einsum("tii->ti", root)
    leaves = (loc, np.log(scale), np.tril(root / scale[:, :, None], -1), gain)
    # unlike jnp.asarray, device_put compiles nothing for new shapes
    pairs = zip(leaves, template, strict=True)
    return [jax.device_put(np.asarray(a, b.dtype).reshape(b.shape)) for a, b in pairs]

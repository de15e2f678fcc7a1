"""From a Gaussian with structure to the parameters of a guide, and back: as `conversion`."""

from __future__ import annotations

import functools
from typing import Any

import jax
import numpy as np

from vijax._contracts import Space
from vijax._errors import GuideError, mismatch
from vijax._kernel import Floats
from vijax.guides.markov import MarkovParams, order
from vijax.guides.plates import LevelParams, PlatesParams
from vijax.solvers.chain_gaussian import Chain, Conditionals
from vijax.solvers.conversion import from_params, to_params
from vijax.solvers.factored import Factored
from vijax.solvers.gaussian import Gaussian
from vijax.solvers.structure import StructuredGaussian
from vijax.solvers.tree_gaussian import LevelConditionals, Tree


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
    where = order(space)
    loc, log_scale, lower, gain = (np.asarray(leaf, np.float64) for leaf in params)
    mean = np.empty(where.size)
    mean[where] = loc
    gain = gain.copy()
    gain[0] = 0
    return StructuredGaussian(Chain(where), mean, Conditionals(_covariance(log_scale, lower), gain))


@fill.register
def _(params: MarkovParams, gaussian: StructuredGaussian, space: Space) -> MarkovParams:
    covariance, gain = gaussian.conditionals
    return MarkovParams(*_leaves(params, gaussian.mean[order(space)], covariance, gain))


@structured.register
def _(params: PlatesParams, space: Space) -> StructuredGaussian:
    tree, mean, found = Tree(space), np.empty(space.dim), []
    for link, own in zip(tree.links, params.levels, strict=True):
        loc, log_scale, lower, gain = (np.asarray(leaf, np.float64) for leaf in own)
        mean[link.where] = loc
        found.append(LevelConditionals(_covariance(log_scale, lower), gain))
    return StructuredGaussian(tree, mean, found)


@fill.register
def _(params: PlatesParams, gaussian: StructuredGaussian, space: Space) -> PlatesParams:
    parts = zip(params.levels, Tree(space).links, gaussian.conditionals, strict=True)
    return PlatesParams(
        tuple(
            LevelParams(*_leaves(own, gaussian.mean[link.where], *one)) for own, link, one in parts
        )
    )


def _covariance(log_scale: Floats, lower: Floats) -> Floats:
    """`L L'` for `L = diag(exp(log_scale)) (I + strict lower)`, `(num, width, width)`."""
    root = np.exp(log_scale)[:, :, None] * (np.tril(lower, -1) + np.eye(lower.shape[-1]))
    return root @ np.swapaxes(root, 1, 2)


def _leaves(like: Any, loc: Floats, covariance: Floats, gain: Floats) -> Any:
    """`loc`, `log_scale`, `lower` and `gain` on the device."""
    root = np.linalg.cholesky(covariance)
    scale = np.einsum("tii->ti", root)
    leaves = (loc, np.log(scale), np.tril(root / scale[:, :, None], -1), gain)
    # not jnp.asarray, which compiles a copy for every new shape
    return [jax.device_put(np.asarray(a, b.dtype)) for a, b in zip(leaves, like, strict=True)]

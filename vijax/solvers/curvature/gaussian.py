"""The Gaussian at a mode with the generalized Gauss-Newton curvature, in any structure."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np

from vijax.contracts import Block, CurvatureGuide, Guide, PyTree, Space, Target
from vijax.contracts.kernel import Floats
from vijax.guides import Composite
from vijax.guides.delta import DeltaParams
from vijax.guides.location_scale.full_rank import FullRankParams
from vijax.guides.location_scale.kronecker import KroneckerFactors, KroneckerParams, Layer
from vijax.guides.location_scale.mean_field import MeanFieldParams
from vijax.runtime.device_layout import on_host
from vijax.solvers.curvature import dense, layers
from vijax.solvers.curvature.point import Point
from vijax.solvers.gaussians.conversion import to_params
from vijax.solvers.gaussians.dense import Gaussian
from vijax.solvers.host_algebra import host_algebra
from vijax.solvers.optimization.newton import Curvature, curvature

_MOST_STEPS = 2  # of the dense Gauss-Newton method, from where gradient steps ended
_NEGLIGIBLE = 1e-5  # nats: predicted gain of a step that is not taken
_FLAT = 1e-8  # precision of a direction without any, relative to the others'


class Mode(NamedTuple):
    """A mode, and the data that its curvature is computed from.

    Attributes:
        target: the log density.
        z: the mode, by site.
        model: the model's `param` sites.
        mutable: its mutable state.
        rows: blocks of rows, whose weighted sum is all data; iterated several times.
        key: randomness.
    """

    target: Target
    z: dict[str, Any]
    model: dict[str, PyTree]
    mutable: dict[str, PyTree]
    rows: Iterable[Block]
    key: jax.Array


class Found(NamedTuple):
    """A guide with its parameters; `flat` is the number of directions without curvature."""

    guide: Any
    params: PyTree
    flat: int = 0


def gaussian_at(mode: Mode, guide: Guide, space: Space) -> Found:
    """The guide with the covariance that belongs to the mode; point masses stay as they are.

    All linear algebra is in float64 on the host.

    Args:
        mode: where.
        guide: with parts that are computed from the curvature, each given the other parts.
        space: its sites.
    """
    if isinstance(guide, Composite):
        parts = [
            (names, gaussian_at(mode, part, space.subset(names))) for names, part in guide.parts
        ]
        own = tuple((names, found.guide) for names, found in parts)
        params = tuple(found.params for _, found in parts)
        flat = sum(found.flat for _, found in parts)
        return Found(dataclasses.replace(guide, parts=own), params, flat)
    if not isinstance(guide, CurvatureGuide):
        return Found(guide, DeltaParams(_location(mode, space)))
    structure = {"ggn": _dense, "diagonal": _diagonal, "kronecker": _kronecker}
    return structure[guide.structure(space)](mode, guide, space)


def _dense(mode: Mode, guide: Any, space: Space) -> Found:
    with host_algebra(space.dim):
        spectrum = _precision(mode, space)
        for _ in range(_MOST_STEPS):
            moved = _gauss_newton_step(mode, space, spectrum)
            if moved is mode:
                break
            mode, spectrum = moved, _precision(moved, space)
    loc: Any = space.host_ravel({name: np.asarray(mode.z[name]) for name in space.names})
    lower: Any = np.zeros((loc.size, loc.size), loc.dtype)
    template = FullRankParams(loc, loc, lower)
    gaussian = Gaussian(loc.astype(np.float64), spectrum.factor)
    return Found(guide, to_params(template, gaussian, space), spectrum.num_modified)


def _precision(mode: Mode, space: Space) -> Curvature:
    """The Gauss-Newton matrix, and the curvature of the prior where it is positive."""
    information = _total(mode, dense.gauss_newton, space.names)
    prior = -_prior(mode, dense.prior_hessian, space.names)
    values, vectors = np.linalg.eigh(0.5 * (prior + prior.T))
    prior = vectors * np.maximum(values, 0.0) @ vectors.T
    return curvature(0.5 * (information + information.T) + prior)


def _gauss_newton_step(mode: Mode, space: Space, spectrum: Curvature) -> Mode:
    """The mode after a step that increases the log density of all rows, else itself.

    Gradient steps on minibatches end a fraction of a standard deviation from the mode.
    """
    value, *gradient = _total(mode, dense.log_density_and_gradient, space.names)
    whitened = spectrum.factor.T @ np.asarray(gradient)
    if not _NEGLIGIBLE < 0.5 * whitened @ whitened < np.inf:
        return mode
    step = space.host_unravel(spectrum.factor @ whitened)
    at = {name: np.asarray(mode.z[name]) for name in space.names}
    moved = mode._replace(
        z={**mode.z, **{name: (x + step[name]).astype(x.dtype) for name, x in at.items()}}
    )
    new, *_ = _total(moved, dense.log_density_and_gradient, space.names)
    return moved if new > value else mode


def _diagonal(mode: Mode, guide: Any, space: Space) -> Found:
    found = _layers(mode, space, by_row=True)
    sums = _total(mode, layers.diagonal_sums, found) if found else {}
    information: dict[str, Floats] = {}
    for layer in found:
        information |= _separated(layer, sums[layer[0]])
    precision, flat = _independent(mode, space, information)
    params = MeanFieldParams(_location(mode, space), _log_scale(precision, space))
    return Found(guide, params, flat)


def _kronecker(mode: Mode, guide: Any, space: Space) -> Found:
    found = _layers(mode, space)
    sums = _total(mode, layers.kronecker_sums, found) if found else {}
    priors = _prior_by_site(mode, space)
    factors, flat = {}, 0
    for layer in found:
        kernel, bias, inputs, outputs = layer
        prior = [priors[kernel].reshape(inputs, outputs).mean(1)]
        prior += [priors[bias].mean(keepdims=True)] if bias else []
        with host_algebra(max(inputs, outputs)):
            factors[kernel], missing = _factors(sums[kernel], np.concatenate(prior))
        flat += missing
    inside = {name for layer in found for name in layer[:2]}
    others = space.subset([name for name in space.names if name not in inside])
    log_scale: Any = {}
    if others.sites:
        precision, missing = _independent(mode, others, {})
        log_scale, flat = _log_scale(precision, others), flat + missing
    params = KroneckerParams(_location(mode, space), factors, log_scale)
    return Found(dataclasses.replace(guide, layers=found), params, flat)


def _factors(sums: layers.KroneckerSums, prior: Floats) -> tuple[KroneckerFactors, int]:
    """The Gaussian of a layer with precision `A (x) G + diag(prior) (x) I`.

    With `A = E[a a']` in units of the prior's standard deviation, that is `A (x) G + I`, which the
    eigenvectors of both diagonalize.
    """
    mean = sums.inputs / sums.rows
    scale = np.diag(mean).max() * np.diag(sums.outputs).mean()
    floor = max(_FLAT * scale, np.finfo(np.float32).tiny)
    unit = np.maximum(prior, floor) ** -0.5
    inputs, first = np.linalg.eigh(unit[:, None] * mean * unit)
    outputs, second = np.linalg.eigh(sums.outputs)
    information = np.maximum(inputs, 0.0)[:, None] * np.maximum(outputs, 0.0)
    flat = int(np.sum(information < 1)) if np.any(prior <= floor) else 0
    found = map(_put, (unit, first, second, -0.5 * np.log1p(information)))
    return KroneckerFactors(*found), flat


def _independent(
    mode: Mode, space: Space, information: dict[str, Floats]
) -> tuple[dict[str, Floats], int]:
    """The precision of every coordinate by site, given the information of some sites."""
    rest = tuple(name for name in space.names if name not in information)
    if rest:
        found = _total(mode, dense.coordinate_curvature, rest)
        information = information | mode.target.space.subset(rest).host_unravel(found)
    prior = _prior_by_site(mode, space)
    shapes = {site.name: site.z_shape for site in space.sites}
    precision = {n: information[n].reshape(shapes[n]) + prior[n] for n in space.names}
    largest = max(float(np.max(one, initial=0.0)) for one in precision.values())
    floor = max(_FLAT * largest, float(np.finfo(np.float32).tiny))
    flat = sum(int(np.sum(~(one > floor))) for one in precision.values())
    return {n: np.where(one > floor, one, floor) for n, one in precision.items()}, flat


def _location(mode: Mode, space: Space) -> Any:
    return _on_device({name: np.asarray(mode.z[name]) for name in space.names})


def _log_scale(precision: dict[str, Floats], space: Space) -> Any:
    return _on_device({name: -0.5 * np.log(precision[name]) for name in space.names})


def _separated(layer: Layer, matrix: Floats) -> dict[str, Floats]:
    """What belongs to kernel and bias in a matrix whose last row is the bias."""
    kernel, bias, inputs, _ = layer
    return {kernel: matrix[:inputs]} | ({bias: matrix[inputs]} if bias else {})


def _layers(mode: Mode, space: Space, by_row: bool = False) -> tuple[Layer, ...]:
    return layers.find_layers(mode.target, space.names, _first(mode), by_row)


def _prior_by_site(mode: Mode, space: Space) -> dict[str, Floats]:
    """The precision of the prior of every coordinate, zero where it is negative."""
    found = -_prior(mode, dense.prior_curvature, space.names)
    return space.host_unravel(np.maximum(found, 0.0))


def _prior(mode: Mode, function: Callable[..., Any], names: tuple[str, ...]) -> Floats:
    program = mode.target.program(function, names)
    return _finite(on_host(program(_first(mode))))


def _first(mode: Mode) -> Point:
    """The mode with the first rows, which is all that priors and shapes need."""
    return Point(mode.z, next(iter(mode.rows)).batch, mode.model, mode.mutable, mode.key)


def _total(mode: Mode, function: Callable[..., Any], which: Any) -> Any:
    """The sum over all blocks of rows of what a function finds, in float64."""
    program, total = mode.target.program(function, which), None
    for number, block in enumerate(mode.rows):
        key = jax.random.fold_in(mode.key, number)
        point = Point(mode.z, block.batch, mode.model, mode.mutable, key)
        found = jax.tree.map(_finite, on_host(program(point)))
        found = jax.tree.map(lambda one, w=block.weight: w * one, found)
        total = found if total is None else jax.tree.map(np.add, total, found)
    return total


def _finite(value: Any) -> Floats:
    """In float64; what is not finite is no information, and is reported as flat."""
    return np.nan_to_num(np.asarray(value, np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def _on_device(values: dict[str, Floats]) -> dict[str, Any]:
    return {name: _put(value) for name, value in values.items()}


def _put(value: Floats) -> Any:
    return jax.device_put(np.asarray(value, jax.numpy.result_type(float)))

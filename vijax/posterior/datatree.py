"""A posterior as an ArviZ `DataTree`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax import Array

from vijax._version import __version__
from vijax.contracts import Batch, DensityGuide, PyTree, Target
from vijax.contracts.kernel import Kernel
from vijax.diagnostics import importance
from vijax.model import Arguments
from vijax.model.data_dependence import observed_arrays
from vijax.posterior import draws, pointwise
from vijax.posterior.labels import as_labels, short_names
from vijax.posterior.model_state import ModelState
from vijax.posterior.prediction import predictive
from vijax.posterior.prior_draws import prior_groups
from vijax.posterior.relabeling import relabeled
from vijax.posterior.result import FitResult
from vijax.posterior.sampling import sample
from vijax.runtime.blockwise import Arrays
from vijax.runtime.keys import fold_in

_RESERVED = ("chain", "draw", "sample")  # dimension names of ArviZ
_LIBRARY = {"inference_library": "vijax", "inference_library_version": __version__}
_NO_SAMPLES = ("observed_data", "constant_data")


def to_datatree(
    result: FitResult, key: Array, num_draws: int, prior: ModelState | None, **options: Any
) -> Any:
    """Exports the groups of `Posterior.to_datatree`.

    All groups have the same draws, in the same order. `log_p` and `log_q` are the log densities of
    model and guide at a draw, in unconstrained space; `log_weight` is the log weight of the draw
    in an average: Pareto smoothed, and constant where draws were resampled by weight already.
    Without the data, or if the model does not run on all rows or has no log density, there is only
    `posterior`.

    Args:
        result: of the fit.
        key: random key of the draws.
        num_draws: number of draws.
        prior: the model, at its inputs, of the prior to add; `None` for none.
        **options: passed to `arviz_base.from_dict`; `dims`, `coords` and `attrs` add to and
            override those derived from the model's plates.
    """
    whole = result.target.subsampling.whole and not result.target.structure.bounds
    if result.missing or not whole:
        groups = {"posterior": sample(result, key, num_draws, None)}
    else:
        groups = _groups(result, key, num_draws)
    if prior is not None:
        groups |= prior_groups(prior, fold_in(key, 3), num_draws)
    return _export(result, groups, _attributes(result), options)


def prior_datatree(state: ModelState, key: Array, num_draws: int, **options: Any) -> Any:
    """See `Prior.to_datatree`."""
    groups = prior_groups(state, key, num_draws)
    if state.target.structure.observed:
        groups["observed_data"] = observed_data(state, state.batch)
    return _export(state, groups, dict(_LIBRARY), options)


def _export(
    state: ModelState,
    groups: dict[str, Arrays],
    attributes: dict[str, Any],
    options: dict[str, Any],
) -> Any:
    """The groups as a `DataTree`."""
    from arviz_base import from_dict  # slow to import

    groups = {
        group: {_variable(name): value for name, value in values.items()}
        for group, values in groups.items()
        if values
    }
    dims = _dims(state.target, groups) | dict(options.pop("dims", None) or {})
    coords = _coords(state, groups) | dict(options.pop("coords", None) or {})
    attrs = {"/": attributes, next(iter(groups)): attributes}
    for group, more in (options.pop("attrs", None) or {}).items():
        attrs[group] = attrs.get(group, {}) | dict(more)
    data = {
        group: values if group in _NO_SAMPLES else {n: v[None] for n, v in values.items()}
        for group, values in groups.items()
    }
    return from_dict(data, dims=dims, coords=coords, attrs=attrs, **options)


def _groups(result: FitResult, key: Array, num_draws: int) -> dict[str, Arrays]:
    """All groups; arrays of draws have a leading axis of draws."""
    target = result.target
    # with no plate subsampled
    full = dataclasses.replace(result, batch=result.batch._replace(index={}))
    z, stats = _weighted(full, fold_in(key, 0), num_draws)
    z = relabeled(full, z)
    z = draws.with_discrete(result, z, fold_in(key, 2))
    args, kwargs = result.arguments.join(full.batch.data)
    predicted = predictive(result, fold_in(key, 1), z, args, kwargs)
    constant = full.batch.data.keys() - observed_arrays(target, full.batch)
    return {
        "posterior": draws.constrain(full, z),
        "posterior_predictive": {
            n: predicted[n] for n in target.structure.observed if n in predicted
        },
        "log_likelihood": pointwise.log_likelihood(result, full.batch, z),
        "sample_stats": stats,
        "observed_data": observed_data(result, full.batch),
        "constant_data": _constant_data(result.arguments, full.batch, sorted(constant)),
    }


def _constant_data(arguments: Arguments, batch: Batch, names: list[str]) -> Arrays:
    """The arrays of these names; columns of data frames by their own name, labels as such."""
    columns, short, found = arguments.frame_columns, short_names(names), {}
    for name in names:
        values = np.asarray(batch.data[name])
        if name in arguments.levels:
            values = as_labels(arguments.levels[name])[values]
        found[short[name] if name in columns else name] = values
    return found


def _weighted(result: FitResult, key: Array, num_draws: int) -> tuple[Arrays, Arrays]:
    """Unconstrained draws, and their sample statistics."""
    target, guide, corrected = result.target, result.guide, result.corrects
    states = result.assessment.chain_states
    if corrected and states is not None:
        z = draws.choose(states, key, num_draws)
        kernel = Kernel(target, result.batch, result.variables.model, result.mutable)
        log_p = kernel.log_density(importance.flatten(target.space, z))
        return z, {"log_p": log_p, "log_weight": np.full(num_draws, -np.log(num_draws))}
    drawn = importance.draw(
        target,
        guide,
        result.variables,
        result.mutable,
        key,
        result.batch,
        draws.pool_size(num_draws) if corrected else num_draws,
    )
    stats = {"log_p": drawn.log_p}
    if isinstance(guide, DensityGuide):
        found = importance.importance(drawn.log_weights)
        stats |= {"log_q": drawn.log_q, "log_weight": found.log_weights}
        if corrected:
            rows = draws.resample_rows(found.log_weights, key, num_draws)
            stats = {name: value[rows] for name, value in stats.items()}
            stats["log_weight"] = np.full(num_draws, -np.log(num_draws))
            return {name: value[rows] for name, value in drawn.z.items()}, stats
    return drawn.z, stats


def observed_data(state: ModelState, batch: Batch) -> Arrays:
    """The data of the observed sites, by site."""
    observe = state.target.program(_observations)
    return jax.device_get(observe(batch, state.variables.model, state.mutable))


def _observations(
    target: Target, batch: Batch, model: dict[str, PyTree], mutable: dict[str, PyTree]
) -> dict[str, Array]:
    return target.observations(batch, model, mutable)


def _attributes(result: FitResult) -> dict[str, Any]:
    return {
        **_LIBRARY,
        "guide": repr(result.guide),
        "status": result.status,
        "stop_reason": result.stop_reason,
        "elbo": float(result.assessment.elbo),
        "elbo_se": float(result.assessment.elbo_se),
        "khat": float(result.khat),
        "sampling_time": float(result.seconds),
    }


def _variable(name: str) -> str:
    """A valid ArviZ variable name: no slashes (paths in a tree), no reserved dimensions."""
    name = name.replace("/", ".")
    return f"{name}_" if name in _RESERVED else name


def _variables(groups: Mapping[str, Arrays]) -> set[str]:
    return {n for group in groups.keys() - {"constant_data"} for n in groups[group]}


def _dim(plate: str, variables: set[str]) -> str:
    """The dimension of a plate, whose name must not be that of a variable."""
    return _variable(plate) + "_dim" * (_variable(plate) in variables)


def _coords(state: ModelState, groups: Mapping[str, Arrays]) -> dict[str, np.ndarray]:
    """Labels by dimension."""
    plates, variables = state.target.subsampling.plates, _variables(groups)
    return {
        _dim(name, variables) if name in plates else _variable(name): labels
        for name, labels in state.arguments.coords.items()
    }


def _dims(target: Target, groups: Mapping[str, Arrays]) -> dict[str, list[str | None]]:
    """Dimension names of the variables from the plates they are in, `None` elsewhere."""
    variables = _variables(groups)
    shapes: dict[str, tuple[int, ...]] = {}
    for group in ("prior_predictive", "prior", "observed_data", "posterior"):
        for name, value in groups.get(group, {}).items():
            shapes[name] = value.shape if group in _NO_SAMPLES else value.shape[1:]

    def label(plate: str | None, size: int) -> str | None:
        if plate is None or plate not in target.subsampling.plates:
            return None
        dim = _dim(plate, variables)
        return dim if size == target.subsampling.plates[plate].size else f"{dim}_{size}"

    out = {}
    for site, plates in target.structure.dims.items():
        shape = shapes.get(_variable(site), ())
        if len(shape) == len(plates):
            names = [label(plate, size) for plate, size in zip(plates, shape, strict=True)]
            # a variable has each dimension at most once
            out[_variable(site)] = [n if n not in names[:i] else None for i, n in enumerate(names)]
    return out

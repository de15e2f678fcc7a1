"""A posterior as an ArviZ `DataTree`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax import Array

from vijax import _draws, _pointwise, _posterior
from vijax._contracts import Batch, DensityGuide, PyTree, Target
from vijax._dependence import direct_arrays
from vijax._draws import Arrays
from vijax._kernel import Kernel
from vijax._keys import fold_in
from vijax._version import __version__
from vijax.diagnostics import weights

_TAKEN = ("chain", "draw", "sample")  # names with a meaning to ArviZ
_NO_SAMPLES = ("observed_data", "constant_data")


def to_datatree(posterior: _posterior.Posterior, key: Array, num_draws: int, **options: Any) -> Any:
    """The groups of `Posterior.to_datatree`, as far as the data is there to compute them.

    Draws in all groups are the same ones, in the same order. `log_p` and `log_q` are the log
    densities of model and guide at a draw, in unconstrained space; `log_weight` is the logarithm
    of the weight that the draw should have in an average: Pareto smoothed, and constant where the
    draws have been resampled by weight already. Without the data there is only `posterior`.

    Args:
        posterior: what is exported.
        key: randomness of the draws.
        num_draws: how many.
        **options: passed on to `arviz_base.from_dict`; `dims`, `coords` and `attrs` add to and
            override those made from the model's plates.
    """
    from arviz_base import from_dict  # slow to import

    if posterior.missing:
        groups = {"posterior": posterior.sample(key, num_draws)}
    else:
        groups = _groups(posterior, key, num_draws)
    groups = {
        group: {_variable(name): value for name, value in values.items()}
        for group, values in groups.items()
        if values
    }
    dims = _dims(posterior.target, groups) | dict(options.pop("dims", None) or {})
    facts = _facts(posterior)
    attrs = {"/": facts, "posterior": facts}
    for group, more in (options.pop("attrs", None) or {}).items():
        attrs[group] = attrs.get(group, {}) | dict(more)
    data = {
        group: values if group in _NO_SAMPLES else {n: v[None] for n, v in values.items()}
        for group, values in groups.items()
    }
    return from_dict(data, dims=dims, attrs=attrs, **options)


def _groups(posterior: _posterior.Posterior, key: Array, num_draws: int) -> dict[str, Arrays]:
    """All groups, arrays with a leading axis of draws where they have draws."""
    target, variables, mutable = posterior.target, posterior.variables, posterior.mutable
    batch = posterior.batch._replace(index={})  # every row of subsampled plates
    z, stats = _weighted(posterior, batch, fold_in(key, 0), num_draws)
    z = posterior.with_discrete(z, fold_in(key, 2))
    args, kwargs = posterior.arguments.join(batch.data)
    predicted = posterior.predictive(fold_in(key, 1), z, args, kwargs)
    observe = target.program(_observations)
    constant = batch.data.keys() - direct_arrays(target, batch)
    return {
        "posterior": _draws.constrain(target, variables, mutable, batch, z),
        "posterior_predictive": {n: predicted[n] for n in target.observed if n in predicted},
        "log_likelihood": _pointwise.log_likelihood(target, variables, mutable, batch, z),
        "sample_stats": stats,
        "observed_data": jax.device_get(observe(batch, variables.model, mutable)),
        "constant_data": {name: np.asarray(batch.data[name]) for name in sorted(constant)},
    }


def _weighted(
    posterior: _posterior.Posterior, batch: Batch, key: Array, num_draws: int
) -> tuple[Arrays, Arrays]:
    """Unconstrained draws, and what is known of each."""
    guide, corrected = posterior.guide, posterior.status == "corrected"
    states = posterior.assessment.states
    if corrected and states is not None:
        z = _draws.choose(states, key, num_draws)
        kernel = Kernel(posterior.target, batch, posterior.variables.model, posterior.mutable)
        log_p = kernel.log_density(weights.flatten(posterior.target.space, z))
        return z, {"log_p": log_p, "log_weight": np.full(num_draws, -np.log(num_draws))}
    draws = weights.draw(
        posterior.target,
        guide,
        posterior.variables,
        posterior.mutable,
        key,
        batch,
        _draws.pool_size(num_draws) if corrected else num_draws,
    )
    stats = {"log_p": draws.log_p}
    if isinstance(guide, DensityGuide):
        importance = weights.importance(draws.log_weights)
        stats |= {"log_q": draws.log_q, "log_weight": importance.log_weights}
        if corrected:
            rows = _draws.resample_rows(importance.log_weights, key, num_draws)
            stats = {name: value[rows] for name, value in stats.items()}
            stats["log_weight"] = np.full(num_draws, -np.log(num_draws))
            return {name: value[rows] for name, value in draws.z.items()}, stats
    return draws.z, stats


def _observations(
    target: Target, batch: Batch, model: dict[str, PyTree], mutable: dict[str, PyTree]
) -> dict[str, Array]:
    return target.observations(batch, model, mutable)


def _facts(posterior: _posterior.Posterior) -> dict[str, Any]:
    return {
        "inference_library": "vijax",
        "inference_library_version": __version__,
        "guide": repr(posterior.guide),
        "status": posterior.status,
        "stop_reason": posterior.stop_reason,
        "elbo": float(posterior.elbo),
        "elbo_se": float(posterior.elbo_se),
        "khat": float(posterior.khat),
        "sampling_time": float(posterior.seconds),
    }


def _variable(name: str) -> str:
    """A site's name as ArviZ takes it: it sees a path in a slash, and dimensions in some words."""
    name = name.replace("/", ".")
    return f"{name}_" if name in _TAKEN else name


def _dims(target: Target, groups: Mapping[str, Arrays]) -> dict[str, list[str | None]]:
    """Dimension names of the variables after the plates they are in, `None` elsewhere."""
    variables = {n for group in groups.keys() - {"constant_data"} for n in groups[group]}
    shapes: dict[str, tuple[int, ...]] = {}
    for group in ("observed_data", "posterior"):
        for name, value in groups.get(group, {}).items():
            shapes[name] = value.shape if group in _NO_SAMPLES else value.shape[1:]

    def label(plate: str | None, size: int) -> str | None:
        if plate is None or plate not in target.plates:
            return None
        known = _variable(plate) + "_dim" * (_variable(plate) in variables)
        return known if size == target.plates[plate].size else f"{known}_{size}"

    out = {}
    for site, plates in target.dims.items():
        shape = shapes.get(_variable(site), ())
        if len(shape) == len(plates):
            names = [label(plate, size) for plate, size in zip(plates, shape, strict=True)]
            # a dimension can be in a variable once
            out[_variable(site)] = [n if n not in names[:i] else None for i, n in enumerate(names)]
    return out

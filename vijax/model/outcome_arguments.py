"""Which arguments of a model are the data of its observed sites, to be replaced by simulations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax import Array

from vijax.contracts import Batch
from vijax.model.data_use import distribution_arrays
from vijax.model.predictive import abstract_call, model_call
from vijax.model.tracing import substitution
from vijax.model.tracing.sites import is_data, is_factor
from vijax.runtime.errors import ModelError, mismatch
from vijax.runtime.jaxpr import dependencies

Labels = frozenset[tuple[str, int]]


def outcome_arguments(
    model: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    observed: Mapping[str, np.ndarray],
) -> dict[str, str]:
    """By observed site, the name of the array argument that is its data.

    Args:
        model: the model function.
        args: its positional arguments.
        kwargs: its keyword arguments.
        observed: the data of each observed site.

    Raises:
        ModelError: the data of a site are not an argument as it was passed, the distribution of a
            site depends on such an argument, or there is a factor: data that are drawn from the
            model could not take their place.
    """
    call, data, _ = model_call(model, args, kwargs)
    traced, trace = abstract_call(call)
    sites = [name for name, site in trace.items() if site["type"] == "sample"]
    factors = [name for name in sites if is_factor(trace[name])]
    if factors:
        expected = "a model that data can be drawn from"
        raise ModelError(mismatch("calibrate", expected, f"a factor, {factors[0]!r}"))
    outcomes = [name for name in sites if is_data(trace[name])]
    if not outcomes:
        expected, remedy = "observed sites", "Pass their data: they are used for their shapes."
        raise ModelError(mismatch("calibrate", expected, "none", remedy))

    def values_and_distributions(data: dict[str, Array]) -> Any:
        found = traced.trace(Batch(data), substitution.at_origin_or_draw, with_log_density=False)
        values = {name: found[name]["value"] for name in outcomes}
        return values, {name: distribution_arrays(found[name]) for name in sites}

    closed, shapes = jax.make_jaxpr(values_and_distributions, return_shape=True)(data)
    names = sorted(data)  # the leaf order of a dict
    labels: list[Labels] = [frozenset({(name, 0)}) for name in names]
    leaves = dependencies(closed.jaxpr, labels)
    values, distributions = jax.tree.unflatten(jax.tree.structure(shapes), leaves)
    arguments = {name: _argument(name, values[name], observed[name], data) for name in outcomes}
    for site, found in distributions.items():
        for part in found:
            for name, _ in part:
                if name in arguments.values():
                    raise ModelError(
                        f"calibrate: expected {name!r} to be the data of a site and nothing else, "
                        f"but the distribution of site {site!r} depends on it, so that new data "
                        "cannot be drawn from the model. Pass masks and earlier values as "
                        "arguments of their own, or draw sequences by scan."
                    )
    return arguments


def _argument(site: str, sources: Labels, value: Any, data: Mapping[str, Any]) -> str:
    found = sorted(name for name, _ in sources)
    if len(found) == 1:
        array = np.asarray(data[found[0]])
        if array.shape == np.shape(value) and np.array_equal(array, np.asarray(value)):
            return found[0]
    what = " and ".join(map(repr, found)) or "none"
    expected = "an argument as it was passed as the data of the site"
    remedy = "Pass the values that are observed, obs=y, without NaN."
    raise ModelError(mismatch(f"site {site!r}", expected, f"a function of {what}", remedy))

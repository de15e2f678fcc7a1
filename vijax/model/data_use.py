"""What a traced model does with its data: what they index, which outcomes and factors they give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
import numpyro.distributions as dist
from jax import Array
from numpyro.distributions import Distribution

from vijax.model.tracing.sites import Trace, is_data, is_enumerated, is_factor, is_sampled
from vijax.model.tracing.wrappers import base_distribution
from vijax.runtime.gathers import Gather, find_gathers
from vijax.runtime.host_values import Node
from vijax.runtime.jaxpr import depends_on_first_input

_NUMERIC = (Array, np.ndarray, np.generic, bool, int, float)
_DISCRETE_OUTCOMES = (
    dist.BernoulliLogits,
    dist.BernoulliProbs,
    dist.BinomialLogits,
    dist.BinomialProbs,
    dist.CategoricalLogits,
    dist.CategoricalProbs,
    dist.OrderedLogistic,
)


class DataUse(NamedTuple):
    """See the attributes of the same names of `vijax.contracts.target.Structure`."""

    gathers: tuple[Gather, ...]
    outcomes: dict[str, Node]
    factors: tuple[str, ...]
    constant_factors: tuple[str, ...]


def values_and_distributions(trace: Trace) -> list[Any]:
    """The values and the parameters of the distributions of all sites."""
    return [leaf for _, value, parameters in _leaves(trace) for leaf in (*value, *parameters)]


def data_use(closed: Any, trace: Trace, start: int, inputs: Sequence[str | None]) -> DataUse:
    """What a model does with its data.

    Args:
        closed: the program whose first input all latents depend on, and whose outputs from
            `start` on are `values_and_distributions(trace)`.
        trace: that of the program.
        start: see there.
        inputs: the names of its inputs; `None` for those that are not data.
    """
    gathers, values = accesses(closed, trace, start, inputs)
    outcomes = {
        name: node
        for name, node in values.items()
        if node is not None
        and not node.is_constant
        and is_data(trace[name])
        and isinstance(base_distribution(trace[name]["fn"]), _DISCRETE_OUTCOMES)
    }
    factors, position = {}, start
    for name, value, parameters in _leaves(trace):
        after = position + len(value)
        position = after + len(parameters)
        if is_factor(trace[name]):
            factors[name] = range(after, position)
    return DataUse(gathers, outcomes, tuple(factors), _constant(closed, trace, factors))


def accesses(
    closed: Any, trace: Trace, start: int, inputs: Sequence[str | None]
) -> tuple[tuple[Gather, ...], dict[str, Node | None]]:
    """The accesses of a model by indices in its data, and the values of its sites as nodes.

    Arguments are as for `data_use`.
    """
    places, position = {}, start
    for name, value, parameters in _leaves(trace):
        if len(value) == 1 and trace[name]["type"] in ("sample", "deterministic"):
            places[name] = position
        position += len(value) + len(parameters)
    names = {place: name for name, place in reversed(places.items())}  # the first has the value
    gathers, outputs = find_gathers(closed, inputs, names)
    return gathers, {name: outputs[place] for name, place in places.items()}


def _constant(closed: Any, trace: Trace, factors: dict[str, range]) -> tuple[str, ...]:
    """The factors that depend on no latent, nor on parameters and state that steps change."""
    others = (
        is_enumerated(s) or is_sampled(s) or s["type"] in ("param", "mutable")
        for s in trace.values()
    )
    if not factors or any(others):
        return ()
    places = [place for places in factors.values() for place in places]
    dependent = dict(zip(places, depends_on_first_input(closed.jaxpr, places), strict=True))
    return tuple(
        name for name, places in factors.items() if not any(dependent[place] for place in places)
    )


def distribution_arrays(site: Mapping[str, Any]) -> list[Any]:
    """The parameters of a site's distribution; none of other sites."""
    return _numbers(_parameters(site.get("fn")))


def _leaves(trace: Trace) -> list[tuple[str, list[Any], list[Any]]]:
    """By site, the numbers in its value and in the parameters of its distribution."""
    return [
        (name, _numbers(site["value"]), distribution_arrays(site))
        for name, site in trace.items()
        if site["type"] != "plate"
    ]


def _numbers(tree: Any) -> list[Any]:
    return [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, _NUMERIC)]


def _parameters(fn: Any) -> Any:
    """The parameters of a distribution by name; NumPyro's own order of them varies."""
    if not isinstance(fn, Distribution):
        return fn
    return {name: _parameters(getattr(fn, name, None)) for name in fn.gather_pytree_data_fields()}

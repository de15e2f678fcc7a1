"""Plans the enumeration of discrete sites from the dependence of other sites on them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vijax.model.discrete.elimination import Variable, check_combinations
from vijax.model.discrete.enumeration import EnumerationPlan, FactorSpec, States
from vijax.model.discrete.factors import Name
from vijax.model.tracing.handler import Loop
from vijax.model.tracing.sites import Trace, is_enumerated
from vijax.runtime.errors import ModelError
from vijax.runtime.jaxpr import Dependencies, dependencies

_Parents = dict[str, Dependencies]


class Outputs(NamedTuple):
    """The quantities that a model computes, by name."""

    log_probs: dict[str, Any]
    values: dict[str, Any]
    log_dets: dict[str, Any]
    mutable: dict[str, Any]


def plan_enumeration(
    trace: Trace, outputs: Callable[[States, Any], Outputs], data: Any
) -> EnumerationPlan:
    """The enumeration of the discrete sites of a model.

    Args:
        trace: of abstract values.
        outputs: of the model, as a function of one state of each discrete site and of the data.
        data: abstract arrays.

    Raises:
        ModelError: a discrete site cannot be marginalized; the message names it.
    """
    sites = {name: site for name, site in trace.items() if is_enumerated(site)}
    loops = {name: _loop(name, site) for name, site in sites.items() if site["_loops"]}
    found, shapes = _dependence(sites, loops, outputs, data)
    _check_transforms(found)
    dims = {name: _dims(trace[name], shape, set(loops.values())) for name, shape in shapes.items()}
    all_parents = {site: parents for site, parents in found.log_probs.items() if parents}
    for site in sites:
        _check_rows(site, shapes[site], dims[site])
    for site, parents in all_parents.items():
        _check_scope(site, dims, parents)
    chained = {
        name for parents in all_parents.values() for name, lag in parents if lag and name in loops
    }
    initial = _initial_states(sites, loops, chained, all_parents, dims)
    variables = {
        name: Variable(name, site["_num_states"], dims[name], loops.get(name), initial.get(name))
        for name, site in sites.items()
    }
    specs = {
        site: _factor_spec(parents, initial, dims[site]) for site, parents in all_parents.items()
    }
    for site, spec in specs.items():
        check_combinations([variables[name] for name in (*spec.current, *spec.previous)], site)
    dependent = frozenset(name for name, parents in found.values.items() if parents)
    return EnumerationPlan(variables, specs, dependent)


def _dependence(
    sites: Mapping[str, Any],
    loops: Mapping[str, Loop],
    outputs: Callable[[States, Any], Outputs],
    data: Any,
) -> tuple[Outputs, dict[str, tuple[int, ...]]]:
    """The discrete sites that every output depends on, and the shapes of the log densities."""
    states = {name: jnp.zeros((), int) for name in sorted(sites)}  # the leaf order of a dict
    closed, shapes = jax.make_jaxpr(outputs, return_shape=True)(states, data)
    labels = [frozenset({(name, 0)}) for name in states]
    labels += [frozenset()] * (len(closed.jaxpr.invars) - len(labels))
    leaves = dependencies(closed.jaxpr, labels, frozenset(loops))
    tree = jax.tree.unflatten(jax.tree.structure(shapes), leaves)
    union = Outputs(*({name: _union(one) for name, one in part.items()} for part in tree))
    return union, {name: leaf.shape for name, leaf in shapes.log_probs.items()}


def _union(tree: Any) -> Dependencies:
    leaves = jax.tree.leaves(tree, is_leaf=lambda leaf: isinstance(leaf, frozenset))
    return frozenset[tuple[str, int]]().union(*leaves)


def _loop(name: str, site: Mapping[str, Any]) -> Loop:
    if len(site["_loops"]) > 1:
        raise ModelError(
            f"site {name!r}: expected a discrete latent in one scan, got one in nested scans. "
            "Replace the inner one by a plate or a Python loop."
        )
    return site["_loops"][0]


def _dims(
    site: Mapping[str, Any], shape: tuple[int, ...], chains: set[Loop]
) -> tuple[Name | None, ...]:
    """The plate or loop along each dimension of a site's log density."""
    loops = site["_loops"]
    names: list[Name | None] = [None] * len(shape)
    for i, loop in enumerate(loops):
        names[i] = loop if loop in chains else None
    for frame in site["cond_indep_stack"]:
        if -frame.dim <= len(shape) - len(loops) and shape[frame.dim] == frame.size:
            names[frame.dim] = frame.name
    return tuple(names)


def _initial_states(
    sites: Mapping[str, Any],
    loops: Mapping[str, Loop],
    chained: set[str],
    all_parents: _Parents,
    dims: Mapping[str, tuple[Name | None, ...]],
) -> dict[str, str]:
    """For every chained site the site that is its state before the first step, `""` for none.

    A site outside of a loop is one if only the first step of the loop depends on it. All steps
    depend on the other sites outside that the loop depends on.
    """
    initial = dict.fromkeys(sorted(chained), "")
    for name, site in sites.items():
        lags = {
            loop: {
                lag
                for site, parents in all_parents.items()
                if loop in dims[site]
                for other, lag in parents
                if other == name
            }
            for loop in set(loops.values())
        }
        entered = [loop for loop, found in lags.items() if found]
        if name in loops or len(entered) != 1 or lags[entered[0]] != {1}:
            continue
        for state, one in initial.items():
            same = sites[state]["_num_states"] == site["_num_states"]
            if loops[state] == entered[0] and same and not one:
                initial[state] = name
                break
    return initial


def _factor_spec(
    parents: Dependencies, initial: Mapping[str, str], dims: tuple[Name | None, ...]
) -> FactorSpec:
    states = {one: state for state, one in initial.items() if one}
    previous = {
        states.get(name, name)
        for name, lag in parents
        if lag and (name in initial or name in states)
    }
    current = {name for name, lag in parents if not (lag and (name in initial or name in states))}
    return FactorSpec(tuple(sorted(current)), tuple(sorted(previous)), dims)


def _check_transforms(found: Outputs) -> None:
    for kind, all_parents in (("support", found.log_dets), ("mutable state", found.mutable)):
        for name, parents in all_parents.items():
            if parents:
                raise ModelError(
                    f"site {name!r}: expected a {kind} that is the same for all values of the "
                    f"discrete sites, got one that depends on {_names(parents)}. Move that "
                    "dependence into the parameters of a distribution."
                )


def _check_rows(name: str, shape: tuple[int, ...], dims: Sequence[Name | None]) -> None:
    if any(dim is None and size > 1 for dim, size in zip(dims, shape, strict=True)):
        raise ModelError(
            f"site {name!r}: expected every dimension of a discrete latent to be a plate, got "
            f"batch shape {shape} with plates {[dim for dim in dims if dim is not None]}. Put it "
            "into numpyro.plate, which declares its rows independent."
        )


def _check_scope(
    site: str, dims: Mapping[str, tuple[Name | None, ...]], parents: Dependencies
) -> None:
    scope = {dim for dim in dims[site] if dim is not None}
    for name, lag in sorted(parents):
        outside = {dim for dim in dims[name] if dim is not None} - scope
        for dim in outside:
            where = "the scan" if isinstance(dim, Loop) else f"plate {dim!r}"
            raise ModelError(
                f"site {site!r}: depends on the discrete site {name!r} in every row of {where}, "
                f"but is not in {where}, so that all rows would have to be enumerated jointly. "
                f"Move it into {where}, or remove the dependence."
            )
        if lag > 1 and any(isinstance(dim, Loop) for dim in dims[name]):
            raise ModelError(
                f"site {site!r}: expected a first-order Markov chain, got a step that depends on "
                f"earlier states of the discrete site {name!r} than the previous one. Carry only "
                "the latest state; for a chain of higher order combine states into one site."
            )


def _names(parents: Iterable[tuple[str, int]]) -> str:
    return " and ".join(sorted({repr(name) for name, _ in parents}))

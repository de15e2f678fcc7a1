"""Which sites depend on which discrete ones, and whether those can be summed out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from vijax.model.discrete.elimination import Variable, check_combinations
from vijax.model.discrete.enumeration import Plan, States, Table
from vijax.model.discrete.factors import Name
from vijax.model.tracing import run as running
from vijax.model.tracing.handler import Loop
from vijax.runtime.errors import ModelError
from vijax.runtime.jaxpr import Dependencies, dependencies

_Lines = dict[str, Dependencies]


class Outputs(NamedTuple):
    """What a model computes, by name."""

    log_probs: dict[str, Any]
    values: dict[str, Any]
    log_dets: dict[str, Any]
    mutable: dict[str, Any]


def plan(trace: running.Trace, outputs: Callable[[States, Any], Outputs], data: Any) -> Plan:
    """How to sum the discrete sites of a model out.

    Args:
        trace: of abstract values.
        outputs: of the model, from one state for each discrete site, and its data.
        data: abstract.

    Raises:
        ModelError: a discrete site cannot be summed out; the message names it.
    """
    sites = {name: site for name, site in trace.items() if running.is_enumerated(site)}
    loops = {name: _loop(name, site) for name, site in sites.items() if site["_loops"]}
    found, shapes = _dependence(sites, loops, outputs, data)
    _check_transforms(found)
    dims = {name: _dims(trace[name], shape, set(loops.values())) for name, shape in shapes.items()}
    lines = {site: line for site, line in found.log_probs.items() if line}
    for site in sites:
        _check_rows(site, shapes[site], dims[site])
    for site, line in lines.items():
        _check_scope(site, dims, line)
    carried = {name for line in lines.values() for name, age in line if age and name in loops}
    starts = _starts(sites, loops, carried, lines, dims)
    variables = {
        name: Variable(name, site["_states"], dims[name], loops.get(name), starts.get(name))
        for name, site in sites.items()
    }
    tables = {site: _table(line, starts, dims[site]) for site, line in lines.items()}
    for site, table in tables.items():
        check_combinations([variables[name] for name in (*table.now, *table.before)], site)
    dependent = frozenset(name for name, line in found.values.items() if line)
    return Plan(variables, tables, dependent)


def _dependence(
    sites: Mapping[str, Any],
    loops: Mapping[str, Loop],
    outputs: Callable[[States, Any], Outputs],
    data: Any,
) -> tuple[Outputs, dict[str, tuple[int, ...]]]:
    """The lineage of every output, and the shapes of the log densities."""
    states = {name: jnp.zeros((), int) for name in sorted(sites)}  # as a dict is laid out
    closed, shapes = jax.make_jaxpr(outputs, return_shape=True)(states, data)
    labels = [frozenset({(name, 0)}) for name in states]
    labels += [frozenset()] * (len(closed.jaxpr.invars) - len(labels))
    leaves = dependencies(closed.jaxpr, labels, frozenset(loops))
    tree = jax.tree.unflatten(jax.tree.structure(shapes), leaves)
    united = Outputs(*({name: _united(one) for name, one in part.items()} for part in tree))
    return united, {name: leaf.shape for name, leaf in shapes.log_probs.items()}


def _united(tree: Any) -> Dependencies:
    leaves = jax.tree.leaves(tree, is_leaf=lambda leaf: isinstance(leaf, frozenset))
    return frozenset[tuple[str, int]]().union(*leaves)


def _loop(name: str, site: Mapping[str, Any]) -> Loop:
    if len(site["_loops"]) > 1:
        raise ModelError(
            f"site {name!r}: expected a discrete latent in one scan, got one in nested scans. "
            "Write the inner one as a plate or a Python loop."
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


def _starts(
    sites: Mapping[str, Any],
    loops: Mapping[str, Loop],
    carried: set[str],
    lines: _Lines,
    dims: Mapping[str, tuple[Name | None, ...]],
) -> dict[str, str]:
    """For every state that reaches into the next step the site that comes before the first.

    A site outside of a loop can be that if the loop has it in its first step only. All others that
    the loop depends on are there at every step.
    """
    starts = dict.fromkeys(sorted(carried), "")
    for name, site in sites.items():
        ages = {
            loop: {
                age
                for site, line in lines.items()
                if loop in dims[site]
                for other, age in line
                if other == name
            }
            for loop in set(loops.values())
        }
        entered = [loop for loop, seen in ages.items() if seen]
        if name in loops or len(entered) != 1 or ages[entered[0]] != {1}:
            continue
        for state, start in starts.items():
            same = sites[state]["_states"] == site["_states"]
            if loops[state] == entered[0] and same and not start:
                starts[state] = name
                break
    return starts


def _table(line: Dependencies, starts: Mapping[str, str], dims: tuple[Name | None, ...]) -> Table:
    owners = {start: state for state, start in starts.items() if start}
    before = {
        owners.get(name, name) for name, age in line if age and (name in starts or name in owners)
    }
    now = {name for name, age in line if not (age and (name in starts or name in owners))}
    return Table(tuple(sorted(now)), tuple(sorted(before)), dims)


def _check_transforms(found: Outputs) -> None:
    for kind, lines in (("support", found.log_dets), ("mutable state", found.mutable)):
        for name, line in lines.items():
            if line:
                raise ModelError(
                    f"site {name!r}: expected a {kind} that is the same for all values of the "
                    f"discrete sites, got one that depends on {_names(line)}. Move that dependence "
                    "into a distribution's parameters."
                )


def _check_rows(name: str, shape: tuple[int, ...], dims: Sequence[Name | None]) -> None:
    if any(dim is None and size > 1 for dim, size in zip(dims, shape, strict=True)):
        raise ModelError(
            f"site {name!r}: expected every dimension of a discrete latent to be a plate, got "
            f"batch shape {shape} with plates {[dim for dim in dims if dim is not None]}. Put it "
            "into numpyro.plate, which says that its rows are independent."
        )


def _check_scope(
    site: str, dims: Mapping[str, tuple[Name | None, ...]], line: Dependencies
) -> None:
    own = {dim for dim in dims[site] if dim is not None}
    for name, age in sorted(line):
        outside = {dim for dim in dims[name] if dim is not None} - own
        for dim in outside:
            where = "the scan" if isinstance(dim, Loop) else f"plate {dim!r}"
            raise ModelError(
                f"site {site!r}: depends on the discrete site {name!r} in every row of {where}, "
                f"and is not in {where} itself, so that all rows would have to be summed over "
                f"together. Move it into {where}, or let it depend on something else."
            )
        if age > 1 and any(isinstance(dim, Loop) for dim in dims[name]):
            raise ModelError(
                f"site {site!r}: expected a chain in which a step depends on the discrete site "
                f"{name!r} of the step before, got one that remembers more of it. Carry the "
                "latest state only; for a chain of higher order make pairs of states one site."
            )


def _names(line: Iterable[tuple[str, int]]) -> str:
    return " and ".join(sorted({repr(name) for name, _ in line}))

"""Discrete latent sites are summed out of the log density, exactly.

The model runs with every row of a discrete site at the same value, once for each value, by `vmap`:
its own code never sees an array of a different shape. The elementwise log densities of its sites
are then the factors that `vijax.model.discrete.elimination` sums over. Rows of a plate are independent given
what is outside of it, so that one value for all of them says everything about each. In a `scan` it
is the same with the states before and at each step, see `vijax.model.tracing.scan_by_state`; the first step, which
has none before it, is run for itself.

What depends on what is read off the traced program when the target is built, see
`vijax.model.discrete.planning`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from vijax.model.discrete.elimination import Variable
from vijax.model.discrete.factors import Factor, Name, append
from vijax.model.discrete.forward_backward import Before
from vijax.model.tracing.handler import Loop

States = dict[Any, Array]  # by site, or `Before(site)`


@dataclasses.dataclass(frozen=True)
class Table:
    """How the log density of a site becomes a factor.

    Attributes:
        now: discrete sites whose present state it depends on.
        before: those whose state one step earlier it depends on.
        dims: the plate or loop along each dimension of its log density, `None` to sum over.
    """

    now: tuple[str, ...]
    before: tuple[str, ...]
    dims: tuple[Name | None, ...]

    @property
    def axes(self) -> tuple[Name, ...]:
        """The states along which it is run."""
        return (*self.now, *map(Before, self.before))


@dataclasses.dataclass(frozen=True)
class Plan:
    """The discrete sites of a model, and what depends on them.

    Attributes:
        variables: by name.
        tables: of the sites whose log density depends on them.
        dependent: sites and deterministics whose values depend on them.
    """

    variables: Mapping[str, Variable] = dataclasses.field(default_factory=dict)
    tables: Mapping[str, Table] = dataclasses.field(default_factory=dict)
    dependent: frozenset[str] = frozenset()

    @property
    def loops(self) -> frozenset[int]:
        """Numbers of the scans that discrete sites are in."""
        return frozenset(v.loop.number for v in self.variables.values() if v.loop is not None)

    def alone(self) -> dict[str, tuple[str, ...]]:
        """The sites whose rows are all that is seen of their discrete sites, and those sites.

        A mixture: a row of data and the component that it comes from, in the same plates.
        """
        causes: dict[str, set[str]] = {}
        for site, table in self.tables.items():
            found, new = set[str](), {*table.now, *table.before}
            while new:
                found |= new
                new = {cause for name in new for cause in self.tables[name].now} - found
            causes[site] = found
        seen = [site for site in causes if site not in self.variables]
        out = {}
        for site in seen:
            others = set[str]().union(*(causes[other] for other in seen if other != site))
            dims = self.tables[site].dims
            rows = {self.variables[name].dims for name in causes[site]}
            if rows == {dims} and not any(map(_is_loop, dims)) and not causes[site] & others:
                out[site] = tuple(sorted(causes[site]))
        return out

    def factors(self, run: Callable[..., States]) -> dict[str, Factor]:
        """The factors of all tables, by site.

        Args:
            run: from states of the discrete sites, one number for all rows, and whether of scans
                with discrete sites the first step is wanted or all others, to the elementwise log
                density of the sites in `tables`.
        """
        later = self._grid(partial(run, first=False), {s: t.axes for s, t in self.tables.items()})
        if not self.loops:
            return later
        stepwise = {s: t for s, t in self.tables.items() if any(map(_is_loop, t.dims))}
        starts = {state: self.variables[state].start for state in self.variables}
        wanted = {
            site: (*table.now, *(start for name in table.before if (start := starts[name])))
            for site, table in stepwise.items()
        }
        renamed = {start: Before(state) for state, start in starts.items() if start}
        for site, one in self._grid(partial(run, first=True), wanted).items():
            loop = next(filter(_is_loop, self.tables[site].dims))
            names = tuple(renamed.get(name, name) for name in one.names)  # type: ignore[call-overload]
            later[site] = append(Factor(names, one.log), later[site], loop)
        return later

    def _grid(
        self, run: Callable[[States], States], wanted: Mapping[str, tuple[Name, ...]]
    ) -> dict[str, Factor]:
        """Runs at every combination of states; each table along the axes wanted of it only."""
        axes = {axis: self._size(axis) for names in wanted.values() for axis in names}

        def level(rest: tuple[Name, ...], states: dict[Name, Array]) -> States:
            if not rest:
                tables = run(states)
                return {site: tables[site] for site in wanted}
            axis, *others = rest
            out_axes = {site: 0 if axis in names else None for site, names in wanted.items()}
            return jax.vmap(
                lambda state: level(tuple(others), {**states, axis: state}), 0, out_axes
            )(jnp.arange(axes[axis]))

        found = {}
        for site, log_prob in level(tuple(axes), {}).items():
            own, dims = tuple(a for a in axes if a in wanted[site]), self.tables[site].dims
            unnamed = [len(own) + i for i, dim in enumerate(dims) if dim is None]
            names = (*own, *(dim for dim in dims if dim is not None))
            found[site] = Factor(names, jnp.sum(log_prob, axis=unnamed))
        return found

    def _size(self, axis: Name) -> int:
        name: Any = axis.name if isinstance(axis, Before) else axis
        return self.variables[name].size


def _is_loop(dim: Name | None) -> bool:
    return isinstance(dim, Loop)

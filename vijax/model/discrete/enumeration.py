"""Factors of a model with discrete latent sites, by exact enumeration.

The model runs by `vmap` once for each value of a discrete site, with all rows at that value, so
that the shapes of its arrays do not change. The elementwise log densities of its sites are the
factors for `vijax.model.discrete.elimination`: rows of a plate are conditionally independent, so a
joint value of all rows determines the factor of each. A `scan` is enumerated over the previous and
the current states of each step (`vijax.model.tracing.vectorized_scan`); its first step, which has
no previous one, runs separately.

The dependence of sites on discrete ones is determined from the traced program, see
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

from vijax.model.discrete.elimination import FirstStep, Variable
from vijax.model.discrete.factors import Factor, Name
from vijax.model.tracing.handler import Loop, Previous

States = dict[Any, Array]  # by site, or `Previous(site)`


@dataclasses.dataclass(frozen=True)
class FactorSpec:
    """The dependence of a site's log density on discrete sites.

    Attributes:
        current: discrete sites on whose current state it depends.
        previous: those on whose state at the previous step it depends.
        dims: the plate or loop along each dimension of its log density, `None` to sum over.
    """

    current: tuple[str, ...]
    previous: tuple[str, ...]
    dims: tuple[Name | None, ...]

    @property
    def axes(self) -> tuple[Name, ...]:
        """The states to enumerate."""
        return (*self.current, *map(Previous, self.previous))


@dataclasses.dataclass(frozen=True)
class EnumerationPlan:
    """The discrete sites of a model to enumerate, and the sites that depend on them.

    Attributes:
        variables: the discrete sites by name.
        specs: of the sites whose log density depends on them.
        dependent: sites and deterministics whose values depend on them.
    """

    variables: Mapping[str, Variable] = dataclasses.field(default_factory=dict)
    specs: Mapping[str, FactorSpec] = dataclasses.field(default_factory=dict)
    dependent: frozenset[str] = frozenset()

    @property
    def loops(self) -> frozenset[int]:
        """Numbers of the scans that contain discrete sites."""
        return frozenset(v.loop.number for v in self.variables.values() if v.loop is not None)

    def mixtures(self) -> dict[str, tuple[str, ...]]:
        """Sites with a row-wise mixture distribution, and the discrete sites to sum over.

        A site is one if its discrete ancestors are in the same plates and no other continuous or
        observed site depends on them.
        """
        ancestors: dict[str, set[str]] = {}
        for site, spec in self.specs.items():
            found, new = set[str](), {*spec.current, *spec.previous}
            while new:
                found |= new
                new = {parent for name in new for parent in self.specs[name].current} - found
            ancestors[site] = found
        continuous = [site for site in ancestors if site not in self.variables]
        out = {}
        for site in continuous:
            others = set[str]().union(*(ancestors[one] for one in continuous if one != site))
            dims = self.specs[site].dims
            rows = {self.variables[name].dims for name in ancestors[site]}
            if rows == {dims} and not any(map(_is_loop, dims)) and not ancestors[site] & others:
                out[site] = tuple(sorted(ancestors[site]))
        return out

    def factors(self, run: Callable[..., States]) -> dict[Any, Factor]:
        """The factors of all sites in `specs`; of those in loops also `FirstStep(site)`.

        Args:
            run: `(states, first_step) -> log_probs`. `states` has one index for all rows of each
                discrete site; `first_step` is whether to run the first step of scans with discrete
                sites, or all others; `log_probs` are elementwise, by site in `specs`.
        """
        axes = {site: spec.axes for site, spec in self.specs.items()}
        factors: dict[Any, Factor] = dict(self._enumerate(partial(run, first_step=False), axes))
        if not self.loops:
            return factors
        in_loops = {s: spec for s, spec in self.specs.items() if any(map(_is_loop, spec.dims))}
        axes = {
            site: (*spec.current, *(one for name in spec.previous if (one := self._initial(name))))
            for site, spec in in_loops.items()
        }
        for site, first in self._enumerate(partial(run, first_step=True), axes).items():
            loop: Any
            (loop,) = filter(_is_loop, self.specs[site].dims)
            axis = first.names.index(loop)
            names = [name for name in first.names if name != loop]
            inside = [name for name, variable in self.variables.items() if variable.loop == loop]
            named: dict[Any, Name] = {name: FirstStep(name) for name in inside}
            log = jnp.squeeze(first.log, axis)
            factors[FirstStep(site)] = Factor(tuple(named.get(n, n) for n in names), log)
            if loop.length == 1:
                del factors[site]
        return factors

    def _initial(self, name: str) -> str | None:
        return self.variables[name].initial

    def _enumerate(
        self, run: Callable[[States], States], axes: Mapping[str, tuple[Name, ...]]
    ) -> dict[str, Factor]:
        """The factors over `axes` of each site, from `run` at all combinations of states."""
        sizes = {axis: self._size(axis) for names in axes.values() for axis in names}

        def run_over(rest: tuple[Name, ...], states: dict[Name, Array]) -> States:
            if not rest:
                log_probs = run(states)
                return {site: log_probs[site] for site in axes}
            axis, *others = rest
            out_axes = {site: 0 if axis in names else None for site, names in axes.items()}
            return jax.vmap(
                lambda state: run_over(tuple(others), {**states, axis: state}), 0, out_axes
            )(jnp.arange(sizes[axis]))

        found = {}
        for site, log_prob in run_over(tuple(sizes), {}).items():
            states, dims = tuple(a for a in sizes if a in axes[site]), self.specs[site].dims
            unnamed = [len(states) + i for i, dim in enumerate(dims) if dim is None]
            names = (*states, *(dim for dim in dims if dim is not None))
            found[site] = Factor(names, jnp.sum(log_prob, axis=unnamed))
        return found

    def _size(self, axis: Name) -> int:
        name: Any = axis.name if isinstance(axis, Previous) else axis
        return self.variables[name].size


def _is_loop(dim: Name | None) -> bool:
    return isinstance(dim, Loop)

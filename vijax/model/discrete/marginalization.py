"""The log density of a model with its discrete sites summed out, and draws of them afterwards."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from vijax.contracts import Batch, Evaluation, Position, Space
from vijax.model.discrete import factors as named
from vijax.model.discrete.elimination import Elimination
from vijax.model.discrete.enumeration import Plan
from vijax.model.discrete.factors import Factor
from vijax.model.discrete.planning import Outputs, plan
from vijax.model.tracing import log_densities as reading
from vijax.model.tracing import run as running
from vijax.model.tracing import substitution as samplers

Tracer = Callable[..., running.Trace]
Abstract = Mapping[str, jax.ShapeDtypeStruct]


class Summation:
    """What a target does with discrete sites; its functions take what those of `Target` take.

    Args:
        trace: runs the model, `TracedModel.trace`.
        how: from `vijax.model.discrete.planning.plan`.

    Attributes:
        entries: numbers that are summed over for one position, with all data.
    """

    def __init__(self, trace: Tracer, how: Plan) -> None:
        self.trace = trace
        self.how = how
        self.entries = 0

    def evaluate(self, z: Position, batch: Batch, model: Mapping, mutable: Mapping) -> Evaluation:
        """The log density and the new mutable state."""
        return self.sum_out(z, batch, model, mutable)[0]

    def draw(
        self, key: Array, z: Position, batch: Batch, model: Mapping, mutable: Mapping
    ) -> Position:
        """The discrete sites given the others, as numbers of their values."""
        return self.sum_out(z, batch, model, mutable)[1].draw(key)

    def by_row(
        self, z: Position, batch: Batch, model: Mapping, mutable: Mapping
    ) -> dict[str, Array]:
        """Log density, elementwise, of sites in whose rows alone a discrete site is seen."""
        alone, found = self.how.alone(), {}
        factors = self._factors(z, batch, model, mutable) if alone else {}
        for site, names in alone.items():
            joint = named.product([factors[one] for one in (site, *names)])
            for name in names:
                joint = named.sum_out(joint, name)
            dims = self.how.tables[site].dims
            found[site] = named.spread(joint, [dim or object() for dim in dims])
        return found

    def knows(self, z: Position) -> bool:
        """Whether a position has the states of all discrete sites."""
        return self.how.variables.keys() <= z.keys()

    def sum_out(
        self, z: Position, batch: Batch, model: Mapping, mutable: Mapping
    ) -> tuple[Evaluation, Elimination]:
        """The log density, in a way that can be followed back."""
        trace = self.trace(batch, samplers.from_unconstrained(z, batch.centering), model, mutable)
        rest = {name: site for name, site in trace.items() if name not in self.how.tables}
        factors = self._factors(z, batch, model, mutable)
        elimination = Elimination(self.how.variables, reading.plate_scales(trace))
        log_density = elimination.total(factors.values()) + reading.log_density(rest)
        return Evaluation(log_density, reading.mutable(trace)), elimination

    def _factors(
        self, z: Position, batch: Batch, model: Mapping, mutable: Mapping
    ) -> dict[str, Factor]:
        """What discrete sites enter, by site."""

        def run(states: Position, first: bool) -> dict[str, Array]:
            sampler = samplers.from_unconstrained({**z, **states}, batch.centering)
            loops = self.how.loops
            part = self.trace(batch, sampler, model, mutable, apart=loops, first=first)
            return reading.powered(part, self.how.tables)

        return self.how.factors(run)


def planned(tracer: Tracer, trace: running.Trace, space: Space, data: Abstract) -> Summation:
    """How the discrete sites of a model are summed out.

    Args:
        tracer: runs the model.
        trace: of abstract values, with discrete sites in it.
        space: of the other sites.
        data: of abstract arrays.

    Raises:
        ModelError: they cannot be.
    """
    origin = {site.name: jnp.ones(site.z_shape) for site in space.sites}
    summation = Summation(tracer, plan(trace, functools.partial(_outputs, tracer, origin), data))

    def log_density(data: dict[str, Array]) -> Array:
        evaluation, elimination = summation.sum_out(origin, Batch(data), {}, {})
        summation.entries = elimination.entries
        return evaluation.log_density

    jax.eval_shape(log_density, data)  # plates that cross are found on the way
    return summation


def _outputs(tracer: Tracer, z: Position, states: Position, data: Any) -> Outputs:
    """What the model computes in some state."""
    trace = tracer(Batch(data), samplers.from_unconstrained(z | states))
    return Outputs(
        reading.log_probs(trace),
        reading.values(trace),
        reading.log_dets(trace),
        reading.mutable(trace),
    )

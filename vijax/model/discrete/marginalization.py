"""Marginalization of discrete sites: the marginal log density, and draws of their states."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from vijax.contracts import Batch, Evaluation, Position, Space
from vijax.model.discrete.elimination import Elimination, FirstStep, Variable
from vijax.model.discrete.enumeration import EnumerationPlan
from vijax.model.discrete.factors import Factor, align, product, sum_over
from vijax.model.discrete.masks import padding_sites, site_masks, with_masks
from vijax.model.discrete.planning import Outputs, plan_enumeration
from vijax.model.tracing import log_densities, substitution
from vijax.model.tracing.log_densities import site_mask
from vijax.model.tracing.sites import Trace, latent_values, mutable_state, plate_scales

_LEAST = -1e30  # log density of an impossible value

TraceFn = Callable[..., Trace]
Abstract = Mapping[str, jax.ShapeDtypeStruct]


class Marginalization:
    """Marginalizes discrete sites; methods have the arguments of those of `Target`.

    Args:
        trace: runs the model, `TracedModel.trace`.
        plan: from `vijax.model.discrete.planning.plan_enumeration`.

    Attributes:
        entries: number of array elements summed over at one position, with all data.
        padding: see `vijax.model.discrete.masks.padding_sites`.
    """

    def __init__(self, trace: TraceFn, plan: EnumerationPlan) -> None:
        self.trace = trace
        self.plan = plan
        self.entries = 0
        self.padding: frozenset[str] = frozenset()

    def evaluate(
        self,
        z: Position,
        batch: Batch,
        model: Mapping,
        mutable: Mapping,
        num_steps: int | None = None,
    ) -> Evaluation:
        """The marginal log density and the new mutable state.

        With `num_steps` that of a model whose loops have their first step and some others.
        """
        return self.eliminate(z, batch, model, mutable, num_steps)[0]

    def draw(
        self, key: Array, z: Position, batch: Batch, model: Mapping, mutable: Mapping
    ) -> Position:
        """Draws of the discrete sites given the others, as indices of their values."""
        return self.eliminate(z, batch, model, mutable)[1].sample(key)

    def probs(
        self, z: Position, batch: Batch, model: Mapping, mutable: Mapping
    ) -> dict[str, Array]:
        """Probabilities of the values of each discrete site given the others, `(*shape, values)`.

        The gradient of the log density in a log potential added to each value of each entry.
        """
        trace = self.trace(
            batch, substitution.from_unconstrained(z, batch.centering), model, mutable
        )
        found = self._factors(z, batch, model, mutable).values()
        # a finite log density of what is impossible, so that the gradient is defined there
        factors = [factor._replace(log=jnp.maximum(factor.log, _LEAST)) for factor in found]

        def log_total(potentials: dict[str, Array]) -> Array:
            added = [
                factor
                for name, x in potentials.items()
                for factor in _potentials(self.plan.variables[name], x)
            ]
            return Elimination(self.plan.variables, {}).log_total([*factors, *added])

        return jax.grad(log_total)(
            {
                name: jnp.zeros((*jnp.shape(trace[name]["value"]), variable.size))
                for name, variable in self.plan.variables.items()
            }
        )

    def mixture_log_probs(
        self, z: Position, batch: Batch, model: Mapping, mutable: Mapping
    ) -> dict[str, Array]:
        """Marginal log density, elementwise, of sites with a row-wise mixture distribution."""
        mixtures, found = self.plan.mixtures(), {}
        factors = self._factors(z, batch, model, mutable) if mixtures else {}
        for site, names in mixtures.items():
            joint = product([factors[one] for one in (site, *names)])
            for name in names:
                joint = sum_over(joint, name)
            dims = self.plan.specs[site].dims
            found[site] = align(joint, [dim or object() for dim in dims])
        return found

    def has_states(self, z: Position) -> bool:
        """Whether a position has the states of all discrete sites."""
        return self.plan.variables.keys() <= z.keys()

    def eliminate(
        self,
        z: Position,
        batch: Batch,
        model: Mapping,
        mutable: Mapping,
        num_steps: int | None = None,
    ) -> tuple[Evaluation, Elimination]:
        """The marginal log density, and the elimination for sampling states."""
        substitute_fn = substitution.from_unconstrained(z, batch.centering)
        trace = self.trace(batch, substitute_fn, model, mutable)
        rest = {name: site for name, site in trace.items() if name not in self.plan.specs}
        factors = self._factors(z, batch, model, mutable, num_steps)
        elimination = Elimination(self.plan.variables, plate_scales(trace))
        log_density = elimination.log_total(factors.values()) + log_densities.log_density(rest)
        return Evaluation(log_density, mutable_state(trace)), elimination

    def _factors(
        self,
        z: Position,
        batch: Batch,
        model: Mapping,
        mutable: Mapping,
        num_steps: int | None = None,
    ) -> dict[Any, Factor]:
        """The factors that depend on discrete sites, by site."""

        def run(states: Position, first_step: bool) -> dict[str, Array]:
            substitute_fn = substitution.from_unconstrained({**z, **states}, batch.centering)
            trace = self.trace(
                batch,
                substitute_fn,
                model,
                mutable,
                vectorized_loops=self.plan.loops,
                first_step=first_step,
                num_steps=num_steps,
            )
            return log_densities.handler_scaled_log_probs(trace, self.plan.specs, self.padding)

        factors = self.plan.factors(run)
        if not self.padding:
            return factors
        substitute_fn = substitution.from_unconstrained(z, batch.centering)
        trace = self.trace(batch, substitute_fn, model, mutable)
        return with_masks(factors, site_masks(trace, self.plan), self.padding, self.plan)


def _potentials(variable: Variable, log: Array) -> list[Factor]:
    """Factors of each entry of a discrete site, from an array by value and in order of index."""
    unnamed = [axis for axis, dim in enumerate(variable.dims) if dim is None]
    dims = [dim for dim in variable.dims if dim is not None]
    log = jnp.squeeze(log, unnamed)
    if variable.loop is None:
        return [Factor((*dims, variable.name), log)]
    axis = dims.index(variable.loop)
    log = jnp.flip(log, axis) if variable.loop.reverse else log  # from indices to steps
    outside = [dim for dim in dims if dim != variable.loop]
    first = Factor((*outside, FirstStep(variable.name)), jnp.take(log, 0, axis))
    rest = Factor((*dims, variable.name), jax.lax.slice_in_dim(log, 1, None, axis=axis))
    return [first, rest] if variable.loop.length > 1 else [first]


def plan_marginalization(
    trace_fn: TraceFn, trace: Trace, space: Space, data: Abstract
) -> Marginalization:
    """The marginalization of the discrete sites of a model.

    Args:
        trace_fn: runs the model.
        trace: of abstract values, including the discrete sites.
        space: of the other sites.
        data: abstract arrays.

    Raises:
        ModelError: a discrete site cannot be marginalized.
    """
    origin = {site.name: jnp.ones(site.z_shape) for site in space.sites}
    outputs = functools.partial(_outputs, trace_fn, origin)
    marginalization = Marginalization(trace_fn, plan_enumeration(trace, outputs, data))
    plan = marginalization.plan
    if any(site_mask(trace[name]) is not None for name in plan.variables):
        states = {name: jnp.zeros((), int) for name in plan.variables}

        def masks(z: Position, data: Any) -> dict[str, Array]:
            substitute_fn = substitution.from_unconstrained(z)
            return site_masks(trace_fn(Batch(data), substitute_fn), plan)

        marginalization.padding = padding_sites(masks, origin | states, plan, data)

    def log_density(data: dict[str, Array]) -> Array:
        evaluation, elimination = marginalization.eliminate(origin, Batch(data), {}, {})
        marginalization.entries = elimination.entries
        return evaluation.log_density

    jax.eval_shape(log_density, data)  # also raises the errors of the elimination
    return marginalization


def _outputs(trace_fn: TraceFn, z: Position, states: Position, data: Any) -> Outputs:
    """What the model computes at given states."""
    trace = trace_fn(Batch(data), substitution.from_unconstrained(z | states))
    return Outputs(
        log_densities.log_probs(trace),
        latent_values(trace),
        log_densities.log_dets(trace),
        mutable_state(trace),
    )

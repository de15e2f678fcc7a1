"""A model function as the functions of a `Target`: each runs the model once, inside a program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from vijax.contracts import Batch, Evaluation, Position, PyTree, Site, Terms
from vijax.contracts.rows import take_rows
from vijax.model.discrete.enumeration import Plan
from vijax.model.discrete.marginalization import Summation
from vijax.model.minibatch import plates as minibatch
from vijax.model.tracing import log_densities as reading
from vijax.model.tracing import params
from vijax.model.tracing import run as running
from vijax.model.tracing import substitution as samplers
from vijax.model.tracing.arguments import Arguments
from vijax.model.tracing.checks import tracing_errors
from vijax.model.tracing.sites import is_data
from vijax.model.tracing.term_dependence import volume
from vijax.runtime.errors import ModelError, mismatch

_FIXED_KEY = 0  # randomness of the model where the caller brings none


class TracedModel:
    """A model with its static arguments; `vijax.model.survey` finds out the rest.

    Attributes:
        model: the model function.
        arguments: its static arguments.
        drawn: discrete sites that are not marginalized.
        rows: how many rows of a subsampled plate are used where a batch names none.
        cut: how the data are cut into batches of a model that is written for all of them.
        sites: the latent ones, once they are known.
        summation: marginalizes discrete sites, `None` where there are none.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        arguments: Arguments,
        drawn: running.Drawn = frozenset(),
    ) -> None:
        self.model = model
        self.arguments = arguments
        self.drawn = drawn
        self.rows: dict[str, int] = {}
        self.cut = minibatch.Cut()
        self.sites: tuple[Site, ...] = ()
        self.summation: Summation | None = None

    @property
    def plan(self) -> Plan:
        """How discrete sites are marginalized; empty where there are none."""
        return Plan() if self.summation is None else self.summation.how

    def trace(
        self,
        batch: Batch,
        sampler: running.Sampler,
        model: Mapping[str, PyTree] | None = None,
        mutable: Mapping[str, PyTree] | None = None,
        scored: bool = True,
        **options: Any,
    ) -> running.Trace:
        """Runs the model once, see `vijax.model.tracing.run.run`."""
        args, kwargs = self.arguments.join(self.cut.take(batch))
        key = jax.random.key(_FIXED_KEY) if batch.key is None else batch.key
        index = {name: jnp.arange(rows) for name, rows in self.rows.items()} | batch.index
        with tracing_errors(self.model):
            return running.run(
                self.model,
                args,
                kwargs,
                key,
                sampler,
                model,
                mutable,
                index,
                self.cut.full,
                scored,
                drawn=self.drawn,
                **options,
            )

    def log_density(self, trace: running.Trace) -> Array:
        """The log density of a trace, errors of distributions named after their sites."""
        with tracing_errors(self.model):
            return reading.log_density(trace)

    def _at(
        self, z: Position, batch: Batch, model: Mapping, mutable: Mapping, scored: bool = True
    ) -> running.Trace:
        """A run at one position."""
        sampler = samplers.from_unconstrained(z, self._centering(batch))
        return self.trace(batch, sampler, model, mutable, scored)

    def _centering(self, batch: Batch) -> dict[str, Array]:
        """`batch.centering` of the rows in use."""
        found = dict(batch.centering)
        for site in self.sites:
            if site.name in found:
                pairs = site.axes(batch.index).pairs
                found[site.name] = take_rows(found[site.name], pairs, batch.index)
        return found

    def _in_use(self, batch: Batch) -> Batch:
        return batch._replace(centering=self._centering(batch))

    # ---- the functions of a target, described there

    def evaluate(self, z: Position, batch: Batch, model: Mapping, mutable: Mapping) -> Evaluation:
        """The log density and the new mutable state."""
        if self.summation is None:
            trace = self._at(z, batch, model, mutable)
            return Evaluation(self.log_density(trace), reading.mutable(trace))
        return self.summation.evaluate(z, self._in_use(batch), model, mutable)

    def terms(self, z: Position, batch: Batch, model: Mapping, mutable: Mapping) -> Terms:
        """The log density by site, elementwise, and the log Jacobians of those that have one.

        Where discrete sites are marginalized it is all in one, `""`.
        """
        if self.summation is not None:
            evaluation = self.summation.evaluate(z, self._in_use(batch), model, mutable)
            return Terms({"": evaluation.log_density}, evaluation.mutable)
        trace = self._at(z, batch, model, mutable)
        with tracing_errors(self.model):
            values = reading.log_probs(trace)
        bent = reading.log_dets(trace, bent=True)
        values |= {volume(name): log_det for name, log_det in bent.items()}
        return Terms(values, reading.mutable(trace))

    def draw_discrete(
        self, key: Array, z: Position, batch: Batch, model: Mapping, mutable: Mapping
    ) -> Position:
        """The marginalized discrete sites given the others, as indices of their values."""
        if self.summation is None:
            return {}
        return self.summation.draw(key, z, self._in_use(batch), model, mutable)

    def constrain(
        self, z: Position, batch: Batch, model: Mapping, mutable: Mapping
    ) -> dict[str, Array]:
        """Sites and deterministics in the model's own space.

        Without states of the discrete sites in `z`, what depends on them is left out.
        """
        values = reading.values(self._at(z, batch, model, mutable))
        if self.summation is None or self.summation.knows(z):
            return values
        return {name: x for name, x in values.items() if name not in self.plan.dependent}

    def unconstrain(
        self, values: Mapping[str, Any], batch: Batch, model: Mapping, mutable: Mapping
    ) -> Position:
        """Unconstrained values of some sites; the others are put at the origin."""
        sampler = samplers.from_values(values, self._centering(batch))
        trace = self.trace(batch, sampler, model, mutable)
        z = {name: jnp.asarray(record.z) for name, _, record in reading.latents(trace)}
        unknown = sorted(set(values) - set(z))
        if unknown:
            raise ModelError(mismatch("values", f"some of the sites {list(z)}", f"{unknown}"))
        return {name: z[name] for name in values}

    def site_log_probs(
        self, z: Position, batch: Batch, model: Mapping, mutable: Mapping
    ) -> dict[str, Array]:
        """Log density by site, unscaled, given states of discrete sites.

        Where a discrete site belongs to one row of data, it is summed out of the row's.
        """
        found = reading.log_probs(self._at(z, batch, model, mutable), scaled=False)
        if self.summation is not None:
            found |= self.summation.by_row(z, self._in_use(batch), model, mutable)
        return found

    def log_dets(
        self, z: Position, batch: Batch, model: Mapping, mutable: Mapping
    ) -> dict[str, Array]:
        """`log |dx/dz|` by latent site."""
        return reading.log_dets(self._at(z, batch, model, mutable))

    def log_prior_sds(
        self, z: Position, batch: Batch, model: Mapping, mutable: Mapping
    ) -> dict[str, Array]:
        """Log prior sd, given all else, of every site that `batch.centering` names."""
        return reading.log_prior_sds(self._at(z, batch, model, mutable, scored=False))

    def initialize(self, key: Array, batch: Batch) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
        """Initial values of `param` sites and mutable state."""
        trace = self.trace(batch._replace(key=key), samplers.at_origin)
        starts = {
            name: params.start_param(name, site)
            for name, site in trace.items()
            if site["type"] == "param"
        }
        return starts, reading.mutable(trace)

    def constrain_params(
        self, model: Mapping[str, PyTree], batch: Batch, mutable: Mapping
    ) -> dict[str, PyTree]:
        """The `param` sites in their constraints."""
        trace = self.trace(batch, samplers.at_origin, model, mutable)
        return {
            name: params.param_value(site)
            for name, site in trace.items()
            if site["type"] == "param"
        }

    def observations(
        self, batch: Batch, model: Mapping[str, PyTree], mutable: Mapping
    ) -> dict[str, Array]:
        """The values of the observed sites."""
        trace = self.trace(batch, samplers.at_origin, model, mutable)
        return {name: jnp.asarray(site["value"]) for name, site in trace.items() if is_data(site)}

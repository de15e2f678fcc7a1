"""A model function as the functions of a `Target`, each of which runs the model once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from vijax.contracts import Batch, Evaluation, Position, PyTree, Site, Terms
from vijax.contracts.rows import take_rows
from vijax.model import fisher
from vijax.model.discrete.enumeration import EnumerationPlan
from vijax.model.discrete.marginalization import Marginalization
from vijax.model.minibatch.subsampling import Subsampler
from vijax.model.tracing import log_densities, params, substitution
from vijax.model.tracing.arguments import Arguments
from vijax.model.tracing.checks import tracing_errors
from vijax.model.tracing.handler import SubstituteFn
from vijax.model.tracing.run import SampledSites, run_model
from vijax.model.tracing.shared_priors import Groups
from vijax.model.tracing.sites import (
    Trace,
    is_data,
    latent_values,
    latents,
    mutable_state,
)
from vijax.model.tracing.term_dependence import log_jacobian_name
from vijax.runtime.errors import ModelError, mismatch
from vijax.runtime.network_run import NetworkRun, network_run

_FIXED_KEY = 0  # key of the model where the caller has none


class TracedModel:
    """A model with its static arguments; `vijax.model.analysis` sets the other attributes.

    Attributes:
        model: the model function.
        arguments: its static arguments.
        sampled: discrete latent sites that are sampled by the guide.
        default_rows: number of rows of a subsampled plate in use for a batch without an index.
        subsampler: the subsampling of the data of a model that is written for all rows.
        sites: the latent sites.
        shared_priors: groups of sites that share a prior.
        marginalization: of discrete sites, `None` where there are none.
        start: latent values for what does not depend on them.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        arguments: Arguments,
        sampled: SampledSites = frozenset(),
    ) -> None:
        self.model = model
        self.arguments = arguments
        self.sampled = sampled
        self.default_rows: dict[str, int] = {}
        self.subsampler = Subsampler()
        self.sites: tuple[Site, ...] = ()
        self.shared_priors: Groups = ()
        self.marginalization: Marginalization | None = None
        self.start: SubstituteFn = substitution.at_origin

    @property
    def plan(self) -> EnumerationPlan:
        """The enumeration of discrete sites; empty where there are none."""
        return EnumerationPlan() if self.marginalization is None else self.marginalization.plan

    def trace(
        self,
        batch: Batch,
        substitute_fn: SubstituteFn,
        model: Mapping[str, PyTree] | None = None,
        mutable: Mapping[str, PyTree] | None = None,
        with_log_density: bool = True,
        starts: dict[str, Any] | None = None,
        **options: Any,
    ) -> Trace:
        """Runs the model once, see `vijax.model.tracing.run.run_model`; networks fill `starts`."""
        args, kwargs = self.arguments.join(self.subsampler.subsample(batch))
        key = jax.random.key(_FIXED_KEY) if batch.key is None else batch.key
        index = {name: jnp.arange(rows) for name, rows in self.default_rows.items()} | batch.index
        run = _network_run(batch) if starts is None else NetworkRun(starts=starts)
        with tracing_errors(self.model), network_run(run):
            return run_model(
                self.model,
                args,
                kwargs,
                key,
                substitute_fn,
                model,
                mutable,
                index,
                self.subsampler.full_sizes,
                with_log_density,
                sampled=self.sampled,
                **options,
            )

    def log_density(self, trace: Trace) -> Array:
        """The log density of a trace; errors name the site."""
        with tracing_errors(self.model):
            return log_densities.log_density(trace)

    def _trace_at(
        self,
        z: Position,
        batch: Batch,
        model: Mapping,
        mutable: Mapping,
        with_log_density: bool = True,
    ) -> Trace:
        """The trace at one position."""
        substitute_fn = substitution.from_unconstrained(
            z, self._centering(batch), self.shared_priors
        )
        traced = any(isinstance(value, jax.core.Tracer) for value in z.values())
        return self.trace(
            batch, substitute_fn, model, mutable, with_log_density, latents_traced=traced
        )

    def _centering(self, batch: Batch) -> dict[str, Array]:
        """`batch.centering` of the rows in use."""
        found = dict(batch.centering)
        for site in self.sites:
            if site.name in found:
                pairs = site.axes(batch.index).pairs
                found[site.name] = take_rows(found[site.name], pairs, batch.index)
        return found

    def _with_rows_in_use(self, batch: Batch) -> Batch:
        return batch._replace(centering=self._centering(batch))

    # ---- the functions of a target, see there

    def evaluate(self, z: Position, batch: Batch, model: Mapping, mutable: Mapping) -> Evaluation:
        """The log density and the new mutable state."""
        if self.marginalization is None:
            trace = self._trace_at(z, batch, model, mutable)
            return Evaluation(self.log_density(trace), mutable_state(trace))
        return self.marginalization.evaluate(z, self._with_rows_in_use(batch), model, mutable)

    def terms(self, z: Position, batch: Batch, model: Mapping, mutable: Mapping) -> Terms:
        """The log density by site, elementwise, and the log Jacobians that are not zero.

        With marginalized discrete sites there is a single term, `""`.
        """
        if self.marginalization is not None:
            evaluation = self.marginalization.evaluate(
                z, self._with_rows_in_use(batch), model, mutable
            )
            return Terms({"": evaluation.log_density}, evaluation.mutable)
        trace = self._trace_at(z, batch, model, mutable)
        with tracing_errors(self.model):
            values = log_densities.log_probs(trace)
        log_dets = log_densities.log_dets(trace, skip_identity=True)
        values |= {log_jacobian_name(name): log_det for name, log_det in log_dets.items()}
        return Terms(values, mutable_state(trace))

    def draw_discrete(
        self, key: Array, z: Position, batch: Batch, model: Mapping, mutable: Mapping
    ) -> Position:
        """Draws of the marginalized discrete sites given the others, as indices of their values."""
        if self.marginalization is None:
            return {}
        return self.marginalization.draw(key, z, self._with_rows_in_use(batch), model, mutable)

    def discrete_probs(
        self, z: Position, batch: Batch, model: Mapping, mutable: Mapping
    ) -> dict[str, Array]:
        """Probabilities of the values of the marginalized discrete sites given the others."""
        if self.marginalization is None:
            return {}
        return self.marginalization.probs(z, self._with_rows_in_use(batch), model, mutable)

    def constrain(
        self, z: Position, batch: Batch, model: Mapping, mutable: Mapping
    ) -> dict[str, Array]:
        """Constrained values of latent sites, and deterministics.

        Without states of the marginalized sites in `z`, sites that depend on them are omitted.
        """
        values = latent_values(self._trace_at(z, batch, model, mutable))
        if self.marginalization is None or self.marginalization.has_states(z):
            return values
        return {name: x for name, x in values.items() if name not in self.plan.dependent}

    def unconstrain(
        self, values: Mapping[str, Any], batch: Batch, model: Mapping, mutable: Mapping
    ) -> Position:
        """Unconstrained values of some sites, with the others at the origin."""
        weights = self._centering(batch)
        substitute_fn = substitution.from_values(values, weights, self.shared_priors)
        trace = self.trace(batch, substitute_fn, model, mutable)
        z = {name: jnp.asarray(record.z) for name, _, record in latents(trace)}
        unknown = sorted(set(values) - set(z))
        if unknown:
            raise ModelError(mismatch("values", f"some of the sites {list(z)}", f"{unknown}"))
        return {name: z[name] for name in values}

    def site_log_probs(
        self, z: Position, batch: Batch, model: Mapping, mutable: Mapping
    ) -> dict[str, Array]:
        """Log density by site, unscaled, given states of discrete sites.

        Sites with a row-wise mixture distribution are marginalized over its discrete sites.
        """
        trace = self._trace_at(z, batch, model, mutable)
        found = log_densities.log_probs(trace, scaled=False)
        if self.marginalization is not None:
            found |= self.marginalization.mixture_log_probs(
                z, self._with_rows_in_use(batch), model, mutable
            )
        return found

    def fisher_root(
        self, z: Position, batch: Batch, model: Mapping, mutable: Mapping, key: Array
    ) -> dict[str, Array]:
        """Square root of the Fisher information by observed site, see `vijax.model.fisher`."""
        trace = self._trace_at(z, batch, model, mutable)
        with tracing_errors(self.model):
            return fisher.fisher_root(trace, key)

    def log_dets(
        self, z: Position, batch: Batch, model: Mapping, mutable: Mapping
    ) -> dict[str, Array]:
        """`log |dx/dz|` by latent site."""
        return log_densities.log_dets(self._trace_at(z, batch, model, mutable))

    def log_prior_sds(
        self, z: Position, batch: Batch, model: Mapping, mutable: Mapping
    ) -> dict[str, Array]:
        """Log conditional prior sd of every site in `batch.centering`."""
        trace = self._trace_at(z, batch, model, mutable, with_log_density=False)
        return log_densities.log_prior_sds(trace)

    def initialize(self, key: Array, batch: Batch) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
        """Initial values of `param` sites and mutable state."""
        trace = self.trace(batch._replace(key=key), self.start)
        initial = {
            name: params.initial_param(name, site)
            for name, site in trace.items()
            if site["type"] == "param"
        }
        return initial, mutable_state(trace)

    def starts(self, key: Array, batch: Batch) -> dict[str, Array]:
        """Initial values of sites that have their own, the weights of networks."""
        found: dict[str, Array] = {}
        self.trace(batch._replace(key=key), self.start, starts=found)
        return found

    def constrain_params(
        self, model: Mapping[str, PyTree], batch: Batch, mutable: Mapping
    ) -> dict[str, PyTree]:
        """The constrained values of `param` sites."""
        trace = self.trace(batch, self.start, model, mutable)
        return {
            name: params.param_value(site)
            for name, site in trace.items()
            if site["type"] == "param"
        }

    def observations(
        self, batch: Batch, model: Mapping[str, PyTree], mutable: Mapping
    ) -> dict[str, Array]:
        """The values of the observed sites."""
        trace = self.trace(batch, self.start, model, mutable)
        return {name: jnp.asarray(site["value"]) for name, site in trace.items() if is_data(site)}


def _network_run(batch: Batch) -> NetworkRun:
    """The run of networks at a batch; sites in other coordinates have one value for all rows."""
    if batch.noise is None:
        return NetworkRun(linearized=batch.linearized)
    noise = {
        kind: {name: v for name, v in of_kind.items() if name not in batch.centering}
        for kind, of_kind in batch.noise.items()
    }
    return NetworkRun(training=True, noise=noise)

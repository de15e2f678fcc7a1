"""A model function and its arguments become a `Target`, after one abstract trace.

`jax.eval_shape` runs the model on abstract values: nothing is computed, nothing compiled, and no
operation is dispatched. What is kept are names, shapes and plates. Targets are kept for as long
as they are in use among the last `_KEEP` models, keyed by what the model function does and by
the shapes of its arrays, so that a second fit finds its compiled programs.
"""

from __future__ import annotations

import collections
import contextlib
import functools
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from vijax._contracts import (
    Batch,
    Evaluation,
    Plate,
    Position,
    PyTree,
    Site,
    Space,
    Target,
    Terms,
)
from vijax._errors import ModelError, mismatch
from vijax._identity import fingerprint
from vijax._jaxpr import has_gradient, has_loop, needed_inputs
from vijax._locals import take_rows
from vijax.model import minibatch, params, reading, samplers
from vijax.model import run as running
from vijax.model.arguments import Arguments
from vijax.model.checks import check_subsampled, tracing_errors
from vijax.model.enumeration import Plan
from vijax.model.layout import layout, term_plates, volume
from vijax.model.sites import all_plates, as_site, dims, is_cut, is_data, site_plates
from vijax.model.summation import Summation, planned

_KEEP = 64
_targets: collections.OrderedDict[Hashable, tuple[Target, Builder]] = collections.OrderedDict()
_LONG = 16  # steps of a loop from which its length counts, not the number of points
_FIXED_KEY = 0  # randomness of the model where the caller brings none


def build(
    model: Callable[..., Any],
    arguments: Arguments,
    asked: minibatch.Request | None = None,
    drawn: running.Drawn = frozenset(),
) -> Target:
    """The target of `model` at arguments of these shapes.

    Args:
        model: the model function.
        arguments: its static arguments.
        asked: which plates of a model that is written for all rows are to be cut into batches.
        drawn: discrete sites that are not summed out but stay in the space.

    Raises:
        ModelError: the model has no latent site, a discrete latent that cannot be summed out, a
            support without a bijection, a subsampled latent, or it fails to run; the message
            names the site.
    """
    precision = str(jax.dtypes.canonicalize_dtype("float64"))
    lookup = (fingerprint(model), arguments.lookup, asked, drawn, precision)
    if lookup in _targets:
        _targets.move_to_end(lookup)
        target, builder = _targets[lookup]
        # equal now; what the old function has captured may change later
        builder.model = model
        return target
    builder = Builder(model, arguments, drawn)
    target = builder.target(asked)
    _targets[lookup] = target, builder
    while len(_targets) > _KEEP:
        _targets.popitem(last=False)
    return target


class _Survey(NamedTuple):
    """What a run on abstract values shows.

    Attributes:
        trace: of it.
        scaled: sites whose prior has a location and a scale.
        hierarchical: those whose scale depends on other latents.
        sequential: see `Target`.
        differentiable: see there.
    """

    trace: running.Trace
    scaled: tuple[str, ...]
    hierarchical: tuple[str, ...]
    sequential: bool
    differentiable: bool


class Builder:
    """A model with its static arguments, and the functions of its target.

    Attributes:
        model: the model function.
        arguments: its static arguments.
        drawn: discrete sites that are not summed out.
        rows: how many rows of a subsampled plate are used where a batch names none.
        cut: how the data are cut into batches of a model that is written for all of them.
        sites: the latent ones, once they are known.
        summation: sums discrete sites out, `None` where there are none.
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

    def trace(
        self,
        batch: Batch,
        sampler: running.Sampler,
        model: Mapping[str, PyTree] | None = None,
        mutable: Mapping[str, PyTree] | None = None,
        scored: bool = True,
        **options: Any,
    ) -> running.Trace:
        """Runs the model once, see `vijax.model.run.run`."""
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

    def _at(
        self, z: Position, batch: Batch, model: Mapping, mutable: Mapping, scored: bool = True
    ) -> running.Trace:
        """A run at one position."""
        sampler = samplers.from_unconstrained(z, self.centring(batch))
        return self.trace(batch, sampler, model, mutable, scored)

    def centring(self, batch: Batch) -> dict[str, Array]:
        """`batch.centring` of the rows in use."""
        found = dict(batch.centring)
        for site in self.sites:
            if site.name in found:
                pairs = site.axes(batch.index).pairs
                found[site.name] = take_rows(found[site.name], pairs, batch.index)
        return found

    def _in_use(self, batch: Batch) -> Batch:
        return batch._replace(centring=self.centring(batch))

    def target(self, asked: minibatch.Request | None = None) -> Target:
        """The target, after one abstract trace.

        Raises:
            ModelError: the model cannot be fitted, or not on batches of this kind.
        """
        seen = self._survey()
        trace, sequential, differentiable = seen.trace, seen.sequential, seen.differentiable
        self._choose_rows(trace, samplers.at_origin, scored=True)
        plates = all_plates(trace)
        if any(is_cut(site, trace) for _, site, _ in reading.latents(trace)):
            seen = self._survey()  # on all rows, if they are there
            trace = seen.trace
            for name, site, _ in reading.latents(trace):
                check_subsampled(name, site, trace)
        if asked is not None:
            plates |= self._choose_cut(asked, trace, plates)
        sites = tuple(as_site(name, s, trace, r.z) for name, s, r in reading.latents(trace))
        if not sites:
            raise ModelError(
                f"model {getattr(self.model, '__name__', type(self.model).__name__)!r}: expected "
                "at least one continuous latent numpyro.sample site, got none. Sites with obs= "
                "are data; remove it from what is to be inferred."
            )
        self.sites = sites
        space, abstract = Space(sites), self.arguments.abstract()
        if any(map(running.is_enumerated, trace.values())):
            if self.rows:  # the trace may have seen fewer
                trace = self._abstract_trace(samplers.at_origin, scored=False)
            self.summation = planned(self.trace, trace, space, abstract)
        how = Plan() if self.summation is None else self.summation.how
        described = (self.terms, self.arguments, space, term_plates(trace))
        return Target(
            space=space,
            evaluate=self.evaluate,
            constrain=self.constrain,
            unconstrain=self.unconstrain,
            site_log_probs=self.site_log_probs,
            log_dets=self.log_dets,
            log_spreads=self.log_spreads,
            initialise=self.initialise,
            constrain_params=self.constrain_params,
            observations=self.observations,
            observed=tuple(name for name, site in trace.items() if is_data(site)),
            plates=plates,
            dims=dims(trace),
            # coordinates must not depend on what is summed out
            hierarchical=tuple(name for name in seen.hierarchical if name not in how.tables),
            location_scale=tuple(name for name in seen.scaled if name not in how.tables),
            discrete={name: variable.size for name, variable in how.variables.items()},
            draw_discrete=self.draw_discrete,
            terms=self.terms,
            lay_out=functools.cache(functools.partial(layout, *described)),
            entries=0 if self.summation is None else self.summation.entries,
            sequential=sequential,
            differentiable=differentiable,
            request=asked,
            cut=self.cut.axes,
        )

    def inspect(self, sampler: running.Sampler, scored: bool = True) -> running.Trace:
        """A trace of abstract values; decides what a batch without an index means."""
        trace = self._abstract_trace(sampler, scored)
        self._choose_rows(trace, sampler, scored)
        return trace

    def _choose_rows(self, trace: running.Trace, sampler: running.Sampler, scored: bool) -> None:
        """Decides what a batch without an index means.

        That is all rows of a subsampled plate, if the data has them. Data that already is one
        batch of rows, as from a data loader, is used as it is.
        """
        partial = {n: p for n, p in all_plates(trace).items() if p.size != p.subsample_size}
        if partial:
            self.rows = {name: plate.size for name, plate in partial.items()}
            try:
                self._abstract_trace(sampler, scored)
            except ModelError:
                self.rows = {name: plate.subsample_size for name, plate in partial.items()}

    def _choose_cut(
        self, asked: minibatch.Request, trace: running.Trace, known: Mapping[str, Plate]
    ) -> dict[str, Plate]:
        """Decides how batches are made, and returns the plates that are cut.

        A model that runs on the indices of a batch alone cuts its arrays itself. For any other
        the arrays that run along the plate are cut before the model sees them.
        """
        observed = {  # factors too
            name: site_plates(site, trace)
            for name, site in trace.items()
            if site["type"] == "sample" and site["is_observed"]
        }
        plates = minibatch.plates(asked, known, observed)
        full = {name: plate.size for name, plate in plates.items()}
        index = {
            name: jax.ShapeDtypeStruct((plate.subsample_size,), np.int32)
            for name, plate in plates.items()
        }
        self.cut = minibatch.Cut(full)
        with contextlib.suppress(ModelError):
            self._abstract_trace(samplers.at_origin, True, index)
            return plates
        shapes = {name: shape for name, (shape, _) in self.arguments.avals.items()}
        self.cut = minibatch.Cut(full, minibatch.axes(asked, plates, shapes))
        self._abstract_trace(samplers.at_origin, True, index)
        return plates

    def _abstract_trace(
        self,
        sampler: running.Sampler,
        scored: bool,
        index: Mapping[str, jax.ShapeDtypeStruct] | None = None,
    ) -> running.Trace:
        kept: running.Trace = {}

        def abstract(data: dict[str, Array], index: dict[str, Array]) -> None:
            kept.update(self._checked(Batch(data, index), sampler, scored))

        jax.eval_shape(abstract, self.arguments.abstract(), index or {})
        return kept

    def _checked(self, batch: Batch, sampler: running.Sampler, scored: bool) -> running.Trace:
        trace = self.trace(batch, sampler, scored=scored)
        if scored:
            self._log_density(trace)
        return trace

    def _survey(self) -> _Survey:
        kept: running.Trace = {}

        def scales(level: Array, data: dict[str, Array]) -> dict[str, Array]:
            kept.update(self._checked(Batch(data), samplers.at_level(level), True))
            return reading.log_spreads(kept)

        closed, shapes = jax.make_jaxpr(scales, return_shape=True)(1.0, self.arguments.abstract())
        names = sorted(shapes)  # as a dict is laid out
        hierarchical = tuple(
            name
            for name in names
            if needed_inputs(closed.jaxpr, [name == other for other in names])[0]
        )
        endless = has_loop(closed.jaxpr, _LONG)
        return _Survey(kept, tuple(names), hierarchical, endless, has_gradient(closed.jaxpr))

    def _log_density(self, trace: running.Trace) -> Array:
        with tracing_errors(self.model):
            return reading.log_density(trace)

    def evaluate(self, z: Position, batch: Batch, model: Mapping, mutable: Mapping) -> Evaluation:
        """The log density and the new mutable state."""
        if self.summation is None:
            trace = self._at(z, batch, model, mutable)
            return Evaluation(self._log_density(trace), reading.mutable(trace))
        return self.summation.evaluate(z, self._in_use(batch), model, mutable)

    def terms(self, z: Position, batch: Batch, model: Mapping, mutable: Mapping) -> Terms:
        """The log density by site, elementwise, and the log Jacobians of those that have one.

        Where discrete sites are summed out it is all in one, `""`.
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
        """The discrete sites given the others, as numbers of their values."""
        return (
            {}
            if self.summation is None
            else self.summation.draw(key, z, self._in_use(batch), model, mutable)
        )

    def constrain(
        self, z: Position, batch: Batch, model: Mapping, mutable: Mapping
    ) -> dict[str, Array]:
        """Sites and deterministics in the model's own space.

        Without states of the discrete sites in `z`, what depends on them is left out.
        """
        trace = self._at(z, batch, model, mutable)
        values = reading.values(trace)
        if self.summation is None or self.summation.knows(z):
            return values
        return {name: x for name, x in values.items() if name not in self.summation.how.dependent}

    def site_log_probs(
        self, z: Position, batch: Batch, model: Mapping, mutable: Mapping
    ) -> dict[str, Array]:
        """Log density by site, unscaled, given states of discrete sites.

        Where a discrete site belongs to one row of data, it is summed out of the row's.
        """
        trace = self._at(z, batch, model, mutable)
        found = reading.log_probs(trace, scaled=False)
        if self.summation is not None:
            found |= self.summation.by_row(z, self._in_use(batch), model, mutable)
        return found

    def log_dets(
        self, z: Position, batch: Batch, model: Mapping, mutable: Mapping
    ) -> dict[str, Array]:
        """`log |dx/dz|` by latent site."""
        trace = self._at(z, batch, model, mutable)
        return reading.log_dets(trace)

    def log_spreads(
        self, z: Position, batch: Batch, model: Mapping, mutable: Mapping
    ) -> dict[str, Array]:
        """Log prior sd, given all else, of every site that `batch.centring` names."""
        trace = self._at(z, batch, model, mutable, scored=False)
        return reading.log_spreads(trace)

    def unconstrain(
        self, values: Mapping[str, Any], batch: Batch, model: Mapping, mutable: Mapping
    ) -> Position:
        """Unconstrained values of some sites; the others are put at the origin."""
        trace = self.trace(
            batch, samplers.from_values(values, self.centring(batch)), model, mutable
        )
        z = {name: jnp.asarray(record.z) for name, _, record in reading.latents(trace)}
        unknown = sorted(set(values) - set(z))
        if unknown:
            raise ModelError(mismatch("values", f"some of the sites {list(z)}", f"{unknown}"))
        return {name: z[name] for name in values}

    def initialise(self, key: Array, batch: Batch) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
        """Start values of `param` sites and mutable state."""
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

"""A model function and its arguments become a `Target`, after one abstract trace.

`jax.eval_shape` runs the model on abstract values: nothing is computed, nothing compiled, and no
operation is dispatched. What is kept are names, shapes and plates. Targets are kept for as long
as they are in use among the last `_KEEP` models, keyed by what the model function does and by
the shapes of its arrays, so that a second fit finds its compiled programs.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from vijax._contracts import Batch, Evaluation, Plate, Position, PyTree, Site, Space, Target
from vijax._errors import ModelError, mismatch
from vijax._identity import fingerprint
from vijax.model import run as running
from vijax.model.arguments import Arguments
from vijax.model.checks import check_latent, check_subsampled, tracing_errors

_KEEP = 64
_targets: collections.OrderedDict[Hashable, tuple[Target, _Builder]] = collections.OrderedDict()
_FIXED_KEY = 0  # randomness of the model where the caller brings none

Dims = dict[str, tuple[str | None, ...]]


def build(model: Callable[..., Any], arguments: Arguments) -> Target:
    """The target of `model` at arguments of these shapes.

    Raises:
        ModelError: the model has no latent site, a discrete latent, a support without a
            bijection, a subsampled latent, or it fails to run; the message names the site.
    """
    lookup = (fingerprint(model), arguments.lookup, jax.config.jax_enable_x64)
    if lookup in _targets:
        _targets.move_to_end(lookup)
        target, builder = _targets[lookup]
        # equal now; what the old function has captured may change later
        builder.model = model
        return target
    builder = _Builder(model, arguments)
    target = builder.target()
    _targets[lookup] = target, builder
    while len(_targets) > _KEEP:
        _targets.popitem(last=False)
    return target


class _Builder:
    """Holds a model with its static arguments while its target's functions are made."""

    def __init__(self, model: Callable[..., Any], arguments: Arguments) -> None:
        self.model = model
        self.arguments = arguments
        self.rows: dict[str, int] = {}  # rows of a subsampled plate where a batch names none

    def trace(
        self,
        batch: Batch,
        sampler: running.Sampler,
        model: Mapping[str, PyTree] | None = None,
        mutable: Mapping[str, PyTree] | None = None,
    ) -> running.Trace:
        args, kwargs = self.arguments.join(batch.data)
        key = jax.random.key(_FIXED_KEY) if batch.key is None else batch.key
        index = {name: jnp.arange(rows) for name, rows in self.rows.items()} | batch.index
        with tracing_errors(self.model):
            return running.run(self.model, args, kwargs, key, sampler, model, mutable, index)

    def target(self) -> Target:
        trace = self._abstract_trace()
        plates = _plates(trace)
        sites = tuple(_site(name, s, plates, r) for name, s, r in running.latents(trace))
        if not sites:
            raise ModelError(
                f"model {getattr(self.model, '__name__', type(self.model).__name__)!r}: expected "
                "at least one continuous latent numpyro.sample site, got none. Sites with obs= "
                "are data; remove it from what is to be inferred."
            )
        self._choose_rows(plates)
        return Target(
            space=Space(sites),
            evaluate=self.evaluate,
            constrain=self.constrain,
            unconstrain=self.unconstrain,
            site_log_probs=self.site_log_probs,
            log_dets=self.log_dets,
            initialise=self.initialise,
            observed=tuple(name for name, site in trace.items() if _is_data(site)),
            plates=plates,
            dims=dims(trace),
        )

    def _abstract_trace(self) -> running.Trace:
        """The trace at the origin, of abstract values, checked."""
        kept: running.Trace = {}

        def abstract(data: dict[str, Array]) -> Array:
            trace = self.trace(Batch(data), running.at_origin)
            for name, site, _ in running.latents(trace):
                check_latent(name, site)
                check_subsampled(name, site, trace)
            kept.update(trace)
            return self._log_density(trace)

        jax.eval_shape(abstract, self.arguments.abstract())
        return kept

    def _choose_rows(self, plates: Mapping[str, Plate]) -> None:
        """What a batch without an index means: all rows, if the data has them.

        Data that already is one batch of rows, as from a data loader, is used as it is.
        """
        partial = {n: p for n, p in plates.items() if p.size != p.subsample_size}
        if not partial:
            return
        self.rows = {name: plate.size for name, plate in partial.items()}
        try:
            self._abstract_trace()
        except ModelError:
            self.rows = {name: plate.subsample_size for name, plate in partial.items()}

    def _log_density(self, trace: running.Trace) -> Array:
        with tracing_errors(self.model):
            return running.log_density(trace)

    def evaluate(
        self, z: Position, batch: Batch, model: Mapping, mutable: Mapping
    ) -> Evaluation:
        trace = self.trace(batch, running.from_unconstrained(z), model, mutable)
        return Evaluation(self._log_density(trace), _mutable(trace))

    def constrain(
        self, z: Position, batch: Batch, model: Mapping, mutable: Mapping
    ) -> dict[str, Array]:
        trace = self.trace(batch, running.from_unconstrained(z), model, mutable)
        return {
            name: site["value"]
            for name, site in trace.items()
            if site["type"] == "deterministic"
            or (site["type"] == "sample" and not site["is_observed"])
        }

    def site_log_probs(
        self, z: Position, batch: Batch, model: Mapping, mutable: Mapping
    ) -> dict[str, Array]:
        trace = self.trace(batch, running.from_unconstrained(z), model, mutable)
        return running.log_probs(trace, scaled=False)

    def log_dets(
        self, z: Position, batch: Batch, model: Mapping, mutable: Mapping
    ) -> dict[str, Array]:
        trace = self.trace(batch, running.from_unconstrained(z), model, mutable)
        return running.log_dets(trace)

    def unconstrain(
        self, values: Mapping[str, Any], batch: Batch, model: Mapping, mutable: Mapping
    ) -> Position:
        trace = self.trace(batch, running.from_values(values), model, mutable)
        z = {name: r.z for name, _, r in running.latents(trace) if r.z is not None}
        unknown = sorted(set(values) - set(z))
        if unknown:
            raise ModelError(mismatch("values", f"some of the sites {list(z)}", f"{unknown}"))
        return {name: z[name] for name in values}

    def initialise(
        self, key: Array, batch: Batch
    ) -> tuple[dict[str, PyTree], dict[str, PyTree]]:
        trace = self.trace(batch._replace(key=key), running.at_origin)
        params = {
            name: running.start_param(name, site)
            for name, site in trace.items()
            if site["type"] == "param"
        }
        return params, _mutable(trace)


def dims(trace: running.Trace) -> Dims:
    """The plate along each dimension of every site's value, `None` where there is none."""
    return {
        name: _dims(site)
        for name, site in trace.items()
        if site["type"] in ("sample", "deterministic")
    }


def _is_data(site: Mapping[str, Any]) -> bool:
    """An observed site with observations, not a factor."""
    if site["type"] != "sample" or not site["is_observed"]:
        return False
    return not site["infer"].get("is_auxiliary", False)


def _mutable(trace: running.Trace) -> dict[str, PyTree]:
    return {name: site["value"] for name, site in trace.items() if site["type"] == "mutable"}


def _plates(trace: running.Trace) -> dict[str, Plate]:
    found = {}
    for site in trace.values():
        for frame in site.get("cond_indep_stack", ()):
            size = trace[frame.name]["args"][0] if frame.name in trace else frame.size
            found[frame.name] = Plate(frame.name, frame.dim, size, frame.size)
    return found


def _site(
    name: str, site: Mapping[str, Any], plates: Mapping[str, Plate], record: running.Record
) -> Site:
    return Site(
        name=name,
        shape=tuple(jnp.shape(site["value"])),
        z_shape=tuple(jnp.shape(record.z)),
        event_dim=len(site["fn"].event_shape),
        # `do` runs a site through its plates twice
        plates=tuple(plates[n] for n in dict.fromkeys(f.name for f in site["cond_indep_stack"])),
    )


def _dims(site: Mapping[str, Any]) -> tuple[str | None, ...]:
    ndim = jnp.ndim(site["value"])
    event = len(site["fn"].event_shape) if site["type"] == "sample" else 0
    names: list[str | None] = [None] * ndim
    for frame in site["cond_indep_stack"]:
        axis = ndim - event + frame.dim
        if 0 <= axis and jnp.shape(site["value"])[axis] == frame.size:
            names[axis] = frame.name
    return tuple(names)
